"""GELU and softmax along one tangent: their passes over memory are taken by blocks, in cache.

With Phi and phi the normal distribution and its density, x Phi(x) has the slope Phi(x) + x phi(x)
and the second derivative phi(x) (2 - x^2).
"""

from __future__ import annotations

from collections.abc import Iterator
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


class Softmax:
    """One call of a softmax, along whose axis rows s have the tangent s (dx - <s, dx>)."""

    def __init__(self, layer: Any, x: Dual) -> None:
        self.axis = layer.dim
        along = x[0].movedim(self.axis, -1)
        self.shape = along.shape
        self.rows = along.softmax(-1).reshape(-1, self.shape[-1])
        self.output = self._whole(self.rows.data)  # .data: no view, lest the site hold its node
        self.moved = self.tangent = None
        if x[1] is not None:
            self.moved = torch.empty_like(self.rows)
            for s, step, tangent in _in_blocks(self.rows, self._flat(x[1]), self.moved):
                torch.sub(step, _row_sum(s, step), out=tangent).mul_(s)
            self.tangent = self._whole(self.moved.data)

    def _flat(self, x: Tensor) -> Tensor:
        return x.movedim(self.axis, -1).reshape(self.rows.shape)

    def _whole(self, rows: Tensor) -> Tensor:
        return rows.view(self.shape).movedim(-1, self.axis)

    def back(self, gradient: Dual) -> Dual:
        """The gradient at the input, and its tangent."""
        g, dg = self._flat(gradient[0]), None if gradient[1] is None else self._flat(gradient[1])
        value = torch.empty_like(self.rows)
        if dg is None and self.moved is None:
            for s, a, out in _in_blocks(self.rows, g, value):
                torch.sub(a, _row_sum(s, a), out=out).mul_(s)
            return self._whole(value), None
        turn = torch.empty_like(self.rows)
        later = g if dg is None else dg
        earlier = self.rows if self.moved is None else self.moved
        for s, ds, a, da, out, tangent in _in_blocks(self.rows, earlier, g, later, value, turn):
            torch.sub(a, _row_sum(s, a), out=out)
            if dg is None:
                torch.mul(s, -_row_sum(ds, a), out=tangent)
            else:
                level = _row_sum(s, da)
                level = level if self.moved is None else level + _row_sum(ds, a)
                torch.sub(da, level, out=tangent).mul_(s)
            if self.moved is not None:
                tangent.addcmul_(ds, out)
            out.mul_(s)
        return self._whole(value), self._whole(turn)


def _in_blocks(*rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    step = max(1, BLOCK // max(1, rows[0].shape[1]))
    return zip(*(one.split(step) for one in rows), strict=True)


def _row_sum(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a, b)[:, None]
