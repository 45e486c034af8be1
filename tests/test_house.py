"""The rules of the house, read from its source: what lies where, and who may import whom."""

import ast
import importlib
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("methods", "experiments", "analysis")
STANDARD = set(sys.stdlib_module_names)
ALLOWED = {
    "methods": {"methods", "torch", "numpy", "scipy"},
    "analysis": {"analysis", "experiments", "numpy", "scipy", "pandas", "matplotlib", "jinja2"}
    | {"PIL"},  # comes with matplotlib
}  # fmt: skip
LAZY = {"faiss", "safetensors"}  # inside functions of methods: optional
TO_READ = [  # an experiment, one of its artifacts, and how many files a reader may have to open
    ("mnist_mislabel", "arnoldi_table1", 10),
    ("mnli_speed", "fastif_table1", 14),
    ("wmt_filtering", "arnoldi_table3", 12),
]
SHARED = (  # known to a reader already
    "methods.", "experiments.laboratory.", "experiments.cluster.",
    "analysis.numbers.", "analysis.ink.", "analysis.page.",
)  # fmt: skip
READ_BY_ANALYSIS = {
    f"experiments.laboratory.{name}" for name in ("lists", "ranges", "records", "runs", "spelling")
}
NAMELESS = {"utils", "helpers", "common", "base", "core", "misc"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {
    module_name(path): path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))
}


def imports(tree: ast.AST, at_once: bool = False) -> set[str]:
    """The imports of a file, modules named by `from package import module` included.

    With `at_once`, imports inside functions are left out.
    """
    names = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in FILES else str(node.module) for name in full}
        elif not (at_once and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            names |= imports(node, at_once)
    return names


TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in FILES.items()}
IMPORTS = {name: imports(tree) for name, tree in TREES.items()}
GRAPH = {name: imported & set(FILES) for name, imported in IMPORTS.items()}


def tops(names: set[str]) -> set[str]:
    """Top-level packages outside the standard library."""
    return {name.split(".")[0] for name in names} - STANDARD


def reached(*start: str, through: tuple[str, ...] = FLOORS, stop: tuple[str, ...] = ()) -> set[str]:
    """Modules that one comes to by following imports, without those that begin with `stop`."""
    waiting, seen = list(start), set()
    while waiting:
        name = waiting.pop()
        if name not in seen and name.startswith(through) and not name.startswith(stop):
            seen.add(name)
            waiting += GRAPH[name]
    return seen


def entries(floor: str) -> list[str]:
    """The files on the top level of a floor, which are its table of contents."""
    stems = [path.stem for path in sorted((ROOT / floor).glob("*.py"))]
    return [f"{floor}.{stem}" for stem in stems if stem not in ("__init__", "__main__")]


def assigned(tree: ast.Module) -> set[str]:
    """Names that a file assigns on its top level."""
    statements = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    targets = [t for n in statements for t in getattr(n, "targets", None) or [n.target]]
    return {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize(
    ("name", "defined"),
    [
        (name, word)
        for floor, word in (("experiments", "EXPERIMENT"), ("analysis", "ARTIFACT"))
        for name in entries(floor)
    ],
)
def test_a_file_on_the_top_level_is_an_entry_of_the_table_of_contents(name, defined):
    assert defined in assigned(TREES[name]), f"{name} defines no {defined}: it belongs in a room"


def test_no_modules_import_each_other_in_a_circle():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_imports_inside_functions_and_for_types_are_seen():
    text = "if TYPE_CHECKING:\n    import methods.task\ndef f():\n    from methods import tracin\n"
    assert imports(ast.parse(text)) == {"methods.task", "methods.tracin"}
    assert imports(ast.parse(text), at_once=True) == {"methods.task"}


@pytest.mark.parametrize("floor", [*FLOORS, "tests"])
def test_a_room_says_what_belongs_in_it(floor):
    rooms = sorted({path.parent for path in (ROOT / floor).rglob("*.py")})
    doors = [room / "__init__.py" for room in rooms]
    assert [door for door in doors if not door.is_file()] == [], "rooms without __init__.py"
    assert [door for door in doors if not ast.get_docstring(ast.parse(door.read_text()))] == []


def test_no_name_says_nothing():
    names = {part for name in FILES for part in name.split(".")}
    assert not names & NAMELESS


@pytest.mark.parametrize("name", FILES)
def test_a_module_imports_what_its_floor_may(name):
    floor, ours = name.split(".")[0], IMPORTS[name]
    if floor in ALLOWED:
        late = LAZY - tops(imports(TREES[name], at_once=True)) if floor == "methods" else set()
        assert tops(ours) <= ALLOWED[floor] | late
    if floor == "analysis":
        from_experiments = {other for other in ours if other.startswith("experiments")}
        assert from_experiments <= READ_BY_ANALYSIS, "analysis reads finished runs"
    if floor == "experiments":
        assert "analysis" not in tops(ours)
        others = set(entries("experiments")) - {name}
        assert not ours & others, "what two experiments share belongs in a room"


def test_reading_runs_needs_the_standard_library_and_numpy_alone():
    for name in reached("experiments.laboratory.runs", through=("experiments",)):
        assert tops(imports(TREES[name], at_once=True)) <= {"numpy", "experiments"}, name


@pytest.mark.parametrize(("experiment", "artifact", "most"), TO_READ)
def test_few_files_are_read_to_follow_one_experiment(experiment, artifact, most):
    files = reached(f"experiments.{experiment}", f"analysis.{artifact}", stop=SHARED)
    files = {name for name in files if FILES[name].name != "__init__.py"}
    assert len(files) <= most, sorted(files)


@pytest.mark.parametrize("name", entries("experiments"))
def test_an_experiment_whose_code_chooses_a_device_asks_slurm_for_a_gpu(name):
    command = "experiments.laboratory.experiment"  # serves those that stay on the CPU too
    if "experiments.laboratory.device" in reached(name, through=("experiments.",), stop=(command,)):
        assert importlib.import_module(name).EXPERIMENT.gpu


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
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stdout, "importing prints nothing"
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "data").exists()


def importing(floors: tuple[str, ...]) -> str:
    names = [name for name in FILES if name.startswith(floors) and not name.endswith("__main__")]
    return f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\n"


@pytest.mark.long
def test_importing_any_module_opens_no_network_and_starts_no_gpu(tmp_path):
    guard = (
        "import socket, sys\n"
        "def refuse(*arguments, **options):\n"
        "    raise SystemExit(f'a connection was opened: {arguments}')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
    )
    check = (
        "torch = sys.modules.get('torch')\n"
        "if torch is not None and torch.cuda.is_initialized():\n"
        "    raise SystemExit('importing started CUDA')\n"
    )
    run_program(guard + importing(FLOORS) + check, tmp_path)


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
