"""A sparse map: every coordinate goes to a few dimensions, whatever their number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from methods import memory
from methods.randomness import philox, words
from methods.rows.drawn.blocks import blocks, formed, ordered, shape_of
from methods.rows.factored import Rows
from methods.rows.maps import Map
from methods.rows.parts import Outer, Part
from methods.rows.room import Room
from methods.task import Task

GROUP = 1 << 13  # least coordinates that share a table of what falls on which dimension
CACHED = 2 << 20  # bytes of coordinates formed at a time on the CPU


class Hashed(Map):
    """Each coordinate with a random sign in one random dimension of each of s ranges.

    The s ranges divide the dimensions; entries are +-1/sqrt(s). A coordinate costs s additions,
    whatever the dimension.
    """

    def __init__(self, task: Task, seed: int, dim: int, nonzeros: int) -> None:
        self.task, self.dim, self.seed, self.nonzeros = task, dim, seed, nonzeros
        self._shapes = {name: shape_of(value) for name, value in task.params.items()}
        self._index = {name: index for index, name in enumerate(self._shapes)}
        self._hashes: dict[str, tuple[Tensor, Tensor]] = {}
        self._tables: dict[str, list[Table]] = {}
        self._numbers = memory.temporary(task.device, CACHED) // task.dtype.itemsize
        self._room = Room()

    def apply(self, rows: Rows) -> Tensor:
        task = self.task
        total = torch.zeros(self.dim, rows.count, dtype=task.dtype, device=task.device)
        for name, parts in rows.parts.items():
            for part in parts:
                if isinstance(part, Outer) and part.one_hot:
                    self._add_tokens(total, name, part)
                    continue
                for table, some, values in self._formed(name, part):
                    total[:, some].add_(table.sums(values))
        return total.T * self.nonzeros**-0.5

    def directions(self) -> Tensor:
        out = torch.zeros(self.task.size, self.dim, dtype=self.task.dtype, device=self.task.device)
        hashes = [self._hash(name) for name in self._shapes]
        where, signs = (torch.cat([pair[i].flatten(1) for pair in hashes], 1) for i in (0, 1))
        out.scatter_add_(1, where.T.long(), signs.T.to(out.dtype))
        return out.T * self.nonzeros**-0.5

    def _hash(self, name: str) -> tuple[Tensor, Tensor]:
        """The s dimensions of each entry of a parameter, and its signs, (s, m, n) both; int8."""
        if name not in self._hashes:
            shape = (self.nonzeros, *self._shapes[name])
            size = torch.Size(shape).numel()
            drawn = words(philox(self.seed, "hashes", self._index[name]), size, "<u4")
            drawn = drawn.reshape(shape)
            bounds = np.arange(self.nonzeros + 1) * self.dim // self.nonzeros
            wide = np.diff(bounds).astype(np.uint64)[:, None, None]
            where = (drawn >> np.uint32(1)) * wide >> np.uint64(31)
            where = (where + bounds[:-1].astype(np.uint64)[:, None, None]).astype(np.int32)
            signs = 1 - 2 * (drawn & np.uint32(1)).astype(np.int8)
            device = self.task.device
            self._hashes[name] = (
                torch.from_numpy(where).to(device),
                torch.from_numpy(signs).to(device),
            )
        return self._hashes[name]

    def _step(self, name: str) -> int:
        """How many rows of a parameter share a table: enough that its ends cost little."""
        return max(1, max(GROUP, 8 * self.dim) // max(1, self._shapes[name][1]))

    def _table(self, name: str) -> list[Table]:
        if name not in self._tables:
            where, signs = self._hash(name)
            step = self._step(name)
            self._tables[name] = [
                Table.of(some.flatten(1), own.flatten(1).to(self.task.dtype), self.dim)
                for some, own in zip(where.split(step, 1), signs.split(step, 1), strict=True)
            ]
            del self._hashes[name]
        return self._tables[name]

    def _formed(self, name: str, part: Part) -> Iterator[tuple[Table, slice, Tensor]]:
        """Blocks of coordinates of a few examples (coordinates, b), which stay in cache.

        Examples come last, so that a coordinate's are added together. Rows of one term are formed
        so; others are formed, then turned.
        """
        (m, n), step = self._shapes[name], self._step(name)
        part = ordered(part, (m, n))
        few = max(16, self._numbers // max(1, min(step, m) * n))
        groups = [slice(i, min(i + few, part.count)) for i in range(0, part.count, few)]
        if isinstance(part, Outer) and part.terms == 1:
            left, right = (x[:, 0].T.contiguous() for x in (part.left, part.right))
            left = left * part.scale
            for i, table in enumerate(self._table(name)):
                own = left[i * step : (i + 1) * step, None]
                for some in groups:
                    a, b = own[..., some], right[None, :, some]
                    shape = (len(own), n, some.stop - some.start)
                    values = self._room("turned", shape, right.dtype, right.device)
                    yield table, some, torch.mul(a, b, out=values).flatten(0, 1)
            return
        pieces = blocks(part, (m, n), step)
        for table, (_, _, piece) in zip(self._table(name), pieces, strict=True):
            matrix = formed(piece, self._room)
            for some in groups:
                turned = matrix[some].T
                values = self._room("turned", turned.shape, matrix.dtype, matrix.device)
                yield table, some, values.copy_(turned)

    def _add_tokens(self, total: Tensor, name: str, part: Outer) -> None:
        """An embedding's rows: only the entries of tokens that occur, without a matrix."""
        for where, signs in zip(*self._hash(name), strict=True):
            columns = where[part.left].flatten(1).T.long()  # (T n, b)
            values = part.right * signs[part.left]
            total.scatter_add_(0, columns, values.flatten(1).T * part.scale)


@dataclass(frozen=True)
class Table:
    """Which of some coordinates fall on each dimension, and with what sign."""

    order: Tensor  # (s coordinates,), by dimension
    signs: Tensor  # (s coordinates,), in that order
    ends: Tensor  # (dim + 1,)

    @classmethod
    def of(cls, where: Tensor, signs: Tensor, dim: int) -> Table:
        """From the dimensions and signs of all coordinates, (s, coordinates) both."""
        place = where.flatten().argsort(stable=True)
        counts = torch.bincount(where.flatten(), minlength=dim)
        ends = F.pad(counts.cumsum(0), (1, 0)).int()
        return cls((place % where.shape[1]).int(), signs.flatten()[place], ends)

    def sums(self, values: Tensor) -> Tensor:
        """Signed sums over values (coordinates, b), (dim, b)."""
        return F.embedding_bag(
            self.order,
            values,
            self.ends,
            mode="sum",
            per_sample_weights=self.signs,
            include_last_offset=True,
        )
