"""Whose vectors a layer takes, where its first axis is not that of the examples.

A layer may take vectors in any order: those of all tokens in one row (b T, d), time first
(T, b, d), sorted, or some tokens of some examples, as an expert does. Two backward passes tell
whose each is: of the sum of all losses, and of a sum that weighs the loss of example i by i + 1. A
vector that meets example i alone has a gradient i + 1 times as large in the second; what meets
several has gradients that are in no such proportion, and no owner.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from methods.rows.layers import Builder, Call, turned
from methods.rows.parts import Dense, Outer, Part


def weights(losses: Tensor) -> Tensor:
    """What the losses (n,) are weighed by in the second backward pass."""
    return torch.arange(1, len(losses) + 1, dtype=losses.dtype, device=losses.device)


def owned_parts(
    build: Builder, call: Call, grads: tuple[Tensor, Tensor], n: int, eps: float
) -> dict[str, Part]:
    """The parts of n examples of a call, from its gradients of both sums of losses.

    ValueError if a vector has no owner, to the relative rounding error `eps`.
    """
    if any(isinstance(value, Tensor) for value in (*call.more, *call.named.values())):
        raise ValueError("other inputs are in an order of their own")
    axes = _vector_axes(build, call)
    if call.input.shape[:axes] != grads[0].shape[:axes]:
        raise ValueError("a vector at the output is not that of one at the input")
    if not grads[0].numel():  # an expert that no token was sent to
        zeros = {name: call.values[name].new_zeros(1) for name in call.trained}
        return {m: Dense(zero.expand(n, *call.values[m].shape)) for m, zero in zeros.items()}
    plain, weighed = (grad.flatten(0, axes - 1) for grad in grads)
    owner = _owners(plain, weighed, n, eps)
    parts = build(replace(call, input=call.input.flatten(0, axes - 1)), plain)
    return {name: _gathered(part, owner, n) for name, part in parts.items()}


def _vector_axes(build: Builder, call: Call) -> int:
    """How many leading axes of a layer's input number vectors that it takes one by one."""
    layer, x = call.layer, call.input
    if isinstance(layer, nn.Embedding):
        return x.ndim
    if isinstance(layer, nn.Linear) or build is turned:
        return x.ndim - 1
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        return x.ndim - len(layer.normalized_shape)
    return 1


def _owners(plain: Tensor, weighed: Tensor, n: int, eps: float) -> Tensor:
    """The example that each vector belongs to, (N,); any where its gradient is zero."""
    if n * eps > 0.1:
        raise ValueError("too coarse a type to tell so many examples apart")
    first, second = plain.flatten(1).double(), weighed.flatten(1).double()
    squares = first.square().sum(1)
    ratio = (first * second).sum(1) / torch.where(squares == 0, 1.0, squares)
    factor = ratio.round().clamp(1, n)
    off = torch.linalg.vector_norm(second - factor[:, None] * first, dim=1)
    if len(off) and not bool((off <= eps**0.6 * n * squares.max().sqrt()).all()):  # nan is not
        raise ValueError("several examples meet in one vector")
    return factor.long() - 1


def _gathered(part: Part, owner: Tensor, n: int) -> Part:
    """Rows of single vectors (N, ...) as rows of their owners (n, ...), their sums."""
    if isinstance(part, Dense):
        total = part.values.new_zeros(n, *part.values.shape[1:])
        return replace(part, values=total.index_add_(0, owner, part.values))
    sizes = torch.bincount(owner, minlength=n)
    most = max(1, int(sizes.max()))
    order = owner.argsort(stable=True)
    place = torch.arange(len(owner), device=owner.device) - (sizes.cumsum(0) - sizes)[owner[order]]
    slot = owner[order] * most + place

    def laid(factor: Tensor) -> Tensor:  # zeros where an example has fewer vectors than another
        made = factor.new_zeros(n * most, *factor.shape[1:])
        made[slot] = factor[order]
        return made.view(n, most * factor.shape[1], *factor.shape[2:])

    assert isinstance(part, Outer)
    return replace(part, left=laid(part.left), right=laid(part.right))
