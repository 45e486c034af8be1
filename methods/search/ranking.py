"""The ends of score matrices, in one order everywhere."""

from __future__ import annotations

from torch import Tensor

from methods.errors import MethodError


def highest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of (n, m) and their places, (n, k) both; equal ones by place."""
    if not 0 < k <= scores.shape[1]:
        raise MethodError(
            f"the {k} highest of {scores.shape[1]} scores: choose from 1 to {scores.shape[1]}"
        )
    values, places = scores.topk(k)
    least = values[:, -1:]
    crowded = (scores >= least).sum(1) > k  # topk takes any of those that share the last value
    for row in crowded.nonzero()[:, 0].tolist():
        above = int((values[row] > least[row]).sum())
        tied = (scores[row] == least[row]).nonzero()[:, 0]
        places[row, above:] = tied[: k - above]
    places = places.sort(dim=1).values
    values, order = scores.gather(1, places).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, order)


def lowest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row and their places, smallest first; equal ones by place."""
    values, places = highest(-scores, k)
    return -values, places
