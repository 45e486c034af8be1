"""Ways to multiply the Hessian of a batch by vectors, and which of them pays.

By double backward: a gradient whose graph is kept, then one backward pass a vector, or one for
several vectors at once. Many vectors of a small network go by the forward derivative of the
gradient, `jvp(grad)`, several times faster. Other compositions of `torch.func` (its own `hessian`,
`jvp(vmap(grad))`, `grad(jvp)`) are silently wrong through LayerNorm;
tests/methods/curvature/test_operators.py shows two.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from methods.examples import Examples
from methods.losses.failures import FAILURES, is_out_of_memory, refuse_reentrant
from methods.task import Task

CHUNK = 64  # examples differentiated at a time: their buffers stay in cache
NUMBERS = 1 << 25  # examples x vectors x parameters at a time where a block is multiplied at once


def forward_pays(vectors: int, examples: int, size: int) -> bool:
    """Whether a block of vectors goes by the forward derivative of the gradient.

    It does where a pass is so small that the overhead of its operations exceeds their work. Time
    relative to one backward pass per vector, on one of two CPU cores (torch 2.14, float32), for k
    vectors; below 1 is faster. `python -m experiments.timing.products` measures it again.

        network (parameters)       b     shared backward, k = 8, 64     forward, k = 8, 64, 512
        digits CNN (1,448)         1                0.50    0.37           0.63    0.12    0.05
                                   8                0.67    0.51           0.53    0.15    0.13
                                  64                1.03    1.00           0.59    0.50    0.39
        small CNN (2,616)          1                0.58    0.52           0.58    0.17    0.14
                                   8                0.83    0.75           0.54    0.35    0.37
                                  64                1.01    0.97           0.71    0.68
        BERT top (18,243)          1                0.47    0.24           0.80    0.23    0.18
                                   8                0.66    0.50           0.87    0.43    0.41
                                  32                1.00    1.01           0.94    1.07    0.99
        ResNet-14 (172,506)        1                0.99    0.79           0.94    0.89
                                   8                1.05    1.03           1.03    1.02
        ViT (314,186)              1                0.56    0.41           0.78    0.86
    """
    return vectors >= 16 and examples * size <= 200_000


def backward_width(examples: int, size: int) -> int:
    """How many vectors share one backward pass."""
    few = examples <= 8 and examples * size <= 400_000
    return max(1, NUMBERS // (examples * size)) if few else 1


def forward_width(examples: int, size: int) -> int:
    """How many vectors go forward at a time, so that what they leave stays in cache."""
    return max(1, (1 << 21) // (examples * size))


def backward_products(
    task: Task, batch: Examples, vectors: Tensor, width: int
) -> Iterator[list[Tensor]]:
    """The Hessian of a batch's mean loss times `vectors` (k, p), by double backward.

    `width` vectors share a backward pass; each yields one tensor a parameter, (width, *shape), or
    (*shape) for a single vector. Nothing comes where the loss has no second derivative.
    """
    with task.leaves(task.loss) as (leaves, function):
        params = list(leaves.values())
        loss = function(batch).mean()
        if not loss.requires_grad:
            return
        refuse_reentrant(loss)
        grads = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
        curved = [grad.requires_grad for grad in grads]  # others do not depend on the parameters
        if not any(curved):
            return
        outputs = list(compress(grads, curved))

        def product(some: Tensor, retain: bool) -> list[Tensor]:
            along = list(compress(task.tangents(some).values(), curved))
            return list(
                torch.autograd.grad(
                    outputs,
                    params,
                    along,
                    retain_graph=retain,
                    is_grads_batched=some.ndim == 2,
                    materialize_grads=True,
                )
            )

        for start in range(0, len(vectors), width):
            some, more = vectors[start : start + width], start + width < len(vectors)
            if len(some) == 1:
                yield product(some[0], more)
                continue
            try:
                yield product(some, True)
            except FAILURES as error:  # an operation that has no batched backward pass
                if is_out_of_memory(error):
                    raise
                each = [product(vector, True) for vector in some]
                yield [torch.stack(values) for values in zip(*each, strict=True)]


def forward_products(task: Task, batch: Examples, vectors: Tensor, width: int) -> Tensor:
    """The Hessian of a batch's mean loss times `vectors` (k, p), by `jvp(grad)`, (k, p).

    `width` vectors go at a time. Not exact where a backward pass is defined to give no gradient.
    """
    loss = task.function(task.loss)
    gradient = grad(lambda params: loss(params, batch).mean())
    along = vmap(lambda tangent: jvp(gradient, (task.params,), (tangent,))[1])
    moved = [task.flatten(along(task.tangents(v)), 1) for v in vectors.split(width)]
    return torch.cat(moved).to(task.dtype)
