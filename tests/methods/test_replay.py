"""Derivatives through training: by retraining with changed weights, and by one whole graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.examples import take
from methods.replay import SGD, Adam, Replayed, Training, metagradients
from methods.task import Task
from tests.methods import networks

TRAIN, QUERY = networks.examples(9, 6), networks.examples(3, 6, seed=20)
STEPS = 11
LRS = [0.3 / (1 + i) for i in range(STEPS)]
BATCHES = [networks.integers(9, 4, seed=i) for i in range(STEPS)]  # an example may come twice
OPTIMISERS: dict[str, Any] = {
    "sgd": SGD(),
    "momentum": SGD(0.9),
    "nesterov": SGD(0.8, nesterov=True),
    "adam": Adam(eps=1e-3),
    "adamw": Adam((0.8, 0.95), eps_root=1e-4, decoupled=0.1),
}


def the_task(**settings: Any) -> Task:
    return Task.of(networks.built(networks.Mlp), networks.nll, weight_decay=0.02, **settings)


@pytest.fixture(params=OPTIMISERS)
def training(request: pytest.FixtureRequest) -> Training:
    scale = 0.1 if "adam" in request.param else 1.0
    return Training(BATCHES, [lr * scale for lr in LRS], OPTIMISERS[request.param])


def by_torch(task: Task, training: Training, weights: Tensor) -> Tensor:
    """The queries' measurements after training by torch's own optimiser."""
    model: Any = networks.built(networks.Mlp)
    how: Any = training.optimiser
    kind: Any
    known: dict[str, Any]
    if isinstance(how, SGD):
        kind, known = torch.optim.SGD, {"momentum": how.momentum, "nesterov": how.nesterov}
    else:
        kind, known = torch.optim.Adam, {"betas": how.betas, "eps": how.eps}
    descent = kind(model.parameters(), lr=1.0, weight_decay=task.weight_decay, **known)
    for batch, lr in zip(training.batches, training.lrs, strict=True):
        descent.param_groups[0]["lr"] = lr
        descent.zero_grad()
        index = torch.as_tensor(batch)
        (weights[index] * networks.nll(model, take(TRAIN, index))).mean().backward()
        descent.step()
    with torch.no_grad():
        found: Tensor = networks.nll(model, QUERY)
    return found


def test_training_and_its_derivative_are_torch_s_by_finite_differences() -> None:
    """Central differences of retraining by torch's optimisers, which share no code with ours."""
    task = the_task()
    for name in ("nesterov", "adam"):
        scale = 0.1 if name == "adam" else 1.0
        training = Training(BATCHES, [lr * scale for lr in LRS], OPTIMISERS[name])
        found, ones, h = metagradients(task, TRAIN, QUERY, training), torch.ones(9).double(), 1e-5
        torch.testing.assert_close(found.measured, by_torch(task, training, ones))
        for i in range(0, 9, 3):
            change = h * torch.eye(9)[i].double()
            up, down = (by_torch(task, training, ones + s * change) for s in (1, -1))
            wanted = -(up - down) / (2 * h)
            torch.testing.assert_close(found.scores[:, i], wanted, rtol=1e-5, atol=1e-8)


def whole_graph(task: Task, training: Training, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The same derivative by one graph of all steps, and the measurements."""
    leaf = weights.clone().requires_grad_()
    params = task.flatten(task.params).requires_grad_()
    state = (params, *[torch.zeros_like(params) for _ in range(training.optimiser.kept)])
    for t, (batch, lr) in enumerate(zip(training.batches, training.lrs, strict=True)):
        index = torch.as_tensor(batch)
        losses = task.loss(task.unflatten(state[0]), take(TRAIN, index))
        mean = (leaf[index] * losses).mean() + task.weight_decay / 2 * state[0].square().sum()
        gradient = torch.autograd.grad(mean, state[0], create_graph=True)[0]
        state = training.optimiser.step(state, gradient, lr, t + 1)
    values = task.measurement(task.unflatten(state[0]), QUERY)
    rows = [torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in values]
    return -torch.stack(rows), values.detach()


def same(have: Replayed, want: Replayed) -> None:
    assert torch.equal(have.scores, want.scores)
    assert torch.equal(have.measured, want.measured)


def test_the_derivative_is_that_of_the_whole_graph(training: Training) -> None:
    task, weights = the_task(), 1 + 0.3 * networks.normal(9)
    found = metagradients(task, TRAIN, QUERY, training, weights)
    scores, measured = whole_graph(task, training, weights)
    torch.testing.assert_close(found.measured, measured)
    torch.testing.assert_close(found.scores, scores, rtol=1e-9, atol=1e-12)


def test_states_kept_change_no_bit_and_are_few() -> None:
    task, wanted = the_task(), metagradients(the_task(), TRAIN, QUERY, Training(BATCHES, LRS))
    for keep in (2, 3, STEPS, 50):
        same(metagradients(task, TRAIN, QUERY, Training(BATCHES, LRS, keep=keep)), wanted)
    same(metagradients(task, TRAIN, QUERY, Training([b.tolist() for b in BATCHES], LRS)), wanted)


@pytest.mark.parametrize(("keep", "most"), [(None, 4), (2, 5), (STEPS, 3)])
def test_steps_are_computed_again_as_often_as_said(
    keep: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]

    def counted(self: SGD, *args: Any, own: Any = SGD.step) -> Any:
        calls[0] += 1
        return own(self, *args)

    monkeypatch.setattr(SGD, "step", counted)
    metagradients(the_task(), TRAIN, QUERY, Training(BATCHES, LRS, keep=keep))
    assert calls[0] <= most * STEPS


def test_the_task_and_its_model_are_left_as_they_were() -> None:
    task = the_task(only=["head.*", "middle.*"])
    before = {name: value.clone() for name, value in task.all_params.items()}
    found = metagradients(task, TRAIN, QUERY, Training(BATCHES, LRS))
    torch.testing.assert_close(task.all_params, before, rtol=0, atol=0)
    assert list(found.params) == list(task.params)
    assert not torch.equal(found.params["head.weight"], task.params["head.weight"])
    assert float(found.scores.abs().min(dim=0).values[torch.cat(BATCHES).unique()].min()) > 0


def test_an_example_that_is_in_no_batch_has_no_score() -> None:
    training = Training([[0, 1], [2, 1]], [0.1, 0.1])
    scores = metagradients(the_task(), TRAIN, QUERY, training).scores
    assert not scores[:, 3:].any()
    assert scores[:, :3].all()


def test_a_measurement_is_differentiated_at_the_end_and_signs_are_those_of_help() -> None:
    """Training on the query itself lowers its loss."""
    task = the_task(measurement=lambda model, batch: 2 * networks.nll(model, batch))
    training = Training([list(range(9))] * 5, [0.1] * 5)
    doubled = metagradients(task, TRAIN, TRAIN, training)
    plain = metagradients(the_task(), TRAIN, TRAIN, training)
    torch.testing.assert_close(doubled.scores, 2 * plain.scores)
    assert float(plain.scores.diagonal().min()) > 0


def test_what_cannot_be_replayed_is_refused() -> None:
    task = the_task()
    for batches, message in (
        ([[0, 9]], "batch 0 is not a list of positions from 0 to 8"),
        ([[]], "batch 0 is not a list of positions"),
    ):
        with pytest.raises(MethodError, match=message):
            metagradients(task, TRAIN, QUERY, Training(batches, [0.1]))
    with pytest.raises(MethodError, match="1 batches and 2 learning rates"):
        Training([[0]], [0.1, 0.2])
    with pytest.raises(MethodError, match=r"weights of shape \(3,\) for 9 training examples"):
        metagradients(task, TRAIN, QUERY, Training([[0]], [0.1]), torch.ones(3))
    dead = Task.of(networks.built(lambda: nn.Sequential(nn.Linear(6, 3), Dead())), networks.nll)
    with pytest.raises(MethodError, match="give an eps_root such as 1e-12"):
        metagradients(dead, TRAIN, QUERY, Training(BATCHES, LRS, Adam()))
    adam = Adam(eps_root=1e-12)
    assert metagradients(dead, TRAIN, QUERY, Training(BATCHES, LRS, adam)).scores.isfinite().all()


class Dead(nn.Module):
    """A unit without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([1.0, 1.0, 0.0]).double()


def test_examples_may_be_a_data_set() -> None:
    items: Any = [{name: column[i] for name, column in TRAIN.items()} for i in range(9)]
    training = Training(BATCHES, LRS)
    same(
        metagradients(the_task(), items, QUERY, training),
        metagradients(the_task(), TRAIN, QUERY, training),
    )
    other = replace(training, optimiser=Adam(eps=1e-2))
    assert other != training
