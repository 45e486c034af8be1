"""How far two estimates agree on which pairs are influential: intersection over union."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROWS = 1 << 22  # pairs at a time


def iou(one: Tensor, other: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Pairs at or above a threshold in both estimates, over those in either (Subsets, Sec. 2.3.1).

    `one` and `other` are estimates of the same pairs, of any one shape; pairs that either could not
    estimate, nan, are left out. Returns (n_thresholds,) float64, nan where neither has a pair above
    the threshold.
    """
    order = torch.tensor(thresholds, dtype=torch.float64).argsort()
    edges = torch.tensor(thresholds, dtype=one.dtype)[order].to(one.device)
    both, either = (torch.zeros(len(edges) + 1, dtype=torch.int64) for _ in range(2))
    pieces = (flat.reshape(-1).split(ROWS) for flat in (one, other.to(one.device)))
    for left, right in zip(*pieces, strict=True):
        known = ~(left.isnan() | right.isnan())
        left, right = left[known], right[known]
        both += _passed(torch.minimum(left, right), edges)
        either += _passed(torch.maximum(left, right), edges)
    overlap = torch.empty(len(edges), dtype=torch.float64)
    overlap[order] = _at_least(both) / _at_least(either)
    return overlap


def _passed(values: Tensor, edges: Tensor) -> Tensor:
    """How many values pass exactly 0, 1, ... of the ascending edges, (n_edges + 1,)."""
    return torch.bucketize(values, edges, right=True).bincount(minlength=len(edges) + 1).cpu()


def _at_least(counts: Tensor) -> Tensor:
    """How many values pass each edge, from the counts of `_passed`."""
    return counts.flip(0).cumsum(0).flip(0)[1:].double()
