"""Dense maps of signs: a bit for each entry, and products in the narrowest exact type."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from methods.rows.digits import SIGN, Digits, largest_of, takes_digits
from methods.rows.drawn.entries import Entries
from methods.rows.matmul import product, takes_bfloat16
from methods.rows.room import Room
from methods.task import Task

BITS = {  # of each type: the integer of its size, the bit of its sign, and the other bits of 1
    torch.bfloat16: (torch.int16, -(1 << 15), 0x3F80),
    torch.float32: (torch.int32, -(1 << 31), 0x3F800000),
}
SIGNS = -0x7F7F7F80  # the signs of four bytes
ONES = SIGN * 0x01010101  # the other bits of SIGN in four bytes


class Signs(Entries):
    """Entries +-1. Entry j of a row of n is bit 31 - j // w of word j % w, w = ceil(n / 32).

    A shift therefore unpacks w neighbours. Float32 rows are multiplied by 8-bit integers where a
    processor has them, in three pieces of bfloat16 on a GPU that has those, else in float32.
    """

    purpose, word, each = "signs", np.dtype("<i4"), 32

    def __init__(
        self, task: Task, seed: int, first: int, last: int, scale: float, bits: int = 24
    ) -> None:
        self.bits = bits  # of a float32 number, multiplied where they come in pieces
        super().__init__(task, seed, first, last, scale)

    def kind(self) -> torch.dtype:
        if self.task.dtype != torch.float32:
            return torch.float32
        if takes_digits(self.task.device):
            return torch.int8
        return torch.bfloat16 if takes_bfloat16(self.task.device) else torch.float32

    def arranged(self, drawn: np.ndarray) -> np.ndarray:
        pieces = apart(drawn, self.kind().itemsize)
        place = drawn.view(pieces.dtype).reshape(pieces.shape)
        place[...] = pieces
        return place

    def unpack(self, packed: Tensor, n: int) -> Tensor:
        kind = self.kind()
        if kind == torch.int8:
            return unpacked_bytes(packed, self._room)
        return unpacked(packed, n, kind, self._room)

    def natural(self, entries: Tensor, n: int) -> Tensor:
        if self.kind() != torch.int8:
            return entries
        own = entries.unflatten(-1, (8, 4, -1)).transpose(-2, -3).flatten(-3)[..., :n]
        return own.to(self.task.dtype) / SIGN

    def prepared(self, values: Tensor) -> Any:
        if self.kind() != torch.int8:
            return super().prepared(values)
        return Digits.of(by_bit(values), largest_of(values.flatten(1)), self._room, self.bits)

    def product(self, prepared: Any, entries: Tensor) -> Tensor:
        if isinstance(prepared, Digits):
            return prepared.product(entries, self._room)
        if entries.dtype == torch.bfloat16:
            return product(prepared, entries, self.bits)
        return super().product(prepared, entries)


def apart(words: np.ndarray, size: int) -> np.ndarray:
    """Words (..., w) of 32 bits in pieces of `size` bytes, the highest first, (..., pieces, w)."""
    pieces = words.view(f"<i{size}").reshape(*words.shape, 4 // size)
    return pieces[..., ::-1].swapaxes(-1, -2).copy()


def unpacked(packed: Tensor, n: int, kind: torch.dtype, room: Room) -> Tensor:
    """The signs in pieces of words (..., pieces, w) as +-1 in float32 or bfloat16, (..., n).

    The pieces are as long as a number of the type.
    """
    integer, sign, one = BITS[kind]
    bits = torch.iinfo(integer).bits
    shifts = _shifts(bits, integer, packed.device)
    shape = (*packed.shape[:-1], bits, packed.shape[-1])
    shifted = room("shifted bits", shape, integer, packed.device)
    torch.bitwise_left_shift(packed.contiguous()[..., None, :], shifts, out=shifted)
    flat = shifted.bitwise_and_(sign).flatten(-3)
    if flat.shape[-1] == n:
        return flat.bitwise_or_(one).view(kind)
    out = room("signs", (*flat.shape[:-1], n), integer, packed.device)
    return torch.bitwise_or(flat[..., :n], one, out=out).view(kind)


def unpacked_bytes(packed: Tensor, room: Room) -> Tensor:
    """The signs in bytes of words (..., 4, w) as +-SIGN in int8, (..., 32 w), as `by_bit` has them.

    A shift unpacks a bit of four bytes at once. What comes from a neighbour is not kept.
    """
    lanes = packed.contiguous().flatten(-2).view(torch.int32)[..., None, :]
    shifts = _shifts(8, torch.int32, packed.device)
    shape = (*lanes.shape[:-2], 8, lanes.shape[-1])
    shifted = room("shifted bits", shape, torch.int32, packed.device)
    torch.bitwise_left_shift(lanes, shifts, out=shifted)
    return shifted.bitwise_and_(SIGNS).bitwise_or_(ONES).flatten(-2).view(torch.int8)


def by_bit(values: Tensor) -> Tensor:
    """Numbers (..., n) by the bit that has their sign, its byte and word, (..., 8, 4, w).

    Those of bits without a number are zeros.
    """
    w = -(-values.shape[-1] // 32)
    if values.shape[-1] < 32 * w:
        values = F.pad(values, (0, 32 * w - values.shape[-1]))
    return values.unflatten(-1, (4, 8, w)).transpose(-2, -3)


def _shifts(count: int, kind: torch.dtype, device: torch.device) -> Tensor:
    return torch.arange(count, dtype=kind, device=device)[:, None]
