"""Linear maps from Rows to few dimensions: given, chosen, or drawn a slice at a time.

The room `drawn` holds maps that are drawn from a seed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from methods import memory
from methods.errors import MethodError
from methods.precision import FullPrecision
from methods.rows.factored import Rows
from methods.rows.parts import Dense, Part, stored_positions
from methods.task import Task

LIMIT = 512 << 20  # least bytes of a slice of directions; two may be in memory at once


class Map(FullPrecision, ABC):
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
        raise MethodError(
            f"{type(self).__name__} has no explicit directions: choose Gaussian, Rademacher, SJLT "
            "or Select"
        )


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


class Drawn(Map):
    """Directions drawn one by one from (seed, index): more dimensions extend fewer.

    draw    makes the map of the directions from one index to another, scaled for all `dim`
    nbytes  bytes that all directions take
    """

    def __init__(
        self, dim: int, draw: Callable[[int, int], Map], nbytes: int, device: torch.device
    ) -> None:
        self.dim, self._draw, self._each, self._device = dim, draw, nbytes // dim, device
        self._whole: Map | None = None

    def apply(self, rows: Rows) -> Tensor:
        return torch.cat([part.apply(rows) for part in self.slices()], dim=1)

    def slices(self) -> Iterator[Map]:
        if self._whole is not None:
            yield self._whole
            return
        step = max(1, memory.held(self._device, LIMIT) // max(1, self._each))
        for first in range(0, self.dim, step):
            part = self._draw(first, min(first + step, self.dim))
            if step >= self.dim:
                self._whole = part
            yield part

    def directions(self) -> Tensor:
        return torch.cat([part.directions() for part in self.slices()])


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
                (_entries(part, own, self.task.params[name].shape) for part in rows.parts[name]),
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


def _entries(part: Part, own: Tensor, shape: torch.Size) -> Tensor:
    """Entries `own` (flat, in the parameter's order) of each row of a part, (b, len(own))."""
    if part.order is not None:  # where each entry lies in the stored order
        stored = stored_positions(part.order, shape)
        own = stored.to(own.device)[own]
    if isinstance(part, Dense):
        return part.stored()[:, own] * part.scale
    left, right = own // part.n, own % part.n
    if part.one_hot:
        hit = (part.left[:, :, None] == left).to(part.right.dtype)
    else:
        hit = part.left[:, :, left]
    return (hit * part.right[:, :, right]).sum(1) * part.scale
