"""The forms in which one parameter's rows are kept: materialised, or sums of outer products.

A row is a per-example gradient. For a matrix-shaped parameter it is a sum of outer products
`sum_t left_t right_t^T` of back-propagated outputs and inputs; inner products, norms and
projections of such sums need no gradient (TracIn, Sec. F). Every form is exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dense:
    """Rows of one parameter, materialised: values (b, *stored).

    `order` permutes the stored axes into the parameter's own; None where they agree.
    """

    values: Tensor
    order: tuple[int, ...] | None = None
    scale: float = 1.0

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def elements(self) -> int:
        return self.values.numel()

    def one(self, i: int) -> Dense:
        """The row of one example alone."""
        return replace(self, values=self.values[i : i + 1])

    def to(self, dtype: torch.dtype) -> Dense:
        """The same rows in a floating type."""
        return replace(self, values=self.values.to(dtype))

    def numbers(self) -> list[Tensor]:
        """What is kept."""
        return [self.values]

    def stored(self) -> Tensor:
        """(b, size) in the stored order, without the scale."""
        return self.values.reshape(len(self.values), -1)

    def matrix(self) -> Tensor:
        """(b, size) in the parameter's own order, scaled."""
        values = self.values
        if self.order is not None:
            values = values.permute(0, *(1 + axis for axis in self.order))
        values = values.reshape(self.count, -1)
        return values if self.scale == 1.0 else values * self.scale

    def rescaled(self, factor: float) -> Dense:
        """The same rows times a number."""
        return replace(self, scale=self.scale * factor)

    def squared_norms(self) -> Tensor:
        axes = tuple(range(1, self.values.ndim))  # as they lie: a vecdot writes all squares first
        values = self.values
        squared = torch.linalg.vector_norm(values, dim=axes).square_() if axes else values.square()
        return squared if self.scale == 1.0 else squared * self.scale**2


@dataclass(frozen=True, eq=False)
class Outer:
    """Rows of one matrix-shaped parameter (m, *stored): sum over t of left_t (x) right_t.

    left (b, T, m), or (b, T) indices of one-hot vectors of length m (an embedding);
    right (b, T, n). `order` permutes the axes (m, *stored) into the parameter's own.
    """

    left: Tensor
    right: Tensor
    m: int
    stored_shape: tuple[int, ...]
    order: tuple[int, ...] | None = None
    scale: float = 1.0

    @property
    def count(self) -> int:
        return len(self.right)

    @property
    def elements(self) -> int:
        return self.left.numel() + self.right.numel()

    def one(self, i: int) -> Outer:
        """The row of one example alone."""
        return replace(self, left=self.left[i : i + 1], right=self.right[i : i + 1])

    def to(self, dtype: torch.dtype) -> Outer:
        """The same rows in a floating type."""
        left = self.left if self.one_hot else self.left.to(dtype)
        return replace(self, left=left, right=self.right.to(dtype))

    def numbers(self) -> list[Tensor]:
        """What is kept: the factors, or the right one where the left are indices."""
        return [self.right] if self.one_hot else [self.left, self.right]

    @property
    def one_hot(self) -> bool:
        return self.left.ndim == 2

    @property
    def terms(self) -> int:
        """T, how many outer products a row is the sum of."""
        return self.right.shape[1]

    @property
    def n(self) -> int:
        return self.right.shape[2]

    @cached_property
    def dense(self) -> Dense:
        """The same rows, materialised."""
        b, n, order = self.count, self.n, self.order
        shape: tuple[int, ...] = (self.m, *self.stored_shape)
        if self.one_hot:
            values = self.right.new_zeros(b * self.m, n)
            first = self.m * torch.arange(b, device=self.left.device)[:, None]
            values.index_add_(0, (self.left + first).flatten(), self.right.reshape(-1, n))
        elif self.terms == 1:
            values = self.left.transpose(1, 2) * self.right
        elif order is not None and n < self.m:  # the transposed product has longer contiguous runs
            values = torch.bmm(self.right.transpose(1, 2), self.left)
            shape = (*shape[1:], self.m)
            order = tuple(len(order) - 1 if axis == 0 else axis - 1 for axis in order)
        else:
            values = torch.bmm(self.left.transpose(1, 2), self.right)
        return Dense(values.view(b, *shape), order, self.scale)

    def in_order(self) -> Outer:
        """The same rows with n in the parameter's own order; for factors that are not one-hot."""
        if self.order is None:
            return self
        own = self.right.unflatten(2, self.stored_shape)
        own = own.permute(0, 1, *(1 + axis for axis in self.order[1:])).flatten(2)
        shape = tuple(self.stored_shape[axis - 1] for axis in self.order[1:])
        return replace(self, right=own, stored_shape=shape, order=None)

    def rescaled(self, factor: float) -> Outer:
        """The same rows times a number; a materialised form is kept."""
        made = replace(self, scale=self.scale * factor)
        if "dense" in vars(self):
            vars(made)["dense"] = self.dense.rescaled(factor)
        return made

    def matrix(self) -> Tensor:
        return self.dense.matrix()

    def squared_norms(self) -> Tensor:
        if self.terms == 1:
            left = 1.0 if self.one_hot else self.left.square().sum((1, 2))
            return left * self.right.square().sum((1, 2)) * self.scale**2
        return self.dense.squared_norms() if self.smaller_dense else paired(self, self)

    @property
    def smaller_dense(self) -> bool:
        """Whether the rows take less memory, and work, materialised."""
        return self.m * self.n <= self.terms * (self.m + self.n)


Part = Dense | Outer


def stored_positions(order: tuple[int, ...], shape: torch.Size) -> Tensor:
    """For each entry of a parameter of `shape`, its place in the stored order."""
    stored = [0] * len(order)
    for axis, size in zip(order, shape, strict=True):
        stored[axis] = size
    return torch.arange(shape.numel()).view(stored).permute(order).reshape(-1)


def paired(a: Part, b: Part) -> Tensor:
    """Inner product of each row of `a` with the same row of `b`, (b,)."""
    if isinstance(a, Outer) and isinstance(b, Outer):
        right = torch.bmm(a.right, b.right.transpose(1, 2))
        if a.one_hot and b.one_hot:
            left = (a.left[:, :, None] == b.left[:, None, :]).to(right.dtype)
        elif a.one_hot:
            index = a.left[:, :, None].expand(-1, -1, b.terms)
            left = b.left.transpose(1, 2).gather(1, index)
        elif b.one_hot:
            left = a.left.gather(2, b.left[:, None, :].expand(-1, a.terms, -1))
        else:
            left = torch.bmm(a.left, b.left.transpose(1, 2))
        return (left * right).sum((1, 2)) * (a.scale * b.scale)
    return torch.linalg.vecdot(a.matrix(), b.matrix())


def row_bytes(parts: Iterable[Part], itemsize: int, projected: bool = False) -> int:
    """Bytes that an example of these parts takes while in use, materialised forms included.

    `projected` rows are materialised slice by slice, which takes nothing, where their stored order
    is the parameter's own.
    """
    total = 0
    for part in parts:
        size = part.elements // max(1, part.count)
        in_slices = projected and part.order is None
        if isinstance(part, Outer) and part.terms > 1 and not in_slices:
            size += part.m * prod(part.stored_shape)
        total += size * itemsize
    return total
