"""Per-example gradients as Rows: factored where layers allow, `vmap(grad)` or a loop elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from math import isfinite, log2
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from methods import memory
from methods.errors import MethodError, one_line
from methods.examples import Examples, chunks, count, sourced, take
from methods.losses.failures import FAILURES, explained, is_out_of_memory
from methods.losses.objective import Params, PerExample
from methods.losses.proofs import half_overflows, prove_independent, prove_read_alike, resolution
from methods.precision import FullPrecision
from methods.randomness import numpy_generator
from methods.rows.factored import Rows
from methods.rows.parts import Dense, Part, row_bytes
from methods.rows.passes import Passes
from methods.task import Task

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

CHUNK = 64  # examples at a time at least: a call of the model costs as much as a few examples
MOST = 256  # and at most, of a small model: more are no faster
CACHED = 32 << 20  # bytes of buffers that stay in cache, for which more than CHUNK are taken
BUDGET = 256 << 20  # bytes that the rows of CHUNK may take
COPIES = 3  # of a forward pass's graph: kept, its gradients, and what vmap(grad) makes of both
PROBE = 3  # examples on which factored rows are compared with autograd


def gradient_rows(task: Task, examples: Examples, function: PerExample | None = None) -> Rows:
    """The gradients of n examples, of the loss or another `function`, for example the measurement.

    All rows are in memory at once: for many examples go chunk by chunk, with `Gradients`.
    """
    examples, gradients = sourced(examples), Gradients(task, function)

    @repeated
    def all_rows() -> Rows:
        some = chunks(examples, gradients.chunk(examples))
        return Rows.stacked(gradients.rows(one).compact() for one in some)

    return all_rows()


class Late(MethodError):
    """A later batch showed that the rows of earlier ones may be wrong: compute them again."""


def repeated(compute: Callable[P, T]) -> Callable[P, T]:
    """A computation that starts again, after `Late`, with the slower ways that it has led to."""

    @wraps(compute)
    def again(*args: P.args, **kwargs: P.kwargs) -> T:
        while True:  # ends: each `Late` has moved a parameter to a slower way
            try:
                return compute(*args, **kwargs)
            except Late as late:
                log.warning("%s", late)

    return again


class Gradients(FullPrecision):
    """The map from examples to the Rows of their gradients at `task.params`.

    function  differentiated example by example; unless given, the training loss, with its
              regulariser where `task.regularised` says that each example has it
    like      Gradients of the same model at other parameters, whose coverage these take over

    One forward and one backward pass over a batch. A probe of a few examples finds the parameters
    that factored layers cover: their parts must equal the gradient by plain autograd of each
    example alone. Where a layer takes vectors in an order of its own (flattened tokens, experts),
    a second backward pass over the batch finds whose each is. The others fall back to
    `vmap(grad)`, and what that cannot do, or does otherwise than autograd, to one pass an example;
    both are logged by name. If the probe's gradients of a parameter are all zero, any parts would
    pass: it is `unproven`, and goes by `vmap(grad)` until a batch has a nonzero gradient to compare
    its parts with.

    A model may mix the examples of a batch in a way that no probe meets. So one row, drawn at
    random, of batch 1, 2, 3, 4, 6, 8, 12, 16, 23, 32, ... is compared with autograd too (a batch of
    several times 64 counts as so many). That costs one example's pass each: 13 in the first 100
    batches of 64, 0.2% of the work (at most 2% where a pass is mere overhead), and less later. What
    differs falls back as above; if earlier rows were made in that way, `Late` is raised.
    """

    def __init__(
        self, task: Task, function: PerExample | None = None, like: Gradients | None = None
    ) -> None:
        task.check()
        self.task, self.function = task, task.loss if function is None else function
        self.decay = task.weight_decay if task.regularised and function is None else 0.0
        self.fallback: tuple[str, ...] | None = None if like is None else like.fallback
        self.singly: tuple[str, ...] = () if like is None else like.singly
        self.unproven: tuple[str, ...] = () if like is None else like.unproven
        self.eps: float = torch.finfo(task.dtype).eps if like is None else like.eps
        self.batches: int = 0 if like is None else like.batches
        self._bytes: dict[str, int] = {} if like is None else dict(like._bytes)
        self._projected: dict[str, int] = {} if like is None else dict(like._projected)
        self._largest: dict[str, float] = {} if like is None else dict(like._largest)
        self._graph: int | None = None if like is None else like._graph
        before: Passes | None = None if like is None else like.passes
        self.passes: Passes = Passes(task, self.function, before)

    def rows(self, examples: Examples) -> Rows:
        """The gradients of the examples as Rows keyed by parameter name."""
        examples = self.task.move(examples)
        self._probe(examples)
        with explained(self.task, self.function, examples):
            prove_independent(self.task, self.function, examples)
            rows = self._rows(examples)
            done = self.batches
            self.batches += max(1, count(examples) // CHUNK)
            for number in range(done + 1, self.batches + 1):
                if number == 1 or _halves(number) > _halves(number - 1):
                    rows = self._held(examples, rows, number, done == 0)
        if self.decay:
            rows = self._decayed(rows)
        if not rows.finite():
            raise MethodError(
                "a gradient is not finite: look for NaN in the data or parameters, for a mask that "
                "leaves a token nothing to attend to, or for a loss that overflows"
                + half_overflows(self.task, self.function, examples)
            )
        return rows

    def _rows(self, examples: Examples) -> Rows:
        slow, names = {*(self.fallback or ()), *self.unproven}, list(self.task.params)
        parts = self.passes.factored(examples) if len(slow) < len(names) else {}
        idle = self.passes.idle if parts else set[str]()
        lost = [n for n in names if n not in slow and n not in idle and not parts.get(n)]
        if changed := self.passes.look_up_owners(lost, True, names):  # in order until this batch
            some = take(examples, slice(0, PROBE))
            self._verify(some, tuple(dict.fromkeys((*changed, *self.unproven))))
            return self._rows(examples)
        absent = tuple(n for n in names if n not in idle and (n in slow or not parts.get(n)))
        values = self._materialised(examples, absent)
        rows = {n: [Dense(values[n])] if n in values else parts[n] for n in names}
        self._prove(examples, values)
        return Rows(rows, count(examples))

    def _decayed(self, rows: Rows) -> Rows:
        """The rows plus weight_decay * params."""
        parts = dict(rows.parts)
        for name, value in self.task.params.items():
            parts[name] += (
                Dense((self.decay * value.to(self.task.dtype)).expand(rows.count, *value.shape)),
            )
        return Rows(parts, rows.count)

    def sizes(self) -> dict[str, int]:
        """How many numbers of a row belong to each parameter."""
        return {name: value.numel() for name, value in self.task.params.items()}

    def chunk(self, examples: Examples) -> int:
        """How many examples to take at a time: as many as fit the cache, or a device's memory."""
        self._probe(examples)
        each = sum(self._bytes.values())
        if self.decay:
            each += self.task.size * self.task.dtype.itemsize
        return self._fitting(examples, each)

    def projected_chunk(self, examples: Examples) -> int:
        """`chunk` for rows that are projected and never materialised whole."""
        self._probe(examples)
        return self._fitting(examples, sum(self._projected.values()))

    def _fitting(self, examples: Examples, each: int) -> int:
        cached = max(1, min(CHUNK, BUDGET // max(1, each)))
        if self._graph is not None:
            cached = max(cached, min(MOST, CACHED // max(1, each + self._graph)))
        return memory.examples_at_once(self.task, self.function, examples, cached, COPIES, each)

    def _probe(self, examples: Examples) -> None:
        """Find what is covered, and the bytes per example, before the first pass."""
        if self.fallback is None:
            n = count(examples)
            spread = torch.linspace(0, max(0, n - 1), min(n, PROBE), dtype=torch.float64)
            index = spread.round().long()
            probe = self.task.move(take(examples, index))
            with explained(self.task, self.function, probe, examples):
                self.eps = resolution(self.task, self.function, probe)
                prove_read_alike(self.task, self.function, examples, index, probe)
                self._verify(probe, tuple(self.task.params))
            self._graph = memory.activation_bytes(self.task, self.function, probe, CACHED // CHUNK)

    def _prove(self, examples: Examples, values: Params) -> None:
        """Verify the unproven on examples whose gradients, `values`, are not zero."""
        if not self.unproven:
            return
        met = [n for n in self.unproven if n in values]  # the others took no part in this batch
        moved = torch.stack([_flat(values[n]).any(1) for n in met]).tolist() if met else []
        for name, own in zip(met, moved, strict=True):
            some = torch.tensor(own).nonzero()[:PROBE, 0]
            if len(some) and name in self.unproven:
                self._verify(take(examples, some), self.unproven)

    def _held(self, examples: Examples, rows: Rows, number: int, first: bool) -> Rows:
        """The rows, once one of them, drawn by a number, is autograd's."""
        n = count(examples)
        i = int(numpy_generator(0, "held row", number).integers(n))
        truth = self.passes.one_by_one(take(examples, slice(i, i + 1)), list(self.task.params))
        have = {name: [part.one(i) for part in rows.parts[name]] for name in truth}
        wrong = self._differing(have, truth, lambda: self.passes.within(examples, [i], self.eps))
        if not wrong:
            return rows
        self._slow_down(wrong)
        if not first:
            raise Late(
                f"the gradient by {', '.join(wrong)} of example {i} of a batch of {n} is not what "
                "it is alone: the model mixes the examples of a batch there, so from now on it "
                "goes by a slower way; compute the rows before it again"
            )
        return self._held(examples, self._rows(examples), number, first)

    def _slow_down(self, names: Iterable[str], why: str = "") -> None:
        """Take the next slower way for each name, and log it."""
        names = tuple(names)
        fallback = self.fallback or ()
        twice = tuple(n for n in names if n in fallback and n not in self.singly)
        once = tuple(n for n in names if n not in fallback)
        if stuck := [n for n in names if n in self.singly]:
            raise MethodError(
                f"the gradient by {stuck[0]} differs between two passes over the same example: "
                "the loss depends on chance, so switch off what draws numbers in it"
            )
        self.fallback, self.singly = fallback + once, self.singly + twice
        self.unproven = tuple(n for n in self.unproven if n not in names)
        for name in names:
            value = self.task.params[name]
            self._bytes[name] = self._projected[name] = value.numel() * self.task.dtype.itemsize
        if once:
            log.warning("per-example gradients by vmap(grad) for: %s", ", ".join(once))
        if twice:
            log.warning(
                "per-example gradients by a pass for each example, many times as slow, for: %s%s",
                ", ".join(twice),
                f" (vmap(grad): {why})" if why else "",
            )

    def _materialised(self, examples: Examples, names: tuple[str, ...]) -> Params:
        """Gradients (b, *shape) of what is not factored: by vmap(grad), else example by example."""
        singly = [n for n in names if n in self.singly]
        rest = [n for n in names if n not in self.singly]
        values: Params = {}
        if rest:
            try:
                values = self.passes.by_vmap(examples, rest)
            except FAILURES as error:
                if is_out_of_memory(error):
                    raise
                values, why = self.passes.one_by_one(examples, names), one_line(error)
                known = [n for n in rest if n not in self.unproven]  # others may yet be factored
                self._slow_down([n for n in known if n not in (self.fallback or ())])
                self._slow_down(known, why)
                return values
        return values | self.passes.one_by_one(examples, singly)

    def _verify(self, probe: Examples, names: tuple[str, ...]) -> None:
        """Compare the rows of a few examples with autograd's own gradients, name by name."""
        if count(probe) == 1:  # otherwise a tensor that all examples share looks like one
            probe = {k: torch.cat([v, v]) for k, v in probe.items()}
        itemsize = self.task.dtype.itemsize
        truth = self.passes.learn_alone(probe, names)
        factored = self.passes.factored_if_possible(probe)
        norms = dict(zip(names, _norms(truth[n] for n in names), strict=True))
        if not any(norm for own in norms.values() for norm in own):
            self.passes.refuse_unconnected(probe)
        for name in names:
            self._largest[name] = max(self._largest.get(name, 0.0), _largest(norms[name]))
        each = range(count(probe))
        parts = {n: factored.get(n, []) for n in names}
        within = partial(self.passes.within, probe, each, self.eps)
        wrong = self._differing(parts, truth, within)
        quick = [n for n in self.task.params if n not in (self.fallback or ())]
        in_vain = self.passes.look_up_owners(wrong, False, self.task.params)
        wrong = [n for n in quick if n in wrong or n in in_vain]
        elsewhere = [n for n in wrong if n not in in_vain]
        if changed := self.passes.look_up_owners(elsewhere, True, names):
            factored = self.passes.factored_if_possible(probe)
            owned = {n: factored.get(n, []) for n in changed}
            still = self._differing(owned, {n: truth[n] for n in changed}, within)
            as_before = {*still, *self.passes.look_up_owners(still, False, names)}
            parts |= {n: owned[n] for n in changed if n not in as_before}
            wrong = [n for n in wrong if n in as_before or n not in changed]
        self.fallback = self.fallback or ()
        self.unproven = tuple(n for n in names if n not in wrong and not _largest(norms[n]))
        for name in names:
            self._bytes[name] = row_bytes(parts[name], itemsize)
            self._projected[name] = row_bytes(parts[name], itemsize, projected=True)
        if wrong:
            self._slow_down(wrong)
        for name in self.unproven:
            self._bytes[name] = self._projected[name] = truth[name][0].numel() * itemsize
        if self.unproven:
            log.info("no gradient yet, so by vmap(grad) for now: %s", ", ".join(self.unproven))
        slow = tuple(n for n in names if n in self.fallback and n not in self.singly)
        if slow:
            values = self._materialised(probe, slow)
            again = self._differing({n: [Dense(values[n])] for n in slow}, truth)
            if again:
                self._slow_down(again)

    def _differing(
        self,
        have: Mapping[str, Iterable[Part]],
        truth: Params,
        within: Callable[[], Params | None] = lambda: None,
    ) -> list[str]:
        """The names whose parts do not sum to the gradients (b, *shape) by autograd.

        Relative to the largest gradient met: a residual near zero is rounding in either way. What
        differs may still be what autograd finds `within` the batch.
        """
        eps, wrong = self.eps, list[str]()
        whole = sum(self._largest[n] ** 2 for n in self._largest) ** 0.5
        wants, residuals = [_flat(truth[name]) for name in have], list[Tensor]()
        for residual, parts in zip(wants, have.values(), strict=True):
            for part in parts:
                residual = residual - part.matrix()
            residuals.append(residual)
        norms = _norms((*wants, *residuals))
        for i, (name, parts) in enumerate(have.items()):
            sizes, errors = norms[i], norms[i + len(wants)]
            bound = eps**0.6 * (max(self._largest[name], _largest(sizes)) + eps**0.5 * whole)
            known = (e for e, s in zip(errors, sizes, strict=True) if isfinite(s))
            if not parts or not all(e <= bound for e in known):  # `rows` reports the unknown
                wrong.append(name)
        if wrong and (truth := within() or {}):
            return self._differing({name: have[name] for name in wrong}, truth)
        return wrong


def _halves(number: int) -> int:
    """How often a number can be divided by the root of 2 before it is below 1."""
    return int(2 * log2(number))


def _flat(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1)


def _norms(tensors: Iterable[Tensor]) -> list[list[float]]:
    """The norms of the rows of tensors (b, ...), for which the host waits once."""
    each = [torch.linalg.vector_norm(_flat(values).double(), dim=1) for values in tensors]
    norms: list[list[float]] = torch.stack(each).tolist()
    return norms


def _largest(norms: Iterable[float]) -> float:
    """The largest finite norm; 0 if there is none."""
    return max([0.0, *(norm for norm in norms if isfinite(norm))])
