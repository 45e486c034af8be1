"""Influence and TracIn where the right answer is known: closed forms and real retraining."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.examples import Examples, take
from methods.ihvp.cg import CG
from methods.ihvp.exact import Exact
from methods.influence import Influence
from methods.losses.objective import Params
from methods.task import Task
from methods.tracin import TracIn
from tests.methods.convex import convex, minimise
from tests.methods.networks import DOUBLE, REFERENCE, Mlp, built, examples, nll

N = 12
INVERSES = [Exact(), CG(tolerance=1e-12)]


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def pearson(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def design() -> Examples:
    """The regression data set of the reference, made from its formula."""
    i = torch.arange(N, dtype=DOUBLE)
    wave, other = (i + 1).sin(), (0.7 * (i + 1)).cos()
    y = 0.5 + 1.5 * wave - 0.8 * other + 0.1 * (-1) ** i * (1 + i % 3)
    return {"x": torch.stack([torch.ones(N, dtype=DOUBLE), wave, other], 1), "y": y}


def query(label: float) -> Examples:
    return {"x": tensor([REFERENCE["data"]["x_test"]]), "y": tensor([label])}


def linear(weights: Tensor) -> nn.Module:
    model = nn.Linear(3, 1, bias=False).to(DOUBLE).eval()
    with torch.no_grad():
        model.weight.copy_(weights[None])
    return model


def squared(model: Any, batch: Examples) -> Tensor:
    return (model(batch["x"])[:, 0] - batch["y"]).square() / 2


def binary(model: Any, batch: Examples) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch["x"])[:, 0], batch["y"], reduction="none")


def loss_change(x: Tensor, y: float, before: Tensor, after: Tensor) -> Tensor:
    """The increase of the squared loss at (x, y) by each row of new weights, (n,)."""
    return ((after @ x - y).square() - (before @ x - y).square()) / 2


def retrained(model: nn.Module, loss: Any, train: Examples, decay: float) -> list[nn.Module]:
    """The model retrained without each example in turn, every other one still weighing 1/n."""
    n, models = len(train["y"]), []
    for i in range(n):
        weights = torch.full((n,), 1 / n, dtype=DOUBLE)
        weights[i] = 0
        models.append(copy.deepcopy(model))
        minimise(models[-1], loss, train, decay, weights)
    return models


def measured(models: list[nn.Module], loss: Any, batch: Examples) -> Tensor:
    with torch.no_grad():
        return torch.stack([loss(model, batch) for model in models], dim=1)


@pytest.mark.parametrize("inverse", INVERSES, ids=repr)
@pytest.mark.parametrize("lam", [0.0, 0.1])
def test_ridge_leave_one_out(lam: float, inverse: Any) -> None:
    reference, data = REFERENCE["ridge"][f"linreg_lam{lam}"], design()
    x, y = data["x"], data["y"]
    gram = x.T @ x + N * lam * torch.eye(3, dtype=DOUBLE)
    w = torch.linalg.solve(gram, x.T @ y)
    torch.testing.assert_close(w, tensor(reference["w"]))
    moved = torch.linalg.solve(gram, x.T).T * (x @ w - y)[:, None]  # A^-1 x_i r_i
    leverage = (x * torch.linalg.solve(gram, x.T).T).sum(1)
    torch.testing.assert_close(leverage, tensor(reference["leverage_h"]))

    refit = torch.stack(
        [torch.linalg.solve(gram - x[i].outer(x[i]), x.T @ y - x[i] * y[i]) for i in range(N)]
    )
    torch.testing.assert_close(refit - w, moved / (1 - leverage)[:, None])

    point, label = tensor(REFERENCE["data"]["x_test"]), REFERENCE["data"]["y_test"]
    exact = loss_change(point, label, w, refit)
    torch.testing.assert_close(exact, tensor(reference["exact_loo_keep_1_over_n"]))

    task = Task.of(linear(w), squared, weight_decay=lam)
    scores = Influence(inverse).scores(task, data, query(label))[0] / N
    torch.testing.assert_close(scores, tensor(reference["IF_predicted_loo"]))
    torch.testing.assert_close(scores, moved @ point * (w @ point - label))
    # a measurement linear in w differs from retraining by 1 / (1 - h) and nothing else
    forecast = Task.of(linear(w), squared, lambda m, b: m(b["x"])[:, 0], weight_decay=lam)
    predicted = Influence(inverse).scores(forecast, data, query(label))[0] / N
    torch.testing.assert_close(predicted / (1 - leverage), refit @ point - w @ point)


def test_logistic_leave_one_out() -> None:
    reference, data = REFERENCE["logistic"], design()
    data["y"] = tensor(reference["y"])
    model, test = linear(torch.zeros(3)), query(1.0)
    minimise(model, binary, data, 0.1)
    torch.testing.assert_close(model.weight[0].detach(), tensor(reference["w"]))

    task = Task.of(model, binary, weight_decay=0.1)
    scores = Influence(Exact()).scores(task, data, test)[0] / N
    torch.testing.assert_close(scores, tensor(reference["IF_predicted_loo"]))

    exact = measured(retrained(model, binary, data, 0.1), binary, test)[0]
    exact -= measured([model], binary, test)[0]
    torch.testing.assert_close(exact, tensor(reference["exact_loo"]))
    assert pearson(scores, exact) == pytest.approx(reference["pearson"])
    assert pearson(scores, exact) > 0.99


@pytest.mark.parametrize("inverse", INVERSES, ids=repr)
def test_influence_predicts_retraining_of_softmax_regression(inverse: Any) -> None:
    problem = convex(n=40)
    model = problem.task.loss.model
    scores = Influence(inverse).scores(problem.task, problem.train, problem.query) / 40
    models = retrained(model, nll, problem.train, problem.task.weight_decay)
    change = measured(models, nll, problem.query) - measured([model], nll, problem.query)
    for predicted, real in zip(scores, change, strict=True):
        assert pearson(predicted, real) > 0.99
        slope = float(predicted @ real / (predicted @ predicted))
        assert 1 < slope < 1.3  # leverage makes the real change the larger of the two


@pytest.mark.parametrize(("layers", "bias"), [(("head.weight",), 0.0), (("head.*",), 1.0)])
def test_last_layer_tracin(layers: tuple[str, ...], bias: float) -> None:
    model, train, test = built(Mlp), examples(9, 6), examples(4, 6, seed=7)
    task = Task.of(model, nll)
    scores = TracIn(learning_rates=False, layers=layers).scores(task, train, test)

    def parts(batch: Examples) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            features = model.middle(model.inner(batch["x"]).tanh()).tanh()
            return features, model.head(features).softmax(1) - F.one_hot(batch["y"], 3)

    (x, error), (x_test, error_test) = parts(train), parts(test)
    torch.testing.assert_close(scores, (error_test @ error.T) * (x_test @ x.T + bias))


def stepped(task: Task, example: Examples, size: float) -> Params:
    """The parameters after one gradient step on one example."""
    params = {n: v.clone().requires_grad_() for n, v in task.params.items()}
    grads = torch.autograd.grad(task.loss(params, example).sum(), list(params.values()))
    steps = dict(zip(params, grads, strict=True))
    return {n: v.detach() - size * steps[n] for n, v in params.items()}


def test_a_step_on_a_proponent_lowers_the_loss_of_the_query() -> None:
    task, train, test = Task.of(built(Mlp), nll), examples(30, 6), examples(5, 6, seed=7)
    fitted = TracIn(learning_rates=False).fit(task, train)
    best, worst = fitted.proponents(test, train, 1), fitted.opponents(test, train, 1)
    assert (best[0] > 0).all()
    assert (worst[0] < 0).all()
    size = 1e-4
    for score, index in (best, worst):
        for q in range(5):
            one = take(test, slice(q, q + 1))
            params = stepped(task, take(train, index[q]), size)
            change = task.loss(params, one) - task.loss(task.params, one)
            torch.testing.assert_close(change.detach(), -size * score[q], rtol=0.02, atol=0)
