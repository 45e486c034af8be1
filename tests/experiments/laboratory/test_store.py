"""A store is checked, packed, merged with another and cleaned, and no run is ever lost by it."""

import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.cluster import slurm
from experiments.laboratory import runs, scratch, status
from experiments.laboratory.store import main
from tests.experiments.laboratory.code_copy import contents
from tests.experiments.laboratory.tiny import EXPERIMENT, Config

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Make a results folder the one in force; at first one named `here`."""
    monkeypatch.setenv("WANDB_MODE", "disabled")

    def use(name: str) -> Path:
        monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / name))
        return tmp_path / name

    use("here")
    return use


def compute(size: int, level: float = 1.0) -> runs.Run:
    outcome = {"level": level, "score": np.arange(float(size))}
    return runs.once("walks", Config(size=size), lambda _: outcome)


def test_every_byte_is_read_by_verify_and_what_was_changed_is_named(capsys):
    paths = [compute(size).path for size in (3, 4)]
    assert main(["verify"]) == 0
    assert capsys.readouterr().out == "2 of 2 runs are as they were written\n"
    content = bytearray((paths[1] / "arrays" / "score.npy").read_bytes())
    content[-1] ^= 1
    (paths[1] / "arrays" / "score.npy").write_bytes(content)
    assert main(["verify", "walks"]) == 2
    out, err = capsys.readouterr()
    assert out == "1 of 2 runs are as they were written\n"
    assert str(paths[1]) in err
    assert "score.npy was changed" in err


def test_a_changed_run_is_not_packed_but_named_with_what_mends_it(capsys, tmp_path):
    compute(3)
    path = compute(4).path
    assert main(["pack", str(tmp_path / "runs.tar")]) == 0
    whole = (tmp_path / "runs.tar").read_bytes()
    assert f"2 runs in {tmp_path / 'runs.tar'}" in capsys.readouterr().out
    for name in ("arrays/score.npy", "metrics.json"):
        before = (path / name).read_bytes()
        (path / name).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert main(["pack", str(tmp_path / "runs.tar")]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"error: {path} is a corrupt run ({name} was changed): remove it")
        assert "makes it again" in err
        assert err.count("\n") == 1
        (path / name).write_bytes(before)
    assert (tmp_path / "runs.tar").read_bytes() == whole
    assert [one.name for one in tmp_path.glob("*.tar*")] == ["runs.tar"]


def test_each_file_of_a_run_is_read_once_to_be_packed(monkeypatch, tmp_path):
    compute(3)
    read = []
    plain = Path.open

    def opened(path, *given, **options):
        read.append(path.name)
        return plain(path, *given, **options)

    monkeypatch.setattr(Path, "open", opened)
    assert main(["pack", str(tmp_path / "runs.tar")]) == 0
    assert read.count("score.npy") == 1


def test_two_stores_are_merged_without_loss_whether_packed_or_not(place, capsys, tmp_path):
    other = place("there")
    runs.plan("walks", "smoke", [Config(size=size) for size in (1, 2, 3)])
    for size in (1, 2):
        compute(size)
    with scratch.claim(other / "runs" / "walks", "0" * 16):
        assert main(["pack", str(tmp_path / "there.tar")]) == 0
    assert "2 runs in" in capsys.readouterr().out
    for source in ("there.tar", "there"):
        here = place(f"here of {source}")
        compute(2, level=7.0)
        ours = contents(here)
        compute(3)
        assert main(["merge", str(tmp_path / source)]) == 0
        out = capsys.readouterr().out
        assert "1 run taken, 0 were here, 1 are here with other numbers" in out
        assert f"walks/{runs.key(Config(size=2))}: ours stays" in out
        assert ours.items() <= contents(here).items()
        assert [run.metrics["level"] for run in runs.load("walks", "smoke")] == [1.0, 7.0, 1.0]
        assert main(["verify"]) == 0
        assert not (here / "runs" / "walks" / ".scratch").exists()
        capsys.readouterr()
        assert main(["merge", str(tmp_path / source)]) == 0
        assert "0 runs taken, 1 were here, 1 are here" in capsys.readouterr().out


def test_the_same_runs_are_packed_as_the_same_bytes(place, tmp_path):
    compute(3)
    for name in ("one.tar", "other.tar"):
        assert main(["pack", str(tmp_path / name), "walks"]) == 0
        os.utime(compute(3).path / "meta.json", (1, 1))
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "other.tar").read_bytes()


def test_a_damaged_run_is_not_taken_and_the_others_are(place, capsys, tmp_path):
    other = place("there")
    damaged = compute(1).path
    compute(2)
    (damaged / "metrics.json").write_text("{}")
    here = place("here")
    assert main(["merge", str(other)]) == 2
    out, err = capsys.readouterr()
    assert "1 run taken" in out
    assert f"walks/{damaged.name}" in err
    assert [path.name for path in (here / "runs" / "walks").iterdir()] == [runs.key(Config(size=2))]


def test_a_tar_file_cannot_write_elsewhere(place, capsys, tmp_path):
    other = place("there")
    run = compute(1)
    file = tmp_path / "odd.tar"
    with tarfile.open(file, "w") as tar:
        for name in ("meta.json", "config.json", "metrics.json", "arrays/score.npy"):
            tar.add(run.path / name, f"runs/walks/{run.key}/{name}")
        tar.add(run.path / "meta.json", f"runs/walks/{run.key}/arrays/../../../../../out.json")
        tar.add(run.path / "meta.json", "../out.json")
        link = tarfile.TarInfo(f"runs/walks/{run.key}/arrays/link.npy")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    place("here")
    assert main(["merge", str(file)]) == 0
    assert not list(tmp_path.rglob("out.json"))
    assert not list((tmp_path / "here").rglob("link.npy"))
    assert contents(tmp_path / "here") == contents(other)


MISTAKES = {
    "merge": "name one source",
    "merge nowhere.tar": "there is no nowhere.tar",
    "merge .": "there are no runs in it",
    "merge setup.tar": "cannot be read",
    "pack": "no file to pack into",
    "pack walks": "name the file first",
    "pack nowhere/runs.tar": "cannot write nowhere/runs.tar",
    "verify walk": "did you mean 'walks'?",
    "verify --al": "unrecognized arguments: --al: see --help",
    "verfy": "did you mean 'verify'?",
    "drafts walks": "`drafts` is now `attempts`: `python -m experiments runs attempts walks`",
    "clean walks/x/y": "no attempt walks/x/y",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line(words, place, capsys, tmp_path, monkeypatch):
    compute(1)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    Path("setup.tar").write_text("no tar")
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert MISTAKES[words] in err


def attempt(owner: str, age: float = 0.0, key: str = "0" * 16) -> Path:
    """An attempt whose owner gave its last sign of life some seconds ago."""
    slot = runs.results() / "runs" / "walks" / ".scratch" / key / owner
    (slot / "work").mkdir(parents=True)
    (slot / "work" / "state").write_text("x" * 10)
    os.utime(slot, (time.time() - age, time.time() - age))
    return slot


FAR = "0123456789.1.aaaaaaaaaa.{job}.0.bbbbbbbb"


def killed() -> Path:
    """An attempt by a process of this machine that was killed."""
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from experiments.laboratory import scratch\n"
        "with scratch.claim(Path(sys.argv[1]), '1' * 16) as slot:\n"
        "    print(slot.path, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    home = runs.results() / "runs" / "walks"
    words = [sys.executable, "-c", script, str(home)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    return Path(done.stdout.strip())


def test_only_what_is_known_to_be_dead_is_cleaned(capsys, monkeypatch):
    calls = []
    queued = [slurm.Queued("77", "70", 1, "RUNNING", "")]
    monkeypatch.setattr(slurm, "present", lambda: True)
    monkeypatch.setattr(slurm, "queue", lambda mine: calls.append(mine) or queued)
    other = compute(1)
    old = 2 * scratch.STALE
    dead = [killed(), attempt("free.0123abcd"), attempt(FAR.format(job="76"), old)]
    alive = [
        attempt(FAR.format(job="77"), old),  # silent, but Slurm has the job
        attempt(FAR.format(job=""), old),  # silent, and nobody can say
        attempt(FAR.format(job="75")),  # gives signs of life
    ]
    with scratch.claim(other.path.parent, "2" * 16) as mine:
        assert main(["attempts"]) == 0
        lines = capsys.readouterr().out.splitlines()
        states = {line.split("/")[-1]: line.split()[0] for line in lines if "walks/" in line}
        assert {states[path.name] for path in dead} == {"dead"}
        assert [states[path.name] for path in alive] == ["silent", "silent", "living"]
        assert states[mine.path.name] == "living"
        assert main(["clean"]) == 0
        assert "3 attempts removed" in capsys.readouterr().out
        assert all(path.exists() for path in [*alive, mine.path])
    assert not any(path.exists() for path in dead)
    assert calls == [False, False], "the jobs of everybody"
    other.verify()


def test_a_silent_attempt_is_removed_by_name_and_a_living_one_never(capsys):
    silent = attempt(FAR.format(job=""), 2 * scratch.STALE)
    address = f"walks/{silent.parent.name}/{silent.name}"
    assert main(["clean", address]) == 0
    assert capsys.readouterr().out == f"removed {address}\n1 attempt removed\n"
    assert not silent.parent.parent.exists()
    with scratch.claim(runs.results() / "runs" / "walks", "1" * 16) as mine:
        assert main(["clean", f"walks/{'1' * 16}/{mine.path.name}"]) == 2
        assert "is being worked on" in capsys.readouterr().err
        assert mine.work.is_dir()


def test_a_store_without_attempts_says_so(capsys):
    compute(1)
    assert main(["attempts"]) == 0
    assert capsys.readouterr().out == "no attempts: every run that was begun is finished\n"


def test_the_status_tells_done_running_dead_and_missing_apart(monkeypatch, capsys):
    monkeypatch.setattr("experiments.laboratory.registry.names", lambda: ["tiny"])
    monkeypatch.setattr("experiments.laboratory.registry.named", lambda name: EXPERIMENT)
    keys = [entry["key"] for entry in runs.entries(EXPERIMENT.presets["smoke"])]
    home = runs.results() / "runs" / "tiny"
    for cell in ("0", "3"):
        assert EXPERIMENT.main(["--cell", cell]) == 0
    capsys.readouterr()
    left = home / ".scratch" / keys[2] / FAR.format(job="12")
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    with scratch.claim(home, keys[1]):
        assert status.main([]) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert rows[0] == ["experiment", "preset", "cells", "done", "running", "dead", "missing"]
        assert rows[2] == ["tiny", "smoke", "6", "2", "1", "1", "2"]
        assert status.main(["tiny", "smoke"]) == 1
        out = capsys.readouterr().out
        named = {line.split()[1]: line.split()[3] for line in out.splitlines()[6:10]}
        assert named == {"1": "running", "2": "dead", "4": "missing", "5": "missing"}
        assert "method Power" in out
        assert "`slurm/submit tiny smoke`" in out
    assert EXPERIMENT.main([]) == 0
    capsys.readouterr()
    assert status.main(["tiny", "smoke"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[3:] == ["6", "0", "0", "0"]
    assert status.main(["tiny", "smok"]) == 2
    assert "did you mean 'smoke'?" in capsys.readouterr().err
