"""Products with the Hessian of a mean loss from what its layers see.

Count one product of a layer's weight with all its inputs as a unit: a forward and backward pass
takes 3, `jvp(grad)` 9, and this 8: the rows of weights are formed from inputs, output gradients
and the tangents of both (layer_tangents.py). Several tangents of a batch share what does not
depend on them: 2 + 6 k units for k.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from methods.curvature.layer_passes import Passes
from methods.curvature.layer_tangents import Sums, add_products
from methods.randomness import numpy_generator
from methods.task import Examples, Params, Task, count, take

log = logging.getLogger(__name__)

PROBE = 3  # examples on which products are held against `jvp(grad)`
VECTORS = 1 << 27  # vectors x elements of all layers' inputs and outputs in flight

Reference = Callable[[Examples, Tensor], Tensor]  # products (k, p) with a batch's Hessian


class LayerProducts:
    """Adds up Hessian products over batches, each parameter in the cheapest proven way.

    Which parameters are covered by layers is found on a probe of the first batch, where products
    must equal those of `reference`, which is `jvp(grad)`; what does not is differentiated itself
    and logged by name. What is zero on the probe proves nothing: such a parameter is `unproven`,
    and differentiated itself too, until a batch has a product to hold it against.
    """

    def __init__(self, task: Task, reference: Reference) -> None:
        self.task, self.reference, self.passes = task, reference, Passes(task)
        self.fallback: tuple[str, ...] | None = None
        self.unproven: tuple[str, ...] = ()
        self._elements = 1  # of layers' inputs and outputs, an example
        self.in_blocks = True  # whether the model can be differentiated along several at once

    def add(self, total: Tensor, batch: Examples, vectors: Tensor, share: float, new: bool) -> None:
        """Add `share` times the products with a batch to `total` (k, p), undefined if `new`."""
        if self.fallback is None:
            self._verify(take(batch, slice(0, PROBE)), tuple(self.task.params))
        direct = {*self.task.params} if self.fallback is None else {*self.fallback, *self.unproven}
        if len(direct) < len(self.task.params):
            met = self._add(total, batch, vectors, share, new, direct)
        else:
            product = self.reference(batch, vectors)
            met = {n for n, v in self.task.unflatten(product).items() if v.any()}
            _ = total.copy_(product).mul_(share) if new else total.add_(product, alpha=share)
        if not met.isdisjoint(self.unproven):
            self._verify(batch, self.unproven)

    def _add(
        self,
        total: Tensor,
        batch: Examples,
        vectors: Tensor,
        share: float,
        new: bool,
        direct: set[str],
    ) -> set[str]:
        """The same with `direct` differentiated themselves: return which of them are not zero."""
        scale, width, met = share / count(batch), 1, set[str]()
        if self.in_blocks:
            held = count(batch) * self._elements + sum(self.task.params[n].numel() for n in direct)
            width = -(-len(vectors) // -(-len(vectors) * held // VECTORS))
        for rows, some in zip(total.split(width), vectors.split(width), strict=True):
            sums = Sums(self.task.unflatten(rows), set() if new else set(self.task.params))
            if len(some) == 1:
                moved, own = self.passes.along_one(batch, some[0], scale, direct)
            else:
                moved, own = self.passes.along_all(batch, some, scale, direct)
            with torch.no_grad():
                for call in moved:
                    if names := self.passes.own(call.layer, direct):
                        add_products(call, names, sums)
                for name, values in own.items():
                    sums.add(name, values)
                sums.close()
            met |= {n for n in self.unproven if n in own and own[n].any()}
        return met

    def _verify(self, probe: Examples, names: tuple[str, ...]) -> None:
        """Hold products with random vectors against the reference, for each of `names`."""
        draw = numpy_generator(0, "probe")
        vectors = torch.from_numpy(draw.standard_normal((2, self.task.size)))
        vectors = vectors.to(self.task.device, self.task.dtype)  # not kept in double
        true = self.task.unflatten(self.reference(probe, vectors))
        if not all(value.isfinite().all() for value in true.values()):
            return  # no ground to judge on; what asked for the product will say so
        other = {*(self.fallback or ()), *self.unproven} - {*names}
        calls = self.passes.unmoved(probe)
        elements = sum(call.input.numel() + call.output.numel() for call in calls)
        self._elements = max(1, elements // count(probe))
        wrong = self._wrong(probe, vectors, true, other) & {*names}
        if len(wrong) == len(true):  # GroupNorm's first rule has no derivative, its second has
            self.passes.keeps_graph = True
            wrong = self._wrong(probe, vectors, true, other) & {*names}
        if 0 < len(wrong) < len(true) and self._wrong(probe, vectors, true, other | wrong):
            wrong = {*names}
        self.fallback = (*(self.fallback or ()), *(n for n in names if n in wrong))
        self.unproven = tuple(n for n in names if n not in wrong and not true[n].any())
        if wrong:
            fallen = ", ".join(n for n in names if n in wrong)
            log.warning("Hessian products by jvp(grad) for: %s", fallen)
        if self.unproven:
            log.info("no curvature yet, so by jvp(grad) for now: %s", ", ".join(self.unproven))

    def _wrong(self, probe: Examples, vectors: Tensor, true: Params, direct: set[str]) -> set[str]:
        """The parameters whose products are not the true ones, one vector at a time or in block."""
        found = torch.empty_like(vectors)  # one at a time: of large models each is gigabytes
        for row, vector in zip(found, vectors, strict=True):
            one = self._trial(probe, vector[None], direct)
            if one is None:
                return {*true}
            row.copy_(one[0])
        wrong = self._differing(found, true)
        del found, one
        if self.in_blocks:
            together = self._trial(probe, vectors, direct)
            if together is None:
                self.in_blocks = False
                log.warning("the model's Hessian products are taken one vector at a time")
            else:
                wrong |= self._differing(together, true)
        return wrong

    def _differing(self, products: Tensor, true: Params) -> set[str]:
        """The parameters whose products (k, p) are not the true ones, but for rounding."""
        # Single precision's, even of a model in double: attention may take its softmax in single.
        eps = torch.finfo(torch.float32).eps
        rounding = eps**0.9 * _norm(true.values())  # of a product that is zero but for it
        have = self.task.unflatten(products)
        return {
            name
            for name, want in true.items()
            if not _norm([have[name] - want]) <= eps**0.6 * _norm([want]) + rounding
        }

    def _trial(self, probe: Examples, vectors: Tensor, direct: set[str]) -> Tensor | None:
        """Products (k, p) by layers, or None, and why in the log, where the model has none."""
        total = torch.empty_like(vectors)
        try:
            self._add(total, probe, vectors, 1.0, True, direct)
        except (RuntimeError, ValueError, TypeError, LookupError) as error:
            log.info("no Hessian products by layers of this model: %s", error)
            return None
        return total


def _norm(tensors: Iterable[Tensor]) -> float:
    return sum(float(t.double().square().sum()) for t in tensors) ** 0.5
