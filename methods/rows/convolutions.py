"""Per-example gradients of convolutions, factored or formed a few examples at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.rows.parts import Dense, Outer, Part

PATCHES = 1 << 20  # elements of a convolution's inputs unfolded at a time: they stay in cache
WIDE = 16  # numbers that a row of a kernel sees, from which on it pays to contract row by row
FACTORS = 1 << 14  # most elements of factors kept even though the gradient itself is smaller


def parts(layer: Any, x: Tensor, grad: Tensor) -> dict[str, Part]:
    """The parts of a Conv2d's weight and bias, from its input and the gradient at its output."""
    b, groups, m = len(grad), layer.groups, grad.shape[1]
    left = grad.flatten(2)  # (b, m, T)
    kernel, channels = tuple(layer.kernel_size), x.shape[1] // groups
    n, order = channels * kernel[0] * kernel[1], (0, 3, 1, 2)
    factors = left.shape[2] * (m + n)
    weight: Part
    if groups == 1 and factors <= max(FACTORS, m * n):
        right = _patches(layer, x).reshape(b, left.shape[2], n)
        weight = Outer(left.mT, right, m, (*kernel, channels), order)
    else:  # materialised at once, while the patches are in cache
        step = max(1, PATCHES // (n * groups * left.shape[2]))
        some = list(zip(left.split(step), x.split(step), strict=True))
        if groups == 1 and layer.stride[0] == 1 < kernel[0] and n >= WIDE * kernel[0]:
            weight = Dense(_contracted_by_rows(layer, left, some), (1, 3, 0, 2))
        else:
            values = torch.cat([_contracted(layer, one, own) for one, own in some])
            weight = Dense(values.view(b, m, *kernel, channels), order)
    made: dict[str, Part] = {"weight": weight}
    if layer.bias is not None:
        made["bias"] = Dense(left.sum(2))
    return made


def _contracted(layer: Any, left: Tensor, x: Tensor) -> Tensor:
    """Gradients of a convolution's weight, (b groups, m / groups, n), from (b, m, T) outputs."""
    (b, m, terms), groups = left.shape, layer.groups
    patches = _patches(layer, x)  # (b, T, kh, kw, C), kernel-major: one copy of contiguous runs
    if groups > 1:
        patches = patches.unflatten(4, (groups, -1)).movedim(4, 1)  # (b, G, T, kh, kw, C/G)
        left = left.reshape(b * groups, m // groups, terms)
    return torch.bmm(left, patches.reshape(b * groups, terms, -1))


def _contracted_by_rows(layer: Any, left: Tensor, some: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The same, (b, kh, m, kw, C), of a convolution that steps down by one, from a few at a time.

    The rows of the kernel see the same input, each from its own line on: only what its columns see
    is copied. A row of the kernel has its gradients of all examples in one piece of memory.
    """
    (b, m, _), (kh, kw), dh = left.shape, layer.kernel_size, layer.dilation[0]
    channels = layer.in_channels
    values, first = left.new_empty(kh, b, m, kw * channels), 0
    for one, x in some:
        x = _padded(layer, x)
        width = (x.shape[2] - layer.dilation[1] * (kw - 1) - 1) // layer.stride[1] + 1
        image, line, column, _ = x.stride()
        shape = (len(x), x.shape[1], width, kw, channels)
        columns = (image, line, column * layer.stride[1], column * layer.dilation[1], 1)
        seen = x.as_strided(shape, columns).reshape(len(x), -1, kw * channels)
        for i, own in enumerate(values[:, first : first + len(x)]):
            start = i * dh * width
            torch.bmm(one, seen[:, start : start + one.shape[2]], out=own)
        first += len(x)
    return values.transpose(0, 1).unflatten(3, (kw, channels))


def _padded(layer: Any, x: Tensor) -> Tensor:
    """The input of a convolution with its padding and the channels last, (b, h, w, C)."""
    pad = layer._reversed_padding_repeated_twice
    if any(pad):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, pad, mode=mode)
    return x.permute(0, 2, 3, 1).contiguous()


def _patches(layer: Any, x: Tensor) -> Tensor:
    """The input each output position sees, (b, positions, kh, kw, C), as a strided view."""
    x = _padded(layer, x)
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
