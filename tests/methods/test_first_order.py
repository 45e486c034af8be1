"""The effect of a step on a loss where it is known: linear, quadratic, and small."""

import pytest
import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.examples import Examples, take
from methods.task import Task
from methods.tracin import TracIn, descent, measure, moved, watch
from tests.methods import networks

DRAW = torch.Generator().manual_seed(3)
X = torch.randn(12, 4, generator=DRAW, dtype=torch.float64)
Y = torch.randn(12, generator=DRAW, dtype=torch.float64)
TRAIN, QUERY = {"x": X[:7], "y": Y[:7]}, {"x": X[7:], "y": Y[7:]}


def linear(model: nn.Module, batch: Examples) -> Tensor:
    return batch["y"] * model(batch["x"])[:, 0]


def quadratic(model: nn.Module, batch: Examples) -> Tensor:
    return 0.5 * (model(batch["x"])[:, 0] - batch["y"]).square()


def the_task(loss, weight_decay: float = 0.0) -> Task:
    return Task.of(networks.built(lambda: nn.Linear(4, 1)), loss, weight_decay=weight_decay)


def change(task: Task, query: Examples, update: dict[str, Tensor], factor: float = 1.0) -> Tensor:
    return measure(task, query) - measure(moved(task, update, factor), query)


def test_of_a_linear_loss_the_first_order_term_is_the_change():
    task = the_task(linear)
    update = descent(task, TRAIN, lr=0.7)
    seen = watch(task, QUERY, update)
    torch.testing.assert_close(seen.influence, change(task, QUERY, update))
    torch.testing.assert_close(seen.before, measure(task, QUERY))


def test_of_a_quadratic_loss_the_remainder_is_the_second_order_term():
    task = the_task(quadratic)
    update = descent(task, TRAIN, lr=0.7)
    along = QUERY["x"] @ update["weight"][0] + update["bias"]
    for factor in (0.5, 1.0, 3.0):
        exact = factor * watch(task, QUERY, update).influence - 0.5 * (factor * along).square()
        torch.testing.assert_close(change(task, QUERY, update, factor), exact)


def test_influence_of_a_step_is_tracin_of_its_one_example():
    task = the_task(quadratic)
    scores = TracIn(learning_rates=False).scores(task, TRAIN, QUERY)
    for i in range(7):
        update = descent(task, take(TRAIN, slice(i, i + 1)), lr=0.2)
        torch.testing.assert_close(watch(task, QUERY, update).influence, 0.2 * scores[:, i])


def test_influence_of_a_minibatch_is_the_mean_over_its_examples():
    task = the_task(quadratic)
    scores = TracIn(learning_rates=False).scores(task, TRAIN, QUERY)
    update = descent(task, TRAIN, lr=0.2)
    torch.testing.assert_close(watch(task, QUERY, update).influence, 0.2 * scores.mean(1))


def test_a_positive_influence_is_a_fall_of_the_loss():
    task = the_task(quadratic)
    one = take(TRAIN, slice(0, 1))
    update = descent(task, one, lr=1e-3)
    assert watch(task, one, update).influence.item() > 0
    assert change(task, one, update).item() > 0


def test_the_update_is_that_of_torch_s_own_descent_with_weight_decay():
    task = the_task(quadratic, weight_decay=0.3)
    module = networks.built(lambda: nn.Linear(4, 1))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=0.3)
    quadratic(module, TRAIN).mean().backward()
    optimizer.step()
    after = moved(task, descent(task, TRAIN, lr=0.1))
    for name, value in module.named_parameters():
        torch.testing.assert_close(after.params[name], value.detach())


def test_a_loss_that_is_not_finite_is_an_error():
    task = the_task(quadratic)
    update = descent(task, TRAIN, lr=0.1)
    broken = {**QUERY, "y": QUERY["y"] * float("nan")}
    for look in (lambda: watch(task, broken, update), lambda: measure(task, broken)):
        with pytest.raises(MethodError, match="5 of 5 queries is not finite: lower the learning"):
            look()
