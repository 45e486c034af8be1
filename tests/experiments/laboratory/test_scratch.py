"""Scratch outlives a killed job, and two living ones never share it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.laboratory import runs, scratch
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
        "import sys, time; from pathlib import Path; from experiments.laboratory import runs\n"
        "from tests.experiments.laboratory.tiny import Config; import numpy as np\n"
        "def compute(folder):\n"
        "    assert not list(folder.iterdir()), 'a shared scratch'\n"
        "    (folder / 'mine').write_text('x'); time.sleep(0.1)\n"
        "    return {'score': np.arange(1000.0), 'level': 1.0}\n"
        "gate = Path(sys.argv[1]); print('ready', flush=True)\n"
        "while not gate.exists(): time.sleep(0.001)\n"
        "print(runs.once('race', Config(), compute).array('score').sum())"
    )
    gate = tmp_path / "go"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", script, gate],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    gate.touch()
    for racer in racers:
        out, err = racer.communicate()
        assert (racer.returncode, out, err) == (0, "499500.0\n", "")
    assert [path.name for path in (store / "race").iterdir()] == [runs.key(Config())]
    runs.find("race", Config()).verify()
