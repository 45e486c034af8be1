"""Planning a subset ensemble: what a budget of models can resolve, and what a threshold needs.

Each model is trained on a random share `inside` of the examples, so that every example splits the
models into two arms, of about inside * n_models and the rest. Where the example does nothing, both
are right about a query with the same probability p, and the estimate of its influence is noise:
with what standard error, how often above a threshold, and how far two ensembles agree by this
alone, is told here beforehand. Probabilities are exact, not normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.stats import binom, hypergeom

from methods.ensembles.power import Count, arms, passes, search, surely
from methods.errors import MethodError

NEGLIGIBLE = 1e-12  # of the probability of a number of models
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


@cache
def null_rate(n_models: int, threshold: float, p: float = 0.5, inside: float = 0.7) -> float:
    """Probability that an example without influence is estimated to have the threshold or more.

    Of any example of an ensemble: how many of its models were trained with it is binomial, and the
    few that hardly any model was trained without are the ones that pass high thresholds.
    """
    _both(n_models, inside)
    k = np.arange(1, n_models)
    share = binom.pmf(k, n_models, inside)
    kept = share > NEGLIGIBLE
    rates = [passes(int(n_in), n_models - int(n_in), p, p, threshold) for n_in in k[kept]]
    return float(share[kept] @ rates / share[kept].sum())


def null_iou(n_models: int, threshold: float, p: float = 0.5, inside: float = 0.7) -> float:
    """The IOU at a threshold of two ensembles where nothing has any influence; nan if none passes.

    Of independent pairs, a share a passes in each and a^2 in both: a^2 / (2 a - a^2).
    """
    rate = null_rate(n_models, threshold, p, inside)
    return rate / (2 - rate) if rate > 0 else math.nan


def resolved(n_models: int, p: float = 0.5, inside: float = 0.7, delta: float = 0.05) -> Resolution:
    """What a budget of models can tell from nothing, of a query that is right with probability p.

    With the example the query is right with probability p, without it with p less its influence.
    Of an example that is in just the share `inside`; `null_rate` is of any.
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
        both = [_both(int(one), inside) for one in n]
        return np.array([passes(*one, p, p, threshold) <= delta for one in both])

    least = math.ceil(1 / min(inside, 1 - inside)) + 1  # below, an arm may be empty
    return search(holds, least, surely(threshold, p, p, delta, inside, least))


def null_passes(total: np.ndarray, n_models: int, n_in: int, threshold: float) -> np.ndarray:
    """The same rate where p is unknown: given that `total` (n,) of all models are right.

    If an example does nothing, which of the models that are right were trained with it is chance:
    hypergeometric, whatever p is (Fisher's exact test).
    """
    n_out = n_models - n_in
    least = np.ceil((threshold + np.asarray(total) / n_out) / (1 / n_in + 1 / n_out) - 1e-9)
    return hypergeom.sf(least - 1, n_models, total, n_in)


def false_share(
    n_found: int, total: np.ndarray, inside: np.ndarray, n_models: int, threshold: float
) -> float:
    """The expected share of false pairs among those found at a threshold: stop once it is small.

    n_found pairs were estimated at the threshold or more; of the n_models, `total` (n_query,) were
    right about each query, and `inside` (n_train,) trained with each example, as in the sums of
    `methods.subset`. As if no pair had an influence; nan where nothing was found.
    """
    if not n_found:
        return math.nan
    queries = np.unique(np.asarray(total), return_counts=True)
    expected = 0.0
    for n_in, n_examples in zip(*np.unique(np.asarray(inside), return_counts=True), strict=True):
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
    """Where a condition begins to hold, of one that is false below and true above."""
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
