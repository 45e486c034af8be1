"""Planning a subset ensemble: what a budget of models can resolve, and what a threshold needs.

Each of the models is trained on a random share `inside` of the examples, so that every example
splits them into two arms, of about inside * n_models and the rest. Where the example does nothing,
both are right about a query with the same probability p, and the estimate of its influence is
noise: with what standard error, how often above a threshold, and how much two ensembles agree by
this alone, is told here beforehand. All but `standard_error` are exact, not normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom

from methods.power import Count, arms, passes, search, surely
from methods.task import MethodError

STEPS = 40  # of a bisection: to 1e-12


@dataclass(frozen=True)
class Resolution:
    """What an ensemble resolves.

    threshold  the lowest that an example without influence passes with probability delta at most
    influence  the smallest that then passes with probability 1 - delta; nan if even p does not
    """

    threshold: float
    influence: float


def standard_error(n_models: int, p: float, q: float, inside: float = 0.7) -> float:
    """Of an estimated influence where the arms are right with probability p and q."""
    n_in, n_out = _both(n_models, inside)
    return math.sqrt(p * (1 - p) / n_in + q * (1 - q) / n_out)


def null_rate(n_models: int, threshold: float, p: float = 0.5, inside: float = 0.7) -> float:
    """Probability that an example without influence is estimated to have the threshold or more."""
    return passes(*_both(n_models, inside), p, p, threshold)


def null_iou(n_models: int, threshold: float, p: float = 0.5, inside: float = 0.7) -> float:
    """The IOU at a threshold of two ensembles where nothing has any influence; nan if none passes.

    Of independent pairs, a share a passes in each and a^2 in both: a^2 / (2 a - a^2).
    """
    rate = null_rate(n_models, threshold, p, inside)
    return rate / (2 - rate) if rate > 0 else math.nan


def resolved(n_models: int, p: float = 0.5, inside: float = 0.7, delta: float = 0.05) -> Resolution:
    """What a budget of models can tell from nothing, of a query that is right with probability p.

    With the example the query is right with probability p, without it with p less its influence.
    """
    both = _both(n_models, inside)

    def quiet(threshold: float) -> bool:
        return passes(*both, p, p, threshold) <= delta

    threshold = _lowest(quiet, 0.0, 1.0)

    def found(influence: float) -> bool:
        return passes(*both, p, p - influence, threshold) >= 1 - delta

    influence = _lowest(found, 0.0, p) if found(p) else math.nan
    return Resolution(threshold, influence)


def models_for(threshold: float, p: float = 0.5, inside: float = 0.7, delta: float = 0.05) -> Count:
    """Models of which an example without influence passes the threshold at most with delta."""
    if not 0 < threshold <= 1:
        raise MethodError(f"threshold is {threshold}: give an influence above 0, up to 1")

    def holds(n: np.ndarray) -> np.ndarray:
        return np.array([null_rate(int(one), threshold, p, inside) <= delta for one in n])

    least = math.ceil(1 / min(inside, 1 - inside)) + 1  # below, an arm may be empty
    return search(holds, least, surely(threshold, p, p, delta, inside, least))


def null_passes(total: np.ndarray, n_models: int, n_in: int, threshold: float) -> np.ndarray:
    """The same rate where p is unknown: given that `total` (n,) of all models are right.

    If an example does nothing, which of the models that are right were trained with it is chance:
    hypergeometric, whatever p is (Fisher's exact test).
    """
    total = np.asarray(total)
    n_out = n_models - n_in
    distinct, where = np.unique(total, return_inverse=True)
    least = np.ceil((threshold + distinct / n_out) / (1 / n_in + 1 / n_out) - 1e-9)
    return hypergeom.sf(least - 1, n_models, distinct, n_in)[where]


def false_share(
    n_found: int, total: np.ndarray, n_models: int, n_in: int, n_train: int, threshold: float
) -> float:
    """The expected share of false pairs among those found at a threshold: stop once it is small.

    n_found pairs of (n_query, n_train) were estimated at the threshold or more; `total` (n_query,)
    of the n_models were right about each query. As if no pair had an influence, so on the safe
    side; nan where nothing was found.
    """
    if not n_found:
        return math.nan
    return min(1.0, n_train * float(null_passes(total, n_models, n_in, threshold).sum()) / n_found)


def _both(n_models: int, inside: float) -> tuple[int, int]:
    both = arms(n_models, inside)
    if min(both) < 1:
        raise MethodError(
            f"{n_models} models with a share {inside} inside leave {min(both)} of one kind: "
            "give more models, or a share nearer to a half"
        )
    return both


def _lowest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where a condition begins to hold, of one that is false below and true above."""
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
