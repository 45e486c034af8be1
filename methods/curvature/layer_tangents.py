"""What the calls of layers say of a Hessian product: the second-order half of layers.py.

Of each call: its input and the gradient at its output, and the tangents of both. A weight's row
of the product is (tangent of the gradient) x input + gradient x (tangent of the input), two
products where differentiating the weight's own gradient forms three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jvp
from torch.nn.grad import conv2d_weight

from methods.task import Params


@dataclass(frozen=True)
class Moved:
    """One call of a layer whose parameters move along k tangents.

    inputs, gradients    at the call, the latter of the loss at the call's output
    input_tangents       (k, ...) along each tangent, or None where nothing moves
    gradient_tangents    likewise
    normal               of a normalisation, its input normalised and the tangents of that
    """

    layer: Any
    inputs: Tensor
    gradients: Tensor
    input_tangents: Tensor | None
    gradient_tangents: Tensor | None
    buffers: dict[str, Tensor]
    normal: tuple[Tensor, Tensor | None] | None = None

    def pairs(self, j: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The (gradient, input) whose products add up to the weight's row along tangent j."""
        if self.gradient_tangents is not None:
            yield self.gradient_tangents[j], self.inputs
        if self.input_tangents is not None:
            yield self.gradients, self.input_tangents[j]


class Sums:
    """Rows (k, p) that products are added to in place, parameter by parameter.

    `written` are the parameters that hold a value; of the others the memory is undefined.
    """

    def __init__(self, rows: Params, written: set[str]) -> None:
        self.rows, self.written = rows, written

    def add(self, name: str, values: Tensor) -> None:
        """Add (k, *shape) values."""
        if name in self.written:
            self.rows[name].add_(values)
        else:
            self.rows[name].copy_(values)
            self.written.add(name)

    def opened(self, name: str) -> tuple[Tensor, int]:
        """The rows of a parameter to add to, and what to multiply their present values by."""
        beta = int(name in self.written)
        self.written.add(name)
        return self.rows[name], beta

    def close(self) -> None:
        """Set to zero what no call has written."""
        for name, rows in self.rows.items():
            if name not in self.written:
                rows.zero_()
                self.written.add(name)


Names = dict[str, str]  # of a layer's own parameters that are wanted, to those of the task


def _linear(call: Moved, names: Names, sums: Sums) -> None:
    if "weight" in names:
        rows, beta = sums.opened(names["weight"])
        for j, row in enumerate(rows):
            factor = beta
            for gradient, x in call.pairs(j):
                row.addmm_(_matrix(gradient).T, _matrix(x), beta=factor)
                factor = 1
            if not factor:
                row.zero_()
    if "bias" in names and call.gradient_tangents is not None:
        tangents = call.gradient_tangents
        sums.add(names["bias"], tangents.reshape(len(tangents), -1, tangents.shape[-1]).sum(1))


def _matrix(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _conv2d(call: Moved, names: Names, sums: Sums) -> None:
    layer, later, moved = call.layer, call.gradient_tangents, call.input_tangents
    apart = layer.groups > 1  # then the tangents cannot be further channels of one convolution
    if "weight" in names and later is not None:
        for_some = later.unsqueeze(1) if apart else later[None]
        rows = [_conv2d_weight(layer, _channels(some), call.inputs) for some in for_some]
        sums.add(names["weight"], torch.cat(rows).reshape(len(later), *layer.weight.shape))
    if "weight" in names and moved is not None:
        for_some = moved.unsqueeze(1) if apart else moved[None]
        rows = [_conv2d_weight(layer, call.gradients, _channels(some)) for some in for_some]
        wide = torch.cat(rows, dim=1).unflatten(1, (len(moved), -1))
        sums.add(names["weight"], wide.transpose(0, 1))
    if "bias" in names and later is not None:
        sums.add(names["bias"], later.sum((1, 3, 4)))


def _channels(x: Tensor) -> Tensor:
    """(k, b, C, ...) as (b, k C, ...)."""
    return x[0] if len(x) == 1 else x.transpose(0, 1).flatten(1, 2)


def _conv2d_weight(layer: Any, gradient: Tensor, x: Tensor) -> Tensor:
    padding, groups = layer.padding, layer.groups
    if isinstance(padding, str) or layer.padding_mode != "zeros":
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x, padding = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode), 0
    shape = (gradient.shape[1], x.shape[1] // groups, *layer.kernel_size)
    return conv2d_weight(x, shape, gradient, layer.stride, padding, layer.dilation, groups)


def _embedding(call: Moved, names: Names, sums: Sums) -> None:
    layer, tangents = call.layer, call.gradient_tangents
    if tangents is None:
        return
    index = call.inputs.flatten()
    rows, beta = sums.opened(names["weight"])
    if not beta:
        rows.zero_()
    values = tangents.reshape(len(tangents), -1, layer.embedding_dim)
    if layer.padding_idx is not None:
        values = values * (index != layer.padding_idx)[:, None]
    for row, value in zip(rows, values, strict=True):
        row.index_add_(0, index, value)


def _layer_norm(call: Moved, names: Names, sums: Sums) -> None:
    shape, eps = call.layer.normalized_shape, call.layer.eps
    axes = tuple(range(call.inputs.ndim - len(shape)))
    _normed(call, names, sums, lambda x: F.layer_norm(x, shape, eps=eps), axes)


def _group_norm(call: Moved, names: Names, sums: Sums) -> None:
    groups, eps = call.layer.num_groups, call.layer.eps
    _by_channel(call, names, sums, lambda x: F.group_norm(x, groups, eps=eps))


def _batch_norm(call: Moved, names: Names, sums: Sums) -> None:
    """In evaluation mode, where the layer is an affine map of each example alone."""

    def normal(x: Tensor) -> Tensor:
        at = call.buffers
        return F.batch_norm(x, at["running_mean"], at["running_var"], eps=call.layer.eps)

    _by_channel(call, names, sums, normal)


def _by_channel(call: Moved, names: Names, sums: Sums, normal: Callable[[Tensor], Tensor]) -> None:
    _normed(call, names, sums, normal, (0, *range(2, call.inputs.ndim)))


def _normed(
    call: Moved,
    names: Names,
    sums: Sums,
    normal: Callable[[Tensor], Tensor],
    axes: tuple[int, ...],
) -> None:
    """Add what a gain and an offset get, which are summed over `axes` of the output."""
    later, moved = call.gradient_tangents, call.input_tangents
    total = (lambda t: t.sum(axes)) if axes else (lambda t: t)
    if "weight" in names:
        normed, slopes = call.normal if call.normal else (normal(call.inputs), None)
        if call.normal is None and moved is not None:
            slopes = torch.stack([jvp(normal, (call.inputs,), (one,))[1] for one in moved])
        for values in (
            None if later is None else later * normed,
            None if slopes is None else slopes * call.gradients,
        ):
            if values is not None:
                sums.add(names["weight"], torch.stack([total(one) for one in values]))
    if "bias" in names and later is not None:
        sums.add(names["bias"], torch.stack([total(one) for one in later]))


SUPPORTED: dict[type[nn.Module], Callable[[Moved, Names, Sums], None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
}


def add_products(call: Moved, names: Names, sums: Sums) -> None:
    """Add to `sums` what one call of a layer gives the rows of the parameters in `names`."""
    for kind, add in SUPPORTED.items():
        if isinstance(call.layer, kind):
            add(call, names, sums)
            return
    raise TypeError(f"{type(call.layer).__name__} has no products of its own")
