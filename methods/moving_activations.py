"""GELU along one tangent: its many passes over memory are taken block by block, in cache.

With Phi and phi the normal distribution and its density, x Phi(x) has the slope Phi(x) + x phi(x)
and the second derivative phi(x) (2 - x^2).
"""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import torch
from torch import Tensor

BLOCK = 1 << 14  # numbers of each of half a dozen buffers
Dual = tuple[Tensor, Tensor | None]  # a value, and its tangent where it has one


class Gelu:
    """One call of an exact GELU. Keeps the slope, and the tangent of the slope."""

    def __init__(self, layer: Any, x: Dual) -> None:
        value, moved = x[0].contiguous(), x[1]
        self.output, self.slope = torch.empty_like(value), torch.empty_like(value)
        self.tangent = None if moved is None else torch.empty_like(value)
        self.turn = None if moved is None else torch.empty_like(value)
        flat = [one.view(-1).split(BLOCK) for one in (value, self.output, self.slope)]
        if moved is None or self.tangent is None or self.turn is None:
            for at, output, slope in zip(*flat, strict=True):
                _slope(at, output, slope)
            return
        more = [one.reshape(-1).split(BLOCK) for one in (moved, self.tangent, self.turn)]
        for at, output, slope, step, tangent, turn in zip(*flat, *more, strict=True):
            square, density = _slope(at, output, slope)
            torch.mul(slope, step, out=tangent)
            torch.mul(square.neg_().add_(2.0).mul_(density), step, out=turn)

    def back(self, gradient: Dual) -> Dual:
        """The gradient at the input, and its tangent, in what was kept for it: asked once."""
        (g, dg), slope, tangent = gradient, self.slope, self.turn
        if tangent is not None:
            tangent.mul_(g)
        if dg is not None:
            tangent = dg * slope if tangent is None else tangent.addcmul_(dg, slope)
        return slope.mul_(g), tangent


def _slope(x: Tensor, output: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Write x Phi(x) and its slope; return x^2 and phi(x)."""
    square = x * x
    density = (square * -0.5).exp_().mul_(1 / sqrt(2 * pi))
    torch.mul(x, sqrt(0.5), out=slope).erf_().add_(1.0).mul_(0.5)  # Phi
    torch.mul(x, slope, out=output)
    slope.addcmul_(x, density)
    return square, density
