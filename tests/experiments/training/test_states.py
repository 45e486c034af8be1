"""A damaged state or checkpoint is said and discarded, and training ends with the same bits."""

import io
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.laboratory import disk, runs
from experiments.laboratory.runs import UserError
from experiments.training import loop
from experiments.training.loop import Saved, fit
from experiments.training.plans import Fit
from tests.experiments.laboratory.tiny import Config

PLAN = Fit(epochs=4, batch_size=10, lr=0.1, momentum=0.9)
STEPS = 3  # of an epoch


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)


def data() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(30, 4, generator=draw)
    return {"image": images, "label": images[:, :3].argmax(1)}


class Killed(Exception):
    pass


def training(folder: Path, steps: int | None = None) -> dict[str, np.ndarray]:
    """Train, and die before step `steps`."""
    calls = itertools.count()

    def loss(module, batch):
        if next(calls) == steps:
            raise Killed
        logits = module(batch["image"])
        return torch.nn.functional.cross_entropy(logits, batch["label"], reduction="none")

    folder.mkdir(exist_ok=True)
    return fit(network(), loss, data(), PLAN, 0, folder)


@pytest.fixture(autouse=True)
def save_every_step(monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr("os.fsync", lambda _: None)


def changed(file: Path, place: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    file.write_bytes(bytes(content))


FAULTS = {
    "removed": lambda file: file.unlink(),
    "empty": lambda file: os.truncate(file, 0),
    "half": lambda file: os.truncate(file, file.stat().st_size // 2),
    "without its end": lambda file: os.truncate(file, file.stat().st_size - 1),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "a bit at the beginning": lambda file: changed(file, 0.0),
    "a bit in the middle": lambda file: changed(file, 0.5),
    "a bit at the end": lambda file: changed(file, 1.0),
    "sealed garbage": lambda file: disk.write_sealed(file, b"garbage"),
}
FILES = {
    "the state": "*.pt",
    "the one before": "*.pt.before",
    "both": "*.pt*",
    "a checkpoint": "*-0001.npy",
    "the first checkpoint": "*-0000.npy",
    "all": "*",
}


@pytest.mark.parametrize("files", FILES)
def test_a_damaged_file_is_said_and_training_goes_on_to_the_same_bits(files, tmp_path, capsys):
    whole = training(tmp_path / "whole")
    for number, fault in enumerate(FAULTS):
        torn = tmp_path / f"torn {number}"
        with pytest.raises(Killed):
            training(torn, 2 * STEPS + 2)
        hit = sorted(torn.glob(FILES[files]))
        assert hit
        if fault == "sealed garbage" and "checkpoint" in files:
            continue  # written whole, as whatever it is
        for file in hit:
            FAULTS[fault](file)
        capsys.readouterr()
        again = training(torn)
        assert again.keys() == whole.keys()
        assert all(again[name].tobytes() == whole[name].tobytes() for name in whole), fault
        lines = capsys.readouterr().err.splitlines()
        assert all(" is discarded (" in line and "torn " in line for line in lines)
        if fault != "removed" and files != "the one before":
            assert lines


def test_one_step_is_lost_with_the_newest_state(tmp_path):
    with pytest.raises(Killed):
        training(tmp_path / "torn", 2 * STEPS + 2)
    FAULTS["half"](next((tmp_path / "torn").glob("*.pt")))
    calls = []
    plain = torch.nn.functional.cross_entropy

    def counted(module, batch):
        calls.append(1)
        return plain(module(batch["image"]), batch["label"], reduction="none")

    fit(network(), counted, data(), PLAN, 0, tmp_path / "torn")
    assert len(calls) == 2 * STEPS - 2 + 1


def test_a_checkpoint_damaged_while_training_is_one_line_and_the_next_attempt_ends(
    tmp_path, monkeypatch
):
    whole = training(tmp_path / "whole")
    plain = Saved.checkpoints

    def struck(self, count):
        FAULTS["half"](next(self.scratch.glob("*-0002.npy")))
        return plain(self, count)

    monkeypatch.setattr(Saved, "checkpoints", struck)
    with pytest.raises(UserError, match=r"-0002\.npy.* was damaged during the training") as caught:
        training(tmp_path / "torn")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(Saved, "checkpoints", plain)
    again = training(tmp_path / "torn")
    assert all(again[name].tobytes() == whole[name].tobytes() for name in whole)


def test_a_state_that_does_not_fit_leaves_nothing_behind(tmp_path, capsys):
    whole = training(tmp_path / "whole")
    with pytest.raises(Killed):
        training(tmp_path / "torn", 2 * STEPS + 2)
    for file in (tmp_path / "torn").glob("*.pt*"):
        _, content = next(disk.intact(file))
        state = torch.load(io.BytesIO(content), weights_only=True)
        del state["optimizer"]  # what comes before is restored already when this is missed
        state["module"] = {name: value + 1 for name, value in state["module"].items()}
        changed_state = io.BytesIO()
        torch.save(state, changed_state)
        disk.write_sealed(file, changed_state.getvalue())
    again = training(tmp_path / "torn")
    assert all(again[name].tobytes() == whole[name].tobytes() for name in whole)
    assert capsys.readouterr().err.count(" is discarded (") == 2


def test_runs_end_whatever_happens_to_their_states(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    with pytest.raises(Killed):
        runs.once("a", Config(), lambda folder: training(folder, 4))
    for file in tmp_path.glob("runs/a/.scratch/*/*/work/*"):
        os.truncate(file, 10)
    run = runs.once("a", Config(), training)
    assert run.array("params").tobytes() == training(tmp_path / "whole")["params"].tobytes()
