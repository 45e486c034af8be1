"""Layers along one tangent, in fewer passes over memory than torch's own.

A site is one call of such a layer while its parameters and input are dual numbers: it holds the
output and the output's tangent, and takes a gradient and its tangent back to the input.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from methods.curvature.layer_tangents import Moved
from methods.curvature.moving_activations import Dual, Gelu, Softmax


class _Linear:
    def __init__(self, layer: Any, x: Dual, weight: Dual, bias: Dual | None) -> None:
        self.layer, self.weight = layer, weight
        self.x, n = x, layer.in_features
        (w, v), (a, da) = weight, x
        self.output = F.linear(a, w, None if bias is None else bias[0])
        pairs = [] if v is None else [(a.reshape(-1, n), v.T)]
        pairs += [] if da is None else [(da.reshape(-1, n), w.T)]
        tangent = _products(pairs, None if bias is None else bias[1])
        self.tangent = (
            tangent
            if tangent is None
            else tangent.expand(self.output.numel() // layer.out_features, -1).reshape(
                self.output.shape
            )
        )

    def back(self, gradient: Dual) -> Dual:
        (w, v), (g, dg), m = self.weight, gradient, self.layer.out_features
        pairs = [] if dg is None else [(dg.reshape(-1, m), w)]
        pairs += [] if v is None else [(g.reshape(-1, m), v)]
        tangent = _products(pairs)
        shape = self.x[0].shape
        return (g.reshape(-1, m) @ w).view(shape), _view(tangent, shape)

    def moved(self, gradient: Dual) -> Moved:
        (x, dx), (g, dg) = self.x, gradient
        return Moved(self.layer, x, g, _one(dx), _one(dg), {})


class _LayerNorm:
    """With n = (x - mean) r the normalised input, r its scale, and E the mean over a row:

    tangent of n    r (dx - E dx - n E(n dx)),  of log r  -r E(n dx)
    back            r (g - E g - n E(n g)),  g the gradient times the gain
    """

    def __init__(self, layer: Any, x: Dual, weight: Dual, bias: Dual | None) -> None:
        self.layer, self.x = layer, x
        size = weight[0].numel()
        self.gain = weight[0].flatten(), _flat(weight[1])
        self.n, _, self.scale = torch.native_layer_norm(
            x[0].reshape(-1, size), [size], None, None, layer.eps
        )
        offset: Dual = (self.n.new_zeros(size), None) if bias is None else bias
        shape, (w, v) = x[0].shape, self.gain
        self.output = torch.addcmul(offset[0].flatten(), self.n, w).view(shape)
        self.dn = self.slope = tangent = None
        if x[1] is not None:
            dx = x[1].reshape(-1, size)
            self.slope = _row_mean(self.n, dx).mul_(self.scale)
            self.dn = torch.addcmul(dx * self.scale, self.n, self.slope, value=-1)
            self.dn.sub_(dx.mean(1, keepdim=True).mul_(self.scale))
            tangent = self.dn * w
        self.tangent = _view(_affine(tangent, self.n, v, _flat(offset[1])), shape)

    def back(self, gradient: Dual) -> Dual:
        g, dg = gradient[0].reshape(self.n.shape), _view(gradient[1], self.n.shape)
        n, r, (w, v), shape = self.n, self.scale, self.gain, self.x[0].shape
        scaled = g * w
        along = _row_mean(n, scaled)
        out = self._centred(scaled, along)
        moved = _affine(None if dg is None else dg * w, g, v, None)
        tangent = None if moved is None else self._centred(moved, _row_mean(n, moved))
        if self.dn is not None and self.slope is not None:
            rest = torch.addcmul(n * _row_mean(self.dn, scaled), self.dn, along).mul_(r)
            rest.addcmul_(out, self.slope)
            tangent = rest.neg_() if tangent is None else tangent.sub_(rest)
        return out.view(shape), _view(tangent, shape)

    def _centred(self, g: Tensor, along: Tensor) -> Tensor:
        """r (g - E g - n along)."""
        return torch.addcmul(g - g.mean(1, keepdim=True), self.n, along, value=-1).mul_(self.scale)

    def moved(self, gradient: Dual) -> Moved:
        (x, dx), (g, dg) = self.x, gradient
        normal = self.n.view(x.shape), None if self.dn is None else self.dn.view(1, *x.shape)
        return Moved(self.layer, x, g, _one(dx), _one(dg), {}, normal)


class _BatchNorm:
    """In evaluation mode: a gain and an offset of each channel."""

    def __init__(self, layer: Any, x: Dual, weight: Dual, bias: Dual) -> None:
        self.layer, self.x = layer, x
        mean, variance, eps = layer.running_mean, layer.running_var, layer.eps
        self.shape = (-1, *(1 for _ in range(x[0].ndim - 2)))
        self.scale = (variance + eps).rsqrt().view(self.shape)
        self.n = F.batch_norm(x[0], mean, variance, eps=eps)
        w, v = weight[0].view(self.shape), _view(weight[1], self.shape)
        b, d = bias[0].view(self.shape), _view(bias[1], self.shape)
        self.gain, self.v = self.scale * w, v
        self.output = torch.addcmul(b, self.n, w)
        self.dn = None if x[1] is None else x[1] * self.scale
        tangent = None if self.dn is None else self.dn * w
        self.tangent = _affine(tangent, self.n, v, d)

    def back(self, gradient: Dual) -> Dual:
        g, dg = gradient
        slope = None if self.v is None else self.v * self.scale
        return g * self.gain, _affine(None if dg is None else dg * self.gain, g, slope, None)

    def moved(self, gradient: Dual) -> Moved:
        (x, dx), (g, dg) = self.x, gradient
        return Moved(self.layer, x, g, _one(dx), _one(dg), {}, (self.n, _one(self.dn)))


Site = _Linear | _LayerNorm | _BatchNorm | Gelu | Softmax
SITES: dict[type[nn.Module], Callable[..., Site]] = {
    nn.Linear: _Linear,
    nn.LayerNorm: _LayerNorm,
    nn.BatchNorm1d: _BatchNorm,
    nn.BatchNorm2d: _BatchNorm,
}


def activations(model: nn.Module) -> list[nn.Module]:
    """The layers without parameters that go by sites: exact GELUs and softmaxes."""
    return [one for one in model.modules() if _is_gelu(one) or _is_softmax(one)]


def _is_softmax(layer: Any) -> bool:
    return type(layer) is nn.Softmax and layer.dim is not None


def _is_gelu(layer: Any) -> bool:
    if type(layer) is nn.GELU:
        return layer.approximate == "none"
    return type(layer).__name__ == "GELUActivation" and layer.act is F.gelu


class _Attach(torch.autograd.Function):
    """The output of a site, in the graph: its gradient is told to `seen` and taken back."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, x: Tensor, site: Site, seen: list[Moved]) -> Tensor:
        ctx.site, ctx.seen, output = site, seen, site.output
        del site.output  # else it holds the node that holds it, until a collector comes by
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gradient = _dual(gradients[0])
        if not isinstance(ctx.site, Gelu | Softmax):
            ctx.seen.append(ctx.site.moved(gradient))
        if not ctx.needs_input_grad[1]:
            return None, None, None, None
        value, tangent = ctx.site.back(gradient)
        back = value if tangent is None else forward_ad.make_dual(value, tangent)
        return None, back, None, None


@contextmanager
def moving(layers: Collection[nn.Module], anchor: Tensor) -> Iterator[list[Moved]]:
    """Let `layers`, of the kinds that have sites, go by them; yield what the backward pass adds to.

    Their outputs depend on `anchor`, at which a gradient is asked for to make the pass meet them.
    """
    seen: list[Moved] = []

    def forward(layer: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            site = _site(layer, _dual(x))
        primal = forward_ad.unpack_dual(x).primal
        output: Tensor = _Attach.apply(anchor, primal, site, seen)
        return output if site.tangent is None else forward_ad.make_dual(output, site.tangent)

    try:
        for layer in layers:
            vars(layer)["forward"] = partial(forward, layer)  # before the method of its class
        yield seen
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _site(layer: Any, x: Dual) -> Site:
    if type(layer) not in SITES:
        return Softmax(layer, x) if type(layer) is nn.Softmax else Gelu(layer, x)
    bias = None if layer.bias is None else _dual(layer.bias)
    return SITES[type(layer)](layer, x, _dual(layer.weight), bias)


def _dual(x: Tensor) -> Dual:
    primal, tangent = forward_ad.unpack_dual(x)
    return primal.detach(), None if tangent is None else tangent.detach()


def _products(pairs: list[tuple[Tensor, Tensor]], offset: Tensor | None = None) -> Tensor | None:
    """The sum of matrix products and an offset, in one buffer; None of nothing."""
    total = offset
    for i, (a, b) in enumerate(pairs):
        if i:
            assert total is not None
            total.addmm_(a, b)
        else:
            total = a @ b if total is None else torch.addmm(total, a, b)
    return total


def _row_mean(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a, b)[:, None].div_(a.shape[1])


def _affine(
    total: Tensor | None, n: Tensor, gain: Tensor | None, offset: Tensor | None
) -> Tensor | None:
    """total + n gain + offset of what there is, in place where there is a total."""
    if gain is not None:
        total = n * gain if total is None else total.addcmul_(n, gain)
    if offset is not None:
        total = offset.expand_as(n).clone() if total is None else total.add_(offset)
    return total


def _view(x: Tensor | None, shape: Any) -> Tensor | None:
    return None if x is None else x.reshape(shape)


def _flat(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.flatten()


def _one(x: Tensor | None) -> Tensor | None:
    return None if x is None else x[None]
