"""Two small maps for each parameter, one for each side of its outer products."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.randomness import torch_generator
from methods.rows.factored import Rows
from methods.rows.maps import Map
from methods.rows.parts import Dense, Part, stored_positions
from methods.task import Task


class Sides(Map):
    """(G1 left)(G2 right)^T for each outer product: G1 and G2 have about sqrt(dim) rows.

    Of a x b >= dim such products the first `dim` are kept, row by row.
    """

    def __init__(self, task: Task, seed: int, dim: int) -> None:
        self.task, self.dim = task, dim
        b = isqrt(dim - 1) + 1
        a = -(-dim // b)
        self._scale = (a * b / dim) ** 0.5
        self.left: dict[str, Tensor] = {}
        self.right: dict[str, Tensor] = {}
        for index, (name, value) in enumerate(task.params.items()):

            def normal(rows: int, columns: int, which: int, index: int = index) -> Tensor:
                generator = torch_generator(seed, "two-sided", index, which)
                drawn = torch.randn(rows, columns, generator=generator, dtype=task.dtype)
                return drawn.mul_(rows**-0.5).to(task.device)

            m = len(value) if value.ndim else 1
            self.left[name] = normal(a, m, 0)
            self.right[name] = normal(b, value.numel() // m, 1)

    def apply(self, rows: Rows) -> Tensor:
        total: Tensor | None = None
        for name, parts in rows.parts.items():
            for part in parts:
                value = self._project(part, name)
                total = value if total is None else total + value
        if total is None:
            raise MethodError("rows without parameters")
        total = total[:, : self.dim]
        return total if self._scale == 1.0 else total * self._scale

    def _project(self, part: Part, name: str) -> Tensor:
        left, right = self.left[name], self.right[name]
        if isinstance(part, Dense):
            values = part.matrix().view(part.count, left.shape[1], right.shape[1])
            return (left @ values @ right.T).flatten(1)
        if part.order is not None:
            shape = (part.m, *(part.stored_shape[axis - 1] for axis in part.order[1:]))
            place = stored_positions(part.order, torch.Size(shape))[: part.n]
            right = right[:, place.argsort().to(right.device)]
        lefts = left.T[part.left] if part.one_hot else part.left @ left.T  # (b, T, a)
        return torch.bmm(lefts.mT, part.right @ right.T).flatten(1) * part.scale
