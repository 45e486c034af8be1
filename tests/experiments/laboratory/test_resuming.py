"""A state goes on only in the code that made it, unless that is asked for; other code is said."""

import json
import os
import subprocess
import sys

import pytest

from experiments.laboratory import disk, outdated, provenance, resuming, runs, sources, store
from experiments.laboratory.runs import UserError
from tests.experiments.laboratory.code_copy import Laboratory, contents
from tests.experiments.laboratory.tiny import EXPERIMENT, Config


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv(resuming.ANYWAY, raising=False)
    monkeypatch.setattr("os.fsync", lambda _: None)
    return tmp_path / "results" / "runs"


@pytest.fixture
def version(monkeypatch):
    """Let this process have another code: `version("b")`."""

    real = sources.digest

    def use(name: str) -> None:
        monkeypatch.setattr(sources, "digest", lambda roots: f"{name} of {real(roots)[:8]}")
        monkeypatch.setattr(provenance, "commit", lambda: {"commit": name * 40, "dirty": False})

    use("a")
    return use


def stopped(folder):
    (folder / "state").write_text("half")
    raise KeyboardInterrupt


def resumed(folder):
    return {"state": (folder / "state").read_text() if any(folder.iterdir()) else "anew"}


def begin() -> str:
    with pytest.raises(KeyboardInterrupt):
        runs.once("a", Config(), stopped)
    return f"a/{runs.key(Config())}"


def test_a_state_of_the_same_code_goes_on_without_a_word(version, capsys):
    begin()
    run = runs.once("a", Config(), resumed)
    assert run.metrics == {"state": "half"}
    assert "origins" not in run.meta
    assert capsys.readouterr() == ("", "")


def test_a_state_of_other_code_is_refused_with_one_line_until_it_is_removed(version, capsys):
    address = begin()
    version("b")
    for _ in range(2):  # it stays as it is
        with pytest.raises(UserError) as caught:
            runs.once("a", Config(), resumed)
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith(f"{address} has a state of other code (commit aaaaaaaa; this is")
        assert "--resume-anyway" in message
    cure = message.split("`")[1]
    assert cure == f"python -m experiments runs clean {address}"
    assert store.main(cure.split()[4:]) == 0
    assert runs.once("a", Config(), resumed).metrics == {"state": "anew"}


def test_a_state_resumed_anyway_keeps_both_commits(version, capsys, monkeypatch):
    address = begin()
    version("b")
    monkeypatch.setenv(resuming.ANYWAY, "1")
    run = runs.once("a", Config(), resumed)
    assert run.metrics == {"state": "half"}
    assert run.meta["commit"] == "b" * 40
    assert [origin["commit"] for origin in run.meta["origins"]] == ["a" * 40, "b" * 40]
    assert f"{address} goes on from a state, but commit aaaaaaaa became" in capsys.readouterr().err


ORIGINS = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "changed": lambda file: file.write_bytes(file.read_bytes().replace(b"a of", b"b of")),
    "cut off": lambda file: os.truncate(file, 100),
    "no list": lambda file: disk.write_sealed(file, b"7"),
    "no origins": lambda file: disk.write_sealed(file, b'[1, {"commit": "b"}]'),
    "wrong types": lambda file: disk.write_sealed(file, b'[{"code": [], "commit": 7}]'),
}


@pytest.mark.parametrize("fault", ORIGINS)
def test_a_state_whose_origin_cannot_be_read_is_of_other_code(fault, version, place):
    begin()
    (file,) = place.glob("a/.scratch/*/*/origin.json")
    ORIGINS[fault](file)
    with pytest.raises(UserError, match="has a state of other code"):
        runs.once("a", Config(), resumed)


def test_another_number_of_threads_is_said_as_is_what_else_bits_depend_on(version, capsys, place):
    import torch

    begin()
    (file,) = place.glob("a/.scratch/*/*/origin.json")
    (origin,) = json.loads(disk.read_sealed(file))
    assert origin["threads"] == torch.get_num_threads()
    assert origin["torch"] == torch.__version__
    before = origin | {"threads": 77, "cpu": "Abacus 1", "torch": "1.0"}
    disk.write_sealed(file, json.dumps([before]).encode())
    run = runs.once("a", Config(), resumed)
    (line,) = capsys.readouterr().err.splitlines()
    for change in ("threads 77 became", "CPU Abacus 1 became", "PyTorch 1.0 became"):
        assert change in line
    assert "its numbers may differ" in line
    assert [one["threads"] for one in run.meta["origins"]] == [77, torch.get_num_threads()]


def test_processes_that_compute_together_are_refused_together(version):
    begin()
    with pytest.raises(UserError, match="state of other code"):
        runs.once("a", Config(), resumed, agree=lambda mine: False)
    votes = []
    runs.once("a", Config(), resumed, agree=lambda mine: votes.append(mine) or mine)
    assert votes == [False, True]


def test_an_attempt_without_work_leaves_nothing(version, place):
    def fail(folder):
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        runs.once("a", Config(), fail)
    assert not list(place.glob("a/.scratch/*"))


def test_runs_of_other_code_are_said_listed_and_remade(version, capsys, monkeypatch):
    monkeypatch.setattr("experiments.laboratory.registry.names", lambda: ["tiny"])
    monkeypatch.setattr("experiments.laboratory.registry.named", lambda name: EXPERIMENT)
    words = ["--cell", "0", "--cell", "1", "--cell", "2"]
    assert EXPERIMENT.main(words) == 0
    assert "other code" not in capsys.readouterr().err
    before = contents(runs.results())
    assert store.main(["outdated"]) == 0
    assert capsys.readouterr().out == "the code here made 5 runs, all there are\n"
    version("b")
    assert EXPERIMENT.main([]) == 0  # three more cells, one of a model that is there
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "W&B" not in line]
    assert line.startswith("4 runs were made by other code (commit aaaaaaaa): `python -m exper")
    assert store.main(["outdated", "tiny"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.startswith("tiny/")]
    assert len(rows) == 3
    assert {row[2] for row in rows} == {"aaaaaaaa"}
    assert "`python -m experiments runs remake tiny`" in out
    assert store.main(["remake"]) == 0
    out = capsys.readouterr().out
    assert "3 runs in" in out
    assert store.main(["outdated"]) == 0
    assert capsys.readouterr().out == "the code here made 9 runs, all there are\n"
    assert before.items() <= contents(runs.results()).items()
    runs_ = runs.load("tiny", "smoke")
    assert {run.meta["commit"] for run in runs_} == {"b" * 40}
    assert not (runs.results() / "runs" / "tiny" / ".scratch").exists()


def test_an_old_run_stays_until_its_successor_is_whole(version, capsys):
    old = runs.once("a", Config(), lambda _: {"x": 1})
    version("b")

    def fail(folder):
        raise UserError("no")

    with runs.remaking(), pytest.raises(UserError, match="no"):
        runs.once("a", Config(), fail)
    assert runs.find("a", Config()) == old
    with runs.remaking():
        assert runs.find("a", Config()) is None
        assert runs.once("a", Config(), lambda _: {"x": 2}).metrics == {"x": 2}
        assert runs.once("a", Config(), fail).metrics == {"x": 2}


def test_what_no_preset_has_any_more_is_said_with_what_removes_it(version, capsys, monkeypatch):
    monkeypatch.setattr("experiments.laboratory.registry.names", lambda: ["tiny"])
    monkeypatch.setattr("experiments.laboratory.registry.named", lambda name: EXPERIMENT)
    run = runs.once("tiny", Config(size=7), lambda _: {"x": 1})
    version("b")
    assert store.main(["remake"]) == 0
    assert f"rm -r {run.path}\n" in capsys.readouterr().out
    assert run.path.exists()


def test_runs_of_earlier_versions_are_read_and_said_to_be_of_other_code(capsys):
    run = runs.once("a", Config(), lambda _: {"x": 1})
    file = run.path / "meta.json"
    meta = json.loads(file.read_bytes())
    for name in ("sha256", "format", "code", "name"):
        del meta[name]
    file.write_text(json.dumps(meta, indent=1) + "\n")
    old = runs.find("a", Config())
    assert old.metrics == {"x": 1}
    assert outdated.outdated(old)
    assert store.main(["outdated"]) == 0
    assert "were not written down" in capsys.readouterr().out
    assert store.main(["verify"]) == 0
    out = capsys.readouterr().out
    assert "1 of 1 runs are as they were written" in out
    assert "of 1 run, an earlier version wrote meta.json without a checksum" in out


KILLED = """
import json, os, signal, sys
from experiments.laboratory import disk
from experiments import tiny

plain = disk.write_file

def write_file(path, content):
    plain(path, content)
    if path.name == "state.json" and len(json.loads(content)) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

disk.write_file = write_file
tiny.EXPERIMENT.main(["--cell", "0"])
"""


def git(*words: str, folder) -> str:
    named = ["git", "-c", "user.name=A", "-c", "user.email=a@b", *words]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        named, cwd=folder, env=own, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_killed_mended_committed_and_started_again_the_old_state_is_refused(tmp_path):
    copy = Laboratory.built(tmp_path)
    git("init", "-q", folder=tmp_path)
    (tmp_path / "README").write_text("of another project")
    git("add", "README", folder=tmp_path)
    git("commit", "-qm", "another", folder=tmp_path)
    inside_another = copy.python("experiments.tiny", "--preset", "smoke", "--cell", "5")
    assert inside_another.returncode == 0, inside_another.stderr
    (meta,) = [json.loads(p.read_bytes()) for p in copy.results.glob("runs/tiny/*/meta.json")]
    assert (meta["commit"], meta["dirty"]) == (None, None), "that repository does not hold it"

    (copy.code / ".gitignore").write_text("__pycache__/\n")
    git("init", "-q", folder=copy.code)
    git("add", "-A", folder=copy.code)
    git("commit", "-qm", "first", folder=copy.code)
    first = git("rev-parse", "HEAD", folder=copy.code)
    killed = copy.run(sys.executable, "-c", KILLED, GIT_DIR=str(tmp_path / ".git"))
    assert killed.returncode == -9, killed.stderr
    source = copy.code / "experiments" / "tiny.py"
    source.write_text(source.read_text().replace("draw.normal()", "draw.normal() + 1.0"))
    git("commit", "-qam", "mended", folder=copy.code)
    second = git("rev-parse", "HEAD", folder=copy.code)

    words = ["experiments.tiny", "--preset", "smoke", "--cell", "0"]
    refused = copy.python(*words)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert (
        f"has a state of other code (commit {first[:8]}; this is commit {second[:8]})"
        in (refused.stderr.splitlines()[-1])
    )
    went_on = copy.python(*words, "--resume-anyway", GIT_DIR=str(tmp_path / ".git"))
    assert went_on.returncode == 0, went_on.stderr
    models = [json.loads(p.read_bytes()) for p in copy.results.glob("runs/tiny_model/*/meta.json")]
    (resumed_model,) = [meta for meta in models if meta["resumed"]]
    assert resumed_model["commit"] == second
    assert [one["commit"] for one in resumed_model["origins"]] == [first, second]
    again = copy.python(*words[:3])
    assert "2 runs were made by other code (an unknown commit)" in again.stderr
