"""Work that is asked to stop saves, stops, and ends later as if it had not been."""

import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.laboratory import process
from experiments.laboratory.errors import UserError
from experiments.training import loop
from experiments.training.plans import cross_entropy
from tests.experiments.laboratory.tiny import EXPERIMENT


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")


def signalled(number: int) -> None:
    os.kill(os.getpid(), number)


def train(folder, at_step: int | None = None) -> dict[str, np.ndarray]:
    """Train a moment, signalled in one step."""
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 3)
    data = {"image": torch.randn(60, 4), "label": torch.arange(60) % 3}
    steps = []

    def loss(model, batch):
        steps.append(1)
        if len(steps) == at_step:
            signalled(signal.SIGUSR1)
        return cross_entropy(model, batch)

    plan = loop.Fit(epochs=2, batch_size=10)
    folder.mkdir(exist_ok=True)
    with process.stoppable():
        outcome = loop.fit(module, loss, data, plan, 0, folder)
    return outcome | {"taken": np.array(len(steps))}


@pytest.mark.parametrize("at_step", [1, 3, 6, 7, 11])
def test_a_training_asked_to_stop_saves_the_very_step_and_ends_with_the_same_bits(
    at_step, tmp_path
):
    whole = train(tmp_path / "whole")
    with pytest.raises(process.Stopped):
        train(tmp_path / "torn", at_step)
    rest = train(tmp_path / "torn")
    lost = 1 if at_step == 6 else 0  # the end of an epoch: one more step is taken before it stops
    assert rest.pop("taken") == whole.pop("taken") - at_step - lost
    for name, array in whole.items():
        np.testing.assert_array_equal(rest[name], array)


def test_how_often_a_training_saves_can_be_said(monkeypatch, tmp_path):
    monkeypatch.setenv("RETRACE_SAVE_SECONDS", "1e-9")
    written = []
    monkeypatch.setattr(loop.disk, "write_file", lambda path, content: written.append(path.suffix))
    monkeypatch.setattr(loop._Training, "results", lambda self: {})
    train(tmp_path / "often")
    assert written.count(".pt") == 12
    monkeypatch.setenv("RETRACE_SAVE_SECONDS", "often")
    with pytest.raises(UserError, match="RETRACE_SAVE_SECONDS is 'often': give a number"):
        train(tmp_path / "wrong")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_command_asked_to_stop_ends_in_one_line_and_goes_on_from_there(number, capsys):
    before = signal.getsignal(number)

    def run(config, folder):
        if config.size == 200 and not list(folder.iterdir()):
            (folder / "half").write_text("x")
            signalled(number)
            process.stop_if_requested()
        return {"size": config.size}

    experiment = replace(EXPERIMENT, name="stopped", run=run)
    assert experiment.main(["--preset", "big"]) == 130
    assert capsys.readouterr().err.count("interrupted: finished cells are kept") == 1
    assert signal.getsignal(number) is before
    assert not process.stop_requested()
    assert experiment.main(["--preset", "big"]) == 0
    assert "2 computed now" in capsys.readouterr().out


def test_work_that_does_not_look_is_stopped_after_a_grace(monkeypatch):
    monkeypatch.setattr(process, "GRACE", 0.2)

    def work() -> None:
        with process.stoppable():
            signalled(signal.SIGTERM)
            signalled(signal.SIGTERM)  # by Slurm, and by the script of the task
            threading.Event().wait()  # forever, if nothing stops it

    with pytest.raises(process.Stopped):
        work()


def test_work_that_ends_within_its_grace_is_not_stopped():
    with process.stoppable(), process.stoppable():
        signalled(signal.SIGTERM)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert not process.stop_requested()


def test_threads_leave_signals_to_the_main_one():
    seen = []

    def work() -> None:
        with process.stoppable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
