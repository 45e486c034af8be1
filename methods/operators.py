"""Symmetric (p, p) matrices one may only multiply by: Hessian and Gauss-Newton.

Products are formed as `jvp(grad(mean loss))` with `vmap` outside. Other compositions of
`torch.func` (its own `hessian`, `jvp(vmap(grad))`) are silently wrong through LayerNorm;
tests/test_operators.py shows one.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize, grad, jvp, vjp, vmap
from torch.fx import GraphModule, Node
from torch.fx.experimental.const_fold import split_const_subgraphs
from torch.fx.experimental.proxy_tensor import make_fx

from methods.randomness import numpy_generator
from methods.task import Examples, MethodError, Objective, Params, Task, chunks, count, take

CHUNK = 64  # examples differentiated at a time: their buffers stay in cache
KEPT = 128  # examples linearised at a time: fewer passes over the product itself
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
        self.task, self.examples = task, task.move(examples)
        self.damping, self.seed = damping, seed
        self.sample = None if sample is None or sample >= n else sample
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
        return take(self.examples, torch.from_numpy(index).to(self.device))

    def apply(self, vectors: Tensor, draw: int | None = None) -> Tensor:
        if draw is None:
            draw, self.products = self.products, self.products + 1
        batch = self.batch(draw)
        n, total = count(batch), None
        for some in chunks(batch, CHUNK):
            product = self._multiplied(some, vectors)
            share = count(some) / n
            if total is None:
                total = product if share == 1 else product.mul_(share)
            else:
                total.add_(product, alpha=share)
        if total is None:
            raise MethodError("a Hessian product over no examples")
        return total.add_(vectors, alpha=self.shift) if self.shift else total

    def _multiplied(self, batch: Examples, vectors: Tensor) -> Tensor:
        """The undamped products over one batch, (k, p): blocks of vectors where they fit."""
        product = self._mean_product(batch)
        width = max(1, VECTORS // (count(batch) * self.size))
        if len(vectors) == 1 or width == 1:
            rows = [self.task.flatten(product(self.task.unflatten(v))) for v in vectors]
            return torch.stack(rows) if len(rows) > 1 else rows[0][None]
        blocks = vectors.split(width)
        out = [self.task.flatten(vmap(product)(self.task.unflatten(b)), 1) for b in blocks]
        return torch.cat(out) if len(out) > 1 else out[0]

    @abstractmethod
    def _mean_product(self, batch: Examples) -> Callable[[Params], Params]:
        """The product of one tangent with the undamped curvature of a batch."""


class Hessian(Curvature):
    """The Hessian of the mean training loss, forward over reverse."""

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
    """A Hessian over one fixed batch, linearised once for many products (1.5 passes each)."""

    def __init__(self, hessian: Hessian) -> None:
        self.task, self.shift = hessian.task, hessian.shift
        self.size, self.dtype, self.device = hessian.size, hessian.dtype, hessian.device
        if hessian.sample is not None:
            raise MethodError("only a Hessian over fixed examples can be linearised: drop `sample`")
        n = count(hessian.examples)
        self._products = [
            (count(some) / n, _linearized(hessian.gradient(some), self.task.params))
            for some in chunks(hessian.examples, KEPT)
        ]

    def apply(self, vectors: Tensor) -> Tensor:
        total = vectors * self.shift
        for row, vector in zip(total, vectors, strict=True):
            into, given = self.task.unflatten(row), self.task.unflatten(vector)
            tangents = [_laid_out(given[n], like) for n, like in self.task.params.items()]
            for share, product in self._products:
                for part, value in zip(into.values(), product(*tangents), strict=True):
                    part.add_(value, alpha=share)
        return total


def _laid_out(tangent: Tensor, like: Tensor) -> Tensor:
    same = tangent.stride() == like.stride()
    return tangent if same else torch.empty_like(like).copy_(tangent)


def _linearized(gradient: Callable[[Params], Params], params: Params) -> GraphModule:
    """The derivative of a gradient at fixed parameters, traced once: tangents to a list.

    Without `functionalize` an in-place operation of the model is replayed on the trace's own
    constants, so that every product after the first is silently wrong.
    """

    def derivative(*tangents: Tensor) -> list[Tensor]:
        tangent = dict(zip(params, tangents, strict=True))
        out = jvp(functionalize(gradient), (params,), (tangent,))[1]
        return [out[name] for name in params]

    traced = make_fx(derivative)(*map(torch.empty_like, params.values()))
    graph: Any = split_const_subgraphs(traced)
    graph.run_folding()
    _simplify(graph)
    return graph


_ATEN = torch.ops.aten
_FRESH = {  # what they return is nobody else's: it may be overwritten by its only user
    _ATEN.mm.default,
    _ATEN.addmm_.default,
    _ATEN.add_.Tensor,
    _ATEN.convolution.default,
    _ATEN.avg_pool2d_backward.default,
    _ATEN.threshold_backward.grad_input,
}
_SPLIT = {_ATEN.convolution_backward.default}  # of which each part is


def _simplify(module: Any) -> None:
    """Leave out sums with zeros; add and mask in place where nobody else sees the operand."""
    kept = getattr(module, "_FX_CONST_FOLDED_ATTRS", ())
    graph = module.graph

    def layout(node: Any) -> Any:
        meta = node.meta.get("tensor_meta") if isinstance(node, Node) else None
        return meta and (meta.shape, meta.dtype, meta.stride)

    def zero(node: Any) -> bool:
        if node.target is operator.getitem and node.args[0].op == "get_attr":
            return not kept[node.args[1]].any()
        return node.target is _ATEN.zeros_like.default

    def fresh(node: Any) -> bool:
        part = node.target is operator.getitem and node.args[0].op == "call_function"
        made = node.args[0].target if part else node.target
        return len(node.users) == 1 and made in (_SPLIT if part else _FRESH)

    def lighter(node: Any, into: Any, other: Any) -> Any:
        if zero(other):
            return into
        with graph.inserting_before(node):
            if not fresh(into):
                return None
            if other.target is _ATEN.mm.default and len(other.users) == 1:
                return graph.call_function(_ATEN.addmm_.default, (into, *other.args))
            return graph.call_function(_ATEN.add_.Tensor, (into, other))

    for node in list(graph.nodes):
        made, (first, second) = None, (*node.args, None, None)[:2]
        if node.target is _ATEN.add.Tensor and not node.kwargs:
            for into, other in ((first, second), (second, first)):
                if made is None and layout(into) == layout(node) and layout(other):
                    made = lighter(node, into, other)
        elif node.target is _ATEN.threshold_backward.default and layout(first) == layout(node):
            with graph.inserting_before(node):
                out = {"grad_input": first}
                call = _ATEN.threshold_backward.grad_input
                made = graph.call_function(call, node.args, out) if fresh(first) else None
        if made is not None:
            made.meta = node.meta
            node.replace_all_uses_with(made)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()


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

            handle = model.register_forward_hook(spy)
            try:
                objective({**frozen, **params}, batch)
            finally:
                handle.remove()
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
