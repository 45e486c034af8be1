"""Ideal TracIn (Pruthi et al., 2020): what one step of descent does to a query's loss.

The definition adds up, over the steps on an example, the change of the query's measurement; to
first order a step changes it by lr <grad query, grad batch>. Both are positive where the step
helped the query.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import grad, jvp

from methods.mistakes import explained
from methods.task import Examples, MethodError, Params, Task


@dataclass(frozen=True)
class Watched:
    """Query measurements before a step, and what the step does to them to first order.

    `before` and `influence` are (n_query,), in the unit of the measurement; positive influence
    is a proponent: the measurement falls.
    """

    before: Tensor
    influence: Tensor


def descent(task: Task, batch: Examples, lr: float) -> Params:
    """The update of one step of plain gradient descent on the batch, -lr times a gradient.

    It is that of the mean loss over the batch plus weight_decay/2 |params|^2.
    """
    loss, decay = task.function(task.loss), task.weight_decay
    with explained(task, task.loss, batch):
        gradient = grad(lambda params: loss(params, batch).mean())(task.params)
    if decay:
        gradient = {name: g + decay * task.params[name] for name, g in gradient.items()}
    return {name: -lr * g for name, g in gradient.items()}


def moved(task: Task, update: Params, factor: float = 1.0) -> Task:
    """The task after a step, or after a multiple of one."""
    there = {name: value + factor * update[name] for name, value in task.params.items()}
    return replace(task, params=there)


def watch(task: Task, query: Examples, update: Params) -> Watched:
    """The queries' measurements and the first-order effect of an update on them.

    One forward-mode pass over the queries, which costs about two and a half plain ones, however
    many parameters there are.
    """
    measurement = task.function(task.measurement)
    with explained(task, task.measurement, query):
        both = jvp(lambda params: measurement(params, query), (task.params,), (update,))
    return Watched(before=_finite(both[0]), influence=-_finite(both[1]))


def measure(task: Task, query: Examples) -> Tensor:
    """The queries' measurements, (n_query,)."""
    with torch.no_grad(), explained(task, task.measurement, query):
        return _finite(task.function(task.measurement)(task.params, query))


def _finite(values: Tensor) -> Tensor:
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise MethodError(
            f"the measurement of {bad} of {values.numel()} queries is not finite: lower the "
            "learning rate, or look for NaN in the queries"
        )
    return values
