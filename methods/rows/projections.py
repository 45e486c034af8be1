"""Seeded linear maps from Rows to few dimensions, unbiased for inner products: E[G^T G] = I.

Gaussian and Rademacher are dense (TracIn, Sec. E), Select keeps random coordinates (RandSelect
of Schioppa et al.), TwoSided projects the two factors of each outer product separately
(TracIn, Sec. F, which states E[G1 G1^T] = I; unbiasedness needs E[G1^T G1] = I).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from methods.errors import MethodError, at_least
from methods.randomness import numpy_generator, torch_generator
from methods.rows.factored import Rows
from methods.rows.parts import Dense, Part
from methods.task import Task

LIMIT = 512 << 20  # bytes of a slice of directions; two may be in memory at once


class Map(ABC):
    """A linear map from rows of p numbers to `dim` numbers."""

    dim: int

    @abstractmethod
    def apply(self, rows: Rows) -> Tensor:
        """Project, (n, dim)."""

    def slices(self) -> Iterator[Map]:
        """The map cut along `dim` so that a slice's directions fit in memory."""
        yield self

    def directions(self) -> Tensor:
        """The map as a matrix, (dim, p)."""
        raise MethodError(f"{type(self).__name__} has no explicit directions")


class Directions(Map):
    """A map given by its rows, (dim, p)."""

    def __init__(self, matrix: Tensor, task: Task) -> None:
        if matrix.shape[1] != task.size:
            raise MethodError(
                f"directions over {matrix.shape[1]} parameters, but the task has {task.size}: "
                "they were made for another model"
            )
        self.matrix, self.dim = matrix, len(matrix)
        self._rows = Rows.dense_of(matrix, {n: v.numel() for n, v in task.params.items()})

    def apply(self, rows: Rows) -> Tensor:
        return rows.inner(self._rows)

    def directions(self) -> Tensor:
        return self.matrix


@dataclass(frozen=True)
class Projection(ABC):
    """How to draw a map of `dim` dimensions for a task; the same seed draws the same map."""

    dim: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, dim=self.dim)
        at_least(0, seed=self.seed)

    @abstractmethod
    def draw(self, task: Task) -> Map: ...


class _DrawnDirections(Map):
    """Directions drawn one by one from (seed, index): more dimensions extend fewer."""

    def __init__(self, projection: _DenseProjection, task: Task) -> None:
        self.projection, self.task, self.dim = projection, task, projection.dim
        self._whole: Directions | None = None

    def apply(self, rows: Rows) -> Tensor:
        return torch.cat([part.apply(rows) for part in self.slices()], dim=1)

    def slices(self) -> Iterator[Map]:
        if self._whole is not None:
            yield self._whole
            return
        step = max(1, LIMIT // (self.task.size * self.task.dtype.itemsize))
        for first in range(0, self.dim, step):
            part = Directions(self._draw(first, min(first + step, self.dim)), self.task)
            if step >= self.dim:
                self._whole = part
            yield part

    def _draw(self, first: int, last: int) -> Tensor:
        task, seed = self.task, self.projection.seed
        out = torch.empty(last - first, task.size, dtype=task.dtype)
        for row, index in zip(out, range(first, last), strict=True):
            self.projection.fill(row, torch_generator(seed, "projection", index))
        return out.mul_(self.dim**-0.5).to(task.device)

    def directions(self) -> Tensor:
        return torch.cat([part.directions() for part in self.slices()])


class _DenseProjection(Projection):
    @abstractmethod
    def fill(self, row: Tensor, generator: torch.Generator) -> None:
        """Fill one direction in place with independent entries of variance 1."""

    def draw(self, task: Task) -> Map:
        return _DrawnDirections(self, task)


@dataclass(frozen=True)
class Gaussian(_DenseProjection):
    """Entries N(0, 1/dim). Var<Gu, Gv> = (|u|^2 |v|^2 + <u, v>^2) / dim."""

    def fill(self, row: Tensor, generator: torch.Generator) -> None:
        row.normal_(generator=generator)


@dataclass(frozen=True)
class Rademacher(_DenseProjection):
    """Entries +-1/sqrt(dim)."""

    def fill(self, row: Tensor, generator: torch.Generator) -> None:
        row.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)


@dataclass(frozen=True)
class Select(Projection):
    """`dim` coordinates without replacement, times sqrt(p/dim)."""

    def draw(self, task: Task) -> Map:
        if self.dim > task.size:
            raise MethodError(f"{self.dim} of {task.size} parameters: choose dim <= {task.size}")
        generator = numpy_generator(self.seed, "select")
        chosen = generator.choice(task.size, self.dim, replace=False, shuffle=False)
        return Coordinates(torch.from_numpy(chosen).sort().values, task)


class Coordinates(Map):
    """Chosen coordinates of a row, scaled to keep inner products unbiased."""

    def __init__(self, index: Tensor, task: Task) -> None:
        self.index, self.task, self.dim = index.to(task.device), task, len(index)
        self.scale = (task.size / len(index)) ** 0.5
        self._own: dict[str, Tensor] = {}
        first = 0
        for name, value in task.params.items():
            inside = (self.index >= first) & (self.index < first + value.numel())
            self._own[name] = self.index[inside] - first
            first += value.numel()

    def apply(self, rows: Rows) -> Tensor:
        out = [
            sum(
                (_columns(part, own, self.task.params[name].shape) for part in rows.parts[name]),
                torch.zeros((), dtype=self.task.dtype, device=self.task.device),
            )
            for name, own in self._own.items()
            if len(own)
        ]
        return torch.cat(out, dim=1) * self.scale

    def directions(self) -> Tensor:
        out = torch.zeros(self.dim, self.task.size, dtype=self.task.dtype, device=self.task.device)
        out[torch.arange(self.dim), self.index] = self.scale
        return out


def _columns(part: Part, own: Tensor, shape: torch.Size) -> Tensor:
    """Entries `own` (flat, in the parameter's order) of each row of a part, (b, len(own))."""
    if part.order is not None:  # where each entry lies in the stored order
        stored = _stored_positions(part.order, shape)
        own = stored.to(own.device)[own]
    if isinstance(part, Dense):
        return part.stored()[:, own] * part.scale
    left, right = own // part.n, own % part.n
    if part.one_hot:
        hit = (part.left[:, :, None] == left).to(part.right.dtype)
    else:
        hit = part.left[:, :, left]
    return (hit * part.right[:, :, right]).sum(1) * part.scale


def _stored_positions(order: tuple[int, ...], shape: torch.Size) -> Tensor:
    """For each entry of a parameter of `shape`, its place in the stored order."""
    stored = [0] * len(order)
    for axis, size in zip(order, shape, strict=True):
        stored[axis] = size
    return torch.arange(shape.numel()).view(stored).permute(order).reshape(-1)


@dataclass(frozen=True)
class TwoSided(Projection):
    """Factorised: (G1 left)(G2 right)^T with sqrt(dim) rows each, summed over parameters.

    It costs O((m + n) sqrt(dim)) for an m x n layer, not O(m n dim). A vector of n parameters,
    such as a bias, is an n x 1 matrix. It is far noisier than Gaussian at equal dim: the artifact
    tracin_sketch shows both.
    """

    def draw(self, task: Task) -> Map:
        side = isqrt(self.dim)
        if side * side != self.dim:
            raise MethodError(
                f"TwoSided needs a square dim, not {self.dim}: "
                f"choose {side**2} or {(side + 1) ** 2}"
            )
        return _TwoSidedMap(self, side, task)


class _TwoSidedMap(Map):
    def __init__(self, projection: TwoSided, side: int, task: Task) -> None:
        self.dim, self.side = projection.dim, side
        self._left: dict[str, Tensor] = {}
        self._right: dict[str, Tensor] = {}
        for index, (name, value) in enumerate(task.params.items()):

            def normal(rows: int, columns: int, which: int, index: int = index) -> Tensor:
                generator = torch_generator(projection.seed, "two-sided", index, which)
                drawn = torch.randn(rows, columns, generator=generator, dtype=task.dtype)
                return drawn.mul_(rows**-0.5).to(task.device)

            m = len(value) if value.ndim else 1
            self._left[name] = normal(side, m, 0)
            self._right[name] = normal(side, value.numel() // m, 1)

    def apply(self, rows: Rows) -> Tensor:
        total: Tensor | None = None
        for name, parts in rows.parts.items():
            for part in parts:
                value = self._project(part, name)
                total = value if total is None else total + value
        if total is None:
            raise MethodError("rows without parameters")
        return total

    def _project(self, part: Part, name: str) -> Tensor:
        left, right = self._left[name], self._right[name]
        if isinstance(part, Dense):
            values = part.matrix().view(part.count, left.shape[1], right.shape[1])
            return (left @ values @ right.T).flatten(1)
        if part.order is not None:
            shape = (part.m, *(part.stored_shape[axis - 1] for axis in part.order[1:]))
            place = _stored_positions(part.order, torch.Size(shape))[: part.n]
            right = right[:, place.argsort().to(right.device)]
        lefts = left.T[part.left] if part.one_hot else part.left @ left.T  # (b, T, side)
        return torch.bmm(lefts.mT, part.right @ right.T).flatten(1) * part.scale
