"""A parameter's rows cut into blocks that stay in cache.

Rows of an embedding are formed for the tokens that occur.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from methods.rows.parts import Dense, Outer, Part
from methods.rows.room import Room

TOKENS = 1 << 24  # most numbers of an embedding's rows that are formed at a time


def shape_of(value: Tensor) -> tuple[int, int]:
    """A parameter as a matrix: its first axis by all others; a vector is a single row."""
    m = len(value) if value.ndim > 1 else 1
    return m, value.numel() // max(1, m)


def ordered(part: Part, shape: tuple[int, int]) -> Part:
    """A part in the order of its parameter (m, n): materialised if it was, or has another shape."""
    if not isinstance(part, Outer) or part.one_hot:
        return part
    if (part.m, part.n) != shape or "dense" in vars(part):
        return part.dense
    return part.in_order()


def blocks(part: Part, shape: tuple[int, int], step: int) -> Iterator[tuple[slice, Any, Part]]:
    """A part of a parameter (m, n), `step` of its rows at a time: examples, rows, and their part.

    The rows of an embedding are those of the tokens that occur in a few examples.
    """
    m, n = shape
    if isinstance(part, Outer) and part.one_hot:
        few = max(1, isqrt(TOKENS // max(1, part.terms * n)))
        for first in range(0, part.count, few):
            some = slice(first, first + few)
            used, left = part.left[some].unique(return_inverse=True)
            formed = replace(part, left=left, right=part.right[some], m=len(used)).dense
            for _, rows, piece in blocks(formed, (len(used), n), step):
                yield some, used[rows], piece
        return
    part = ordered(part, shape)
    values = part.left if isinstance(part, Outer) else part.matrix().view(part.count, m, n)
    for first in range(0, m, step):
        rows = slice(first, min(first + step, m))
        if isinstance(part, Outer):
            yield slice(None), rows, replace(part, left=values[:, :, rows], m=rows.stop - first)
        else:
            yield slice(None), rows, Dense(values[:, rows].flatten(1))


def formed(block: Part, room: Room) -> Tensor:
    """A block's rows (b, r n), outer products in a buffer of a room: valid until the next block."""
    if not isinstance(block, Outer) or block.one_hot:
        return block.matrix()
    left = block.left.mT if block.scale == 1.0 else block.left.mT * block.scale
    shape = (block.count, block.m, block.n)
    out = room("formed", shape, block.right.dtype, block.right.device)
    if block.terms == 1:
        return torch.mul(left, block.right, out=out).flatten(1)
    return torch.bmm(left, block.right, out=out).flatten(1)


def within(chosen: Any, some: slice) -> Any:
    """Rows `some` of those chosen by a slice or an index."""
    if isinstance(chosen, Tensor):
        return chosen[some]
    return slice(chosen.start + some.start, chosen.start + some.stop)
