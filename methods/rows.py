"""One vector per example, kept in the cheapest exact form until somebody must have it dense.

A row is a per-example gradient. For a matrix-shaped parameter it is a sum of outer products
`sum_t left_t right_t^T` of back-propagated outputs and inputs; inner products, norms and
projections of such sums need no gradient (TracIn, Sec. F). Every form is exact, and each
operation chooses between forms by counting multiplications.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from methods.matmul import product

BUFFER = 1 << 24  # elements a temporary may have: 64 MiB in float32
LARGE = 1 << 16  # elements of a matrix that is worth a product of its own


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

    def stored(self) -> Tensor:
        """(b, size) in the stored order, without the scale."""
        return self.values.flatten(1)

    def flat(self) -> Tensor:
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
        flat = self.stored()
        return torch.linalg.vecdot(flat, flat) * self.scale**2


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
        elif order is not None and n < self.m:  # a product whose inner runs are the longer ones
            values = torch.bmm(self.right.transpose(1, 2), self.left)
            shape = (*shape[1:], self.m)
            order = tuple(len(order) - 1 if axis == 0 else axis - 1 for axis in order)
        else:
            values = torch.bmm(self.left.transpose(1, 2), self.right)
        return Dense(values.view(b, *shape), order, self.scale)

    def rescaled(self, factor: float) -> Outer:
        """The same rows times a number; what was materialised stays so."""
        made = replace(self, scale=self.scale * factor)
        if "dense" in vars(self):
            vars(made)["dense"] = self.dense.rescaled(factor)
        return made

    def flat(self) -> Tensor:
        return self.dense.flat()

    def squared_norms(self) -> Tensor:
        if self.terms == 1:
            left = 1.0 if self.one_hot else self.left.square().sum((1, 2))
            return left * self.right.square().sum((1, 2)) * self.scale**2
        return self.dense.squared_norms() if self.smaller_dense else _paired(self, self)

    @property
    def smaller_dense(self) -> bool:
        """Whether the rows take less memory, and work, materialised."""
        return self.m * self.n <= self.terms * (self.m + self.n)


Part = Dense | Outer


def _left_products(a: Outer, b: Outer) -> Tensor:
    """left_at . left_bs for every pair of examples and terms, (b, T, b', T')."""
    if a.one_hot and b.one_hot:
        return (a.left[:, :, None, None] == b.left).to(a.right.dtype)
    if a.one_hot:
        return b.left.movedim(2, 0)[a.left]
    if b.one_hot:
        return a.left[:, :, b.left]
    return torch.tensordot(a.left, b.left, dims=([2], [2]))


def _inner_factored(a: Outer, b: Outer) -> Tensor:
    """Inner products without materialising either side, (b, b')."""
    if a.terms == b.terms == 1:
        right = product(a.right[:, 0], b.right[:, 0])
        return right.mul_(_left_products(a, b)[:, 0, :, 0])
    step = max(1, BUFFER // max(1, a.terms * b.count * b.terms))
    out = []
    for start in range(0, a.count, step):
        some = replace(a, left=a.left[start : start + step], right=a.right[start : start + step])
        right = torch.tensordot(some.right, b.right, dims=([2], [2]))
        out.append((right * _left_products(some, b)).sum((1, 3)))
    return torch.cat(out)


def _inner_with_dense(a: Outer, b: Dense) -> Tensor:
    """Contract each row with dense directions: no gradient is formed where T is 1, (b, b')."""
    if a.terms > 1 or a.one_hot:
        return _inner_dense(a.dense, b)
    directions = b.values
    if b.order != a.order:
        directions = replace(b, scale=1.0).flat()
        if a.order is not None:
            return _inner_dense(a.dense, b)
    if a.m * a.n >= LARGE:  # a direction at a time stays in cache, and needs no copy of its own
        left, right = a.left[:, 0], a.right[:, 0]
        each = directions.view(b.count, a.m, a.n)
        return torch.stack([torch.linalg.vecdot(product(right, d), left) for d in each], dim=1)
    directions = directions.reshape(b.count * a.m, a.n)
    step = max(1, BUFFER // max(1, b.count * a.m))
    out = []
    for start in range(0, a.count, step):
        left, right = (x[start : start + step, 0] for x in (a.left, a.right))
        contracted = product(right, directions).view(len(right), b.count, a.m)
        out.append(torch.bmm(contracted, left[:, :, None])[:, :, 0])
    return torch.cat(out)


def _inner_dense(a: Dense, b: Dense) -> Tensor:
    if a.order == b.order:
        return product(a.stored(), b.stored())
    return product(replace(a, scale=1.0).flat(), replace(b, scale=1.0).flat())


def _inner(a: Part, b: Part) -> Tensor:
    """Inner products of every row of `a` with every row of `b`, (b, b')."""
    if isinstance(a, Outer) and isinstance(b, Outer):
        pairs, size = a.count * b.count, a.m * a.n
        factored = pairs * a.terms * b.terms * (a.m + a.n)
        dense = size * (a.count * a.terms + pairs) + (
            0 if "dense" in vars(b) else size * b.count * b.terms
        )
        big = max(a.count, b.count) * size > 4 * BUFFER
        inner = (
            _inner_factored(a, b) if factored <= dense or big else _inner_dense(a.dense, b.dense)
        )
    elif isinstance(a, Outer):
        inner = _inner_with_dense(a, b)  # type: ignore[arg-type]
    elif isinstance(b, Outer):
        inner = _inner_with_dense(b, a).T
    else:
        inner = _inner_dense(a, b)
    scale = a.scale * b.scale
    return inner if scale == 1.0 else inner * scale


def _paired(a: Part, b: Part) -> Tensor:
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
    return torch.linalg.vecdot(a.flat(), b.flat())


class Rows:
    """Rows of n examples: for each key (a parameter, or one at a checkpoint) the parts they sum.

    Two Rows can be multiplied if they have the same keys.
    """

    def __init__(self, parts: Mapping[str, Iterable[Part]], count: int) -> None:
        self.parts = {key: tuple(value) for key, value in parts.items()}
        self.count = count
        self._squared_norms: Tensor | None = None

    @classmethod
    def dense_of(cls, matrix: Tensor, sizes: Mapping[str, int] | None = None) -> Rows:
        """Rows that are already a matrix (n, p); `sizes` splits it into parameters."""
        sizes = {"": matrix.shape[1]} if sizes is None else sizes
        pieces = matrix.split(list(sizes.values()), dim=1)
        return cls({k: (Dense(v),) for k, v in zip(sizes, pieces, strict=True)}, len(matrix))

    @classmethod
    def joined(cls, rows: Iterable[Rows]) -> Rows:
        """Concatenate rows of the same examples end to end, as over checkpoints."""
        rows = tuple(rows)
        parts = {f"{i}:{k}": v for i, r in enumerate(rows) for k, v in r.parts.items()}
        return cls(parts, rows[0].count)

    @classmethod
    def stacked(cls, rows: Iterable[Rows]) -> Rows:
        """Rows of more examples, one block after another."""
        rows = tuple(rows)
        if len(rows) == 1:
            return rows[0]
        parts = {
            key: [_stack(pieces) for pieces in zip(*(r.parts[key] for r in rows), strict=True)]
            for key in rows[0].parts
        }
        return cls(parts, sum(r.count for r in rows))

    @property
    def elements(self) -> int:
        """Numbers kept, over all parts: what these rows cost in memory."""
        return sum(part.elements for parts in self.parts.values() for part in parts)

    def compact(self) -> Rows:
        """The same rows, each part in its smaller form: for rows that are held and met often."""
        parts = {
            key: [p.dense if isinstance(p, Outer) and p.smaller_dense else p for p in value]
            for key, value in self.parts.items()
        }
        return Rows(parts, self.count)

    def scaled(self, factor: float) -> Rows:
        """Multiply every row by one number."""
        if factor == 1.0:
            return self
        parts = {k: [part.rescaled(factor) for part in v] for k, v in self.parts.items()}
        rows = Rows(parts, self.count)
        if self._squared_norms is not None:
            rows._squared_norms = self._squared_norms * factor**2
        return rows

    def inner(self, other: Rows) -> Tensor:
        """Inner products of every row with every row of `other`, (n, n')."""
        total: Tensor | None = None
        for key, mine in self.parts.items():
            for a in mine:
                for b in other.parts[key]:
                    inner = _inner(a, b)
                    total = inner if total is None else total.add_(inner)
        if total is None:
            raise ValueError("rows without parts")
        return total

    def paired(self, other: Rows) -> Tensor:
        """Inner product of each row with the same row of `other`, (n,)."""
        terms = [
            _paired(a, b)
            for key, mine in self.parts.items()
            for a in mine
            for b in other.parts[key]
        ]
        return torch.stack(terms).sum(0)

    def squared_norms(self) -> Tensor:
        """|row|^2, (n,); computed once."""
        total = self._squared_norms
        if total is not None:
            return total
        for parts in self.parts.values():
            value = parts[0].squared_norms() if len(parts) == 1 else _norm_of_sum(parts)
            total = value if total is None else total + value
        if total is None:
            raise ValueError("rows without parts")
        self._squared_norms = total
        return total

    def flat(self) -> dict[str, Tensor]:
        """Each key's rows materialised, {key: (n, size)}."""
        return {key: _sum(part.flat() for part in parts) for key, parts in self.parts.items()}

    def dense(self) -> Tensor:
        """All rows materialised and joined, (n, p)."""
        return torch.cat(list(self.flat().values()), dim=1)


def _stack(pieces: tuple[Part, ...]) -> Part:
    first = pieces[0]
    if isinstance(first, Dense):
        return replace(first, values=torch.cat([p.values for p in pieces if isinstance(p, Dense)]))
    outers = [p for p in pieces if isinstance(p, Outer)]
    if all(p.smaller_dense and "dense" in vars(p) for p in outers):
        return _stack(tuple(p.dense for p in outers))
    left = torch.cat([p.left for p in outers])
    return replace(first, left=left, right=torch.cat([p.right for p in outers]))


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    first, *rest = tensors
    for tensor in rest:
        first = first + tensor
    return first


def _norm_of_sum(parts: tuple[Part, ...]) -> Tensor:
    return _sum(_paired(a, b) for a in parts for b in parts)


def row_bytes(parts: Iterable[Part], itemsize: int) -> int:
    """Bytes an example of these parts needs while in use, materialised forms included."""
    total = 0
    for part in parts:
        size = part.elements // max(1, part.count)
        if isinstance(part, Outer) and part.terms > 1:
            size += part.m * prod(part.stored_shape)
        total += size * itemsize
    return total
