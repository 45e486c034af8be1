"""A second derivative of the mean loss: the examples it is taken over, and its damping."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.curvature import products
from methods.curvature.matrix import Operator
from methods.errors import MethodError, one_line
from methods.examples import Examples, chunks, count, sourced, take
from methods.finite import finite
from methods.losses.failures import FAILURES, explained, is_out_of_memory
from methods.losses.proofs import half_overflows, hold_independent
from methods.memory import examples_at_once
from methods.randomness import numpy_generator
from methods.sources import Column, Source
from methods.task import Task

COPIES = 6  # of a forward pass's graph, held by double backward


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
        examples = sourced(examples)
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
        self._fits: int | None = None

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
        """Move and check examples; a sampled curvature does so for the drawn ones only, and one
        over a source for those that are read.
        """
        if isinstance(examples, Source):
            return examples.then(self._ready)
        _check_finite("column", examples)
        return self.task.move(examples)

    def held(self) -> AbstractContextManager[Any]:
        """A block in which the model keeps the task's parameters from one product to the next.

        Of small batches setting them each time takes a tenth. No other code may run inside.
        """
        return self.task.leaves(self.task.loss)

    def apply(self, vectors: Tensor, draw: int | None = None) -> Tensor:
        vectors = vectors.contiguous()
        total = vectors * self.shift if self.shift else torch.zeros_like(vectors)
        self._add_all(total, vectors, 1.0, draw)
        return total

    def add_products(
        self, total: Tensor, vectors: Tensor, scale: float, draw: int | None = None
    ) -> None:
        """Add `scale` times the products without the shift, (k, p), to `total`, in place.

        The two may share no memory. This saves two passes over memory, which for long vectors take
        as long as those of a small batch. What a subclass says of `apply` holds here too.
        """
        if type(self).apply is Curvature.apply:
            self._add_all(total, vectors.contiguous(), scale, draw)
        else:
            total.add_(self.apply(vectors, draw), alpha=scale)
            total.sub_(vectors, alpha=scale * self.shift)

    def _add_all(self, total: Tensor, vectors: Tensor, scale: float, draw: int | None) -> None:
        """Add `scale` times the products over the examples of one draw."""
        if draw is None:
            draw, self.products = self.products, self.products + 1
        batch = self.batch(draw)
        for some in chunks(batch, self.chunk(batch, len(vectors))):
            with twice_differentiated(), explained(self.task, self.task.loss, some):
                hold_independent(self.task, self.task.loss, some)
                self._add(total, some, vectors, scale * count(some) / count(batch))
        why = half_overflows(self.task, self.task.loss, batch)
        if why and not total.isfinite().all():
            raise MethodError(f"a Hessian product is not finite{why}")

    def chunk(self, batch: Examples, vectors: int = 1) -> int:
        """How many examples to take at a time for some vectors; memory is asked for once."""
        if products.forward_pays(vectors, products.CHUNK, self.size):
            return products.CHUNK
        if self._fits is None:
            self._fits = examples_at_once(self.task, self.task.loss, batch, products.CHUNK, COPIES)
        return self._fits

    @abstractmethod
    def _add(self, total: Tensor, batch: Examples, vectors: Tensor, share: float) -> None:
        """Add `share` times the undamped products (k, p) over one batch to `total`, in place."""


def _check_finite(what: str, tensors: Mapping[str, Tensor]) -> None:
    """Report NaN where it enters: an inverse would otherwise blame its own settings."""
    if finite(value for value in tensors.values() if not isinstance(value, Column)):
        return
    for name, value in tensors.items():
        if isinstance(value, Column):
            continue
        if value.is_floating_point() and not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise MethodError(f"{what} {name} has {bad} of {value.numel()} numbers not finite")


@contextmanager
def twice_differentiated() -> Iterator[None]:
    """Take the attention that has second derivatives, and name an operation that has none."""
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        raise MethodError(
            f"a Hessian product needs second derivatives, and this model has none: "
            f"{one_line(error)}; replace that operation (checkpoints: use_reentrant=False; "
            "attention of your own: that of torch; a custom autograd.Function: a backward that is "
            "differentiable), or leave the parameters before it out by `only`"
        ) from error
