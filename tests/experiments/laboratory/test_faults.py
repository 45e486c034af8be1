"""Kills, full disks and folders that cannot be written: no finished run is lost or changed."""

import contextlib
import itertools
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from experiments.laboratory import runs
from experiments.laboratory.runs import Run
from tests.experiments.laboratory.code_copy import contents

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Make a results folder the one in force."""

    def use(folder: Path) -> Path:
        monkeypatch.setenv("RETRACE_RESULTS", str(folder))
        return folder

    monkeypatch.setenv("WANDB_MODE", "disabled")
    return use


def kill_at_sync(number: int) -> None:
    """Kill this process at its n-th flush to the disk, wherever that is: never by the clock.

    A flush comes between writing a file and naming it, the moment at which most could be lost.
    """
    calls = itertools.count(1)

    def sync(_: int) -> None:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = sync


def tiny(preset: str, **options) -> subprocess.Popen:
    words = [sys.executable, "-m", "tests.experiments.laboratory.tiny", "--preset", preset]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True, **options)


def debris(folder: Path) -> list[str]:
    """Drafts and scratch: whatever is neither a run nor a list of runs."""
    return [str(path) for path in folder.glob("runs/*/*") if path.name.startswith(".")]


def is_whole(finished: list[Run]) -> bool:
    for run in finished:
        run.verify()
    return bool(finished)


KILLED = """
import sys
from tests.experiments.laboratory.test_faults import kill_at_sync
from tests.experiments.laboratory.tiny import EXPERIMENT
kill_at_sync(int(sys.argv[1]))
sys.exit(EXPERIMENT.main(["--preset", "slow"]))
"""


@pytest.mark.parametrize("seed", [0, 1])
def test_a_sweep_killed_at_random_moments_ends_as_an_undisturbed_one(seed, tmp_path, store):
    undisturbed, torn = tmp_path / "undisturbed", tmp_path / "torn"
    store(undisturbed)
    out, err = tiny("slow").communicate()
    assert "6 runs" in out, err

    store(torn)
    moments = random.Random(seed)
    for _ in range(4):  # 99 flushes in all
        words = [sys.executable, "-c", KILLED, str(moments.randint(1, 20))]
        killed = subprocess.run(words, cwd=REPOSITORY, capture_output=True)
        assert killed.returncode == -signal.SIGKILL
        assert all(is_whole([Run.at(path.parent)]) for path in torn.glob("runs/*/*/meta.json"))
    out, err = tiny("slow").communicate()
    assert "6 runs" in out, err
    assert contents(torn) == contents(undisturbed)
    assert len(contents(torn)) == 9 * 3  # six cells and three models: array, metrics, config
    assert debris(torn) == []


@dataclass(frozen=True)
class Job:
    """A digits network trained for a moment."""

    seed: int = 0


def train_digits(folder: str, kill_at: int) -> None:
    """In a process of its own: three trainings, with the state saved at every step."""
    import torch

    from experiments.data import digits
    from experiments.models.mnist_cnn import DigitsCNN
    from experiments.training import loop

    os.environ["RETRACE_RESULTS"] = folder
    torch.set_num_threads(1)
    loop.SAVE_SECONDS = -1.0
    kill_at_sync(kill_at)
    data = {name: column[:400] for name, column in digits.load_sklearn().items()}
    plan = loop.Fit(epochs=2, batch_size=40)

    def loss(module, batch):
        logits = module(batch["image"])
        return torch.nn.functional.cross_entropy(logits, batch["label"], reduction="none")

    for seed in range(3):
        module = DigitsCNN().build(seed)
        train = partial(loop.fit, module, loss, data, plan, seed)
        runs.once("digits", Job(seed), train)


@pytest.mark.long
def test_training_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "sklearn.datasets", "tests.experiments.laboratory.test_faults"]
    )
    undisturbed, torn = tmp_path / "undisturbed", tmp_path / "torn"

    def exit_code(folder: Path, kill_at: int = 0) -> int | None:
        process = context.Process(target=train_digits, args=(str(folder), kill_at))
        process.start()
        process.join()
        return process.exitcode

    assert exit_code(undisturbed) == 0
    moments = random.Random(0)
    for _ in range(6):  # of about 90 flushes in all
        assert exit_code(torn, moments.randint(1, 12)) == -signal.SIGKILL
    assert exit_code(torn) == 0
    assert contents(torn) == contents(undisturbed)
    assert debris(torn) == []


@contextlib.contextmanager
def mounted(folder: Path, options: str):
    """A small file system of its own; False where that is not allowed."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        allowed = subprocess.run(words, capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    try:
        yield allowed
    finally:
        if allowed:
            subprocess.run(["umount", str(folder)], check=True)


def limit_files() -> None:
    """The fallback if nothing may be mounted: no file above 1 MB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


def test_a_full_disk_loses_no_finished_run(tmp_path, store):
    folder = store(tmp_path / "small")
    with mounted(folder, "size=1m") as allowed:
        process = tiny("big", preexec_fn=None if allowed else limit_files)
        out, err = process.communicate()
        assert process.returncode == 2
        assert out == ""
        error = err.splitlines()[-1]
        assert error.startswith("error: cell 2 of preset big: cannot write ")
        assert str(folder / "runs") in error
        assert "bytes free)" in error
        assert "finished runs are kept" in error
        assert "Traceback" not in err
        assert len(runs.load("tiny", "big", partial=True)) == 2
        assert is_whole(runs.load("tiny", "big", partial=True))
        assert not [path for path in folder.rglob("*") if "draft" in path.name]
        before = contents(folder)
        if allowed:
            subprocess.run(["mount", "-o", "remount,size=20m", str(folder)], check=True)
        out, err = tiny("big").communicate()
        assert "1 computed now" in out, err
        after = contents(folder)
        assert before.items() <= after.items()
        assert debris(folder) == []


def refusal(process: subprocess.Popen) -> str:
    out, err = process.communicate()
    assert (process.returncode, out, err.count("error: ")) == (2, "", 1)
    assert "Traceback" not in err
    return err.splitlines()[-1]


def test_a_file_where_results_should_be_is_one_clear_line(tmp_path, store):
    folder = store(tmp_path / "results")
    folder.write_text("mine")
    message = refusal(tiny("smoke"))
    assert f"cannot write {folder}" in message
    assert "set RETRACE_RESULTS to a folder you can write to" in message
    assert folder.read_text() == "mine"


def test_a_read_only_results_folder_is_one_clear_line_and_finished_runs_are_read(tmp_path, store):
    folder = store(tmp_path / "results")
    with mounted(folder, "size=5m") as allowed:
        first = tiny("smoke")
        first.communicate()
        assert first.returncode == 0
        before = contents(folder)
        if allowed:
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        else:  # a file in the way of the new runs stops even root
            (folder / "runs" / "tiny" / ".scratch").write_text("")
        again = tiny("smoke")
        out, err = again.communicate()
        assert again.returncode == 0, err
        assert "0 computed now" in out
        message = refusal(tiny("big"))
        assert "cannot write " in message
        assert "set RETRACE_RESULTS to a folder you can write to" in message
        assert contents(folder) == before
