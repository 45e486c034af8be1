"""TRAK by its formulas, with numpy and the margin's own gradient by autograd."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods.checkpoints import Checkpoint
from methods.errors import MethodError
from methods.examples import Examples
from methods.rows.projections import Gaussian, Rademacher, Select
from methods.task import Task
from methods.trak import TRAK, Model
from tests.methods import networks

TRAIN, QUERY = networks.examples(15, 6), networks.examples(4, 6, seed=20)


def margin(model: Any, batch: Examples) -> Tensor:
    """-log(p / (1 - p)) of the label, as the logits say it."""
    logits, label = model(batch["x"]), batch["y"][:, None]
    others = logits.scatter(1, label, -torch.inf)
    return others.logsumexp(1) - logits.gather(1, label)[:, 0]


def the_task(n_models: int, measurement: Any = margin) -> Task:
    model = networks.built(networks.Mlp)
    moments = networks.checkpoints(model, (1.0,) * n_models) if n_models else ()
    return Task.of(model, networks.nll, measurement, checkpoints=moments)


@pytest.mark.parametrize("n_models", [0, 1, 3])
def test_scores_are_those_of_the_paper(n_models: int) -> None:
    """Mean over models of phi(z) K^-1 phi_i, times the mean over models of 1 - p_i (Alg. 1)."""
    task, method = the_task(n_models), TRAK(Rademacher(7), damping=0.3)
    fitted = method.fit(task, TRAIN)
    kernels, weights = [], []
    for model in fitted.models:  # type: ignore[attr-defined]
        own = model.task
        phi, z = (-networks.gradient_rows(own, own.measurement, some) for some in (TRAIN, QUERY))
        G = model.form.right.directions().numpy()
        phi, z = phi.numpy() @ G.T, z.numpy() @ G.T
        kernels.append(z @ np.linalg.inv(phi.T @ phi + 0.3 * np.eye(7)) @ phi.T)
        weights.append(1 - np.exp(-own.loss(own.all_params, TRAIN).numpy()))
    assert len(kernels) == max(1, n_models)
    wanted = np.mean(kernels, axis=0) * np.mean(weights, axis=0)
    np.testing.assert_allclose(fitted.scores(QUERY, TRAIN), wanted, rtol=1e-9)


def test_models_have_projections_of_their_own_and_can_be_chosen() -> None:
    task, method = the_task(3), TRAK(Rademacher(7))
    first, second = (Model(task, method, i).form.right.directions() for i in (0, 1))
    assert not torch.equal(first, second)
    one = TRAK(Rademacher(7), checkpoints=(0,)).scores(task, TRAIN, QUERY)
    alone = Task.of(networks.built(networks.Mlp), networks.nll, margin).at(task.checkpoints[0])
    torch.testing.assert_close(method.scores(alone, TRAIN, QUERY), one)
    with pytest.raises(MethodError, match="checkpoint 3 of 3: choose from 0 to 2"):
        TRAK(checkpoints=(3,)).fit(task, TRAIN)


def test_of_logistic_regression_a_score_is_one_newton_step() -> None:
    """With all coordinates kept, so that nothing is random."""
    model, train = networks.built(lambda: nn.Linear(3, 2)), networks.examples(20, 3, classes=2)
    task = Task.of(model, networks.nll, margin).only(["weight"])
    method = TRAK(Select(6), damping=1e-3)
    scores = method.scores(task, train, train)
    phi = -networks.gradient_rows(task, task.measurement, train)
    p = torch.exp(-task.loss(task.all_params, train))
    kernel = phi.T @ phi + 1e-3 * torch.eye(6).double()
    wanted = phi @ torch.linalg.solve(kernel, phi.T) * (1 - p)
    torch.testing.assert_close(scores, wanted, rtol=1e-6, atol=1e-8)
    assert float(scores.diagonal().min()) > 0


def test_a_query_of_the_loss_has_the_margin_s_scores_times_its_own_weight() -> None:
    method = TRAK(Rademacher(7))
    scores = method.scores(the_task(0), TRAIN, QUERY)
    task = the_task(0, None)
    weight = 1 - torch.exp(-task.loss(task.all_params, QUERY))
    torch.testing.assert_close(method.scores(task, TRAIN, QUERY), scores * weight[:, None])


def test_what_cannot_be_scored_is_refused() -> None:
    task = the_task(0)
    with pytest.raises(MethodError, match="kernel of 20 dimensions is singular: raise `damping`"):
        TRAK(Rademacher(20)).fit(task, TRAIN)
    negative = Task.of(networks.built(networks.Mlp), margin)
    with pytest.raises(MethodError, match=r"a loss is negative, .* take margin=False"):
        TRAK(Rademacher(5)).fit(negative, TRAIN)
    TRAK(Rademacher(5), margin=False).fit(negative, TRAIN)
    state = TRAK(Rademacher(5)).state(task, TRAIN)
    with pytest.raises(MethodError, match="made for another model"):
        TRAK(Rademacher(5)).fit(the_task(2), TRAIN, state)


def test_an_example_that_the_model_is_sure_of_has_no_score() -> None:
    model = networks.built(lambda: nn.Linear(2, 2))
    with torch.no_grad():
        model.weight.copy_(torch.eye(2) * 100)
        model.bias.zero_()
    x = torch.tensor([[9.0, 0.0], [0.01, 0.0], [0.0, 0.02], [0.02, 0.01]]).double()
    train = {"x": x, "y": torch.tensor([0, 0, 1, 1])}
    task = Task.of(model, networks.nll, checkpoints=[Checkpoint(model.state_dict(), 1.0)])
    scores = TRAK(Rademacher(2), damping=0.1).scores(task, train, train)
    assert torch.equal(scores[:, 0], torch.zeros(4).double())
    assert float(scores[1:, 1:].abs().min()) > 0


def test_a_loss_may_hold_derivatives_by_its_inputs() -> None:
    data = networks.examples(9, 6)

    def with_slopes(model: Any, batch: Examples) -> Tensor:
        given = {**batch, "x": batch["x"].clone().requires_grad_()}
        losses = networks.nll(model, given)
        slopes = torch.autograd.grad(losses.sum(), given["x"], create_graph=True)[0]
        return losses + slopes.square().sum(1)

    task = Task.of(networks.built(networks.Mlp), with_slopes)
    assert TRAK(Gaussian(4), damping=1.0).scores(task, data, data).isfinite().all()
