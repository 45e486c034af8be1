"""What a message tells to paste does what it says, whatever the folders are called."""

import ast
import subprocess
from pathlib import Path

import pytest

from experiments.laboratory import runs
from experiments.laboratory.errors import CorruptRun, UserError, one_line, quoted
from methods import folders
from methods.errors import MethodError

REPOSITORY = Path(__file__).resolve().parents[3]
PATHS = {"path", "folder", "home", "root", "scratch", "pickled", "results", "source"}
ODD = [
    "plain/results",
    "with  two blanks",
    "it's $HOME `id` \\n",
    "a;b & c|d > e (f) * ? [g] {h,i} !j #k ~",
    '"quotes"',
    "-r/dash",
    "line\nbreak and tab\t",
    "Ünïcode 目录",
    "\udcff not UTF-8",
]


def pasted(words: str, folder: Path) -> bytes:
    return subprocess.run(["bash", "-c", words], cwd=folder, capture_output=True, check=True).stdout


@pytest.mark.parametrize("name", ODD)
def test_a_path_in_a_message_names_that_path_alone(name, tmp_path):
    path = tmp_path / name
    path.mkdir(parents=True)
    (path / "inside").touch()
    shown = quoted(path)
    assert "\n" not in shown
    assert one_line(f"{shown} is corrupt") == f"{shown} is corrupt"
    assert pasted(f"ls -d -- {shown}/inside && rm -r {shown}", tmp_path)
    assert not path.exists()
    assert pasted(f"mkdir -p {quoted(name)} && rm -r {quoted(name)}", tmp_path) == b""


def test_the_cure_of_a_corrupt_run_removes_that_run_and_nothing_else(tmp_path, monkeypatch):
    results, beside = tmp_path / "my results", tmp_path / "my"
    beside.mkdir()
    monkeypatch.setenv("RETRACE_RESULTS", str(results))
    path = results / "runs" / "a" / ("0" * 16)
    path.mkdir(parents=True)
    with pytest.raises(CorruptRun) as caught:
        runs.Run.at(path)
    cure = str(caught.value).split("`")[1]
    assert cure.startswith("rm -r ")
    pasted(cure, tmp_path)
    assert not path.exists()
    assert beside.exists()
    (results / "runs" / "b").write_text("in the way")
    with pytest.raises(UserError, match="set RETRACE_RESULTS") as caught:
        runs.plan("b", "smoke", [])
    assert f"'{results}/runs/b/presets/smoke.json'" in str(caught.value)


def test_methods_quote_their_folders(tmp_path):
    folder = tmp_path / "two words"
    folder.mkdir()
    with pytest.raises(MethodError, match=f"'{folder}' exists"):
        folders.write(folder, "about.json", {}, lambda _: None)


def test_every_message_quotes_its_paths():
    """In the source: a path in the words of an error is always `quoted`."""
    bare = []
    for floor in ("methods", "experiments", "analysis"):
        for path in sorted((REPOSITORY / floor).rglob("*.py")):
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            errors = [n for n in calls if ast.unparse(n.func).split(".")[-1].endswith("Error")]
            for call in errors:
                for value in ast.walk(call):
                    if isinstance(value, ast.FormattedValue):
                        name = ast.unparse(value.value).removesuffix("()").split(".")[-1]
                        bare += [f"{path.name}: {name}"] if name in PATHS else []
    allowed = {"models.py: source"}  # of data: a name, no path
    assert set(bare) <= allowed
