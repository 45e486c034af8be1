"""Products of float32 rows with signs by 8-bit integers, which a processor multiplies fastest.

A row is cut into three digits of base 256, with one unit for all of its numbers, whose products
with +-1 are summed in 32-bit integers: without rounding, in any order. All that is rounded is the
row: its numbers to 2^-24 of the largest, which itself is off by as much as 2^-22. The result is off
by sqrt(k) 2^-25 max |row| for k numbers, which is some 3e-7 |row|, as of a product in float32. Of
two digits it is off by 2^8 as much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from methods.rows.matmul import integer_product
from methods.rows.room import Room

SIGN = 64  # stands for 1: bit 7 of a byte is its sign, and bit 6 is set in both
BASES = (65536.0, 256.0, 1.0)  # of three digits
SMALLEST = 1e-30  # a row whose largest number is less has fewer digits
SUMMED = 1 << 17  # products that 32 bits hold at least: 2^31 / (128 SIGN), halved
FASTER = ("avx512_vnni", "avx_vnni", "amx_int8")  # instructions of processors: any one will do


@dataclass(frozen=True)
class Digits:
    """Rows (n, k) as digits (1 to 3, n, k) int8, the highest first, in units (n, 1)."""

    digits: Tensor
    unit: Tensor

    @classmethod
    def of(cls, rows: Tensor, largest: Tensor, room: Room, bits: int = 24) -> Digits:
        """Of float32 rows (n, ...), k numbers each, whose `largest` (n, 1) is known.

        A digit for each 8 `bits`. They are in buffers of a room: until its next digits.
        """
        bases = BASES[-(bits // 8) :]
        device, unit = rows.device, largest.clamp(min=SMALLEST) / (127 * bases[0])
        whole = room("whole", rows.shape, torch.float32, device)
        scale = unit.reciprocal().view(-1, *[1] * (rows.ndim - 1))
        whole = torch.mul(rows, scale, out=whole).flatten(1).round_()
        # Digits from -128 to 127: as bytes from 0 to 255 of a number that is larger by 128 in each.
        number = room("number", whole.shape, torch.int32, device).copy_(whole).add_(0x808080)
        shifted = room("shifted", whole.shape, torch.int32, device)
        digits = room("digits", (len(bases), *whole.shape), torch.int8, device)
        for digit, shift in zip(digits, (16, 8, 0)[-len(bases) :], strict=True):
            digit.copy_(torch.bitwise_right_shift(number, shift, out=shifted) if shift else number)
        return cls(digits.bitwise_xor_(-128), unit)

    def product(self, signs: Tensor, room: Room) -> Tensor:
        """Rows times signs (m, k) int8, +-SIGN, (n, m) float32."""
        multiply = integer_product()
        if multiply is None:
            raise RuntimeError("this torch has no product of 8-bit integers")
        device, (count, n, k), m = signs.device, self.digits.shape, len(signs)
        flat = self.digits.flatten(0, 1)
        sums = room("sums", (len(flat), m), torch.int32, device)
        apart = room("apart", (len(flat), m), torch.float32, device)
        bases = torch.tensor([BASES[-count:]], device=device) / SIGN
        total: Tensor | None = None
        for first in range(0, k, SUMMED):
            some = slice(first, min(first + SUMMED, k))
            multiply(flat[:, some], signs[:, some].T, sums)
            value = (bases @ apart.copy_(sums).view(count, -1)).view(n, m)
            total = value if total is None else total.add_(value)
        return torch.zeros(n, m, device=device) if total is None else total.mul_(self.unit)


def largest_of(rows: Tensor) -> Tensor:
    """The largest absolute value of each row (n, k), (n, 1)."""
    if not rows.shape[1]:
        return rows.new_zeros(len(rows), 1)
    return torch.maximum(rows.amax(1, True), rows.amin(1, True).neg_())


@cache
def takes_digits(device: torch.device) -> bool:
    """Whether a device is a processor with faster products of 8-bit integers, and they are right.

    Without instructions for them they would be slower than products in float32.
    """
    capabilities: Callable[[], dict[str, object]] | None
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if device.type != "cpu" or integer_product() is None or capabilities is None:
        return False
    if not any(capabilities().get(name) for name in FASTER):
        return False
    rows = torch.linspace(-1, 1, 33 * 260).view(33, 260)
    signs = torch.where(torch.arange(17 * 260).view(17, 260) % 7 < 3, SIGN, -SIGN)
    room = Room()
    seen = Digits.of(rows, largest_of(rows), room).product(signs.to(torch.int8), room)
    return torch.allclose(seen, rows @ signs.float().T / SIGN, atol=1e-4)
