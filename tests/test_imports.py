"""Who may import whom, read from the source; that importing does nothing else; long files."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("methods", "experiments", "analysis")
STANDARD = set(sys.stdlib_module_names)
ALLOWED = {
    "methods": {"methods", "torch", "numpy", "scipy"},
    "analysis": {"analysis", "experiments", "numpy", "scipy", "pandas", "matplotlib", "jinja2"}
    | {"PIL"},  # comes with matplotlib
}  # fmt: skip
LAZY = {"methods": {"faiss"}}  # inside functions: an optional, faster search
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
each_file = pytest.mark.parametrize("path", FILES, ids=lambda one: str(one.relative_to(ROOT)))


LONG = 260  # lines
REASON = re.compile(r"^One file: .*\w", re.MULTILINE)
EVERY_FILE = [*FILES, *sorted((ROOT / "tests").rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield what a file imports, the module meant by `from package import module` included, and
    whether that happens as soon as the file is imported itself."""
    tree = ast.parse(path.read_text(), str(path))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute, so that they can be read"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if full in MODULES else str(node.module)), id(node) not in inside


def defines(path: Path, name: str) -> bool:
    """Whether a file assigns a name at its top level."""
    return any(
        isinstance(target, ast.Name) and target.id == name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    )


EXPERIMENTS = {
    name
    for name, path in MODULES.items()
    if name.startswith("experiments.") and defines(path, "EXPERIMENT")
}


@each_file
def test_a_room_imports_what_it_may(path):
    room = path.relative_to(ROOT).parts[0]
    found = dict(imports(path))
    tops = {name.split(".")[0]: at_once for name, at_once in found.items()}
    if room in ALLOWED:
        late = {top for top in LAZY.get(room, ()) if not tops.get(top, True)}
        assert set(tops) - STANDARD <= ALLOWED[room] | late
    if room == "analysis":
        ours = {name for name in found if name.split(".")[0] == "experiments"}
        assert ours <= {"experiments.laboratory.runs"}, (
            "analysis reads finished runs and nothing else"
        )
    if room == "experiments":
        assert "analysis" not in tops
        others = EXPERIMENTS - {module_name(path)}
        assert not others & set(found), "what two experiments share belongs in a file of its own"


def too_long(text: str) -> bool:
    """Whether a file is long and does not say why."""
    said = ast.get_docstring(ast.parse(text)) or ""
    return len(text.splitlines()) > LONG and not REASON.search(said)


def test_a_long_file_says_why_it_is_one():
    assert [str(path) for path in EVERY_FILE if too_long(path.read_text())] == []


def test_a_long_file_without_a_reason_is_found():
    lines = "x = 1\n" * LONG
    assert not too_long(lines)
    assert too_long(lines + "x = 1\n")
    assert too_long(f'"""Made of one file: lines."""\n{lines}')
    assert too_long(f'"""Lines.\n\nOne file:\n"""\n{lines}')
    assert not too_long(f'"""Lines.\n\nOne file: they are alike.\n"""\n{lines}')


def test_reading_runs_needs_the_standard_library_and_numpy_alone():
    waiting, seen = ["experiments.laboratory.runs"], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for other, at_once in imports(MODULES[name]):
            if other.split(".")[0] == "experiments":
                waiting.append(other)
            elif at_once:
                top = other.split(".")[0]
                assert top in STANDARD | {"numpy"}, f"{name} imports {other}"


def reached(start: str) -> set[str]:
    """The modules of experiments that one of them imports, and those import."""
    waiting, seen = [start], set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            ours = {other for other, _ in imports(MODULES[name]) if other in MODULES}
            waiting += [other for other in ours if other.split(".")[0] == "experiments"]
    return seen


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_an_experiment_says_that_it_uses_a_gpu_if_anything_it_imports_goes_there(name):
    moves = {n for n in reached(name) if re.search(r'(?<!== )"cuda"', MODULES[n].read_text())}
    assert importlib.import_module(name).EXPERIMENT.gpu == bool(moves), moves


def run_program(program: str, tmp_path: Path) -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "RETRACE_RESULTS": str(tmp_path / "results"),
        "RETRACE_DATA": str(tmp_path / "data"),
        "HOME": str(tmp_path),
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stdout, "importing prints nothing"
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "data").exists()


def importing(rooms: tuple[str, ...]) -> str:
    names = [
        name for name in MODULES if name.split(".")[0] in rooms and not name.endswith("__main__")
    ]
    return f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\n"


def test_importing_any_module_opens_no_network_and_starts_no_gpu(tmp_path):
    guard = (
        "import socket, sys\n"
        "def refuse(*arguments, **options):\n"
        "    raise SystemExit(f'the network was asked for: {arguments}')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
    )
    check = (
        "torch = sys.modules.get('torch')\n"
        "if torch is not None and torch.cuda.is_initialized():\n"
        "    raise SystemExit('importing started CUDA')\n"
    )
    run_program(guard + importing(ROOMS) + check, tmp_path)


def test_analysis_runs_where_torch_is_not_installed(tmp_path):
    block = (
        "import sys\n"
        "absent = {'torch', 'torchvision', 'methods', 'wandb', 'tyro', 'tqdm', 'sklearn'}\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in absent:\n"
        "            raise ModuleNotFoundError(f'{name} is not installed here')\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    run_program(block + importing(("analysis",)), tmp_path)
