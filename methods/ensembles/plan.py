"""Planning a subset ensemble: what a budget of models can resolve, and what a threshold needs.

Each model is trained on a random share `inside` of the examples, so that every example splits the
models into two arms, of about inside * n_models and the rest. If the example does nothing, both
arms are right about a query with the same probability p, and the estimated influence is noise.
This file computes, before any training, the standard error of that noise, how often it exceeds a
threshold, and how far two ensembles agree by it alone. Probabilities are exact, not normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.stats import binom, hypergeom

from methods.ensembles.arrays import array
from methods.ensembles.power import Count, arms, passes, search, surely
from methods.errors import MethodError

NEGLIGIBLE = 1e-12  # of the probability of a number of models
STEPS = 40  # of a bisection, to an accuracy of 1e-12


@dataclass(frozen=True)
class Resolution:
    """The influence that an ensemble resolves.

    threshold  the lowest that an example without influence passes with probability delta at most
    influence  the smallest that then passes with probability 1 - delta; nan if even p does not
    """

    threshold: float
    influence: float


def standard_error(n_models: int, p: float, q: float, inside: float = 0.7) -> float:
    """Standard error of an estimated influence if the arms are right with probability p and q."""
    n_in, n_out = _both(n_models, inside)
    return math.sqrt(p * (1 - p) / n_in + q * (1 - q) / n_out)


@cache
def null_rate(n_models: int, threshold: float, p: float = 0.5, inside: float = 0.7) -> float:
    """Probability that an example without influence is estimated to have the threshold or more.

    For a random example of an ensemble: the number of models trained with it is binomial, and the
    few examples that hardly any model was trained without are those that pass high thresholds.
    """
    _both(n_models, inside)
    k = np.arange(1, n_models)
    share = binom.pmf(k, n_models, inside)
    likely = share > NEGLIGIBLE
    rates = [passes(int(n_in), n_models - int(n_in), p, p, threshold) for n_in in k[likely]]
    return float(share[likely] @ rates / share[likely].sum())


def null_iou(n_models: int, threshold: float, p: float = 0.5, inside: float = 0.7) -> float:
    """The IOU at a threshold of two ensembles if nothing has any influence; nan if no pair passes.

    A share a of independent pairs passes in each ensemble and a^2 in both: a^2 / (2 a - a^2).
    """
    rate = null_rate(n_models, threshold, p, inside)
    return rate / (2 - rate) if rate > 0 else math.nan


def resolved(n_models: int, p: float = 0.5, inside: float = 0.7, delta: float = 0.05) -> Resolution:
    """The influence on a query that a budget of models can distinguish from none.

    The query is right with probability p with the example, and with p minus the influence without
    it. The example is in exactly the share `inside` of the models; `null_rate` averages over this.
    """
    both = _both(n_models, inside)

    def rarely_passed(threshold: float) -> bool:
        return passes(*both, p, p, threshold) <= delta

    threshold = _lowest(rarely_passed, 0.0, 1.0)

    def detected(influence: float) -> bool:
        return passes(*both, p, p - influence, threshold) >= 1 - delta

    influence = _lowest(detected, 0.0, p) if detected(p) else math.nan
    return Resolution(threshold, influence)


def models_for(threshold: float, p: float = 0.5, inside: float = 0.7, delta: float = 0.05) -> Count:
    """Models with which an example without influence passes the threshold at most with delta."""
    if not 0 < threshold <= 1:
        raise MethodError(f"threshold is {threshold}: give an influence above 0, up to 1")

    def holds(n: np.ndarray) -> np.ndarray:
        both = [_both(int(one), inside) for one in n]
        return np.array([passes(*one, p, p, threshold) <= delta for one in both])

    least = math.ceil(1 / min(inside, 1 - inside)) + 1  # below, an arm may be empty
    return search(holds, least, surely(threshold, p, p, delta, inside, least))


def null_passes(total: np.ndarray, n_models: int, n_in: int, threshold: float) -> np.ndarray:
    """`null_rate` with p unknown, given that `total` (n,) of all models are right.

    If an example does nothing, the number of right models that were trained with it is random:
    hypergeometric for any p (Fisher's exact test).
    """
    n_out = n_models - n_in
    least = np.ceil((threshold + array(total) / n_out) / (1 / n_in + 1 / n_out) - 1e-9)
    return hypergeom.sf(least - 1, n_models, total, n_in)


def false_share(
    n_found: int, total: np.ndarray, inside: np.ndarray, n_models: int, threshold: float
) -> float:
    """The expected share of false pairs among those at a threshold: stop once it is small.

    n_found pairs were estimated at the threshold or more. `total` (n_query,) of the n_models were
    right about each query, and `inside` (n_train,) were trained with each example, as in
    `subset.Sums`. Computed as if no pair had an influence; nan if no pair was at the threshold.
    """
    if not n_found:
        return math.nan
    queries = np.unique(array(total), return_counts=True)
    expected = 0.0
    for n_in, n_examples in zip(*np.unique(array(inside), return_counts=True), strict=True):
        if 0 < n_in < n_models:
            rates = null_passes(queries[0], n_models, int(n_in), threshold)
            expected += n_examples * float(rates @ queries[1])
    return min(1.0, expected / n_found)


def _both(n_models: int, inside: float) -> tuple[int, int]:
    both = arms(n_models, inside)
    if min(both) < 1:
        raise MethodError(
            f"{n_models} models with a share {inside} inside leave {min(both)} of one kind: "
            "give more models, or a share nearer to a half"
        )
    return both


def _lowest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where a condition begins to hold that is false below and true above."""
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
