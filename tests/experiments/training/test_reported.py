"""What a training tells whoever watches: right numbers, and none of its own changes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.laboratory import progress, reported
from experiments.models.digits_mlp import DigitsMLP
from experiments.training.augmentation import CropAndFlip, augmented
from experiments.training.loop import fit, load_params
from experiments.training.plans import Cosine, Fit, Shuffled, cross_entropy, hits
from experiments.training.stacked import Apart, Stack, fit_stack
from methods.examples import take
from tests.experiments.training.test_training import TRAIN, noisy, same

PLAN = Fit(epochs=2, batch_size=130, lr=0.05, momentum=0.0)


def network(seed: int) -> torch.nn.Module:
    return DigitsMLP((12,), (1, 8, 8)).build(seed)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Everything is measured at every point, however slow this machine is."""
    monkeypatch.setattr(reported, "SHARE", float("inf"))


def watched(train: Callable[[], Any]) -> tuple[Any, list[dict[str, Any]]]:
    points: list[dict[str, Any]] = []
    with progress.watched_by(points.append):
        return train(), points


def accuracy(module: torch.nn.Module, batch: dict[str, Tensor]) -> float:
    return float((module(batch["image"]).argmax(1) == batch["label"]).double().mean())


def test_lines_have_the_epoch_the_rate_the_throughput_and_the_accuracy(tmp_path, monkeypatch):
    seconds = iter(range(1_000))
    monkeypatch.setattr(reported, "now", lambda: float(next(seconds)))
    module, plan = network(0), Cosine(epochs=3, batch_size=65, lr=0.05)
    outcome, points = watched(lambda: fit(module, cross_entropy, TRAIN, plan, 0, tmp_path))
    assert [(point["epoch"], point["step"]) for point in points] == [(1, 2), (2, 4), (3, 6)]
    assert [point["loss"] for point in points] == outcome["train_loss"].tolist()
    assert [point["lr"] for point in points] == [plan.rate(epoch + 0.5) for epoch in range(3)]
    assert all(point["examples_per_second"] > 0 for point in points)
    first = Shuffled(0, 130).batches(plan, TRAIN, 0)[0]
    assert points[-1]["accuracy"] == pytest.approx(accuracy(module, take(TRAIN, first)))


def test_one_step_an_epoch_moves_by_the_rate_times_the_reported_norm(tmp_path):
    outcome, points = watched(lambda: fit(network(0), cross_entropy, TRAIN, PLAN, 0, tmp_path))
    step = np.linalg.norm(outcome["params"][1] - outcome["params"][0])
    assert points[1]["gradient_norm"] == pytest.approx(step / PLAN.lr, rel=1e-4)


@pytest.mark.parametrize("watch", [False, True])
def test_whoever_watches_changes_no_bit(watch, tmp_path):
    loss = augmented(cross_entropy, CropAndFlip(pad=1))
    for name in "ab":
        (tmp_path / name).mkdir()

    def train() -> dict[str, np.ndarray]:
        return fit(noisy(), loss, TRAIN, Fit(2, 30, lr=0.01), 0, tmp_path / "a")

    expected = fit(noisy(), loss, TRAIN, Fit(2, 30, lr=0.01), 0, tmp_path / "b")
    outcome, points = watched(train) if watch else (train(), [])
    assert same(outcome, expected)
    assert all("accuracy" in point for point in points)
    assert len(points) == (2 if watch else 0)


@pytest.mark.parametrize("kind", [Stack, Apart])
def test_each_network_of_several_has_its_own_lines(kind, tmp_path):
    masks = np.ones((2, 130), bool)
    masks[0, ::2] = masks[1, 1::2] = False
    plan = Fit(epochs=1, batch_size=65, lr=0.05, momentum=0.0)
    members = kind([network(seed) for seed in (0, 1)])
    outcome, (point,) = watched(
        lambda: fit_stack(members, cross_entropy, TRAIN, masks, plan, (0, 1), tmp_path)
    )
    for member, mask in enumerate(masks):
        module = network(member)
        own = {name: column[torch.from_numpy(mask)] for name, column in TRAIN.items()}
        cross_entropy(module, own).mean().backward()
        norm = reported.gradient_norms(module).item()
        assert point["gradient_norm"][member] == pytest.approx(norm, rel=1e-4)
        trained = load_params(module, outcome["params"][-1, member])
        assert point["accuracy"][member] == pytest.approx(accuracy(trained, own))
    assert point["loss"].shape == (2,)


def test_a_loss_that_is_not_of_classes_has_no_accuracy(tmp_path):
    def squared(model, batch):
        return model(batch["image"]).square().mean(1)

    _, points = watched(lambda: fit(network(0), squared, TRAIN, PLAN, 0, tmp_path))
    assert hits(squared) is None
    assert hits(augmented(squared, CropAndFlip(1))) is None
    assert not [point for point in points if "accuracy" in point]


def test_what_is_measured_for_a_watcher_takes_its_share_of_the_time_at_most(monkeypatch):
    clock, measured = [0.0], []
    monkeypatch.setattr(reported, "SHARE", 0.1)
    monkeypatch.setattr(reported, "now", lambda: clock[0])

    def slow() -> Tensor:
        clock[0] += 1.0
        measured.append(clock[0])
        return torch.tensor(0.5)

    network = torch.nn.Linear(1, 1)
    network(torch.ones(1, 1)).sum().backward()
    told = reported.Reported(network, slow)
    with progress.watched_by(lambda _: None):
        for step in range(100):
            clock[0] += 1.0
            told.tell(step, step, 0.5, 0.1)
    assert len(measured) == pytest.approx(100 / 11, abs=1)
    assert len(measured) <= 0.1 * clock[0] + 1
