"""Orthonormal vectors kept one after another: n of p numbers, the memory of an Arnoldi iteration.

At 200 vectors of 300 million numbers they are 240 GB in float32. They may be kept in bfloat16, or
in a file mapped into memory; what is computed with them is in the operator's own precision.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.memory import available, gigabytes, on_disk

COLUMNS = 1 << 22  # numbers of each vector taken at a time where they must be converted or moved


@dataclass(frozen=True)
class Native:
    """In memory, on the operator's device and in its precision."""

    def bytes_each(self, size: int, dtype: torch.dtype) -> int:
        """Bytes that a vector takes."""
        return size * dtype.itemsize


@dataclass(frozen=True)
class BFloat16:
    """In memory in half of float32: 8 bits of precision, the same range.

    A product is taken with the rounded vector, and coefficients are with rounded vectors, so that
    only their being less than orthonormal is an error: about 2^-9 / sqrt(p).
    """

    def bytes_each(self, size: int, dtype: torch.dtype) -> int:
        """Bytes that a vector takes."""
        return 2 * size


@dataclass(frozen=True)
class Disk:
    """In a file in the operator's precision, mapped into memory; it is gone with the process.

    folder  where there is room for it; the system's folder for temporary files if None
    """

    folder: str | None = field(default=None, compare=False)

    def bytes_each(self, size: int, dtype: torch.dtype) -> int:
        """Bytes that a vector takes."""
        return size * dtype.itemsize

    @property
    def place(self) -> str:
        return self.folder or tempfile.gettempdir()


Storage = Native | BFloat16 | Disk


class Basis:
    """`count` orthonormal vectors of `size` numbers, out of room for `most`."""

    def __init__(
        self, storage: Storage, most: int, size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.storage, self.dtype, self.device, self.count = storage, dtype, device, 0
        if isinstance(storage, Disk):
            self.rows = _mapped(storage.place, most, size, dtype)
        else:
            held = torch.bfloat16 if isinstance(storage, BFloat16) else dtype
            self.rows = torch.empty(most, size, dtype=held, device=device)
        self._direct = self.rows.dtype == dtype and self.rows.device == device

    def append(self, vector: Tensor) -> None:
        """Keep one more vector, (p,)."""
        self.rows[self.count] = vector
        self.count += 1

    def row(self, index: int) -> Tensor:
        """One vector as it is kept, (p,), in the operator's precision."""
        return self.rows[index].to(self.device, self.dtype)

    def clear(self, vector: Tensor) -> Tensor:
        """Take what lies along the basis out of `vector` (p,), in place; return it, (count,).

        Modified Gram-Schmidt, then all vectors once more.
        """
        along = torch.zeros(self.count, dtype=self.dtype, device=self.device)
        for j in range(self.count):
            kept = self.row(j)
            overlap = torch.dot(kept, vector)
            along[j] += overlap
            vector.sub_(kept * overlap)
        again = self._overlaps(vector)
        along += again
        self._subtract(again, vector)
        return along

    def combine(self, weights: Tensor) -> Tensor:
        """Sums of the vectors, (k, p), with weights (k, count)."""
        if self._direct:
            return weights @ self.rows[: self.count]
        out = torch.empty(len(weights), self.rows.shape[1], dtype=self.dtype, device=self.device)
        for some, block in self._blocks():
            out[:, some] = weights @ block
        return out

    def _overlaps(self, vector: Tensor) -> Tensor:
        if self._direct:
            return self.rows[: self.count] @ vector
        total = torch.zeros(self.count, dtype=self.dtype, device=self.device)
        for some, block in self._blocks():
            total += block @ vector[some]
        return total

    def _subtract(self, weights: Tensor, vector: Tensor) -> None:
        if self._direct:
            vector.sub_(weights @ self.rows[: self.count])
            return
        for some, block in self._blocks():
            vector[some].sub_(weights @ block)

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Columns of all vectors in the operator's precision, as many as fit, and which."""
        width = max(1, COLUMNS * 8 // max(1, self.count))
        for start in range(0, self.rows.shape[1], width):
            some = slice(start, min(start + width, self.rows.shape[1]))
            yield some, self.rows[: self.count, some].to(self.device, self.dtype)


def _mapped(folder: str, most: int, size: int, dtype: torch.dtype) -> Tensor:
    """Room in a file that no folder shows any more: it goes with the last who has it open."""
    handle, path = tempfile.mkstemp(prefix="retrace-basis-", dir=folder)
    os.close(handle)
    try:
        # Python's own file would be closed; torch keeps its mapping until the tensor is gone.
        flat = torch.from_file(path, shared=True, size=most * size, dtype=dtype)
    finally:
        os.unlink(path)
    return flat.view(most, size)


def check_room(
    storage: Storage,
    iterations: int,
    keep: int,
    size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Refuse a basis that will not fit, with the `keep` eigenvectors to be made of it."""
    each, one = storage.bytes_each(size, dtype), size * dtype.itemsize
    basis, vectors = iterations * each, (keep + 3) * one
    if isinstance(storage, Disk):
        mend = "lower `iterations`, or set TMPDIR to a folder with more room"
        _refuse(
            f"a basis of {iterations}", basis, each, on_disk(storage.place), storage.place, mend
        )
        mend = "lower `keep`"
        _refuse(f"{keep} eigenvectors", vectors, one, available(device), str(device), mend)
        return
    mend = "lower `iterations` or `keep`"
    if isinstance(storage, Native):
        mend += ", or keep the basis in half as much memory, or on disk: StoredKrylov"
    what = f"a basis of {iterations} and {keep} eigenvectors"
    _refuse(what, basis + vectors, each, available(device), str(device), mend)


def _refuse(what: str, needed: int, each: int, free: int, where: str, mend: str) -> None:
    if needed > free:
        raise MethodError(
            f"{what}, a vector {gigabytes(each)}, take {gigabytes(needed)}, and {gigabytes(free)} "
            f"are free in {where}: {mend}"
        )
