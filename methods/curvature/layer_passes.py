"""Forward and backward passes along tangents of the parameters, recorded at layers.

Gradients are taken at layer *outputs* only, so that no weight gradient is formed, and nothing
is sent back to the examples' own columns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import jvp, vjp, vmap

from methods.curvature.layer_tangents import Moved
from methods.curvature.moving_layers import SITES, activations, moving
from methods.rows.layers import owned
from methods.task import Examples, Objective, Params, Task

_NONE: tuple[Any, Any] = (None, None)


@dataclass(frozen=True)
class Call:
    """One use of a layer. `edge` is that of the output as the layer returned it."""

    layer: nn.Module
    input: Tensor
    output: Tensor
    edge: GradientEdge
    buffers: dict[str, Tensor]


class Passes:
    """Passes of one task's loss: `scale` times its sum over a batch."""

    def __init__(self, task: Task) -> None:
        self.task, self.loss = task, task.function(task.loss)
        self.layers: list[nn.Module] = []
        self.activations: list[nn.Module] = []
        self.names: dict[tuple[int, str], str] = {}
        self.keeps_graph = False  # of the backward pass, whose rules may then be other ones
        self._changed: set[nn.Module] = set()  # whose output is later changed in place
        if isinstance(task.loss, Objective):
            self.layers, self.names = owned(task.loss.model, task.params)
            self.activations = activations(task.loss.model)

    def own(self, layer: nn.Module, without: Collection[str]) -> dict[str, str]:
        """The names in the task of a layer's parameters, by the layer's own."""
        names = {
            attribute: self.names[id(layer), attribute]
            for attribute, _ in layer.named_parameters(recurse=False)
        }
        return {a: n for a, n in names.items() if n in self.task.params and n not in without}

    def unmoved(self, batch: Examples) -> list[Call]:
        """The calls of layers in a forward pass; finds out which outputs change in place."""
        with torch.enable_grad(), self._recorded() as calls:
            self.loss(self._leaves(), batch)
        self._changed |= {c.layer for c in calls if c.output.grad_fn is not c.edge.node}
        return calls

    def along_one(
        self, batch: Examples, vector: Tensor, scale: float, direct: Collection[str]
    ) -> tuple[list[Moved], Params]:
        """What layers see along one tangent (p,), and products of the parameters in `direct`."""
        leaves, tangents = self._leaves(), self.task.unflatten(vector)
        anchor = vector.new_zeros((), requires_grad=True)
        own_way = [layer for layer in self.layers if self._has_site(layer, direct)]
        with torch.enable_grad(), forward_ad.dual_level():
            duals = {n: forward_ad.make_dual(v, tangents[n]) for n, v in leaves.items()}
            by_sites = [*own_way, *self.activations]
            with self._recorded(own_way) as calls, moving(by_sites, anchor) as moved:
                loss = self.loss(duals, batch).sum() * scale
            at: list[Any] = [*(call.edge for call in calls), *(leaves[n] for n in direct), anchor]
            found = self._gradients(loss, at) if loss.requires_grad else ()
            pairs = [_NONE if one is None else forward_ad.unpack_dual(one) for one in found]
            inputs = [forward_ad.unpack_dual(call.input).tangent for call in calls]
        moved += [
            Moved(
                call.layer,
                call.input.detach(),
                gradient.detach(),
                _block_of_one(x),
                _block_of_one(slope),
                call.buffers,
            )
            for call, x, (gradient, slope) in zip(calls, inputs, pairs, strict=False)
            if gradient is not None
        ]
        own = zip(direct, pairs[len(calls) :], strict=False)
        return moved, {n: slope.detach()[None] for n, (_, slope) in own if slope is not None}

    def along_all(
        self, batch: Examples, vectors: Tensor, scale: float, direct: Collection[str]
    ) -> tuple[list[Moved], Params]:
        """The same along each of some tangents (k, p), sharing what depends on none of them."""
        layers: list[tuple[Any, dict[str, Tensor], bool]] = []

        def gradients(params: Params) -> tuple[Tensor, Any]:
            with self._recorded() as calls:
                loss = self.loss(params, batch).sum() * scale
            at: list[Any] = [*(call.edge for call in calls), *(params[n] for n in direct)]
            layers[:] = [(call.layer, call.buffers, call.input.requires_grad) for call in calls]
            found = self._gradients(loss, at, none=False)
            return loss, (found, [call.input for call in calls])

        def along(tangent: Params) -> Any:
            aux = lambda params: cast(Any, vjp)(gradients, params, has_aux=True)[2]  # noqa: E731
            return jvp(aux, (self.task.params,), (tangent,))

        apart: Any = (None, 0)  # what lies at the parameters is the same along all tangents
        (found, inputs), (slopes, xs) = vmap(along, out_dims=apart)(self.task.unflatten(vectors))
        moved = [
            Moved(layer, x.detach(), gradient, tangent if moves else None, slope, buffers)
            for (layer, buffers, moves), x, tangent, gradient, slope in zip(
                layers, inputs, xs, found, slopes, strict=False
            )
        ]
        return moved, dict(zip(direct, slopes[len(moved) :], strict=True))

    def _gradients(self, loss: Tensor, at: list[Any], none: bool = True) -> tuple[Tensor, ...]:
        """Gradients at each of `at`, those of what the loss does not depend on None or zero."""
        return torch.autograd.grad(
            loss, at, allow_unused=True, create_graph=self.keeps_graph, materialize_grads=not none
        )

    def _has_site(self, layer: nn.Module, direct: Collection[str]) -> bool:
        plain = type(layer) in SITES and layer not in self._changed and not layer._forward_pre_hooks
        return plain and not any(name in direct for name in self.own(layer, ()).values())

    def _leaves(self) -> Params:
        return {n: v.detach().requires_grad_() for n, v in self.task.params.items()}

    @contextmanager
    def _recorded(self, without: Collection[nn.Module] = ()) -> Iterator[list[Call]]:
        """Record every call of a layer made inside the block, in order."""
        calls: list[Call] = []

        def record(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
            if not (_plain(args, output) and output.requires_grad):
                return None
            if layer in self._changed and output._base is not None:  # else the edge stays
                output = output.clone()
            buffers = dict(layer.named_buffers(recurse=False))
            calls.append(Call(layer, args[0], output, get_gradient_edge(output), buffers))
            return output

        handles = [
            layer.register_forward_hook(record) for layer in self.layers if layer not in without
        ]
        try:
            yield calls
        finally:
            for handle in handles:
                handle.remove()


def _plain(args: tuple[Any, ...], output: Any) -> bool:
    return len(args) > 0 and isinstance(args[0], Tensor) and isinstance(output, Tensor)


def _block_of_one(tangent: Tensor | None) -> Tensor | None:
    return None if tangent is None else tangent.detach()[None]
