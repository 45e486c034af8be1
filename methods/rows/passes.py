"""The ways to per-example gradients: by factored layers, by `vmap(grad)`, by a pass an example."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.jit import ScriptModule

from methods.errors import MethodError
from methods.examples import Examples, chunks, count, take
from methods.losses.failures import FAILURES, is_out_of_memory, reentrant
from methods.losses.objective import Objective, Params, PerExample
from methods.losses.proofs import resolution
from methods.rows.layers import Builder, Call, Recording, laid_out, owned, recorded, spread
from methods.rows.owners import owned_parts, weights
from methods.rows.parts import Dense, Part
from methods.task import Task


class Passes:
    """Passes over a model at `task.params` that give the gradients of `function` of each example.

    like  Passes of the same model at other parameters, whose knowledge of its layers these take
    """

    def __init__(self, task: Task, function: PerExample, like: Passes | None = None) -> None:
        self.task, self.function = task, function
        self._alone: dict[int, set[int]] = {} if like is None else like._alone
        self._shared: set[int] = set() if like is None else like._shared
        self._turned: set[nn.Module] = set() if like is None else like._turned
        self._scattered: set[int] = set() if like is None else like._scattered
        self.idle: set[str] = set()  # parameters that the last factored pass did not meet
        self._layers: dict[nn.Module, Builder] = {}
        self._names: dict[tuple[int, str], str] = {}
        self._modules: tuple[nn.Module, ...] = ()
        if isinstance(function, Objective):
            self._layers, self._names = owned(function.model, task.params)
            parts = function.model.modules()
            self._modules = tuple(part for part in parts if not isinstance(part, ScriptModule))

    def factored(self, examples: Examples, learn: bool = False) -> dict[str, list[Part]]:
        """The parts of what the layers cover; nothing for what they do not."""
        b = count(examples)
        with self.task.leaves(self.function) as (leaves, function):
            record = recorded(self._layers, b, self._shares(b, learn))
            with record as calls, laid_out(*self._followed(learn)):
                losses = function(examples)
            called = {name for call in calls for name in self._of(call)}
            idle = {name: leaf for name, leaf in leaves.items() if name not in called}
            meetings = calls.meetings
            own = [call.output for call in calls if not call.shared]
            inputs: list[Any] = [*own, *(met.copies for met in meetings), *idle.values()]
            scattered = [each for each in calls if id(each.layer) in self._scattered]
            again = bool(meetings or scattered)
            known: dict[str, Any] = {"allow_unused": True, "retain_graph": again}
            found: list[Tensor | None] = []
            if calls:
                found.extend(torch.autograd.grad(losses.sum(), inputs, **known))
            weighed: list[Tensor | None] = []
            if scattered:
                total, outputs = (losses * weights(losses)).sum(), [c.output for c in scattered]
                weighed.extend(torch.autograd.grad(total, outputs, **known))
            singly, ends = found[: len(own)], found[len(own) + len(meetings) :]
            pulled = _pulled(calls, found[len(own) :][: len(meetings)])
        outs = [(pulled if call.shared else singly).pop(0) for call in calls]
        eps = resolution(self.task, self.function, examples) if scattered else 0.0
        parts: dict[str, list[Part]] = defaultdict(list)
        ended = zip(idle.items(), ends, strict=bool(calls))
        # Without a call of its layer in this batch, and without a use elsewhere:
        hidden = reentrant(losses)  # it may be used there
        self.idle = {name for (name, _), out in ended if out is None and not hidden}
        for name in self.idle:
            parts[name].append(Dense(idle[name].new_zeros(1).expand(b, *idle[name].shape)))
        other: set[str] = set()  # parameters of calls whose first axis is not that of the examples
        with torch.no_grad():
            for call, out in zip(calls, outs, strict=True):
                second = weighed.pop(0) if id(call.layer) in self._scattered else None
                if out is None:
                    continue
                try:
                    build = self._layers[call.layer]
                    if second is not None:
                        built = owned_parts(build, call, (out, second), b, eps)
                    elif call.shared:
                        own_forward = isinstance(build, partial)
                        built = build(call if own_forward else spread(call, b), out)
                    elif len(out) != b or len(call.input) != b:
                        raise ValueError("the first axis is not that of the examples")
                    else:
                        built = build(call, out)
                except FAILURES as error:
                    if is_out_of_memory(error):
                        raise
                    other.update(self._of(call))
                    continue
                for attribute, part in built.items():
                    name = self._names.get((id(call.layer), attribute), "")
                    if name in self.task.params:
                        parts[name].append(part)
        kind = self.task.dtype
        return {n: [p.to(kind) for p in own] for n, own in parts.items() if n not in other}

    def factored_if_possible(self, probe: Examples) -> dict[str, list[Part]]:
        """The same for a probe; nothing where one pass over several examples is not possible."""
        try:
            return self.factored(probe, learn=True) if self._layers else {}
        except FAILURES as error:
            if is_out_of_memory(error):
                raise
            if not self._shared:
                return {}
            self._scattered.update(self._shared)  # they may have been mistaken for positions
            self._shared.clear()
            return self.factored_if_possible(probe)

    def look_up_owners(self, names: Iterable[str], yes: bool, among: Iterable[str]) -> list[str]:
        """Whether to look up whose each vector is in the layers of these parameters, from now on.

        Only layers all of whose parameters are `among` those change. The names of what they have.
        """
        names, among, changed = set(names), set(among), set[str]()
        for layer in self._layers:
            every = {self._names[id(layer), a] for a, _ in layer.named_parameters(recurse=False)}
            own = every.intersection(self.task.params)
            if names & own and own <= among and (id(layer) in self._scattered) != yes:
                (self._scattered.add if yes else self._scattered.remove)(id(layer))
                self._shared.discard(id(layer))
                changed |= own
        return [name for name in self.task.params if name in changed]

    def _shares(self, n: int, learn: bool) -> Callable[[nn.Module, int], bool]:
        """Whether a layer's output of this first length is of all n examples together.

        It is of positions, say, if it is as long for one example alone, which a probe tells.
        """

        def shares(layer: nn.Module, length: int) -> bool:
            alone = self._alone.get(id(layer), {1})
            scattered = id(layer) in self._scattered
            if learn and length in alone and 0 not in alone and not scattered:
                self._shared.add(id(layer))
            return id(layer) in self._shared and (alone != {1} or length == 1 != n)

        return shares

    def _followed(self, learn: bool) -> tuple[Iterable[nn.Module], set[nn.Module] | None]:
        """Where `laid_out` changes gradients; in a first pass, where it learns to."""
        return (self._modules, self._turned) if learn else (self._turned, None)

    def _of(self, call: Call) -> list[str]:
        """The model's names of the parameters of a called layer."""
        own = call.layer._parameters
        return [self._names[id(call.layer), n] for n, value in own.items() if value is not None]

    def by_vmap(self, examples: Examples, names: Iterable[str]) -> Params:
        """Gradients (b, *shape) by `vmap(grad)`."""
        rest = {n: v for n, v in self.task.all_params.items() if n not in names}

        def loss_of_one(params: Params, example: Examples) -> Tensor:
            return self.function({**rest, **params}, {k: v[None] for k, v in example.items()})[0]

        some = {n: self.task.params[n] for n in names}
        found = vmap(grad(loss_of_one), in_dims=(None, 0))(some, examples)
        return {name: value.to(self.task.dtype) for name, value in found.items()}

    def learn_alone(self, examples: Examples, names: Iterable[str]) -> Params:
        """The gradients of `one_by_one`; how long the inputs of layers are there is remembered."""
        with recorded(self._layers) as calls:
            truth = self.one_by_one(examples, names)
        for call in calls:
            self._alone.setdefault(id(call.layer), set()).add(call.length)
        return truth

    def one_by_one(self, examples: Examples, names: Iterable[str]) -> Params:
        """Gradients (b, *shape) by a pass for each example."""
        if not names:
            return {}
        alone = [self.by_autograd(one) for one in chunks(examples, 1)]
        return {n: torch.stack([grads[n] for grads in alone]) for n in names}

    def within(self, examples: Examples, index: Iterable[int], eps: float) -> Params | None:
        """The gradients of some examples' own losses within their batch, (len(index), *shape).

        None if the loss of one is another there, or its gradient another in a batch of other size:
        then the batch, not rounding to `eps` or a tie, makes a difference.
        """
        found = list[Params]()
        with self.task.leaves(self.function) as (leaves, function):
            for i in index:
                alone = function(take(examples, slice(i, i + 1)))[0].detach()
                own = function(examples)[i].detach()
                if not torch.isclose(own, alone, rtol=eps**0.6, atol=eps):
                    return None
                among = partial(_value, function, examples, i)
                twice = partial(_value, function, _doubled(examples), i)
                one, other = (_gradients(each, list(leaves.values())) for each in (among, twice))
                found.append(self._filled(one))
                if _apart(found[-1], self._filled(other)) > eps**0.6:
                    return None
        return {n: torch.stack([own[n] for own in found]) for n in self.task.params}

    def by_autograd(self, example: Examples) -> Params:
        """The gradients of one example, by plain autograd on the model's own parameters."""
        with self.task.leaves(self.function) as (leaves, function):
            grads = _gradients(partial(_value, function, example, 0), list(leaves.values()))
        return self._filled(grads)

    def _filled(self, grads: Sequence[Tensor | None]) -> Params:
        """Gradients by name, dense and in the type of rows; zeros where there is none."""
        return {
            name: (torch.zeros_like(value) if own is None else own.to_dense()).to(self.task.dtype)
            for (name, value), own in zip(self.task.params.items(), grads, strict=True)
        }

    def refuse_unconnected(self, probe: Examples) -> None:
        """Raise if no loss of the probe is connected to the parameters."""
        with self.task.leaves(self.function) as (leaves, function):
            if not function(probe).requires_grad:
                raise MethodError(f"the loss does not depend on {', '.join(leaves)}")


def _doubled(examples: Examples) -> Examples:
    """A batch with every example twice, each at its place and after all others."""
    return {name: torch.cat([column, column]) for name, column in examples.items()}


def _apart(one: Params, other: Params) -> float:
    """The distance of two gradients, of the larger one's length."""
    left, right = (torch.cat([v.flatten() for v in each.values()]) for each in (one, other))
    return float((left - right).norm() / torch.maximum(left.norm(), right.norm()).clamp_min(1e-30))


def _value(function: Callable[[Examples], Tensor], examples: Examples, i: int) -> Tensor:
    return function(examples)[i]


def _pulled(calls: Recording, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients (b, *shape) at the outputs of shared calls, from those where they are met."""
    outputs = [call.output for call in calls if call.shared]
    total: list[Tensor | None] = [None] * len(outputs)
    for met, own in zip(calls.meetings, grads, strict=True):
        if own is None:
            continue
        known: dict[str, Any] = {"allow_unused": True, "retain_graph": True}
        found = torch.autograd.grad(
            met.shared, outputs, own[:, None], is_grads_batched=True, **known
        )
        for i, more in enumerate(found):
            before = total[i]
            total[i] = more if before is None else before if more is None else before + more
    return total


def _gradients(loss: Callable[[], Tensor], leaves: list[Tensor]) -> Sequence[Tensor | None]:
    """The gradients of a number by leaves."""
    value = loss()
    if not value.requires_grad:
        return [None] * len(leaves)
    if not reentrant(value):
        return torch.autograd.grad(value, leaves, allow_unused=True)
    kept = [leaf.grad for leaf in leaves]  # such a checkpoint allows a whole backward pass alone
    try:
        for leaf in leaves:
            leaf.grad = None
        value.backward()
        return [leaf.grad for leaf in leaves]
    finally:
        for leaf, own in zip(leaves, kept, strict=True):
            leaf.grad = own
