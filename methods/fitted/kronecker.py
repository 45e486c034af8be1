"""Fitted methods by Kronecker-factored curvature: nothing is formed that factors can stand for."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from methods.curvature.kronecker import KroneckerFunction
from methods.examples import Examples
from methods.fitted.inverted import FittedInverse
from methods.rows.blocks import Block, narrowed, projected
from methods.rows.factored import Rows
from methods.rows.parts import Dense, Outer, Part
from methods.task import Task


class FittedKronecker(FittedInverse):
    """Query rows H^-1 g and candidate rows g of the layers that have a block.

    With a `rank`, the matrix of a Linear layer's query row is cut to so many singular values, and
    stays factored (Grosse et al., Sec. 3.2.2).
    """

    def __init__(self, task: Task, inverse: KroneckerFunction) -> None:
        names = (name for block in inverse.blocks for name in block.names)
        super().__init__(narrowed(task, names), inverse)
        self.blocks, self.rank = inverse.blocks, inverse.rank
        self._factors: dict[Block, tuple[Tensor, Tensor]] = {}

    def own_rows(self, examples: Examples) -> tuple[Rows, Rows]:
        """One number each, whose product is the score, for g itself need not be turned back."""
        if self.measured is not self.gradients or self.rank is not None:
            return super().own_rows(examples)
        value = self.quadratic(self.train_gradients(examples))[:, None]
        return Rows.dense_of(value), Rows.dense_of(torch.ones_like(value))

    def quadratic(self, rows: Rows) -> Tensor:
        """g H^-1 g of each row g, (n,)."""
        total: list[Tensor] = []
        for block, (left, right, weights) in self.blocks.items():
            gradient = block.gradients(rows)
            if isinstance(gradient, tuple) and gradient[0].shape[1] == 1:
                a, b = gradient[0][:, 0] @ left, gradient[1][:, 0] @ right
                total.append(((a.square() @ weights) * b.square()).sum(1))
            else:
                total.append((projected(gradient, left, right).square() * weights).sum((1, 2)))
        return torch.stack(total).sum(0)

    def inverted(self, rows: Rows) -> Rows:
        found: dict[str, Part] = {}
        for block, (left, right, weights) in self.blocks.items():
            gradient, rank = block.gradients(rows), self._rank(block)
            if rank is not None and isinstance(gradient, tuple) and gradient[0].shape[1] == 1:
                found |= _parts(block, *self._cut_outer(block, *gradient, rank))
                continue
            turned = projected(gradient, left, right).mul_(weights)
            matrices = left @ (turned @ right.T)
            if rank is not None:
                found |= _parts(block, *_cut(matrices, rank))
            else:
                found |= {name: Dense(own) for name, own in block.parameters(matrices).items()}
        return Rows({name: (found[name],) for name in self.task.params}, rows.count)

    def _rank(self, block: Block) -> int | None:
        """How many singular values to keep of a block's matrices, if they are cut at all."""
        flat = self.task.params[block.weight].ndim == 2
        cut = self.rank is not None and flat and self.rank < min(block.rows, block.columns)
        return self.rank if cut else None

    def _cut_outer(self, block: Block, a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """`_cut` of the rows a b^T, (n, 1, rows) and (n, 1, columns), of one term.

        In the eigenbasis such a row is diag(a) W diag(b), with W the inverse eigenvalues of the
        block. W = P Q^T is of low rank as far as rounding can tell, and thin products have a thin
        decomposition: no matrix (rows, columns) is formed.
        """
        left, right, weights = self.blocks[block]
        if block not in self._factors:
            self._factors[block] = thin(weights)
        sides = zip((a[:, 0] @ left, b[:, 0] @ right), self._factors[block], strict=True)
        (q, r), (q2, r2) = (torch.linalg.qr(own[:, :, None] * factor) for own, factor in sides)
        u, v = _cut(r @ r2.mT, rank)
        return u @ (left @ q).mT, v @ (right @ q2).mT


def thin(weights: Tensor) -> tuple[Tensor, Tensor]:
    """P (rows, k) and Q (columns, k) whose product P Q^T is the inverse eigenvalues, to rounding.

    Rounding is measured against rows and columns as large as gradients are along them, which is
    where eigenvalues are large and their inverses small.
    """
    eigenvalues = torch.where(weights > 0, 1 / weights, 0.0)
    p, q = (eigenvalues.mean(axis).sqrt() for axis in (1, 0))
    p, q = (torch.where(scale > 0, scale, 1.0)[:, None] for scale in (p, q))
    u, s, v = torch.linalg.svd(p * weights * q.T, full_matrices=False)
    k = max(1, int((s > torch.finfo(s.dtype).eps * s[0]).sum()))
    return u[:, :k] * s[:k] / p, v[:k].T / q


def _cut(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximations of this rank, left^T right: left and right (n, rank, ...)."""
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    return (u[:, :, :rank] * s[:, None, :rank]).mT, v[:, :rank]


def _parts(block: Block, left: Tensor, right: Tensor) -> dict[str, Part]:
    """Sums of outer products (n, rank, rows) and (n, rank, columns) by parameter."""
    whole = Outer(left, right, block.rows, (block.columns,))
    if block.bias is None:
        return {block.weight: whole}
    if block.turned:
        own = replace(whole, left=left[:, :, :-1], m=block.rows - 1)
        return {block.weight: own, block.bias: Dense((left[:, :, -1:] * right).sum(1))}
    own = replace(whole, right=right[:, :, :-1], stored_shape=(block.columns - 1,))
    return {block.weight: own, block.bias: Dense((left * right[:, :, -1:]).sum(1))}
