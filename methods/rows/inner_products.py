"""Inner products of all rows of one part with all of another, each in the cheapest exact way.

The cheapest way is chosen by counting multiplications, and elements moved where those dominate.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from methods.rows.matmul import product
from methods.rows.parts import Dense, Outer, Part

BUFFER = 1 << 24  # elements a temporary may have: 64 MiB in float32
LARGE = 1 << 16  # elements of a matrix that is worth a product of its own
SLICE = 1 << 19  # elements of materialised rows that stay in cache
MOVED = 16  # multiplications that take as long as moving one element to memory or back


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
    step = BUFFER // max(1, a.terms * b.count * b.terms)
    if step == 0 and b.count > 1:
        half = b.count // 2
        parts = (slice(0, half), slice(half, b.count))
        halves = [replace(b, left=b.left[part], right=b.right[part]) for part in parts]
        return torch.cat([_inner_factored(a, one) for one in halves], dim=1)
    step, out = max(1, step), []
    for start in range(0, a.count, step):
        some = replace(a, left=a.left[start : start + step], right=a.right[start : start + step])
        right = torch.tensordot(some.right, b.right, dims=([2], [2]))
        out.append((right * _left_products(some, b)).sum((1, 3)))
    return torch.cat(out)


def _inner_with_dense(a: Outer, b: Dense) -> Tensor:
    """Inner products with dense directions, by the factors where that is cheaper, (b, b')."""
    if not _contracts(a, b.count):
        in_slices = not a.one_hot and a.order is None and b.order is None
        large = a.count * a.m * a.n >= SLICE and "dense" not in vars(a)
        return _inner_formed(a, b) if in_slices and large else _inner_dense(a.dense, b)
    directions = _as_matrices(b, a)
    if a.terms > 1 or a.one_hot:
        return torch.stack([_contracted(a, one) for one in directions], dim=1)
    if a.m * a.n >= LARGE:  # a direction at a time stays in cache, and needs no copy of its own
        left, right = a.left[:, 0], a.right[:, 0]
        each = [torch.linalg.vecdot(product(right, one), left) for one in directions]
        return torch.stack(each, dim=1)
    directions = directions.reshape(b.count * a.m, a.n)
    step = max(1, BUFFER // max(1, b.count * a.m))
    out = []
    for start in range(0, a.count, step):
        left, right = (x[start : start + step, 0] for x in (a.left, a.right))
        contracted = product(right, directions).view(len(right), b.count, a.m)
        out.append(torch.bmm(contracted, left[:, :, None])[:, :, 0])
    return torch.cat(out)


def _inner_formed(a: Outer, b: Dense) -> Tensor:
    """The same by forming a's rows a slice at a time, which stays in cache, (b, b')."""
    step = max(1, SLICE // (a.count * a.n))
    left, values = a.left.transpose(1, 2), b.stored()
    buffer = a.right.new_empty(a.count * min(step, a.m) * a.n)
    total = a.right.new_zeros(b.count, a.count)  # few rows go faster on the left
    for start in range(0, a.m, step):
        some = left[:, start : start + step]
        shape = (a.count, some.shape[1], a.n)
        formed = buffer[: shape[0] * shape[1] * shape[2]].view(shape)
        torch.bmm(some, a.right, out=formed)
        directions = values[:, start * a.n : (start + some.shape[1]) * a.n]
        total.add_(product(directions, formed.flatten(1)))
    return total.T


def _contracts(a: Outer, k: int) -> bool:
    """Whether inner products with k directions are cheaper by a's factors than by its rows.

    Counted for one row. By factors, each direction costs its products with every term and a buffer
    for them. By materialised rows, there is the cost to form and write the row unless that was done
    already, to read it, and one product for each direction.
    """
    if a.terms == 1 and not a.one_hot:
        return True
    size, done = a.m * a.n, "dense" in vars(a)
    if a.one_hot:
        factored, forming = a.terms * a.n * (1 + 2 * MOVED), 0
    else:
        factored, forming = a.terms * (size + 2 * MOVED * min(a.m, a.n)), a.terms * size
    dense = size * (k + MOVED) + (0 if done else forming + size * MOVED)
    return k * factored <= dense


def _contracted(a: Outer, direction: Tensor) -> Tensor:
    """Each row times one direction (m, n), through the shorter of its factors, (b,)."""
    out, step = [], max(1, BUFFER // max(1, a.terms * min(a.m, a.n)))
    for left, right in zip(a.left.split(step), a.right.split(step), strict=True):
        if a.one_hot:
            contracted, other = direction[left], right
        elif a.n <= a.m:
            contracted, other = product(left.flatten(0, 1), direction.T).view(right.shape), right
        else:
            contracted, other = product(right.flatten(0, 1), direction).view(left.shape), left
        out.append(torch.linalg.vecdot(contracted.flatten(1), other.flatten(1)))
    return torch.cat(out)


def _as_matrices(b: Dense, like: Outer) -> Tensor:
    """Rows as matrices (b, m, n) in the stored order of another part, without the scale."""
    stored = (like.m, *like.stored_shape)
    if b.order == like.order:
        return b.values.reshape(b.count, like.m, like.n)
    values = replace(b, scale=1.0).matrix()
    if like.order is not None:
        own = values.view(b.count, *(stored[axis] for axis in like.order))
        inverse = sorted(range(len(stored)), key=like.order.__getitem__)
        values = own.permute(0, *(1 + axis for axis in inverse))
    return values.reshape(b.count, like.m, like.n)


def _inner_dense(a: Dense, b: Dense) -> Tensor:
    if a.order == b.order:
        return product(a.stored(), b.stored())
    return product(replace(a, scale=1.0).matrix(), replace(b, scale=1.0).matrix())


def inner(a: Part, b: Part) -> Tensor:
    """Inner products of every row of `a` with every row of `b`, (b, b')."""
    if isinstance(a, Outer) and isinstance(b, Outer):
        pairs, size = a.count * b.count, a.m * a.n
        factored = pairs * a.terms * b.terms * (a.m + a.n)
        forming = 0 if "dense" in vars(b) else size * b.count * b.terms
        dense = size * (a.count * a.terms + pairs) + forming
        big = max(a.count, b.count) * size > 4 * BUFFER
        if factored <= dense or big:
            products = _inner_factored(a, b)
        else:
            products = _inner_dense(a.dense, b.dense)
    elif isinstance(a, Outer):
        products = _inner_with_dense(a, b)  # type: ignore[arg-type]
    elif isinstance(b, Outer):
        products = _inner_with_dense(b, a).T
    else:
        products = _inner_dense(a, b)
    scale = a.scale * b.scale
    return products if scale == 1.0 else products * scale
