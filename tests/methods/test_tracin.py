"""TracIn is a weighted sum over checkpoints of products of gradients."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.checkpoints import Checkpoint
from methods.errors import MethodError
from methods.task import Task
from methods.tracin import TracIn
from tests.methods import networks
from tests.methods.test_attributors import ENTRIES, QUERY, TRAIN, equal, swapped_nll, the_task


@pytest.mark.parametrize("method", [m for m in ENTRIES.values() if isinstance(m, TracIn)])
def test_a_checkpoint_of_another_model_is_an_error(method: TracIn) -> None:
    task = the_task()
    wide = networks.checkpoints(networks.built(lambda: networks.Mlp(hidden=7)))
    with pytest.raises(MethodError, match="of another model"):
        method.fit(replace(task, checkpoints=wide), TRAIN)
    lacking = tuple(
        Checkpoint({n: v for n, v in c.params.items() if n != "head.bias"}, c.lr)
        for c in task.checkpoints
    )
    for some in (task, task.only(["inner.*"])):
        with pytest.raises(MethodError, match=r"lacks head\.bias"):
            method.fit(replace(some, checkpoints=lacking), TRAIN)


def by_autograd(task: Task, weights: list[float]) -> Tensor:
    """The weighted sum over checkpoints of products of single examples' gradients."""
    total = torch.zeros(5, 13, dtype=networks.DOUBLE)
    for checkpoint, weight in zip(task.checkpoints, weights, strict=True):
        at = task.at(checkpoint)
        left = networks.gradient_rows(at, at.measurement, QUERY)
        total += weight * left @ networks.gradient_rows(at, at.loss, TRAIN).T
    return total


@pytest.mark.parametrize("measurement", [None, swapped_nll])
def test_tracin_is_a_weighted_sum_over_checkpoints(measurement: Any) -> None:
    task = the_task(measurement=measurement)
    for method, weights in [
        (TracIn(), [0.3, 0.1]),
        (TracIn(learning_rates=False), [0.5, 0.5]),
        (TracIn(checkpoints=(0,)), [0.3, 0.0]),
        (TracIn(learning_rates=False, checkpoints=(-1,)), [0.0, 1.0]),
        (TracIn(checkpoints=(1, 0)), [0.3, 0.1]),
    ]:
        equal(method.scores(task, TRAIN, QUERY), by_autograd(task, weights))


def test_tracin_of_layers_is_tracin_of_only_them() -> None:
    task, layers = the_task(), ("middle.*", "*.bias")
    for rates in (True, False):
        some = TracIn(rates, layers=layers)
        expected = TracIn(rates).fit(task.only(layers), TRAIN)
        equal(some.scores(task, TRAIN, QUERY), expected.scores(QUERY, TRAIN))
        equal(some.self_influence(task, TRAIN), expected.self_influence(TRAIN))
    equal(
        TracIn(layers=layers).scores(task, TRAIN, QUERY), by_autograd(task.only(layers), [0.3, 0.1])
    )


def test_tracin_without_checkpoints_is_the_final_model() -> None:
    task = the_task()
    bare = replace(task, checkpoints=())
    for method in (TracIn(False), TracIn(False, checkpoints=(-1,)), TracIn(checkpoints=(-1,))):
        equal(method.scores(bare, TRAIN, QUERY), by_autograd(task, [0.0, 1.0]))
    with pytest.raises(MethodError, match="no checkpoints to take learning rates from"):
        TracIn().fit(bare, TRAIN)


def test_tracin_names_a_checkpoint_that_is_not_there() -> None:
    for index in (2, -3):
        with pytest.raises(MethodError, match=f"checkpoint {index} of 2: choose from 0 to 1"):
            TracIn(checkpoints=(index,)).fit(the_task(), TRAIN)
