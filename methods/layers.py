"""What a layer's forward and backward pass already hold of its per-example gradients.

For each supported layer: its input and the gradient at its output, joined to parts of `Rows`.
Gradients are taken at layer *outputs* only, so that no weight gradient is ever formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from methods.rows import Dense, Outer, Part


@dataclass(frozen=True)
class Call:
    """One use of a layer in a forward pass."""

    layer: nn.Module
    input: Tensor
    output: GradientEdge


def _linear(layer: Any, x: Tensor, grad: Tensor) -> dict[str, Part]:
    b = len(grad)
    left, right = grad.reshape(b, -1, layer.out_features), x.reshape(b, -1, layer.in_features)
    parts: dict[str, Part] = {"weight": Outer(left, right, layer.out_features, right.shape[2:])}
    if layer.bias is not None:
        parts["bias"] = Dense(left.sum(1))
    return parts


def _conv2d(layer: Any, x: Tensor, grad: Tensor) -> dict[str, Part]:
    b, groups, m = len(grad), layer.groups, layer.out_channels
    left = grad.flatten(2)  # (b, m, T)
    patches = _patches(layer, x)  # (b, T, kh, kw, C), kernel-major: one copy of contiguous runs
    kernel, channels = tuple(patches.shape[2:4]), patches.shape[4] // groups
    weight: Part
    if groups == 1:
        right = patches.reshape(b, left.shape[2], -1)
        weight = Outer(left.mT, right, m, (*kernel, channels), order=(0, 3, 1, 2))
    else:
        split = patches.unflatten(4, (groups, channels)).movedim(4, 1)  # (b, G, T, kh, kw, C/G)
        right = split.reshape(b * groups, left.shape[2], -1)
        values = torch.bmm(left.reshape(b * groups, m // groups, -1), right)
        weight = Dense(values.view(b, m, *kernel, channels), order=(0, 3, 1, 2))
    parts: dict[str, Part] = {"weight": weight}
    if layer.bias is not None:
        parts["bias"] = Dense(left.sum(2))
    return parts


def _patches(layer: Any, x: Tensor) -> Tensor:
    """The input each output position sees, (b, positions, kh, kw, C), as a strided view."""
    pad = layer._reversed_padding_repeated_twice
    if any(pad):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, pad, mode=mode)
    x = x.permute(0, 2, 3, 1).contiguous()
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    height = (x.shape[1] - dh * (kh - 1) - 1) // sh + 1
    width = (x.shape[2] - dw * (kw - 1) - 1) // sw + 1
    b, h, w, c = x.stride()
    shape = (len(x), height, width, kh, kw, x.shape[3])
    view = x.as_strided(shape, (b, h * sh, w * sw, h * dh, w * dw, c))
    if shape[5] == 1:  # the contiguous runs are those along the width: copy with positions last
        minor = view.permute(0, 3, 4, 5, 1, 2).reshape(len(x), kh, kw, 1, height * width)
        return minor.permute(0, 4, 1, 2, 3)
    return view.reshape(len(x), height * width, kh, kw, x.shape[3])


def _embedding(layer: Any, x: Tensor, grad: Tensor) -> dict[str, Part]:
    b = len(grad)
    index, right = x.reshape(b, -1), grad.reshape(b, -1, layer.embedding_dim)
    if layer.padding_idx is not None:
        right = right * (index != layer.padding_idx)[:, :, None]
    return {"weight": Outer(index, right, layer.num_embeddings, right.shape[2:])}


def _layer_norm(layer: Any, x: Tensor, grad: Tensor) -> dict[str, Part]:
    shape = layer.normalized_shape
    normal = F.layer_norm(x, shape, eps=layer.eps)
    axes = tuple(range(1, grad.ndim - len(shape)))
    total = (lambda t: t.sum(axes)) if axes else (lambda t: t)
    parts: dict[str, Part] = {"weight": Dense(total(grad * normal))}
    if layer.bias is not None:
        parts["bias"] = Dense(total(grad))
    return parts


SUPPORTED: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], dict[str, Part]]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
}


def parts_of(call: Call, grad: Tensor) -> dict[str, Part]:
    """Per-example gradient parts of one layer call, by the layer's own parameter names."""
    for kind, build in SUPPORTED.items():
        if isinstance(call.layer, kind):
            return build(call.layer, call.input, grad)
    raise TypeError(f"{type(call.layer).__name__} has no factored form")


def supported(layer: nn.Module) -> bool:
    """Whether the layer's gradients can be kept factored."""
    if isinstance(layer, nn.LayerNorm):
        return bool(layer.elementwise_affine)
    return isinstance(layer, tuple(SUPPORTED))


@contextmanager
def recorded(layers: list[nn.Module]) -> Iterator[list[Call]]:
    """Record every call of `layers` made inside the block, in order."""
    calls: list[Call] = []

    def record(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        tensors = len(args) > 0 and isinstance(args[0], Tensor) and isinstance(output, Tensor)
        if tensors and output.requires_grad:
            # The edge, not the tensor: a later in-place activation would change the latter.
            calls.append(Call(layer, args[0].detach(), get_gradient_edge(output)))

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
