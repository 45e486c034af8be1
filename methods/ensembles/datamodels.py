"""Datamodels: outcomes of many trained models as linear functions of their masks (Ilyas et al.,
2022, Datamodels: Predicting Predictions from Training Data, arXiv:2202.00622, Sec. 2 and Eq. 3).

masks     (n_models, n_train), which examples each model was trained on
outcomes  (n_models, n_query), higher is better

Feldman and Zhang's difference (subset.py) regresses on one example at a time; this regresses on all
of them together, with a penalty on the weights: their squares (ridge, in closed form), or their
absolute values (lasso, the paper's, whose weights are mostly zero). All queries are solved at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from methods.ensembles.arrays import array
from methods.ensembles.masks import Packed
from methods.errors import MethodError, at_least
from methods.randomness import numpy_generator

CHECK = 10  # iterations between two looks at the duality gap

Masks = ArrayLike | Packed


class Datamodel(NamedTuple):
    """`weights` (n_query, n_train), positive = helpful, and `constant` (n_query,)."""

    weights: np.ndarray
    constant: np.ndarray

    def predicted(self, masks: Masks) -> np.ndarray:
        """The outcomes expected of models with these masks, (n_models, n_query)."""
        return _inside(masks) @ self.weights.T + self.constant


Fit = Callable[[Masks, ArrayLike, ArrayLike], Datamodel]


def ridge(masks: Masks, outcomes: ArrayLike, penalty: ArrayLike) -> Datamodel:
    """Minimise |y - c - X w|^2 / (2 n_models) + penalty/2 |w|^2 for each query, exactly.

    penalty  one number, or one for each query, (n_query,); above 0
    """
    data = _centred(masks, outcomes, penalty)
    x, y, n = data.x, data.y, len(data.x)
    if x.shape[0] < x.shape[1]:  # by the models' products, else by the examples'
        values, vectors = np.linalg.eigh(x @ x.T / n)
        turned = vectors.T @ y / n
        weights = x.T @ (vectors @ (turned / (values[:, None].clip(0) + data.penalty)))
    else:
        values, vectors = np.linalg.eigh(x.T @ x / n)
        turned = vectors.T @ (x.T @ y / n)
        weights = vectors @ (turned / (values[:, None].clip(0) + data.penalty))
    return data.datamodel(weights)


def lasso(
    masks: Masks,
    outcomes: ArrayLike,
    penalty: ArrayLike,
    tolerance: float = 1e-6,
    max_iterations: int = 20_000,
) -> Datamodel:
    """Minimise |y - c - X w|^2 / (2 n_models) + penalty |w|_1 for each query.

    By accelerated proximal gradients with restarts (Beck & Teboulle, 2009; O'Donoghue & Candes,
    2015), until the duality gap is at most `tolerance` times the objective at w = 0: the objective
    is then that close to its minimum.
    """
    at_least(1, max_iterations=max_iterations)
    data = _centred(masks, outcomes, penalty)
    weights, gap = _proximal(data, tolerance, max_iterations)
    if gap > tolerance:
        raise MethodError(
            f"the lasso reached a relative duality gap of {gap:.1e} in {max_iterations} "
            f"iterations, wanted {tolerance:.1e}: raise `penalty`, `tolerance` or `max_iterations`"
        )
    return data.datamodel(weights)


def largest_penalty(masks: Masks, outcomes: ArrayLike) -> np.ndarray:
    """The smallest penalty of each query for which all weights of the lasso are 0, (n_query,)."""
    data = _centred(masks, outcomes, 1.0)
    return np.asarray(np.abs(data.x.T @ data.y).max(0) / len(data.x))


def chosen_penalty(
    fit: Fit, masks: Masks, outcomes: ArrayLike, penalties: ArrayLike, folds: int = 5, seed: int = 0
) -> np.ndarray:
    """The penalty of each query that predicts held-out models best, (n_query,), by squared error.

    penalties  (n_penalties,), or (n_penalties, n_query) if each query has its own
    """
    inside, y = _inside(masks), array(outcomes).astype(float)
    at_least(2, folds=folds)
    if len(inside) < folds:
        raise MethodError(f"{len(inside)} models for {folds} folds: give fewer folds")
    tried = np.asarray(penalties, dtype=float)
    tried = np.broadcast_to(tried.reshape(len(tried), -1), (len(tried), y.shape[1]))
    order = numpy_generator(seed, "folds").permutation(len(inside))
    errors = np.zeros(tried.shape)
    for held in np.array_split(order, folds):
        rest = np.setdiff1d(order, held)
        for i, penalty in enumerate(tried):
            found = fit(inside[rest], y[rest], penalty).predicted(inside[held])
            errors[i] += np.square(found - y[held]).sum(0)
    return np.asarray(tried[errors.argmin(0), np.arange(y.shape[1])])


class _Centred(NamedTuple):
    """Masks and outcomes without their means over the models, and a penalty for each query."""

    x: np.ndarray
    y: np.ndarray
    penalty: np.ndarray
    means: tuple[np.ndarray, np.ndarray]

    def datamodel(self, weights: np.ndarray) -> Datamodel:
        share, mean = self.means
        return Datamodel(weights.T, mean - share @ weights)


def _inside(masks: Masks) -> np.ndarray:
    given = masks.unpacked().numpy() if isinstance(masks, Packed) else array(masks)
    return given.astype(float)


def _centred(masks: Masks, outcomes: ArrayLike, penalty: ArrayLike) -> _Centred:
    x, y = _inside(masks), array(outcomes).astype(float)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
        raise MethodError(
            f"masks {x.shape} and outcomes {y.shape}: give (n_models, n_train) and (n_models, "
            "n_query), of the same two models or more"
        )
    if not np.isfinite(y).all():
        raise MethodError("an outcome is not finite: leave models that diverged out")
    each = np.asarray(penalty, dtype=float)
    if each.shape not in ((), (y.shape[1],)) or not (each > 0).all():
        raise MethodError(
            f"penalty of shape {each.shape}, the least {each.min() if each.size else 'missing'}: "
            f"give one positive number, or one for each of {y.shape[1]} queries"
        )
    means = x.mean(0), y.mean(0)
    return _Centred(x - means[0], y - means[1], np.broadcast_to(each, y.shape[1:]), means)


def _proximal(data: _Centred, tolerance: float, most: int) -> tuple[np.ndarray, float]:
    """The weights (n_train, n_query), and the largest relative duality gap reached."""
    x, n = data.x, len(data.x)
    small = x.T @ x / n if x.shape[1] <= n else None  # of which products take the fewest operations
    gram = x @ x.T / n if small is None else small
    step = 1 / max(float(np.linalg.eigvalsh(gram)[-1]), np.finfo(float).tiny)
    slopes = x.T @ data.y / n

    def gradient(w: np.ndarray, some: np.ndarray) -> np.ndarray:
        product = x.T @ (x @ w) / n if small is None else small @ w
        return np.asarray(product - slopes[:, some])

    weights, gaps = np.zeros_like(slopes), np.full(slopes.shape[1], np.inf)
    active = np.arange(slopes.shape[1])  # queries that are not solved yet
    w, ahead, momentum = weights.copy(), weights.copy(), np.ones(slopes.shape[1])
    for iteration in range(most):
        if iteration % CHECK == 0:
            gaps[active] = _gaps(data, w, active)
            weights[:, active] = w
            rest = gaps[active] > tolerance
            active, w, ahead, momentum = active[rest], w[:, rest], ahead[:, rest], momentum[rest]
            if not len(active):
                break
        moved = ahead - step * gradient(ahead, active)
        new = np.sign(moved) * np.maximum(np.abs(moved) - step * data.penalty[active], 0)
        uphill = ((ahead - new) * (new - w)).sum(0) > 0
        momentum = np.where(uphill, 1.0, momentum)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + np.where(uphill, 0.0, (momentum - 1) / following) * (new - w)
        w, momentum = new, following
    else:
        gaps[active] = _gaps(data, w, active)
        weights[:, active] = w
    return weights, float(gaps.max(initial=0.0))


def _gaps(data: _Centred, w: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Primal minus dual objective, relative to the objective at 0, of some queries."""
    y, penalty, n = data.y[:, some], data.penalty[some], len(data.x)
    residual = y - data.x @ w
    most = np.abs(data.x.T @ residual).max(0, initial=0.0) / n
    shrunk = np.minimum(1, penalty / np.maximum(most, np.finfo(float).tiny)) * residual
    zero = np.square(y).sum(0) / (2 * n)
    primal = np.square(residual).sum(0) / (2 * n) + penalty * np.abs(w).sum(0)
    dual = zero - np.square(y - shrunk).sum(0) / (2 * n)
    return np.asarray(np.divide(primal - dual, zero, out=np.zeros_like(zero), where=zero > 0))
