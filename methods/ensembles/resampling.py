"""Intervals of scores like LDS over queries and models: both are drawn anew.

left, right  (n_models, n_query), what is predicted and what was found
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from methods.ensembles.arrays import array
from methods.errors import MethodError, at_least
from methods.randomness import numpy_generator


def pearson_draws(
    left: ArrayLike, right: ArrayLike, n_draws: int = 1_000, seed: int = 0
) -> np.ndarray:
    """The mean over queries of Pearson's correlation over models, of bootstrap draws, (n_draws,).

    Each draw takes as many models, and as many queries, with replacement. Equal `seed` and shape
    are equal draws, so that differences between methods are paired. Queries of which either side
    does not vary, or is nan, are left out of every draw; a query that does not vary in one draw,
    of that.
    """
    x, y = (array(side).astype(float) for side in (left, right))
    if x.shape != y.shape or x.ndim != 2:
        raise MethodError(f"{x.shape} and {y.shape}: give (n_models, n_query) of the same twice")
    at_least(1, n_draws=n_draws)
    known = np.isfinite(x + y).all(0) & (np.ptp(x, axis=0) > 0) & (np.ptp(y, axis=0) > 0)
    if not known.any() or len(x) < 2:
        return np.full(n_draws, np.nan)
    x, y = (_scaled(side[:, known]) for side in (x, y))
    generator = numpy_generator(seed, "resampling")
    models = _counts(generator, n_draws, len(x))
    queries = _counts(generator, n_draws, x.shape[1])
    mean_x, mean_y = models @ x, models @ y
    spread = (models @ x**2 - mean_x**2) * (models @ y**2 - mean_y**2)
    scale = np.sqrt(np.maximum(spread, 0))
    common = models @ (x * y) - mean_x * mean_y
    found = np.divide(common, scale, out=np.full_like(common, np.nan), where=scale > 1e-12)
    shares = np.where(np.isfinite(found), queries, 0.0)
    return np.asarray((shares * np.nan_to_num(found)).sum(1) / shares.sum(1))


def spearman_draws(
    left: ArrayLike, right: ArrayLike, n_draws: int = 1_000, seed: int = 0
) -> np.ndarray:
    """The same of Spearman's correlation, by the ranks among all models, (n_draws,)."""
    x, y = (stats.rankdata(array(side), axis=0, nan_policy="propagate") for side in (left, right))
    return pearson_draws(x, y, n_draws, seed)


def interval(draws: ArrayLike, share: float = 0.95) -> tuple[float, float]:
    """The middle `share` of the draws, from and to."""
    known = array(draws)[np.isfinite(array(draws))]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def _scaled(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean(0)
    return np.asarray(centred / centred.std(0))


def _counts(generator: np.random.Generator, n_draws: int, n: int) -> np.ndarray:
    """How often each of n is drawn, as shares, (n_draws, n)."""
    return np.asarray(generator.multinomial(n, np.full(n, 1 / n), n_draws) / n)
