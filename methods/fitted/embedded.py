"""Fitted methods whose rows are gradients projected on few directions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from methods import memory
from methods.examples import Examples, chunks, count, parts
from methods.fitted.gradients import FittedGradients
from methods.progress import track
from methods.rows.factored import Rows
from methods.rows.gradients import CHUNK, Gradients
from methods.rows.maps import Map
from methods.task import Task

TOGETHER = 512 << 20  # bytes of rows projected at once: directions are read once for all of them
EMBEDDED = 32 << 20  # bytes of embedded rows at once, on the CPU


@dataclass(frozen=True, eq=False)
class Bilinear:
    """The matrix left^T middle right: an inverse Hessian known on a few directions.

    left, right are maps of p numbers to d; middle is (d,) for a diagonal, (d, d), or None.
    """

    left: Map
    right: Map
    middle: Tensor | None = None

    def weigh(self, embedded: Tensor) -> Tensor:
        if self.middle is None:
            return embedded
        return embedded * self.middle if self.middle.ndim == 1 else embedded @ self.middle


class Embedded(FittedGradients):
    """Gradients projected on few directions: both embeddings have d numbers."""

    def __init__(self, task: Task, form: Bilinear) -> None:
        super().__init__(task)
        self.form = form

    def chunk(self, examples: Examples) -> int:
        return self._embedded(self.form.right)

    def query_chunk(self, examples: Examples) -> int:
        return self._embedded(self.form.left)

    def cut(self, examples: Examples, size: int) -> Iterator[Examples]:
        return parts(examples, size)

    def _embedded(self, projection: Map) -> int:
        """Many, for they have d numbers each and directions are drawn once for all of them."""
        row = projection.dim * self.task.dtype.itemsize
        return max(CHUNK, memory.temporary(self.task.device, EMBEDDED) // row)

    def query_rows(self, examples: Examples) -> Rows:
        left = self.embed(examples, self.form.left, self.measured)
        return Rows.dense_of(self.form.weigh(left))

    def train_rows(self, examples: Examples) -> Rows:
        return Rows.dense_of(self.embed(examples, self.form.right, self.gradients))

    def own_rows(self, examples: Examples) -> tuple[Rows, Rows]:
        if self.form.left is not self.form.right or self.measured is not self.gradients:
            return super().own_rows(examples)
        embedded = self.embed(examples, self.form.right, self.gradients)
        return Rows.dense_of(self.form.weigh(embedded)), Rows.dense_of(embedded)

    def embed(self, examples: Examples, projection: Map, gradients: Gradients) -> Tensor:
        """Project the gradients of all examples, (n, d); directions are made once a pass."""
        slices = []
        most = memory.temporary(self.task.device, TOGETHER) // self.task.dtype.itemsize
        for part in projection.slices():
            size = gradients.projected_chunk(examples)
            blocks, together = [], list[Rows]()
            batches, passes = chunks(examples, size), -(-count(examples) // size)
            for some in track(batches, "projecting gradients", passes):
                together.append(gradients.rows(some).compact())
                if sum(rows.elements for rows in together) >= most:
                    blocks.append(part.apply(_taken(together)))
            if together:
                blocks.append(part.apply(_taken(together)))
            slices.append(torch.cat(blocks))
        return torch.cat(slices, dim=1)


def _taken(blocks: list[Rows]) -> Rows:
    """All blocks of rows as one, with the list emptied: memory holds them twice only meanwhile."""
    rows = Rows.stacked(blocks)
    blocks.clear()
    return rows
