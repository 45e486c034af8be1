"""Rows of which each example's is multiplied by a number of its own."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from methods.rows.factored import Rows
from methods.rows.parts import Dense, Outer, Part


def weighted(rows: Rows, weights: Tensor) -> Rows:
    """Each row times its weight, (n,); factored rows stay factored."""
    parts = {key: [_weighted(part, weights) for part in own] for key, own in rows.parts.items()}
    return Rows(parts, rows.count)


def reciprocal(sizes: Tensor) -> Tensor:
    """1 / sizes, of numbers that are at least 0; 0 where a size is 0, as the row is then."""
    return torch.where(sizes > 0, 1 / sizes.clamp_min(torch.finfo(sizes.dtype).tiny), 0)


def _weighted(part: Part, weights: Tensor) -> Part:
    if isinstance(part, Outer):
        if "dense" not in vars(part):
            return replace(part, right=part.right * weights[:, None, None])
        part = part.dense
    return _of_dense(part, weights)


def _of_dense(part: Dense, weights: Tensor) -> Dense:
    shaped = weights.view(-1, *[1] * (part.values.ndim - 1))
    return replace(part, values=part.values * shaped)
