"""The linear datamodeling score: do scores predict what training on a subset leads to?

Ilyas et al. (2022, arXiv:2202.00622) and Park et al. (2023, TRAK, arXiv:2303.14186). An attribution
predicts that training on some of the examples changes a query's outcome by the sum of their
scores. Networks are trained on random masks that the attribution has not seen; the score is
Spearman's correlation, over masks, of that sum with the outcome.

masks     (n_models, n_train), which examples each model was trained on
outcomes  (n_models, n_query), higher is better; any rising function of them gives the same score
scores    (n_query, n_train), positive = proponent
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from methods.ensembles.arrays import array
from methods.errors import MethodError

BLOCK = 1 << 24  # numbers ranked at once


def predicted(masks: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """The summed scores of each mask's examples, (n_models, n_query), float64, without a constant.

    A score of nan, which an example in all masks of a small ensemble has, adds 0.
    """
    inside, given = (array(x).astype(float, copy=False) for x in (masks, scores))
    if inside.shape[1] != given.shape[1]:
        raise MethodError(
            f"masks over {inside.shape[1]} examples, scores of {given.shape[1]}: give a score of "
            "every training example"
        )
    return inside @ np.where(np.isnan(given), 0.0, given).T


def lds(masks: ArrayLike, outcomes: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """The linear datamodeling score of each query, (n_query,); nan where nothing varies."""
    return spearman(array(outcomes).T, predicted(masks, scores).T)


def spearman(one: ArrayLike, other: ArrayLike) -> np.ndarray:
    """Spearman's correlation of each row of (n, m) with that of the other, (n,).

    Equal values share their mean rank. nan where a row is constant, and where a value is nan.
    """
    left, right = array(one), array(other)
    if left.shape != right.shape:
        raise MethodError(f"rows {left.shape} and {right.shape}: correlate the same examples")
    correlation, step = np.empty(len(left)), max(1, BLOCK // max(1, left.shape[1]))
    for start in range(0, len(left), step):
        some = slice(start, start + step)
        correlation[some] = _pearson(*(stats.rankdata(x[some], axis=1) for x in (left, right)))
    return correlation


def pearson(one: ArrayLike, other: ArrayLike) -> np.ndarray:
    """Pearson's correlation of each row of (n, m) with that of the other, (n,)."""
    left, right = array(one).astype(float), array(other).astype(float)
    if left.shape != right.shape:
        raise MethodError(f"rows {left.shape} and {right.shape}: correlate the same examples")
    return _pearson(left, right)


def _pearson(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left, right = (x - x.mean(1, keepdims=True) for x in (left, right))
    scale = np.sqrt((left**2).sum(1) * (right**2).sum(1))
    return np.divide((left * right).sum(1), scale, out=np.full(len(left), np.nan), where=scale > 0)


def reliability(one: ArrayLike, other: ArrayLike) -> np.ndarray:
    """How far two trainings on the same masks agree on each query, (n_query,), by Spearman.

    If outcomes are a function of the mask plus independent noise, it is the share of their variance
    that the mask explains.
    """
    return spearman(array(one).T, array(other).T)


def averaged(reliability: ArrayLike, trainings: int) -> np.ndarray:
    """The reliability of the mean of several trainings a mask (Spearman and Brown, 1910)."""
    rho = array(reliability).astype(float)
    return trainings * rho / (1 + (trainings - 1) * rho)


def ceiling(reliability: ArrayLike, trainings: int = 1) -> np.ndarray:
    """The correlation that even the true function of the mask has with outcomes.

    It is the root of the reliability of outcomes averaged over `trainings` for each mask: exact for
    Pearson's correlation, close for Spearman's. An estimated reliability below 0 counts as 0.
    """
    return np.sqrt(averaged(np.maximum(array(reliability).astype(float), 0), trainings))


def of_noise(explained: ArrayLike, n_train: int, trainings: ArrayLike) -> np.ndarray:
    """The score that sampling noise leaves to a difference of means over so many `trainings`.

    explained  R^2, the share of an outcome's variance that a linear function of the mask explains
    Each of n_train weights is estimated with an error of variance 1 / (R^2 trainings) relative to
    their mean square, so that the estimate is worth sqrt(R^2) / sqrt(1 + n_train / (R^2 trainings))
    on masks it has not seen.
    """
    r2 = np.maximum(array(explained).astype(float), 0)
    times = array(trainings).astype(float)
    return np.asarray(r2 * np.sqrt(times) / np.sqrt(times * r2 + n_train))


def area(scores: ArrayLike, wanted: ArrayLike) -> np.ndarray:
    """Area under the ROC curve of each row of scores (n, m), (n,).

    wanted (n, m) marks the positives; nan where a row has only positives, or none.
    """
    ranks, truth = stats.rankdata(array(scores), axis=1), array(wanted).astype(bool)
    hits = truth.sum(1)
    misses = truth.shape[1] - hits
    above = (ranks * truth).sum(1) - hits * (hits + 1) / 2
    pairs = (hits * misses).astype(float)
    return np.divide(above, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
