"""Whether the regulariser belongs to each example: both definitions against ridge regression."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.examples import Examples
from methods.ihvp.cg import CG
from methods.ihvp.exact import Exact
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.rows.projections import Rademacher
from methods.task import Task
from methods.tracin import TracIn
from tests.methods import networks

N, DIM, DECAY = 60, 5, 1.0
X = networks.normal(N + 4, DIM)
Y = X @ networks.normal(DIM, seed=1) + 0.5 * networks.normal(N + 4, seed=2)
TRAIN, QUERY = {"x": X[:N], "y": Y[:N]}, {"x": X[N:], "y": Y[N:]}


def squares(model: Any, batch: Examples) -> Tensor:
    return (model(batch["x"])[:, 0] - batch["y"]).square()


def predictions(model: Any, batch: Examples) -> Tensor:
    """A measurement linear in the parameters: leaving one out changes it by one step of Newton."""
    return model(batch["x"])[:, 0]


def ridge(weights: Tensor, decay: float = DECAY) -> Tensor:
    """The minimiser of sum_i weights_i loss_i + decay/2 |w|^2."""
    x, y = TRAIN["x"], TRAIN["y"]
    hessian = 2 * x.T @ (weights[:, None] * x) + decay * torch.eye(DIM, dtype=X.dtype)
    return torch.linalg.solve(hessian, 2 * x.T @ (weights * y))


def weights(i: int, step: float, regularised: bool) -> Tensor:
    """The weights of the losses in a mean where example i counts 1 + step times."""
    counts = torch.ones(N, dtype=X.dtype)
    counts[i] += step
    return counts / (N + step if regularised else N)


def change(i: int, step: float, regularised: bool) -> Tensor:
    """How much the predictions for the queries rise, (n_query,)."""
    new, old = ridge(weights(i, step, regularised)), ridge(weights(i, 0.0, regularised))
    return QUERY["x"] @ (new - old)


def the_task(regularised: bool, measurement: Any = None) -> Task:
    model = nn.Linear(DIM, 1, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_(ridge(weights(0, 0.0, regularised))[None])
    return Task.of(model, squares, measurement, weight_decay=DECAY, regularised=regularised)


@pytest.mark.parametrize("regularised", [True, False])
@pytest.mark.parametrize("inverse", [Exact(), CG(1e-12)])
def test_influence_is_leaving_one_out_in_either_definition(inverse: Any, regularised: bool) -> None:
    task = the_task(regularised, predictions)
    scores = Influence(inverse).scores(task, TRAIN, QUERY) / N
    slope = torch.stack([-change(i, 1e-5, regularised) / 1e-5 for i in range(N)], dim=1)
    torch.testing.assert_close(scores, slope, rtol=1e-3, atol=1e-6)
    left_out = torch.stack([change(i, -1.0, regularised) for i in range(N)], dim=1)
    other = torch.stack([change(i, -1.0, not regularised) for i in range(N)], dim=1)
    assert int((scores.sign() != left_out.sign()).sum()) <= 0.02 * left_out.numel()
    assert int((scores.sign() != other.sign()).sum()) > 0.05 * left_out.numel()


def test_training_gradients_of_every_method_have_it_and_those_of_queries_do_not() -> None:
    task = the_task(True)
    g = networks.gradient_rows(task, task.loss, TRAIN)
    full = g + DECAY * task.flatten(task.params)
    torch.testing.assert_close(TracIn(False).scores(task, TRAIN, TRAIN), g @ full.T)
    torch.testing.assert_close(TracIn(False).self_influence(task, TRAIN), (g * full).sum(1))
    fitted = RandomProjection(Rademacher(8)).fit(task, TRAIN)
    images = RandomProjection(Rademacher(8)).projection.draw(task).directions()
    torch.testing.assert_close(fitted.scores(TRAIN, TRAIN), g @ images.T @ images @ full.T)
