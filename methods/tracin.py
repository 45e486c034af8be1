"""TracIn (Pruthi et al., 2020): inner products of gradients along training.

Three parts: `TracIn` itself (TracInCP, Sec. 3.3); the ideal TracIn that it approximates, what one
step of descent does to a query's measurement (Sec. 3.1); and which checkpoints to take, chosen from
the curve of the training loss alone (Sec. D).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.func import grad, jvp

from methods.attributor import Attributor, State
from methods.checkpoints import Checkpoint, rates
from methods.errors import MethodError, within
from methods.examples import Examples, in_memory
from methods.fitted.gradients import FittedGradients
from methods.fitted.scoring import Fitted, FittedSum
from methods.losses.failures import explained
from methods.losses.objective import Params
from methods.precision import full_precision
from methods.rows.factored import Rows
from methods.task import Task

FEWEST = 7  # values of a curve of training losses
# The loss has converged once at most LEFT of its fall remains, at a rate below SLOW times the mean:
LEFT = 0.05
SLOW = 0.1


@dataclass(frozen=True)
class TracIn(Attributor):
    """TracInCP: sum over checkpoints of lr <grad query, grad candidate>.

    learning_rates  weigh by each checkpoint's lr (TracIn); if false, the plain mean over them,
                    as in Schioppa et al.
    checkpoints     which, by position (-1 is the last); None is all of them. Of a task without
                    checkpoints its own parameters are the only one.
    layers          shell patterns of parameter names; empty is all of them
    """

    learning_rates: bool = True
    checkpoints: tuple[int, ...] | None = None
    layers: tuple[str, ...] = ()

    def fitted(self, task: Task, state: State, train: Examples | None) -> Fitted:
        narrowed = task.only(self.layers) if self.layers else task
        chosen = self._chosen(narrowed)
        terms: list[Fitted] = []
        first: FittedCheckpoint | None = None
        for moment, lr in chosen:
            weight = lr if self.learning_rates else 1 / len(chosen)
            term = FittedCheckpoint(moment, weight, first)
            terms.append(term)
            first = first or term
        return FittedSum(terms)

    def _chosen(self, task: Task) -> list[tuple[Task, float]]:
        """The task at each chosen checkpoint, and the learning rate there."""
        saved: tuple[Checkpoint | None, ...] = task.checkpoints
        if not saved:
            if self.learning_rates and self.checkpoints is None:
                raise MethodError(
                    "the task has no checkpoints to take learning rates from: pass Task.of(..., "
                    'checkpoints=[("epoch1.pt", 0.1), ...]) or TracIn(learning_rates=False)'
                )
            saved = (None,)
        places = range(len(saved)) if self.checkpoints is None else self.checkpoints
        wrong = [i for i in places if not -len(saved) <= i < len(saved)]
        if wrong:
            raise MethodError(
                f"checkpoint {wrong[0]} of {len(saved)}: choose from 0 to {len(saved) - 1}"
            )
        moments = [each for each in (saved[i] for i in places) if each is not None]
        if not moments:
            return [(replace(task, checkpoints=()), 1.0)] * len(places)
        otherwise = ", or take the plain mean, TracIn(learning_rates=False)"
        lrs = rates(moments, otherwise) if self.learning_rates else [1.0] * len(moments)
        return [(task.at(each), lr) for each, lr in zip(moments, lrs, strict=True)]


class FittedCheckpoint(FittedGradients):
    """The gradients of one checkpoint, times the root of its weight on both sides."""

    def __init__(self, task: Task, weight: float, like: FittedCheckpoint | None) -> None:
        super().__init__(task, like)
        self.root = weight**0.5

    def query_rows(self, examples: Examples) -> Rows:
        return self.query_gradients(examples).scaled(self.root)

    def train_rows(self, examples: Examples) -> Rows:
        return self.train_gradients(examples).scaled(self.root)

    def own_rows(self, examples: Examples) -> tuple[Rows, Rows]:
        if self.measured is not self.gradients:
            return super().own_rows(examples)
        rows = self.train_rows(examples)
        return rows, rows


@dataclass(frozen=True)
class Watched:
    """Query measurements before a step, and their decrease by the step to first order.

    `before` and `influence` are (n_query,), in the unit of the measurement; positive influence
    marks a proponent: the measurement falls.
    """

    before: Tensor
    influence: Tensor


@full_precision()
def descent(task: Task, batch: Examples, lr: float) -> Params:
    """The update of one step of plain gradient descent on a batch: -lr times the gradient.

    The gradient is that of the mean loss over the batch plus weight_decay/2 |params|^2.
    """
    loss, decay = task.function(task.loss), task.weight_decay
    batch = task.move(in_memory(batch))
    with explained(task, task.loss, batch):
        gradient = grad(lambda params: loss(params, batch).mean())(task.params)
    if decay:
        gradient = {name: g + decay * task.params[name] for name, g in gradient.items()}
    return {name: -lr * g for name, g in gradient.items()}


def moved(task: Task, update: Params, factor: float = 1.0) -> Task:
    """The task after `factor` times an update."""
    params = {name: value + factor * update[name] for name, value in task.params.items()}
    return replace(task, params=params)


@full_precision()
def watch(task: Task, query: Examples, update: Params) -> Watched:
    """The queries' measurements and the first-order effect of an update on them.

    One forward-mode pass over the queries, which costs about two and a half plain ones, however
    many parameters there are.
    """
    measurement, query = task.function(task.measurement), task.move(in_memory(query))
    with explained(task, task.measurement, query):
        both = jvp(lambda params: measurement(params, query), (task.params,), (update,))
    return Watched(before=_finite(both[0]), influence=-_finite(both[1]))


@full_precision()
def measure(task: Task, query: Examples) -> Tensor:
    """The queries' measurements, (n_query,)."""
    query = task.move(in_memory(query))
    with torch.enable_grad(), explained(task, task.measurement, query):
        return _finite(task.function(task.measurement)(task.params, query).detach())


def _finite(values: Tensor) -> Tensor:
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise MethodError(
            f"the measurement of {bad} of {values.numel()} queries is not finite: lower the "
            "learning rate, or look for NaN in the queries"
        )
    return values


@dataclass(frozen=True)
class Calm:
    """When a loss has settled: how it falls from there until it has converged.

    rise     share of the range of the losses by which it never rises again
    lasting  share of the time until then that this takes at least, so that a few values close to
             each other at the beginning are not taken for it
    """

    rise: float = 0.02
    lasting: float = 0.2

    def __post_init__(self) -> None:
        within("(0, 1)", rise=self.rise, lasting=self.lasting)


@dataclass(frozen=True)
class Phases:
    """Where the steady decrease of a loss curve begins and ends, as positions in it.

    Before `settled` the loss fluctuates; from `converged` on it falls no more. `converged` is the
    length of the curve if the loss falls to the end.
    """

    settled: int
    converged: int


CALM = Calm()


def phases(losses: ArrayLike, steps: ArrayLike | None = None, calm: Calm = CALM) -> Phases:
    """Divide a curve of training losses, (n,), into fluctuation, steady decrease and convergence.

    `steps` (n,) are the moments of training at which the losses were measured, evenly spaced unless
    given. The loss has settled at the first value that is the lowest so far and from which it is
    calm until it has converged. It has converged at the first value after which at most LEFT of the
    fall remains, at less than SLOW times the mean rate so far: a loss that falls evenly to the end
    has not converged.
    """
    curve, times = _checked(losses, steps)
    lowest = np.minimum.accumulate(curve)
    rise = calm.rise * (curve.max() - curve.min())
    if rise == 0:
        raise MethodError("the training loss is constant: there is no decrease to sample from")
    for first in np.flatnonzero(curve == lowest)[:-1]:
        end = _converged(lowest, times, int(first))
        part = curve[first : end + 1]
        last = times[min(end, len(curve) - 1)]
        lasts = last - times[first] >= calm.lasting * (last - times[0])
        if lasts and (part - np.minimum.accumulate(part)).max() <= rise:
            return Phases(int(first), end)
    raise MethodError(
        "the training loss rises until late, so no phase of it is steady: average it over more "
        "examples, for instance over epochs"
    )


def _converged(lowest: np.ndarray, times: np.ndarray, first: int) -> int:
    """Where the loss has converged if it settled at `first`; the curve's length if nowhere."""
    for i in range(first + 1, len(lowest) - 1):
        fallen, to_fall = lowest[first] - lowest[i], lowest[i] - lowest[-1]
        slow = to_fall / (times[-1] - times[i]) < SLOW * fallen / (times[i] - times[first])
        if slow and to_fall <= LEFT * (fallen + to_fall):
            return i
    return len(lowest)


def propose(
    losses: ArrayLike, count: int, steps: ArrayLike | None = None, calm: Calm = CALM
) -> np.ndarray:
    """`count` positions of a curve of training losses at which to trace, ascending.

    They lie in the steady decrease ("sample checkpoints [where] there is a steady decrease in loss,
    and [...] more frequently when the rate of decrease is higher", Sec. D). The loss falls by about
    the same amount from each to the next, so they are densest where it falls fastest. The choice is
    deterministic and uses no example, gradient or attribution.
    """
    curve, _ = _checked(losses, steps)
    phase = phases(losses, steps, calm)
    available = phase.converged - phase.settled
    if count < 1:
        raise MethodError(f"{count} checkpoints: ask for one at least")
    if count > available:
        raise MethodError(
            f"{count} checkpoints of {available} in the steady decrease, positions {phase.settled} "
            f"to {phase.converged - 1}: ask for at most {available}, or save more checkpoints"
        )
    fallen = np.maximum.accumulate(curve[phase.settled] - curve[phase.settled : phase.converged])
    wanted = (np.arange(count) + 0.5) / count * fallen[-1]
    chosen = np.abs(fallen[None] - wanted[:, None]).argmin(1)
    return phase.settled + _distinct(chosen, available)


def evenly(steps: ArrayLike, count: int) -> np.ndarray:
    """`count` positions, ascending, as evenly spaced in `steps` as possible; the last among them.

    This is what saving a checkpoint every so many steps gives.
    """
    times = np.asarray(steps, dtype=float)
    if not 0 < count <= len(times):
        raise MethodError(f"{count} of {len(times)} checkpoints: choose from 1 to {len(times)}")
    wanted = (np.arange(count) + 1) / count * times[-1]
    chosen = np.abs(times[None] - wanted[:, None]).argmin(1)
    return _distinct(chosen, len(times))


def _distinct(chosen: np.ndarray, below: int) -> np.ndarray:
    """Ascending positions changed as little as makes them differ, all of them below `below`."""
    rank = np.arange(len(chosen))
    later = np.maximum.accumulate(chosen - rank)  # plus rank: each after the one before
    return np.minimum(later, below - len(chosen)) + rank


def _checked(losses: ArrayLike, steps: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    curve = np.asarray(losses, dtype=float)
    if curve.ndim != 1:
        raise MethodError(f"losses of shape {curve.shape}: give one value a moment, (n,)")
    if len(curve) < FEWEST:
        raise MethodError(
            f"a curve of {len(curve)} losses is too short to tell a fluctuation from a decrease: "
            f"give {FEWEST} at least"
        )
    if not np.isfinite(curve).all():
        where = int(np.flatnonzero(~np.isfinite(curve))[0])
        raise MethodError(f"loss {where} is {curve[where]}: training diverged, lower its rate")
    times = np.arange(len(curve), dtype=float) if steps is None else np.asarray(steps, dtype=float)
    if times.shape != curve.shape:
        raise MethodError(f"{len(curve)} losses at steps of shape {times.shape}: give one each")
    if not (np.diff(times) > 0).all():
        raise MethodError("the steps of a loss curve must rise")
    return curve, times
