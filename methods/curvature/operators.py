"""Symmetric (p, p) matrices one may only multiply by: Hessian and Gauss-Newton.

Products are `jvp(grad(mean loss))` with `vmap` outside, or proven equal to it. Other
compositions of `torch.func` (its own `hessian`, `jvp(vmap(grad))`) are silently wrong through
LayerNorm; tests/test_operators.py shows one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize, grad, jvp, linearize, vjp, vmap

from methods.curvature.layer_products import LayerProducts
from methods.errors import MethodError
from methods.randomness import numpy_generator
from methods.task import Examples, Objective, Params, Task, chunks, count, explained, take

CHUNK = 64  # examples differentiated at a time: their buffers stay in cache
VECTORS = 1 << 25  # examples x vectors x parameters in flight when a block is multiplied


class Operator(ABC):
    """A symmetric matrix of `size` rows, known only by its products."""

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

    The multiple is `task.weight_decay + damping`. With `sample`, every product is taken over
    that many examples drawn afresh: product number i of one seed is always the same draw.
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
        """What is added to the diagonal of the mean loss's own curvature."""
        return self.task.weight_decay + self.damping

    def batch(self, draw: int) -> Examples:
        """The examples of product number `draw`: all of them unless sampled."""
        if self.sample is None:
            return self.examples
        n = count(self.examples)
        index = numpy_generator(self.seed, "curvature", draw).choice(n, self.sample, replace=False)
        return self._ready(take(self.examples, torch.from_numpy(index)))

    def _ready(self, examples: Examples) -> Examples:
        """Move and check examples: of a sampled curvature those drawn alone, never all."""
        moved = self.task.move(examples)
        _check_finite("column", moved)
        return moved

    def apply(self, vectors: Tensor, draw: int | None = None) -> Tensor:
        if draw is None:
            draw, self.products = self.products, self.products + 1
        batch = self.batch(draw)
        n, total = count(batch), None
        for some in chunks(batch, CHUNK):
            with explained(self.task, self.task.loss, some):
                total = self._added(total, some, vectors, count(some) / n)
        if total is None:
            raise MethodError("a Hessian product over no examples")
        return total.add_(vectors, alpha=self.shift) if self.shift else total

    def _added(
        self, total: Tensor | None, batch: Examples, vectors: Tensor, share: float
    ) -> Tensor:
        """`total`, None at first, plus `share` times the undamped products over one batch."""
        product = self._multiplied(batch, vectors)
        if total is None:
            return product if share == 1 else product.mul_(share)
        return total.add_(product, alpha=share)

    def _multiplied(self, batch: Examples, vectors: Tensor) -> Tensor:
        """The undamped products over one batch, (k, p): blocks of vectors where they fit."""
        product = self._mean_product(batch)
        if len(vectors) == 1:
            return self.task.flatten(product(self.task.unflatten(vectors[0])))[None]
        width = max(1, VECTORS // (count(batch) * self.size))
        if width == 1:
            rows = torch.empty_like(vectors)  # of large models each is gigabytes
            for row, vector in zip(rows, vectors, strict=True):
                row.copy_(self.task.flatten(product(self.task.unflatten(vector))))
            return rows
        blocks = vectors.split(width)
        out = [self.task.flatten(vmap(product)(self.task.unflatten(b)), 1) for b in blocks]
        return torch.cat(out) if len(out) > 1 else out[0]

    @abstractmethod
    def _mean_product(self, batch: Examples) -> Callable[[Params], Params]:
        """The product of one tangent with the undamped curvature of a batch."""


def _check_finite(what: str, tensors: Mapping[str, Tensor]) -> None:
    """Name NaN at its source: an inverse that met it would blame its own settings."""
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise MethodError(f"{what} {name} has {bad} of {value.numel()} numbers not finite")


class Hessian(Curvature):
    """The Hessian of the mean training loss, forward over reverse.

    Products go by what layers see (layer_products.py) where that is proven equal to `jvp(grad)`.
    """

    @cached_property
    def _layers(self) -> LayerProducts:
        return LayerProducts(self.task, self._multiplied)

    def _added(
        self, total: Tensor | None, batch: Examples, vectors: Tensor, share: float
    ) -> Tensor:
        new, vectors = total is None, vectors.contiguous()
        total = torch.empty_like(vectors) if total is None else total
        self._layers.add(total, batch, vectors, share, new)
        return total

    def gradient(self, batch: Examples) -> Callable[[Params], Params]:
        loss = self.task.function(self.task.loss)
        return grad(lambda params: loss(params, batch).mean())

    def _mean_product(self, batch: Examples) -> Callable[[Params], Params]:
        gradient = self.gradient(batch)
        return lambda tangent: jvp(gradient, (self.task.params,), (tangent,))[1]

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
                product = _linearized(hessian.gradient(some), self.task.params)
            self._products.append((count(some) / count(hessian.examples), product))

    def apply(self, vectors: Tensor) -> Tensor:
        total = vectors * self.shift
        for share, product in self._products:
            for row, vector in zip(total, vectors, strict=True):
                out = product(self.task.unflatten(vector))
                row.add_(self.task.flatten(out), alpha=share)
        return total


def _linearized(gradient: Callable[[Params], Params], params: Params) -> Callable[[Params], Params]:
    """The derivative of a gradient at fixed parameters, traced once.

    Without `functionalize` an in-place operation of the model is replayed on the trace's own
    constants, so that every product after the first is silently wrong.
    """
    product: Callable[[Params], Params] = linearize(functionalize(gradient), params)[1]
    return product


class GaussNewton(Curvature):
    """J^T (d2 loss / d outputs2) J: positive semi-definite for a convex loss of the outputs.

    Needs a loss that calls its model once and gets one tensor from it.
    """

    def _mean_product(self, batch: Examples) -> Callable[[Params], Params]:
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
