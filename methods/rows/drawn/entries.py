"""Dense maps: every entry is drawn, in words that are unpacked where they are used.

A map takes rows in the form they are kept in. Where it needs their numbers it forms them a few rows
of a parameter at a time, which stay in cache.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods import memory
from methods.randomness import normals, philox, words
from methods.rows.drawn.blocks import blocks, formed, ordered, shape_of, within
from methods.rows.factored import Rows
from methods.rows.maps import Map
from methods.rows.matmul import product
from methods.rows.parts import Outer, Part
from methods.rows.room import Room
from methods.task import Task

CACHED = 4 << 20  # bytes of directions unpacked at a time on the CPU
NUMBERS = 1 << 18  # numbers of rows multiplied at a time on the CPU
FORMED = 32 << 20  # bytes of rows formed at a time: each time, all of the right factor is read
WIDTH = 256  # directions unpacked at a time, twice as many in single bytes
LEAST = 1 << 11  # numbers of a row that are multiplied at a time: with fewer, sums take longer


class Entries(Map):
    """Directions `first` to `last`, times `scale`.

    Each has its own stream of words, by a counter: its parameters' matrices (m, n), row by row.
    Products with float32 rows are summed in float32 or integers: to those in float64, 1e-6 of
    |row|.
    """

    purpose: str
    word: np.dtype[Any]  # as numpy and torch store it
    each: int  # entries of a row that share a word

    def __init__(self, task: Task, seed: int, first: int, last: int, scale: float) -> None:
        self.task, self.dim, self.scale = task, last - first, scale
        self._shapes = {name: shape_of(value) for name, value in task.params.items()}
        self._words = self._drawn(seed, range(first, last))
        cached = task.device.type == "cpu"
        entry = self.kind().itemsize if cached else 32  # on a GPU in pieces
        self._entries = memory.temporary(task.device, CACHED) // entry
        self._numbers = NUMBERS if cached else self._entries
        self._formed = FORMED // 4 if cached else self._entries
        self._width = min(self.dim, WIDTH * (1 + (entry == 1))) if cached else self.dim
        self._room = Room()

    def _drawn(self, seed: int, indices: range) -> dict[str, Tensor]:
        """The words of each parameter as they are kept, (dim, m, ...)."""
        sizes = [m * -(-n // self.each) for m, n in self._shapes.values()]
        drawn = np.empty((self.dim, sum(sizes)), self.word)
        for row, index in zip(drawn, indices, strict=True):
            row[:] = words(philox(seed, self.purpose, index), len(row), self.word)
        kept, first = {}, 0
        for (name, (m, _)), size in zip(self._shapes.items(), sizes, strict=True):
            own = drawn[:, first : first + size].reshape(self.dim, m, size // max(1, m))
            kept[name] = torch.from_numpy(self.arranged(own)).to(self.task.device)
            first += size
        return kept

    @classmethod
    def bytes_each(cls, task: Task) -> int:
        """Bytes that a direction takes."""
        shapes = map(shape_of, task.params.values())
        return sum(cls.word.itemsize * m * -(-n // cls.each) for m, n in shapes)

    def apply(self, rows: Rows) -> Tensor:
        task = self.task
        total = torch.zeros(rows.count, self.dim, dtype=task.dtype, device=task.device)
        for name, parts in rows.parts.items():
            for part in parts:
                part = ordered(part, self._shapes[name])
                if isinstance(part, Outer) and contracts(part, self.dim):
                    self._contract(total, name, part)
                else:
                    self._form(total, name, part)
        return total.mul_(self.scale)

    def _contract(self, total: Tensor, name: str, part: Outer) -> None:
        """Add factors of one term: the right one is multiplied, the left one sums the rest."""
        m, n = self._shapes[name]
        own = self.prepared(part.right)
        step = max(1, self._entries // max(1, self._width * max(n, part.count)))
        for rows in _slices(m, step):
            for columns in _slices(self.dim, self._width):
                entries = self.unpack(self._words[name][columns, rows].transpose(0, 1), n)
                along = self.product(own, entries.flatten(0, 1)).view(-1, *entries.shape[:2])
                summed = torch.bmm(part.left[:, :, rows], along)[:, 0]
                total[:, columns].add_(summed, alpha=part.scale)

    def _form(self, total: Tensor, name: str, part: Part) -> None:
        """Add rows that are formed: many rows of a parameter at a time, few of which are cached."""
        m, n = self._shapes[name]
        many = max(1, self._formed // max(1, n * part.count))
        numbers = max(LEAST, self._numbers // max(1, part.count))
        step = max(1, min(numbers, self._entries // self._width) // max(1, n))
        for examples, chosen, block in blocks(part, (m, n), many):
            matrix = formed(block, self._room)
            for some in _slices(matrix.shape[1] // max(1, n), step):
                rows = within(chosen, some)
                own = self.prepared(matrix[:, some.start * n : some.stop * n].unflatten(1, (-1, n)))
                for columns in _slices(self.dim, self._width):
                    entries = self.unpack(self._words[name][columns][:, rows], n).flatten(1)
                    total[examples, columns].add_(self.product(own, entries))

    def directions(self) -> Tensor:
        each = []
        for name, (_, n) in self._shapes.items():
            entries = self.natural(self.unpack(self._words[name], n), n)
            each.append(entries.flatten(1).to(self.task.dtype, copy=True))
        return torch.cat(each, dim=1).mul_(self.scale)

    def kind(self) -> torch.dtype:
        """The type that entries are multiplied in."""
        return self.task.dtype

    def arranged(self, drawn: np.ndarray) -> np.ndarray:
        """The words of a parameter (dim, m, w) as they are kept, (dim, m, ...); in place."""
        return drawn

    @abstractmethod
    def unpack(self, packed: Tensor, n: int) -> Tensor:
        """The entries in words (a, b, ...), (a, b, n); valid until the next call.

        In the order of numbers that are `prepared`, which may be more than n.
        """

    def natural(self, entries: Tensor, n: int) -> Tensor:
        """Unpacked entries in the parameter's order, (a, b, n)."""
        return entries

    def prepared(self, values: Tensor) -> Any:
        """Numbers (b, r, n) as `product` takes them; valid until the next call."""
        return values.flatten(1)

    def product(self, prepared: Any, entries: Tensor) -> Tensor:
        """Numbers (b, r, n) times entries (c, r n), (b, c)."""
        return product(prepared, entries.to(self.task.dtype))


def _slices(count: int, step: int) -> list[slice]:
    return [slice(first, min(first + step, count)) for first in range(0, count, step)]


def contracts(part: Outer, dim: int) -> bool:
    """Whether rows of r by n numbers are cheaper to multiply as factors than formed.

    For one term both take r n products for each of `dim` directions. By factors, r `dim` sums are
    moved; formed rows are r n numbers to move. Several terms take as many times the products.
    """
    return part.terms == 1 and not part.one_hot and dim <= part.n


class Normals(Entries):
    """Entries N(0, 1), each by a word that chooses one of `randomness.normals`."""

    purpose, word, each = "normals", np.dtype("<i2"), 1

    def __init__(self, task: Task, seed: int, first: int, last: int, scale: float) -> None:
        super().__init__(task, seed, first, last, scale)
        self._table = torch.from_numpy(normals()).to(task.device)

    def unpack(self, packed: Tensor, n: int) -> Tensor:
        index = self._room("index", packed.shape, torch.int32, packed.device)
        out = self._room("entries", packed.shape, torch.float32, packed.device)
        index.copy_(packed).add_(1 << 15)
        torch.index_select(self._table, 0, index.flatten(), out=out.flatten())
        return out
