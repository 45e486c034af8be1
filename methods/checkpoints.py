"""Which checkpoints to trace, from the curve of the training loss alone (TracIn, Sec. D).

"Sample checkpoints [where] there is a steady decrease in loss, and [...] more frequently when the
rate of decrease is higher"; none at the beginning, while the loss fluctuates, and none after it
has converged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from methods.task import MethodError

CALM = 5  # moments in a row without a rise: the loss has settled
RISE = 0.02  # of the range of the losses: below it a rise is no fluctuation
LEFT = 0.05  # of the fall since the loss settled: with no more than that to come, and
SLOW = 0.1  # that at less than this times the mean rate of fall until there, it has converged


@dataclass(frozen=True)
class Phases:
    """Where the steady decrease of a loss curve begins and ends, as positions in it.

    Before `settled` the loss fluctuates; from `converged` on it does not fall any more, which is
    the length of the curve where it falls to the end.
    """

    settled: int
    converged: int


def phases(losses: ArrayLike, steps: ArrayLike | None = None) -> Phases:
    """Divide a curve of training losses, (n,), into fluctuation, steady decrease and convergence.

    `steps` (n,) are the moments of training at which the losses were taken; evenly spaced if
    left out. The loss has settled at the first value that is the lowest so far and is followed by
    CALM steps without a rise. It has converged at the first from which at most LEFT of the fall is
    to come, at less than SLOW times the mean rate so far: a loss that falls evenly to the end has
    not converged.
    """
    curve, times = _checked(losses, steps)
    n = len(curve)
    lowest = np.minimum.accumulate(curve)
    rise = RISE * (curve.max() - curve.min())
    if rise == 0:
        raise MethodError("the training loss is constant: there is no decrease to sample from")
    calm = np.array([(np.diff(curve[i : i + CALM + 1]) <= rise).all() for i in range(n - CALM)])
    settled = np.flatnonzero(calm & (curve == lowest)[: n - CALM])
    if not len(settled):
        raise MethodError(
            f"the training loss rises within every {CALM + 1} values, so no phase of it is steady: "
            "average it over more examples, for instance over epochs"
        )
    first = int(settled[0])
    for i in range(first + 1, n - 1):
        fallen, to_fall = lowest[first] - lowest[i], lowest[i] - lowest[-1]
        slow = to_fall / (times[-1] - times[i]) < SLOW * fallen / (times[i] - times[first])
        if slow and to_fall <= LEFT * (fallen + to_fall):
            return Phases(first, i)
    return Phases(first, n)


def propose(losses: ArrayLike, count: int, steps: ArrayLike | None = None) -> np.ndarray:
    """`count` positions of a curve of training losses at which to trace, ascending.

    They lie in the steady decrease, and so that the loss falls by the same amount from each to
    the next as far as the curve is fine enough: densest where it falls fastest. Deterministic;
    knows no example, gradient or attribution.
    """
    curve, _ = _checked(losses, steps)
    found = phases(losses, steps)
    there = found.converged - found.settled
    if count < 1:
        raise MethodError(f"{count} checkpoints: ask for one at least")
    if count > there:
        raise MethodError(
            f"{count} checkpoints of {there} in the steady decrease, positions {found.settled} to "
            f"{found.converged - 1}: ask for at most {there}, or save checkpoints more often"
        )
    fallen = np.maximum.accumulate(curve[found.settled] - curve[found.settled : found.converged])
    wanted = (np.arange(count) + 0.5) / count * fallen[-1]
    chosen = np.abs(fallen[None] - wanted[:, None]).argmin(1)
    return found.settled + _distinct(chosen, there)


def evenly(steps: ArrayLike, count: int) -> np.ndarray:
    """`count` positions, ascending, evenly spaced in `steps` as far as there are any.

    The last one is always among them: what saving every so many steps leaves.
    """
    times = np.asarray(steps, dtype=float)
    if not 0 < count <= len(times):
        raise MethodError(f"{count} of {len(times)} checkpoints: choose from 1 to {len(times)}")
    wanted = (np.arange(count) + 1) / count * times[-1]
    chosen = np.abs(times[None] - wanted[:, None]).argmin(1)
    return _distinct(chosen, len(times))


def _distinct(chosen: np.ndarray, below: int) -> np.ndarray:
    """The ascending positions moved apart as little as makes each its own, all of them in range."""
    apart = np.arange(len(chosen))
    later = np.maximum.accumulate(chosen - apart)  # plus apart: each after the one before
    return np.minimum(later, below - len(chosen)) + apart


def _checked(losses: ArrayLike, steps: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    curve = np.asarray(losses, dtype=float)
    if curve.ndim != 1:
        raise MethodError(f"losses of shape {curve.shape}: give one value a moment, (n,)")
    if len(curve) < CALM + 2:
        raise MethodError(
            f"a curve of {len(curve)} losses is too short to tell a fluctuation from a decrease: "
            f"give {CALM + 2} at least"
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
