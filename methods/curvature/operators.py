"""Symmetric (p, p) matrices one may only multiply by: Hessian and Gauss-Newton.

A Hessian is multiplied by double backward: a gradient whose graph is kept, then one backward pass a
vector, or one for several vectors at once (`vectors_at_once`). `jvp(grad)` is never faster by much,
needs twice the memory, and takes up to three times as long on few examples. Other compositions of
`torch.func` (its own `hessian`, `jvp(vmap(grad))`, `grad(jvp)`) are silently wrong through
LayerNorm; tests/methods/curvature/test_operators.py shows two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize, grad, jvp, linearize, vjp, vmap

from methods.errors import MethodError
from methods.randomness import numpy_generator
from methods.task import Examples, Objective, Params, Task, chunks, count, explained, take

CHUNK = 64  # examples differentiated at a time: their buffers stay in cache
FEW, SMALL = 8, 400_000  # examples, and examples x parameters, of a pass that several vectors share
NUMBERS = 1 << 25  # examples x vectors x parameters at a time where a block is multiplied at once


class Operator(ABC):
    """A symmetric matrix of `size` rows, known only by its products with vectors."""

    size: int

    @abstractmethod
    def apply(self, vectors: Tensor) -> Tensor:
        """Multiply each row of `vectors` (k, p), returning (k, p)."""

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Multiply columns: (p,) -> (p,), (p, k) -> (p, k)."""
        if vectors.shape[0] != self.size:
            raise MethodError(f"a vector of {vectors.shape[0]} times an operator of {self.size}")
        if vectors.ndim == 1:
            return self.apply(vectors[None])[0]
        return self.apply(vectors.T).T

    def dense(self, block: int = 256) -> Tensor:
        """The matrix itself, (p, p), by products with the unit vectors."""
        eye = torch.eye(self.size, dtype=self.dtype, device=self.device)
        return torch.cat([self.apply(rows) for rows in eye.split(block)])

    dtype: torch.dtype
    device: torch.device


class Matrix(Operator):
    """A symmetric matrix that fits in memory."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.size = matrix, len(matrix)
        self.dtype, self.device = matrix.dtype, matrix.device

    def apply(self, vectors: Tensor) -> Tensor:
        return vectors @ self.matrix.T


class Curvature(Operator):
    """A second derivative of the mean loss over `examples`, plus a multiple of the identity.

    The multiple is `task.weight_decay + damping`. With `sample`, every product uses that many
    freshly drawn examples; product number i of one seed always uses the same ones.
    """

    def __init__(
        self,
        task: Task,
        examples: Examples,
        damping: float = 0.0,
        sample: int | None = None,
        seed: int = 0,
    ) -> None:
        n = count(examples)
        if n == 0:
            raise MethodError("a Hessian of no examples: pass the training examples to `fit`")
        task.check()
        self.task, self.damping, self.seed = task, damping, seed
        self.sample = None if sample is None or sample >= n else sample
        _check_finite("parameter", task.all_params)
        self.examples = examples if self.sample is not None else self._ready(examples)
        self.size, self.dtype, self.device = task.size, task.dtype, task.device
        self.products = 0

    @property
    def shift(self) -> float:
        """The number added to the diagonal of the mean loss's curvature."""
        return self.task.weight_decay + self.damping

    def batch(self, draw: int) -> Examples:
        """The examples of product number `draw`: all, unless sampled."""
        if self.sample is None:
            return self.examples
        n = count(self.examples)
        index = numpy_generator(self.seed, "curvature", draw).choice(n, self.sample, replace=False)
        return self._ready(take(self.examples, torch.from_numpy(index)))

    def _ready(self, examples: Examples) -> Examples:
        """Move and check examples; a sampled curvature does so for the drawn ones only."""
        moved = self.task.move(examples)
        _check_finite("column", moved)
        return moved

    def apply(self, vectors: Tensor, draw: int | None = None) -> Tensor:
        if draw is None:
            draw, self.products = self.products, self.products + 1
        batch, vectors = self.batch(draw), vectors.contiguous()
        total = vectors * self.shift if self.shift else torch.zeros_like(vectors)
        for some in chunks(batch, CHUNK):
            with explained(self.task, self.task.loss, some):
                self._add(total, some, vectors, count(some) / count(batch))
        return total

    @abstractmethod
    def _add(self, total: Tensor, batch: Examples, vectors: Tensor, share: float) -> None:
        """Add `share` times the undamped products (k, p) over one batch to `total`, in place."""


def _check_finite(what: str, tensors: Mapping[str, Tensor]) -> None:
    """Report NaN where it enters: an inverse would otherwise blame its own settings."""
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise MethodError(f"{what} {name} has {bad} of {value.numel()} numbers not finite")


def vectors_at_once(examples: int, size: int) -> int:
    """How many vectors share one backward pass over `examples` of a model of `size` parameters.

    Several where the pass is so small that the overhead of its operations exceeds their work.
    Time relative to one pass per vector, on one of two CPU cores (torch 2.14, float32); below 1 is
    faster. `python -m experiments.timing.products` measures it again, except for products at
    layers, a removed implementation: 900 lines and up to 2.3 times the memory. Larger batches go in
    chunks of 64.

        network (thousands)     b    8 at once   jvp(grad), k = 8 and 1   at layers, k = 8 and 1
        small CNN (3)           1         0.58             0.59    2.11
                                8         0.76             0.55    1.62
                               32         1.04             1.23    1.15
        BERT top (18)           1         0.41             0.90    2.60             1.06    2.13
                               32         0.68             0.95    2.14             1.13    1.64
        ResNet-14 (173)         1         0.87             0.98    2.16             1.37    1.19
                               32                                  1.00                     0.89
                               64                                  0.96                     0.77
        ViT (314)               1         0.46             0.74    2.90             0.90    1.82
                               32         1.09             1.11    1.79             1.08    1.20
                               64         1.09             1.42    1.39             1.38    1.10
        CNN (824)               1         2.63             1.04    1.49             1.03    1.30
                               32         1.14             1.12    0.91             1.05    0.85
                               64         1.12             1.48    0.87             1.30    0.82
        BERT top (5,472)        1         1.31             1.22    1.56             1.05    1.12
                               32                                  1.17                     0.92
    """
    work = examples * size
    return max(1, NUMBERS // work) if examples <= FEW and work <= SMALL else 1


class Hessian(Curvature):
    """The Hessian of the mean training loss, by double backward."""

    def _add(self, total: Tensor, batch: Examples, vectors: Tensor, share: float) -> None:
        leaves = {n: v.detach().requires_grad_() for n, v in self.task.params.items()}
        params = list(leaves.values())
        with torch.enable_grad():
            loss = self.task.function(self.task.loss)(leaves, batch).mean()
            if not loss.requires_grad:
                return
            grads = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
        curved = [grad.requires_grad for grad in grads]  # others do not depend on the parameters
        if not any(curved):
            return
        outputs = list(compress(grads, curved))
        width = vectors_at_once(count(batch), self.size)
        for start in range(0, len(vectors), width):
            rows, some = total[start : start + width], vectors[start : start + width]
            if len(some) == 1:
                rows, some = rows[0], some[0]
            products = torch.autograd.grad(
                outputs,
                params,
                list(compress(self.task.unflatten(some).values(), curved)),
                retain_graph=start + width < len(vectors),
                is_grads_batched=some.ndim == 2,
                materialize_grads=True,
            )
            for row, product in zip(self.task.unflatten(rows).values(), products, strict=True):
                row.add_(product, alpha=share)

    def linearized(self) -> Linearized:
        """The same matrix with its derivative graph kept: cheaper products, more memory."""
        return Linearized(self)


class Linearized(Operator):
    """A Hessian over one fixed batch, linearised once for many products (1.2 passes each)."""

    def __init__(self, hessian: Hessian) -> None:
        self.task, self.shift = hessian.task, hessian.shift
        self.size, self.dtype, self.device = hessian.size, hessian.dtype, hessian.device
        if hessian.sample is not None:
            raise MethodError("only a Hessian over fixed examples can be linearised: drop `sample`")
        self._products: list[tuple[float, Callable[[Params], Params]]] = []
        for some in chunks(hessian.examples, CHUNK):
            with explained(self.task, self.task.loss, some):
                product = _linearized(self.task, some)
            self._products.append((count(some) / count(hessian.examples), product))
        self._check(hessian)

    def _check(self, hessian: Hessian) -> None:
        """Compare one product: forward mode moves what a backward pass holds still.

        An example is the padding row of an embedding, whose gradient is zero by definition.
        """
        probe = numpy_generator(0, "linearized").standard_normal(self.size)
        vector = torch.from_numpy(probe).to(self.device, self.dtype)[None]
        ours, exact = self.apply(vector), hessian.apply(vector)
        if (ours - exact).norm() > torch.finfo(self.dtype).eps ** 0.5 * exact.norm():
            raise MethodError(
                "this model cannot be linearised exactly (an embedding with `padding_idx`?): "
                "multiply by the Hessian itself, without `linearized()`"
            )

    def apply(self, vectors: Tensor) -> Tensor:
        total = vectors * self.shift
        for share, product in self._products:
            for row, vector in zip(total, vectors, strict=True):
                out = product(self.task.unflatten(vector))
                row.add_(self.task.flatten(out), alpha=share)
        return total


def _linearized(task: Task, batch: Examples) -> Callable[[Params], Params]:
    """The derivative of the gradient of a batch's mean loss, traced once.

    Without `functionalize` an in-place operation of the model is replayed on the trace's own
    constants, so that every product after the first is silently wrong.
    """
    loss = task.function(task.loss)

    def mean_loss(params: Params) -> Tensor:
        return loss(params, batch).mean()

    product: Callable[[Params], Params] = linearize(functionalize(grad(mean_loss)), task.params)[1]
    return product


class GaussNewton(Curvature):
    """J^T (d2 loss / d outputs2) J: positive semi-definite for a convex loss of the outputs.

    Needs a loss that calls its model once and gets one tensor from it.
    """

    def _add(self, total: Tensor, batch: Examples, vectors: Tensor, share: float) -> None:
        product = self._product(batch)
        width = max(1, NUMBERS // (count(batch) * self.size))
        for rows, some in zip(total.split(width), vectors.split(width), strict=True):
            if len(some) == 1:
                rows[0].add_(self.task.flatten(product(self.task.unflatten(some[0]))), alpha=share)
            else:
                products = vmap(product)(self.task.unflatten(some))
                rows.add_(self.task.flatten(products, 1), alpha=share)

    def _product(self, batch: Examples) -> Callable[[Params], Params]:
        """The product of one tangent with the undamped curvature of a batch."""
        objective = self.task.loss
        if not isinstance(objective, Objective):
            raise MethodError("GaussNewton needs a task made by Task.of(module, loss)")
        loss, model = objective.user_loss, objective.model
        frozen = self.task.frozen or {}

        def outputs(params: Params) -> Tensor:
            seen: list[Any] = []

            def spy(_module: Any, _args: Any, output: Any) -> None:
                seen.append(output)

            with model.register_forward_hook(spy):
                objective({**frozen, **params}, batch)
            if len(seen) != 1 or not isinstance(seen[0], Tensor):
                raise MethodError(
                    f"the loss called its model {len(seen)} times: GaussNewton needs one call "
                    "that returns one tensor; use Hessian instead"
                )
            return seen[0]

        def criterion(z: Tensor) -> Tensor:
            return loss(lambda *args, **kwargs: z, batch).mean()

        def product(tangent: Params) -> Params:
            z, dz = jvp(outputs, (self.task.params,), (tangent,))[:2]
            curved = jvp(grad(criterion), (z,), (dz,))[1]
            return vjp(outputs, self.task.params)[1](curved)[0]

        return product
