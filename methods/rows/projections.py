"""How to draw linear maps from Rows to few dimensions, unbiased for inner products: E[G^T G] = I.

Gaussian and Rademacher are dense (TracIn, Sec. E), Select keeps random coordinates (RandSelect
of Schioppa et al.), SJLT is sparse (Kane & Nelson, 2014), TwoSided projects the two factors of each
outer product separately (TracIn, Sec. F, which states E[G1 G1^T] = I; unbiasedness needs
E[G1^T G1] = I). All are drawn on the CPU, so that every device has the same map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch

from methods.errors import MethodError, at_least
from methods.randomness import numpy_generator
from methods.rows.drawn.entries import Entries, Normals
from methods.rows.drawn.hashed import Hashed
from methods.rows.drawn.sides import Sides
from methods.rows.drawn.signs import Signs
from methods.rows.maps import Coordinates, Drawn, Map
from methods.task import Task

LATER = {"later": True}  # a field that keys of runs leave out while it has its default


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

    def bytes(self, task: Task) -> int:
        """Bytes that a map takes once it is drawn, where they are many."""
        return 0


@dataclass(frozen=True)
class _Counted(Projection):
    """Drawn by a counter: any part of it without those before.

    `generator` is no choice: it tells runs of these draws from runs of others.
    """

    generator: str = field(default="Philox", init=False)


class _Dense(_Counted):
    entries: ClassVar[type[Entries]]

    def draw(self, task: Task) -> Map:
        return Drawn(self.dim, partial(self._some, task), self.bytes(task), task.device)

    def _some(self, task: Task, first: int, last: int) -> Map:
        return self.entries(task, self.seed, first, last, self.dim**-0.5)

    def bytes(self, task: Task) -> int:
        return self.dim * self.entries.bytes_each(task)


@dataclass(frozen=True)
class Gaussian(_Dense):
    """Entries N(0, 1/dim), in 65,536 steps. Var<Gu, Gv> = (|u|^2 |v|^2 + <u, v>^2) / dim.

    (Less 0.0008 sum u_i^2 v_i^2 / dim, for the steps; see `randomness.normals`.)
    """

    entries = Normals


@dataclass(frozen=True)
class Rademacher(_Dense):
    """Entries +-1/sqrt(dim). Var<Gu, Gv> = (|u|^2 |v|^2 + <u, v>^2 - 2 sum u_i^2 v_i^2) / dim.

    The fastest of the dense maps: a bit for each entry, and products of 8-bit integers on a CPU, of
    bfloat16 on a GPU, that are as exact as those of float32 (`rows/digits.py`).

    bits  of the 24 of a float32 number that are multiplied so: 16 take two thirds of the time of
          these products, 8 a third. Measured on gradients of a CNN of 820k parameters, rows are off
          by 9e-5 of their length with 16 on a CPU and 3e-6 on a GPU, by 2e-2 and 2e-3 with 8 (which
          are bfloat16 itself), by 4e-7 with all. Where neither product is to be had, all are used.
    """

    bits: int = field(default=24, kw_only=True, metadata=LATER)

    entries = Signs

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits not in (8, 16, 24):
            raise MethodError(f"{self.bits} bits of a number: choose 8, 16 or 24")

    def _some(self, task: Task, first: int, last: int) -> Map:
        return Signs(task, self.seed, first, last, self.dim**-0.5, self.bits)


@dataclass(frozen=True)
class SJLT(_Counted):
    """Sparse: each coordinate goes, with random signs, to `nonzeros` of the dimensions.

    Its cost does not grow with `dim`; its variance is Rademacher's, if `nonzeros` divides `dim`.
    """

    nonzeros: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, nonzeros=self.nonzeros)
        if self.nonzeros > self.dim:
            raise MethodError(
                f"{self.nonzeros} nonzeros of {self.dim} dimensions: choose nonzeros <= {self.dim}"
            )

    def draw(self, task: Task) -> Map:
        return Hashed(task, self.seed, self.dim, self.nonzeros)

    def bytes(self, task: Task) -> int:
        return self.nonzeros * task.size * (4 + task.dtype.itemsize)


@dataclass(frozen=True)
class Select(Projection):
    """`dim` coordinates without replacement, times sqrt(p/dim)."""

    def draw(self, task: Task) -> Map:
        if self.dim > task.size:
            raise MethodError(f"{self.dim} of {task.size} parameters: choose dim <= {task.size}")
        generator = numpy_generator(self.seed, "select")
        chosen = generator.choice(task.size, self.dim, replace=False, shuffle=False)
        return Coordinates(torch.from_numpy(chosen).sort().values, task)


@dataclass(frozen=True)
class TwoSided(Projection):
    """Factorised: (G1 left)(G2 right)^T with about sqrt(dim) rows each, summed over parameters.

    It costs O((m + n) sqrt(dim)) for an m x n layer, not O(m n dim). A vector of n parameters,
    such as a bias, is an n x 1 matrix. It is far noisier than Gaussian at equal dim: the artifact
    tracin_sketch shows both.
    """

    def draw(self, task: Task) -> Sides:
        return Sides(task, self.seed, self.dim)
