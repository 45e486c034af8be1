"""One vector per example, kept in the cheapest exact form and materialised only where needed.

A row is a per-example gradient, in parts (parts.py): one or more for each parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, product

import torch
from torch import Tensor

from methods.finite import finite
from methods.precision import FullPrecision
from methods.rows.inner_products import inner
from methods.rows.parts import Dense, Outer, Part, paired


class Rows(FullPrecision):
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
        parts = {}
        for key in rows[0].parts:
            own = [r.parts[key] for r in rows]
            if len({len(pieces) for pieces in own}) > 1:  # called more often in some batches
                own = [(Dense(_sum(part.matrix() for part in pieces)),) for pieces in own]
            parts[key] = [_stack(pieces) for pieces in zip(*own, strict=True)]
        return cls(parts, sum(r.count for r in rows))

    @property
    def elements(self) -> int:
        """Numbers kept, over all parts: what these rows cost in memory."""
        return sum(part.elements for parts in self.parts.values() for part in parts)

    def finite(self) -> bool:
        """Whether no number kept is NaN or infinite; no products are formed for that."""
        kept = (part.numbers() for parts in self.parts.values() for part in parts)
        return finite(chain.from_iterable(kept))

    def compact(self) -> Rows:
        """The same rows, each part in its smaller form: for rows kept for many inner products."""
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
        for a, b in self._pairs(other):
            term = inner(a, b)
            total = term if total is None else total.add_(term)
        if total is None:
            raise ValueError("rows without parts")
        return total

    def paired(self, other: Rows) -> Tensor:
        """Inner product of each row with the same row of `other`, (n,)."""
        return torch.stack([paired(a, b) for a, b in self._pairs(other)]).sum(0)

    def _pairs(self, other: Rows) -> Iterator[tuple[Part, Part]]:
        """Parts of the same key, each with each: what an inner product is the sum over."""
        for key, mine in self.parts.items():
            yield from product(mine, other.parts[key])

    def squared_norms(self) -> Tensor:
        """|row|^2, (n,); computed once."""
        if self._squared_norms is None:
            self._squared_norms = _sum(
                parts[0].squared_norms()
                if len(parts) == 1
                else _sum(paired(a, b) for a, b in product(parts, parts))
                for parts in self.parts.values()
            )
        return self._squared_norms

    def matrices(self) -> dict[str, Tensor]:
        """Each key's rows materialised, {key: (n, size)}."""
        return {key: _sum(part.matrix() for part in parts) for key, parts in self.parts.items()}

    def dense(self) -> Tensor:
        """All rows materialised and joined, (n, p)."""
        return torch.cat(list(self.matrices().values()), dim=1)


def _stack(pieces: tuple[Part, ...]) -> Part:
    """Parts of more examples: materialised if one is, padded where terms differ in number."""
    outers = [p for p in pieces if isinstance(p, Outer)]
    done = len(outers) < len(pieces) or all(p.smaller_dense and "dense" in vars(p) for p in outers)
    if done:
        dense = [p.dense if isinstance(p, Outer) else p for p in pieces]
        if len({(p.order, p.scale) for p in dense}) > 1:
            dense = [Dense(p.matrix()) for p in dense]
        return replace(dense[0], values=torch.cat([p.values for p in dense]))
    terms = max(p.terms for p in outers)
    left = torch.cat([_lengthened(p.left, terms) for p in outers])
    right = torch.cat([_lengthened(p.right, terms) for p in outers])
    return replace(outers[0], left=left, right=right)


def _lengthened(factor: Tensor, terms: int) -> Tensor:
    """A factor (b, T, ...) with terms of zeros behind, which add nothing."""
    more = terms - factor.shape[1]
    zeros = factor.new_zeros(len(factor), more, *factor.shape[2:])
    return torch.cat([factor, zeros], 1) if more else factor


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    first, *rest = tensors
    for tensor in rest:
        first = first + tensor
    return first
