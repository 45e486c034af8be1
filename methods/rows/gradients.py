"""Per-example gradients as Rows: factored where layers allow, `vmap(grad)` for the rest."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from methods.errors import MethodError
from methods.rows.factored import Rows
from methods.rows.layers import owned, parts_of, recorded
from methods.rows.parts import Dense, Part, row_bytes
from methods.task import (
    Examples,
    Objective,
    Params,
    PerExample,
    Task,
    chunks,
    count,
    explained,
    take,
)

log = logging.getLogger(__name__)

CHUNK = 64  # examples at a time: their buffers stay in cache
BUDGET = 256 << 20  # bytes those buffers may take
DEVICE_BUDGET = 4 << 30  # the same on an accelerator, which has no such cache to stay in
PROBE = 3  # examples on which factored rows are compared with autograd


def gradient_rows(task: Task, examples: Examples, function: PerExample | None = None) -> Rows:
    """The gradients of n examples, of the loss or another `function`, for example the measurement.

    All rows are in memory at once: for many examples go chunk by chunk, with `Gradients`.
    """
    gradients = Gradients(task, function)
    some = chunks(examples, gradients.chunk(examples))
    return Rows.stacked(gradients.rows(one).compact() for one in some)


class Gradients:
    """The map from examples to the Rows of their gradients at `task.params`.

    function  differentiated example by example; the training loss unless given
    like      Gradients of the same model at other parameters, whose coverage these take over

    One forward and one backward pass over a batch. A probe of the first batch finds the parameters
    that factored layers cover: their parts must equal autograd's gradient, example by example. The
    others fall back to `vmap(grad)` and are logged by name. If the probe's gradients of a parameter
    are all zero, any parts would pass: it is `unproven`, and goes by `vmap(grad)` until a batch has
    a nonzero gradient to compare its parts with.
    """

    def __init__(
        self, task: Task, function: PerExample | None = None, like: Gradients | None = None
    ) -> None:
        task.check()
        self.task, self.function = task, task.loss if function is None else function
        self.fallback: tuple[str, ...] | None = None if like is None else like.fallback
        self.unproven: tuple[str, ...] = () if like is None else like.unproven
        self._bytes: dict[str, int] = {} if like is None else dict(like._bytes)
        self._projected: dict[str, int] = {} if like is None else dict(like._projected)
        self._layers: list[nn.Module] = []
        self._names: dict[tuple[int, str], str] = {}
        if isinstance(self.function, Objective):
            self._layers, self._names = owned(self.function.model, task.params)

    def rows(self, examples: Examples) -> Rows:
        """The gradients of the examples as Rows keyed by parameter name."""
        examples = self.task.move(examples)
        self._probe(examples)
        with explained(self.task, self.function, examples):
            rows = self._rows(examples)
        if not rows.finite():
            raise MethodError(
                "a gradient is not finite: look for NaN in the data or parameters, "
                "or for a loss that overflows"
            )
        return rows

    def _rows(self, examples: Examples) -> Rows:
        by_vmap, names = {*(self.fallback or ()), *self.unproven}, list(self.task.params)
        factored = self._factored(examples) if len(by_vmap) < len(names) else {}
        parts = {n: [] if n in by_vmap else factored.get(n, []) for n in names}
        absent = tuple(n for n in names if not parts[n])  # unused by this batch, perhaps
        values = self._by_vmap(examples, absent)
        for name in absent:
            parts[name] = [Dense(values[name])]
        self._prove(examples, values)
        return Rows(parts, count(examples))

    def sizes(self) -> dict[str, int]:
        """How many numbers of a row belong to each parameter."""
        return {name: value.numel() for name, value in self.task.params.items()}

    def chunk(self, examples: Examples) -> int:
        """How many examples to take at a time: as many as fit the cache and the budget."""
        self._probe(examples)
        return max(1, min(CHUNK, BUDGET // max(1, sum(self._bytes.values()))))

    def projected_chunk(self, examples: Examples) -> int:
        """`chunk` for rows that are projected and never materialised whole."""
        self._probe(examples)
        budget = BUDGET if self.task.device.type == "cpu" else DEVICE_BUDGET
        return max(1, min(CHUNK, budget // max(1, sum(self._projected.values()))))

    def _probe(self, examples: Examples) -> None:
        """Find what is covered, and the bytes per example, before the first pass."""
        if self.fallback is None:
            probe = self.task.move(take(examples, slice(0, PROBE)))
            with explained(self.task, self.function, probe, examples):
                self._verify(probe, tuple(self.task.params))

    def _prove(self, examples: Examples, values: Params) -> None:
        """Verify the unproven on examples whose gradients, `values`, are not zero."""
        for name in self.unproven:
            some = values[name].reshape(len(values[name]), -1).any(1).nonzero()[:PROBE, 0]
            if len(some) and name in self.unproven:
                self._verify(take(examples, some), self.unproven)

    def _factored(self, examples: Examples) -> dict[str, list[Part]]:
        b = count(examples)
        trained = {n: v.detach().requires_grad_() for n, v in self.task.params.items()}
        params = {**(self.task.frozen or {}), **trained}
        with torch.enable_grad(), recorded(self._layers) as calls:
            total = self.function(params, examples).sum()
        edges = [call.output for call in calls]
        grads = torch.autograd.grad(total, edges, allow_unused=True) if edges else ()
        parts: dict[str, list[Part]] = defaultdict(list)
        other: set[str] = set()  # parameters of calls whose first axis is not that of the examples
        with torch.no_grad():
            for call, out in zip(calls, grads, strict=True):
                if out is None:
                    continue
                if len(out) != b or len(call.input) != b:
                    own = call.layer.named_parameters(recurse=False)
                    other.update(self._names[id(call.layer), attribute] for attribute, _ in own)
                    continue
                for attribute, part in parts_of(call, out).items():
                    name = self._names[id(call.layer), attribute]
                    if name in self.task.params:
                        parts[name].append(part)
        return {name: own for name, own in parts.items() if name not in other}

    def _by_vmap(self, examples: Examples, names: tuple[str, ...]) -> Params:
        if not names:
            return {}
        rest = {n: v for n, v in self.task.all_params.items() if n not in names}

        def loss_of_one(params: Params, example: Examples) -> Tensor:
            return self.function({**rest, **params}, {k: v[None] for k, v in example.items()})[0]

        some = {n: self.task.params[n] for n in names}
        return vmap(grad(loss_of_one), in_dims=(None, 0))(some, examples)

    def _verify(self, probe: Examples, names: tuple[str, ...]) -> None:
        """Compare the factored rows of a few examples with autograd's own gradients."""
        if count(probe) == 1:  # otherwise a tensor that all examples share looks like one
            probe = {k: torch.cat([v, v]) for k, v in probe.items()}
        b, itemsize = count(probe), self.task.dtype.itemsize
        factored = self._factored(probe) if self._layers else {}
        truths = [self._by_autograd(take(probe, slice(i, i + 1))) for i in range(b)]
        wrong, unproven = set[str](), set[str]()
        eps = torch.finfo(self.task.dtype).eps
        # Relative to the largest of the probe: a residual near zero is rounding in either way.
        whole = max(_norm(true.values()) for true in truths)
        for name in names:
            parts = factored.get(name, [])
            largest = max(_norm([true[name]]) for true in truths)
            bound = eps**0.6 * (largest + eps**0.5 * whole)
            for i, true in enumerate(truths):
                want = true[name].flatten()
                have = sum((p.matrix()[i] for p in parts), torch.zeros(()).to(want))
                if not parts or not _norm([have - want]) <= bound:
                    wrong.add(name)
            if largest == 0 and name not in wrong:
                unproven.add(name)
            by_vmap = name in wrong or name in unproven
            dense = self.task.params[name].numel() * itemsize
            self._bytes[name] = dense if by_vmap else row_bytes(parts, itemsize)
            self._projected[name] = dense if by_vmap else row_bytes(parts, itemsize, projected=True)
        self.fallback = (*(self.fallback or ()), *(n for n in names if n in wrong))
        self.unproven = tuple(n for n in names if n in unproven)
        if wrong:
            fallen = ", ".join(n for n in names if n in wrong)
            log.warning("per-example gradients by vmap(grad) for: %s", fallen)
        if unproven:
            log.info("no gradient yet, so by vmap(grad) for now: %s", ", ".join(self.unproven))

    def _by_autograd(self, example: Examples) -> Params:
        params = {n: v.detach().requires_grad_() for n, v in self.task.params.items()}
        with torch.enable_grad():
            loss = self.task.function(self.function)(params, example).sum()
        if not loss.requires_grad:
            raise MethodError(f"the loss does not depend on {', '.join(params)}")
        grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        return {
            name: torch.zeros_like(value) if own is None else own
            for (name, value), own in zip(params.items(), grads, strict=True)
        }


def _norm(tensors: Iterable[Tensor]) -> float:
    return sum(float(t.double().square().sum()) for t in tensors) ** 0.5
