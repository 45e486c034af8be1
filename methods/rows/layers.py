"""Per-example gradients from what a layer's forward and backward pass already compute.

Each supported layer joins its input and the gradient at its output to parts of `Rows`.
Gradients are taken at layer *outputs* only, so that no weight gradient is ever formed.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from methods.rows.parts import Dense, Outer, Part

PATCHES = 1 << 20  # elements of a convolution's inputs unfolded at a time: they stay in cache
FACTORS = 1 << 14  # most elements of factors kept even though the gradient itself is smaller


@dataclass(frozen=True)
class Call:
    """One use of a layer in a forward pass, with the buffers then in force (of a checkpoint)."""

    layer: Any
    input: Tensor
    output: GradientEdge
    buffers: dict[str, Tensor]


def _linear(call: Call, grad: Tensor) -> dict[str, Part]:
    layer, x, b = call.layer, call.input, len(grad)
    left, right = grad.reshape(b, -1, layer.out_features), x.reshape(b, -1, layer.in_features)
    parts: dict[str, Part] = {"weight": Outer(left, right, layer.out_features, right.shape[2:])}
    if layer.bias is not None:
        parts["bias"] = Dense(left.sum(1))
    return parts


def _conv2d(call: Call, grad: Tensor) -> dict[str, Part]:
    layer, b = call.layer, len(grad)
    groups, m = layer.groups, layer.out_channels
    left = grad.flatten(2)  # (b, m, T)
    kernel, channels = tuple(layer.kernel_size), layer.in_channels // groups
    n, order = channels * kernel[0] * kernel[1], (0, 3, 1, 2)
    factors = left.shape[2] * (m + n)
    weight: Part
    if groups == 1 and factors <= max(FACTORS, m * n):
        right = _patches(layer, call.input).reshape(b, left.shape[2], n)
        weight = Outer(left.mT, right, m, (*kernel, channels), order)
    else:  # materialised at once, while the patches are in cache
        step = max(1, PATCHES // (n * groups * left.shape[2]))
        some = zip(left.split(step), call.input.split(step), strict=True)
        values = torch.cat([_contracted(layer, one, x) for one, x in some])
        weight = Dense(values.view(b, m, *kernel, channels), order)
    parts: dict[str, Part] = {"weight": weight}
    if layer.bias is not None:
        parts["bias"] = Dense(left.sum(2))
    return parts


def _contracted(layer: Any, left: Tensor, x: Tensor) -> Tensor:
    """Gradients of a convolution's weight, (b groups, m / groups, n), from (b, m, T) outputs."""
    (b, m, terms), groups = left.shape, layer.groups
    patches = _patches(layer, x)  # (b, T, kh, kw, C), kernel-major: one copy of contiguous runs
    if groups > 1:
        patches = patches.unflatten(4, (groups, -1)).movedim(4, 1)  # (b, G, T, kh, kw, C/G)
        left = left.reshape(b * groups, m // groups, terms)
    return torch.bmm(left, patches.reshape(b * groups, terms, -1))


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


def _embedding(call: Call, grad: Tensor) -> dict[str, Part]:
    layer, x, b = call.layer, call.input, len(grad)
    index, right = x.reshape(b, -1), grad.reshape(b, -1, layer.embedding_dim)
    if layer.padding_idx is not None:
        right = right * (index != layer.padding_idx)[:, :, None]
    return {"weight": Outer(index, right, layer.num_embeddings, right.shape[2:])}


def _layer_norm(call: Call, grad: Tensor) -> dict[str, Part]:
    layer = call.layer
    shape = layer.normalized_shape
    normal = F.layer_norm(call.input, shape, eps=layer.eps)
    axes = tuple(range(1, grad.ndim - len(shape)))
    total = (lambda t: t.sum(axes)) if axes else (lambda t: t)
    parts: dict[str, Part] = {"weight": Dense(total(grad * normal))}
    if layer.bias is not None:
        parts["bias"] = Dense(total(grad))
    return parts


def _group_norm(call: Call, grad: Tensor) -> dict[str, Part]:
    normal = F.group_norm(call.input, call.layer.num_groups, eps=call.layer.eps)
    return _by_channel(normal, grad)


def _batch_norm(call: Call, grad: Tensor) -> dict[str, Part]:
    """In evaluation mode, where the layer is an affine map of each example alone."""
    mean, variance = call.buffers["running_mean"], call.buffers["running_var"]
    normal = F.batch_norm(call.input, mean, variance, eps=call.layer.eps)
    return _by_channel(normal, grad)


def _by_channel(normal: Tensor, grad: Tensor) -> dict[str, Part]:
    """The parts of a gain and an offset of each channel, (b, channels, ...)."""
    axes = tuple(range(2, grad.ndim))
    total = (lambda t: t.sum(axes)) if axes else (lambda t: t)
    return {"weight": Dense(total(grad * normal)), "bias": Dense(total(grad))}


SUPPORTED: dict[type[nn.Module], Callable[[Call, Tensor], dict[str, Part]]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
}


def parts_of(call: Call, grad: Tensor) -> dict[str, Part]:
    """Per-example gradient parts of one layer call, by the layer's own parameter names."""
    for kind, build in SUPPORTED.items():
        if isinstance(call.layer, kind):
            return build(call, grad)
    raise TypeError(f"{type(call.layer).__name__} has no factored form")


def supported(layer: nn.Module) -> bool:
    """Whether the layer's gradients can be kept factored."""
    if isinstance(layer, nn.LayerNorm):
        return bool(layer.elementwise_affine)
    if isinstance(layer, nn.GroupNorm):
        return bool(layer.affine)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        # In training mode an example depends on its batch.
        return bool(layer.affine and layer.track_running_stats and not layer.training)
    return isinstance(layer, tuple(SUPPORTED))


def owned(
    model: nn.Module, params: Container[str]
) -> tuple[list[nn.Module], dict[tuple[int, str], str]]:
    """The supported layers that have one of `params`, and the model's names of their parameters.

    A name is looked up by the `id` of the layer and the layer's own name of the parameter.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    layers: list[nn.Module] = []
    parameters: dict[tuple[int, str], str] = {}
    for layer in model.modules():
        if not supported(layer):
            continue
        own = {attribute: names[id(p)] for attribute, p in layer.named_parameters(recurse=False)}
        if any(name in params for name in own.values()):
            layers.append(layer)
            parameters |= {(id(layer), attribute): name for attribute, name in own.items()}
    return layers, parameters


@contextmanager
def recorded(layers: list[nn.Module]) -> Iterator[list[Call]]:
    """Record every call of `layers` made inside the block, in order."""
    calls: list[Call] = []

    def record(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        tensors = len(args) > 0 and isinstance(args[0], Tensor) and isinstance(output, Tensor)
        if not (tensors and output.requires_grad):
            return None
        if output._base is not None:  # of a view, a later in-place activation changes the edge too
            output = output.clone()
        # The edge, not the tensor: a later in-place activation would change the latter.
        buffers = {name: b.detach() for name, b in layer.named_buffers(recurse=False)}
        calls.append(Call(layer, args[0].detach(), get_gradient_edge(output), buffers))
        return output

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
