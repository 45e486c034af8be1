"""SOURCE against unrolling where it is exact, its limits, and dense functions of curvature."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.checkpoints import Checkpoint
from methods.curvature.operators import GaussNewton, Hessian
from methods.errors import MethodError
from methods.examples import Examples
from methods.ihvp.exact import Exact
from methods.ihvp.kfac import EKFAC
from methods.influence import Influence
from methods.replay import Training, metagradients
from methods.task import Task
from methods.unrolling import Unrolling
from tests.methods import networks

CURVED = networks.normal(4, 4, seed=1)
CURVED = CURVED @ CURVED.T / 4 + 0.1 * torch.eye(4).double()
SLOPES = networks.normal(6, 4, seed=2)
TRAIN: Examples = {"slope": SLOPES - SLOPES.mean(0)}  # at the minimum of the mean loss
QUERY: Examples = {"slope": networks.normal(3, 4, seed=3)}


def quadratic(model: Any, batch: Examples) -> Tensor:
    """w H w / 2 + b_i w: the same curvature for all, each example its own slope."""
    w = model.weight[0]
    return 0.5 * w @ CURVED @ w + batch["slope"] @ w


def stationary(lrs: list[float], decay: float = 0.0) -> Task:
    """Training that starts, and so stays, at the minimum w = 0."""
    model = nn.Linear(4, 1, bias=False).double().eval()
    with torch.no_grad():
        model.weight.zero_()
    moments = [Checkpoint(model.state_dict(), lr) for lr in lrs]
    return Task.of(model, quadratic, checkpoints=moments, weight_decay=decay)


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_of_quadratic_losses_at_the_minimum_it_is_the_unrolled_derivative(decay: float) -> None:
    """Against reverse mode through all steps of gradient descent, by three rates in turn."""
    lrs, steps = [0.5, 0.2, 0.05], 7
    task = stationary(lrs, decay)
    rates = [lr for lr in lrs for _ in range(steps)]
    exact = metagradients(task, TRAIN, QUERY, Training([list(range(6))] * 21, rates)).scores * 6
    method = Unrolling(21, 3, "hessian", discrete=True)
    scores = method.scores(task, TRAIN, QUERY)
    torch.testing.assert_close(scores, exact)
    small = replace(method, discrete=False).scores(task, TRAIN, QUERY)
    assert 1e-3 < float((small - exact).norm() / exact.norm()) < 0.2


def test_the_exponential_is_the_limit_of_ever_smaller_steps() -> None:
    errors = []
    for steps in (30, 300):
        task = stationary([3.0 / steps] * 3)
        training = Training([list(range(6))] * steps, [3.0 / steps] * steps)
        exact = metagradients(task, TRAIN, QUERY, training).scores * 6
        scores = Unrolling(steps, 3, "hessian").scores(task, TRAIN, QUERY)
        errors.append(float((scores - exact).norm() / exact.norm()))
    assert errors[1] < 0.12 * errors[0] < 0.12 * 0.1


def test_momentum_makes_steps_longer() -> None:
    task = stationary([0.1])
    fast = Unrolling(30, 1, "hessian", momentum=0.9).scores(task, TRAIN, QUERY)
    torch.testing.assert_close(fast, Unrolling(300, 1, "hessian").scores(task, TRAIN, QUERY))


def test_with_ever_more_steps_it_is_the_influence_function() -> None:
    train, query = networks.examples(9, 6), networks.examples(4, 6, seed=20)
    model = networks.built(networks.Mlp)
    last = Checkpoint(model.state_dict(), 0.1)
    task = Task.of(model, networks.nll, checkpoints=[last], weight_decay=0.01)
    wanted = Influence(Exact(), 0.1, curvature=GaussNewton).scores(task, train, query)
    method = Unrolling(10**7, 1, "gauss-newton", damping=0.1)
    torch.testing.assert_close(method.scores(task, train, query), wanted, rtol=1e-6, atol=1e-8)
    wanted = Influence(EKFAC(relative_damping=0.0), 0.1).scores(task, train, query)
    torch.testing.assert_close(Unrolling(10**7, 1, damping=0.1).scores(task, train, query), wanted)


@pytest.mark.parametrize("curvature", ["hessian", "gauss-newton"])
def test_scores_are_those_of_dense_functions_of_the_mean_curvature(curvature: Any) -> None:
    """Five checkpoints in two segments, of 2 and 3, and gradients along the way."""
    train, query = networks.examples(9, 6), networks.examples(4, 6, seed=20)
    model = networks.built(networks.Mlp)
    lrs = (0.5, 0.4, 0.3, 0.2, 0.1)
    moments = networks.checkpoints(model, lrs)
    task = Task.of(model, networks.nll, checkpoints=moments, weight_decay=0.01)
    kind = Hessian if curvature == "hessian" else GaussNewton
    v = networks.gradient_rows(task, task.loss, query)
    wanted = torch.zeros(4, 9).double()
    for some, rate in (([2, 3, 4], 0.2), ([0, 1], 0.45)):
        tasks = [task.at(moments[j]) for j in some]
        each = [kind(replace(t, weight_decay=0.01), train).dense() for t in tasks]
        matrix = torch.stack(each).mean(0)
        onward = torch.matrix_exp(-rate * 10 * matrix)
        added = torch.linalg.solve(matrix, torch.eye(len(matrix)).double() - onward)
        mean = torch.stack([networks.gradient_rows(t, t.loss, train) for t in tasks]).mean(0)
        wanted += v @ added @ mean.T
        v = v @ onward
    scores = Unrolling(20, 2, curvature).scores(task, train, query)
    torch.testing.assert_close(scores, wanted, rtol=1e-6, atol=1e-8)


def test_what_cannot_be_unrolled_is_refused() -> None:
    task = stationary([0.1, 0.1])
    with pytest.raises(MethodError, match="2 checkpoints for 3 segments"):
        Unrolling().fit(task, TRAIN)
    with pytest.raises(MethodError, match="steps is 2: give 3 or more"):
        Unrolling(2)
    with pytest.raises(MethodError, match='give "ekfac", "hessian" or "gauss-newton"'):
        Unrolling(curvature="exact")  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="momentum is 1"):
        Unrolling(momentum=1)
    state = Unrolling(segments=2, curvature="hessian").state(task, TRAIN)
    with pytest.raises(MethodError, match="the state is not of 1 segments"):
        Unrolling(segments=1, curvature="hessian").fit(task, TRAIN, state)
