"""The Hessian and the Gauss-Newton matrix of the mean loss, as matrices one may multiply by.

Many vectors of a small network go forward, which is held against double backward each time: it
moves what a backward pass holds still (the padding row of an embedding).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize, grad, linearize

from methods.curvature import products
from methods.curvature.curvature import Curvature, twice_differentiated
from methods.curvature.matrix import Operator
from methods.errors import MethodError
from methods.examples import Examples, chunks, count
from methods.losses.failures import FAILURES, explained, refuse_reentrant
from methods.losses.objective import Objective, Params
from methods.losses.proofs import resolution
from methods.randomness import numpy_generator
from methods.task import Task

log = logging.getLogger(__name__)


class Hessian(Curvature):
    """The Hessian of the mean training loss, by double backward or many vectors forward."""

    forward = True  # until a forward product was refused or wrong

    def _add(self, total: Tensor, batch: Examples, vectors: Tensor, share: float) -> None:
        n = count(batch)
        self._prove_symmetric(batch)
        if self.forward and products.forward_pays(len(vectors), n, self.size):
            moved = self._checked_forward(batch, vectors)
            if moved is not None:
                total.add_(moved, alpha=share)
                return
            self.forward = False
        width = products.backward_width(n, self.size)
        pieces = products.backward_products(self.task, batch, vectors, width)
        for piece, rows in zip(pieces, total.split(width), strict=False):
            for row, product in zip(self.task.unflatten(rows).values(), piece, strict=True):
                row.add_(product, alpha=share)

    def _prove_symmetric(self, batch: Examples) -> None:
        """Refuse a second derivative that is wrong in torch: two products, once a task."""
        objective = self.task.loss
        if not isinstance(objective, Objective) or objective.symmetric:
            return
        drawn = numpy_generator(0, "symmetric").standard_normal((2, self.size))
        pair = torch.from_numpy(drawn).to(self.device, self.dtype)
        pieces = products.backward_products(self.task, batch, pair, 1)
        found = [
            self.task.flatten(dict(zip(self.task.params, piece, strict=True))).to(self.dtype)
            for piece in pieces
        ]
        objective.symmetric = True
        if not found:
            return
        largest = torch.stack(found).abs().max()
        tiny = torch.finfo(self.dtype).tiny
        found = [product / (largest + tiny) for product in found]  # squares of 1e-30 are 0
        one, other = torch.dot(pair[0], found[1]), torch.dot(pair[1], found[0])
        eps = resolution(self.task, objective, batch)
        size = float(found[0].norm() + found[1].norm())
        if float((one - other).abs()) > (eps**0.5 + 10 * eps * float(pair[0].norm())) * size:
            objective.symmetric = False
            raise MethodError(
                "the Hessian by double backward is not symmetric, so torch's second derivative of "
                "some operation of this model is wrong: replace that operation by its parts"
            )

    def _checked_forward(self, batch: Examples, vectors: Tensor) -> Tensor | None:
        """Forward products (k, p), if a random mixture of them is what double backward says."""
        k, eps = len(vectors), resolution(self.task, self.task.loss, batch)
        width = products.forward_width(count(batch), self.size)
        try:
            moved = products.forward_products(self.task, batch, vectors, width)
        except (
            Exception
        ) as error:  # whatever it is: double backward repeats it, or has no need of it
            log.info("Hessian products by double backward, up to 20 times slower: %s", error)
            return None
        drawn = numpy_generator(self.products, "mixture").standard_normal((1, k))
        mixture = torch.from_numpy(drawn).to(self.device, self.dtype)
        exact = torch.zeros_like(vectors[:1])
        for piece in products.backward_products(self.task, batch, mixture @ vectors, 1):
            exact = self.task.flatten(dict(zip(self.task.params, piece, strict=True)))[None]
        if not (mixture @ moved - exact).norm() <= eps**0.6 * moved.norm():
            log.info("Hessian products by double backward: forward mode is not exact here")
            return None
        return moved

    def linearized(self) -> Linearized:
        """The same matrix with its derivative graph kept: cheaper products, more memory."""
        return Linearized(self)


class Linearized(Operator):
    """A Hessian over one fixed batch, linearised once for many products (1.2 passes each).

    What cannot be linearised exactly keeps the graph of its gradient for double backward, which
    takes about a quarter longer.
    """

    def __init__(self, hessian: Hessian) -> None:
        self.task, self.shift = hessian.task, hessian.shift
        self.size, self.dtype, self.device = hessian.size, hessian.dtype, hessian.device
        if hessian.sample is not None:
            raise MethodError("only a Hessian over fixed examples can be linearised: drop `sample`")
        exact = self._check(hessian, _linearized)
        if not exact and not self._check(hessian, _kept):
            raise MethodError("this model cannot be linearised: multiply by the Hessian itself")

    def _check(self, hessian: Hessian, way: Callable[[Task, Examples], Any]) -> bool:
        """Whether two products are exact. Forward mode moves what a backward pass holds still.

        An example is the padding row of an embedding, whose gradient is zero by definition.
        """
        self._products: list[tuple[float, Callable[[Tensor], Tensor]]] = []
        try:
            size = hessian.chunk(hessian.examples)
            for some in chunks(hessian.examples, size):
                with twice_differentiated(), explained(self.task, self.task.loss, some):
                    product = way(self.task, some)
                self._products.append((count(some) / count(hessian.examples), product))
            probe = numpy_generator(0, "linearized").standard_normal((2, self.size))
            vectors = torch.from_numpy(probe).to(self.device, self.dtype)
            ours, exact = self.apply(vectors), hessian.apply(vectors)
        except MethodError as error:
            if way is _kept or not isinstance(error.__cause__, FAILURES):
                raise
            log.info("linearised by double backward: %s", error)
            return False
        return bool((ours - exact).norm() <= torch.finfo(self.dtype).eps ** 0.5 * exact.norm())

    def apply(self, vectors: Tensor) -> Tensor:
        total = vectors * self.shift
        for share, product in self._products:
            for row, vector in zip(total, vectors, strict=True):
                row.add_(product(vector), alpha=share)
        return total


def _linearized(task: Task, batch: Examples) -> Callable[[Tensor], Tensor]:
    """The derivative of the gradient of a batch's mean loss, traced once.

    Without `functionalize` an in-place operation of the model is replayed on the trace's own
    constants, so that every product after the first is silently wrong.
    """
    loss = task.function(task.loss)
    with task.leaves(task.loss) as (_, function):
        if "MseLossBackward0" in _operations(function(batch)):  # `linearize` ends the process
            return _kept(task, batch)

    def mean_loss(params: Params) -> Tensor:
        return loss(params, batch).mean()

    product = linearize(functionalize(grad(mean_loss)), task.params)[1]
    return lambda vector: task.flatten(product(task.tangents(vector)))


def _kept(task: Task, batch: Examples) -> Callable[[Tensor], Tensor]:
    """The same by double backward, with the graph of the gradient kept."""
    with task.leaves(task.loss) as (leaves, function):
        params = list(leaves.values())
        known: dict[str, Any] = {"materialize_grads": True}
        loss = function(batch).mean()
        refuse_reentrant(loss)
        grads = torch.autograd.grad(loss, params, create_graph=True, **known)
    curved = [grad.requires_grad for grad in grads]
    outputs = list(compress(grads, curved))

    def product(vector: Tensor) -> Tensor:
        if not outputs:
            return torch.zeros_like(vector)
        along = list(compress(task.tangents(vector).values(), curved))
        with task.leaves(task.loss):
            found = torch.autograd.grad(outputs, params, along, retain_graph=True, **known)
        return task.flatten(dict(zip(task.params, found, strict=True)))

    return product


def _operations(value: Tensor) -> set[str]:
    """Names of the backward operations in the graph of a value."""
    nodes, seen = [value.grad_fn], set[Any]()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
    return {node.name() for node in seen}


class GaussNewton(Curvature):
    """J^T (d2 loss / d outputs2) J: positive semi-definite for a convex loss of the outputs.

    Needs a loss that calls its model once and gets one tensor from it. By reverse mode alone: J v
    is the derivative of J^T w, which is linear in w, times v.
    """

    def _add(self, total: Tensor, batch: Examples, vectors: Tensor, share: float) -> None:
        task, objective = self.task, self.task.loss
        if not isinstance(objective, Objective):
            raise MethodError("GaussNewton needs a task made by Task.of(module, loss)")
        seen: list[Any] = []

        def spy(_module: Any, _args: Any, output: Any) -> None:
            seen.append(output)

        with task.leaves(objective) as (leaves, function):
            params = list(leaves.values())
            with objective.model.register_forward_hook(spy):
                function(batch)
            if len(seen) != 1 or not isinstance(seen[0], Tensor):
                raise MethodError(
                    f"the loss called its model {len(seen)} times: GaussNewton needs one call "
                    "that returns one tensor; use Hessian instead"
                )
            outputs = seen[0]
            refuse_reentrant(outputs)
            known: dict[str, Any] = {"materialize_grads": True}
            weights = torch.zeros_like(outputs, requires_grad=True)
            pulled = torch.autograd.grad(outputs, params, weights, create_graph=True, **known)
            moved = [pull.requires_grad for pull in pulled]
            z = outputs.detach().requires_grad_()
            loss = objective.user_loss(lambda *_args, **_kwargs: z, batch).mean()
            slope = torch.autograd.grad(loss, z, create_graph=True, **known)[0]
            if not (any(moved) and slope.requires_grad):
                return
            curves, known["retain_graph"] = list(compress(pulled, moved)), True
            for row, vector in zip(total, vectors, strict=True):
                along = list(compress(task.tangents(vector).values(), moved))
                change = torch.autograd.grad(curves, weights, along, **known)[0]
                curved = torch.autograd.grad(slope, z, change, **known)[0]
                product = torch.autograd.grad(outputs, params, curved, **known)
                flat = task.flatten(dict(zip(task.params, product, strict=True)))
                row.add_(flat, alpha=share)
