"""Scratch outlives a killed job, and two living ones never share it."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.laboratory import runs, scratch
from experiments.laboratory.runs import UserError
from tests.experiments.laboratory.tiny import Config

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)  # no machine dies in these tests
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    return tmp_path / "runs"


def test_the_scratch_of_a_failed_attempt_is_there_for_the_next():
    def compute(folder: Path) -> runs.Outcome:
        seen = [path.name for path in folder.iterdir()]
        (folder / "checkpoint").write_text("x")
        if not seen:
            raise KeyboardInterrupt
        return {"seen": seen[0]}

    with pytest.raises(KeyboardInterrupt):
        runs.once("a", Config(), compute)
    run = runs.once("a", Config(), compute)
    assert run.metrics == {"seen": "checkpoint"}
    assert run.meta["resumed"]


def test_two_living_processes_never_share_a_scratch(tmp_path):
    with scratch.claim(tmp_path, "k") as one, scratch.claim(tmp_path, "k") as two:
        assert one.path != two.path
        assert not two.resumed
    assert not (tmp_path / ".scratch").exists()


def test_a_patient_process_waits_for_the_run_of_a_living_one_but_not_of_a_dead_one(
    tmp_path, monkeypatch
):
    begun, waited = threading.Event(), threading.Event()

    def compute(_: Path) -> runs.Outcome:
        begun.set()
        assert waited.wait(30)
        return {"seen": "first"}

    first = threading.Thread(target=runs.once, args=("a", Config(), compute))
    first.start()
    assert begun.wait(30)
    monkeypatch.setattr(runs.time, "sleep", lambda _: waited.set())
    run = runs.once("a", Config(), lambda _: {"seen": "second"}, patient=True)
    first.join()
    assert waited.is_set()
    assert run.metrics == {"seen": "first"}
    dead = tmp_path / "runs" / "b" / ".scratch" / runs.key(Config()) / "free.1"
    dead.mkdir(parents=True)
    waited.clear()
    runs.once("b", Config(), lambda _: {}, patient=True)
    assert not waited.is_set()


def test_the_scratch_of_a_dead_process_is_taken_over_by_exactly_one(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from experiments.laboratory import scratch\n"
        "with scratch.claim(Path(sys.argv[1]), 'k') as slot:\n"
        "    (slot.work / 'checkpoint').write_text('x'); slot.draft.mkdir()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], cwd=REPOSITORY, check=False)
    with scratch.claim(tmp_path, "k") as one, scratch.claim(tmp_path, "k") as two:
        assert [one.resumed, two.resumed] == [True, False]
        assert (one.work / "checkpoint").read_text() == "x"
        assert not one.draft.exists()


def test_the_scratch_of_another_machine_is_taken_over_only_when_silent_for_long(tmp_path):
    elsewhere = tmp_path / ".scratch" / "k" / "0123456789.1.aaaaaaaaaa..0.bbbbbbbb"
    (elsewhere / "work").mkdir(parents=True)
    (elsewhere / "work" / "checkpoint").write_text("x")
    with scratch.claim(tmp_path, "k") as slot:
        assert not slot.resumed
    assert elsewhere.exists()
    long_ago = time.time() - 2 * scratch.STALE
    os.utime(elsewhere, (long_ago, long_ago))
    with scratch.claim(tmp_path, "k") as slot:
        assert slot.resumed


def test_a_requeued_slurm_job_takes_over_its_own_scratch_from_another_machine(
    tmp_path, monkeypatch
):
    elsewhere = tmp_path / ".scratch" / "k" / "0123456789.1.aaaaaaaaaa.77.0.bbbbbbbb"
    (elsewhere / "work").mkdir(parents=True)
    (elsewhere / "work" / "checkpoint").write_text("x")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with scratch.claim(tmp_path, "k") as slot:
        assert not slot.resumed
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with scratch.claim(tmp_path, "k") as slot:
        assert slot.resumed


def test_eight_processes_racing_for_one_run_leave_one_directory_and_no_draft(store, tmp_path):
    script = (
        "import sys; from experiments.laboratory import runs\n"
        "from tests.experiments.laboratory.tiny import Config; import numpy as np\n"
        "def compute(folder):\n"
        "    assert not list(folder.iterdir()), 'a shared scratch'\n"
        "    (folder / 'mine').write_text('x'); print('inside', flush=True); input()\n"
        "    return {'score': np.arange(1000.0), 'level': 1.0}\n"
        "print(runs.once('race', Config(), compute).array('score').sum())"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "inside\n"  # all have begun before one may end
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    for racer in racers:
        out, err = racer.communicate()
        assert (racer.returncode, out, err) == (0, "499500.0\n", "")
    assert [path.name for path in (store / "race").iterdir()] == [runs.key(Config())]
    runs.find("race", Config()).verify()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("late", ["work", "draft"])
def test_an_owner_that_was_silent_and_comes_back_uses_the_finished_run(late, finished, store):
    path = store / "a" / runs.key(Config())

    def compute(folder: Path) -> runs.Outcome:
        """Another process takes the folder over, and may finish; this one writes to its own."""
        taken = folder.parent.rename(folder.parent.with_name("free.another"))
        if finished:
            (taken / "draft").mkdir()
            (taken / "work" / "checkpoint").write_text("x")
            with scratch.claim(store / "a", path.name):
                pass
            runs.once("a", Config(), lambda _: {"level": 1.0})
        if late == "work":
            (folder / "checkpoint").write_text("y")
        return {"level": 2.0}

    if finished:
        assert runs.once("a", Config(), compute).metrics == {"level": 1.0}
    elif late == "work":
        with pytest.raises(runs.UserError, match=r"took over .* the same command"):
            runs.once("a", Config(), compute)


def test_a_failed_sign_of_life_does_not_end_them_all(monkeypatch, tmp_path):
    given, errors = threading.Event(), iter([OSError(5, "EIO"), FileNotFoundError(2, "gone")])

    def utime(path: Path) -> None:
        if (error := next(errors, None)) is not None:
            raise error
        given.set()

    monkeypatch.setattr(scratch, "BEAT", 0.0)
    monkeypatch.setattr("os.utime", utime)
    stop = threading.Event()
    thread = threading.Thread(target=scratch._beat, args=(tmp_path, stop), daemon=True)
    thread.start()
    assert given.wait(60)
    stop.set()
    thread.join(60)


FAR = "0123456789.1.aaaaaaaaaa..0.bbbbbbbb"  # an owner on another machine


def far(home: Path, age: float = 0.0) -> Path:
    slot = home / ".scratch" / "k" / FAR
    (slot / "work").mkdir(parents=True)
    os.utime(slot, (time.time() - age, time.time() - age))
    return slot


def test_a_clock_that_was_set_back_does_not_make_the_dead_immortal(tmp_path):
    future = far(tmp_path, -10 * scratch.STALE)
    assert scratch.state(future) == scratch.SILENT
    assert scratch.silence(future) > scratch.STALE
    with scratch.claim(tmp_path, "k") as slot:
        assert not future.exists()
        assert slot.work.is_dir()


@pytest.mark.parametrize("wrong", [-1e6, 1e6])
def test_silence_is_told_by_the_clock_of_the_file_system(wrong, tmp_path, monkeypatch):
    slot, now = far(tmp_path), time.time()
    monkeypatch.setattr(scratch.time, "time", lambda: now + wrong)
    assert scratch.state(slot) == scratch.LIVING
    os.utime(slot, (now - 2 * scratch.STALE,) * 2)
    assert scratch.state(slot) == scratch.SILENT


def test_who_waits_for_another_stops_when_it_gives_no_sign_by_the_time_that_passes_here(
    tmp_path, monkeypatch
):
    slot, passed = far(tmp_path), [0.0]
    monkeypatch.setattr(scratch.time, "monotonic", lambda: passed[0])
    watch = scratch.Watch(tmp_path, "k")
    for seconds in (0, scratch.STALE - 1, scratch.STALE):
        passed[0] = seconds
        assert watch.working() == [slot]
    passed[0] = scratch.STALE + 1
    assert watch.working() == []
    os.utime(slot, (time.time() + 50, time.time() + 50))  # whatever the time in it
    assert watch.working() == [slot]
    assert scratch.Watch(tmp_path, "none").working() == []


def test_scratch_on_another_file_system_is_one_line(store, monkeypatch):
    def rename(self, target):
        raise OSError(18, "Invalid cross-device link", str(self))

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(UserError, match=r"\.scratch is on another file system"):
        runs.once("a", Config(), lambda _: {"x": 1})
