"""The orthonormal basis of an Arnoldi iteration: where its vectors are stored.

200 vectors of 300 million numbers take 240 GB in float32. They can be stored in bfloat16, or in a
file mapped into memory. Computations with them use the operator's own precision.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.memory import available, gigabytes, on_disk
from methods.precision import FullPrecision

log = logging.getLogger(__name__)

COLUMNS = 1 << 22  # numbers converted or moved at a time, of a basis of up to 8 vectors


@dataclass(frozen=True)
class Native:
    """In memory, on the operator's device and in its precision."""

    def bytes_each(self, size: int, dtype: torch.dtype) -> int:
        """Bytes that a vector takes."""
        return size * dtype.itemsize


@dataclass(frozen=True)
class BFloat16:
    """At half the size of float32: 8 bits of precision, the same range.

    It is on the operator's device if it fits there, otherwise in the host's memory, pinned for a
    GPU, and otherwise in a file. The numbers are the same.
    Products and coefficients both use the rounded vectors, so the only error is that these are
    not quite orthonormal: by about 2^-9 / sqrt(p).
    """

    def bytes_each(self, size: int, dtype: torch.dtype) -> int:
        """Bytes that a vector takes."""
        return 2 * size


@dataclass(frozen=True)
class Disk:
    """In a file in the operator's precision, mapped into memory; it ends with the process.

    folder  where to put the file; the system's folder for temporary files if None
    """

    folder: str | None = field(default=None, compare=False)

    def bytes_each(self, size: int, dtype: torch.dtype) -> int:
        """Bytes that a vector takes."""
        return size * dtype.itemsize

    @property
    def place(self) -> str:
        return self.folder or tempfile.gettempdir()


Storage = Native | BFloat16 | Disk


class Basis(FullPrecision):
    """`count` orthonormal vectors of `size` numbers, with capacity for `most`.

    They are computed with on `device` and lie at `place`, a device or a folder.
    """

    def __init__(
        self,
        storage: Storage,
        most: int,
        size: int,
        dtype: torch.dtype,
        device: torch.device,
        place: torch.device | str | None = None,
    ) -> None:
        self.storage, self.dtype, self.device, self.count = storage, dtype, device, 0
        place = storage.place if isinstance(storage, Disk) else place or device
        stored = torch.bfloat16 if isinstance(storage, BFloat16) else dtype
        if isinstance(place, str):
            self.rows = _mapped(place, most, size, stored)
        else:
            pinned = place.type == "cpu" and device.type == "cuda"
            self.rows = torch.empty(most, size, dtype=stored, device=place, pin_memory=pinned)
        self._direct = self.rows.dtype == dtype and self.rows.device == device

    def append(self, vector: Tensor) -> None:
        """Store one more vector, (p,)."""
        self.rows[self.count].copy_(vector)
        self.count += 1

    def row(self, index: int) -> Tensor:
        """One vector as stored, (p,), converted to the operator's precision."""
        return self._moved(self.rows[index])

    def _moved(self, stored: Tensor) -> Tensor:
        """Moved first, then converted: half as much is moved."""
        return stored.to(self.device, non_blocking=True).to(self.dtype)

    def clear(self, vector: Tensor) -> Tensor:
        """Make `vector` (p,) orthogonal to the basis, in place; return what was removed, (count,).

        Modified Gram-Schmidt, followed by one pass over all vectors together.
        """
        along = torch.zeros(self.count, dtype=self.dtype, device=self.device)
        for j in range(self.count):
            row = self.row(j)
            overlap = torch.dot(row, vector)
            along[j] += overlap
            vector.sub_(row * overlap)
        again = self._overlaps(vector)
        along += again
        self._subtract(again, vector)
        return along

    def combine(self, weights: Tensor) -> Tensor:
        """Weighted sums of the vectors, (k, p), by weights (k, count)."""
        if self._direct:
            return weights @ self.rows[: self.count]
        out = torch.empty(len(weights), self.rows.shape[1], dtype=self.dtype, device=self.device)
        for columns, block in self._blocks():
            out[:, columns] = weights @ block
        return out

    def _overlaps(self, vector: Tensor) -> Tensor:
        if self._direct:
            return self.rows[: self.count] @ vector
        total = torch.zeros(self.count, dtype=self.dtype, device=self.device)
        for columns, block in self._blocks():
            total += block @ vector[columns]
        return total

    def _subtract(self, weights: Tensor, vector: Tensor) -> None:
        if self._direct:
            vector.sub_(weights @ self.rows[: self.count])
            return
        for columns, block in self._blocks():
            vector[columns].sub_(weights @ block)

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Slices of columns, each with all vectors' numbers there in the operator's precision."""
        width = max(1, COLUMNS * 8 // max(1, self.count))
        for start in range(0, self.rows.shape[1], width):
            columns = slice(start, start + width)
            yield columns, self._moved(self.rows[: self.count, columns])


def _mapped(folder: str, most: int, size: int, dtype: torch.dtype) -> Tensor:
    """Memory mapped to an unlinked file: it is freed when the last process closes it."""
    handle, path = tempfile.mkstemp(prefix="retrace-basis-", dir=folder)
    try:
        if hasattr(os, "posix_fallocate"):  # now: a disk that fills up later ends the process
            os.posix_fallocate(handle, 0, max(1, most * size * dtype.itemsize))
        # torch keeps its mapping until the tensor is freed.
        flat = torch.from_file(path, shared=True, size=most * size, dtype=dtype)
    finally:
        os.close(handle)
        os.unlink(path)
    return flat.view(most, size)


def check_room(
    storage: Storage,
    iterations: int,
    keep: int,
    size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.device | str:
    """Where a basis fits, a device or a folder, with the `keep` eigenvectors on the device.

    A quarter of an accelerator, and of its host, is left to Hessian products. A basis that fits
    nowhere is refused.
    """
    each, eigenvector = storage.bytes_each(size, dtype), size * dtype.itemsize
    basis, eigenvectors = iterations * each, (keep + 3) * eigenvector
    free, place = available(device), str(device)
    if isinstance(storage, Disk):
        advice = "lower `iterations`, or set TMPDIR to a folder with more room"
        space = on_disk(storage.place)
        _refuse(f"a basis of {iterations}", basis, each, space, storage.place, advice)
        _refuse(f"{keep} eigenvectors", eigenvectors, eigenvector, free, place, "lower `keep`")
        return storage.place
    accelerated, host, folder = device.type != "cpu", torch.device("cpu"), tempfile.gettempdir()
    usable = free - free // 4 if accelerated else free
    if basis + eigenvectors <= usable:
        return device
    if isinstance(storage, BFloat16) and eigenvectors <= usable:
        if accelerated and basis <= available(host) * 3 // 4:
            log.info("a basis of %s is in the host's memory", gigabytes(basis))
            return host
        if basis <= on_disk(folder):
            log.info("a basis of %s is in %s", gigabytes(basis), folder)
            return folder
    advice = "lower `iterations` or `keep`"
    if isinstance(storage, Native):
        advice += ", or store the basis in bfloat16 or on disk (StoredKrylov)"
    else:
        advice += ", or set TMPDIR to a folder with more room"
    what = f"a basis of {iterations} and {keep} eigenvectors"
    _refuse(what, basis + eigenvectors, each, usable, place, advice)
    return device


def _refuse(what: str, needed: int, each: int, free: int, place: str, advice: str) -> None:
    if needed > free:
        raise MethodError(
            f"{what}, a vector {gigabytes(each)}, take {gigabytes(needed)}, and {gigabytes(free)} "
            f"are free in {place}: {advice}"
        )
