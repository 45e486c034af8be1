"""How often classifiers agree, and would agree by chance (Subsets, Sec. 2.2)."""

import numpy as np

from methods.ensembles.arrays import array
from methods.errors import MethodError


def agreement(predicted: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """The share of examples on which two classifiers predict the same class, for every pair.

    `predicted` (n_models, n_query) are classes; (n_models, n_models), or (n_models, n_others) with
    `others` (n_others, n_query).
    """
    left = _classes(predicted)
    right = left if others is None else _classes(others)
    if left.shape[1] != right.shape[1]:
        raise MethodError(
            f"predictions of {left.shape[1]} and {right.shape[1]} examples: "
            "compare predictions of the same examples"
        )
    return np.stack([(row == right).mean(1) for row in left])


def chance_agreement(predicted: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Agreement of independent classifiers that predict each class equally often, for every pair.

    The sum over classes of q_c q'_c, (n_models, n_models); sum_c q_c^2 on the diagonal. With
    `labels` (n_query,) they are independent within the examples of each label, with the same
    accuracy and the same confusions: the agreement that these alone explain.
    """
    classes = _classes(predicted)
    width = int(classes.max()) + 1
    within = np.zeros(classes.shape[1], dtype=np.int64) if labels is None else array(labels)
    if within.shape != (classes.shape[1],):
        raise MethodError(
            f"{len(within)} labels for {classes.shape[1]} examples: give one label per example"
        )
    total = np.zeros((len(classes), len(classes)))
    for label in np.unique(within):
        some = classes[:, within == label]
        shares = np.stack([np.bincount(row, minlength=width) for row in some]) / some.shape[1]
        total += some.shape[1] / classes.shape[1] * (shares @ shares.T)
    return total


def _classes(predicted: np.ndarray) -> np.ndarray:
    classes = array(predicted)
    if classes.ndim != 2 or classes.size == 0 or classes.dtype.kind not in "iu":
        raise MethodError(
            f"predictions are {classes.dtype} of shape {classes.shape}: give whole numbers, "
            "(n_models, n_query)"
        )
    return classes
