"""What each part of an influence function costs, the original's way and ours (Sec. 3.5)."""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.data.pairs import Pairs
from experiments.laboratory import runs
from experiments.models.bert import Encoder, Top
from experiments.pairs import influence, models
from experiments.pairs.influence import check_counts
from experiments.pairs.models import Model, Pass, Sample, Trained, cross_entropy, trained
from methods import workers
from methods.curvature.operators import Hessian
from methods.errors import at_least
from methods.fastif import FastIF, averaged, neighbours, query_gradients, recursion_of, scores
from methods.ihvp.lissa import LiSSA, Recursion
from methods.randomness import numpy_generator, torch_generator
from methods.task import Examples, chunks, count, take
from methods.workers import ALONE, Group

# Influence as the released code computes it: plain autograd, nothing kept, one pair at a time.


Entering = Callable[[Tensor], tuple[Tensor, Tensor]]


def through_trunk(encoder: Encoder, pairs: Pairs) -> Entering:
    """From positions among some pairs to what enters the trained layers, through the frozen ones.

    Tokens are ready; the hidden states (b, T, width) and lengths (b,) are computed at each call.
    """
    tokens = encoder.tokens(pairs)

    def enter(index: Tensor) -> tuple[Tensor, Tensor]:
        length = tokens["length"][index]
        some = {name: tokens[name][index, : int(length.max())] for name in ("ids", "types")}
        return encoder.trunk({**some, "length": length}), length

    return enter


def from_column(examples: Examples) -> Entering:
    """The same from hidden states that were computed once."""

    def enter(index: Tensor) -> tuple[Tensor, Tensor]:
        length = examples["length"][index]
        return examples["hidden"][index, : int(length.max())], length

    return enter


class Plain:
    """Gradients and Hessian products of a classifier by autograd over its own parameters."""

    def __init__(self, top: Top, enter: Entering, label: Tensor) -> None:
        self.module = deepcopy(top).requires_grad_(True)
        self.params = list(self.module.parameters())
        self.enter, self.label = enter, label

    def loss(self, index: Tensor) -> Tensor:
        """The mean loss of the pairs at some positions."""
        return F.cross_entropy(self.module(*self.enter(index)), self.label[index])

    def scores(self, s_test: Tensor, index: Tensor) -> Tensor:
        """<s_test (p,), gradient> of the pairs at some positions, (n,), one after another."""
        parts = self.split(s_test)
        out = torch.empty(len(index))
        for place, one in enumerate(index):
            grads = torch.autograd.grad(self.loss(one[None]), self.params)
            out[place] = sum(float((g * s).sum()) for g, s in zip(grads, parts, strict=True))
        return out

    def product(self, vector: Tensor, index: Tensor) -> Tensor:
        """The Hessian of the mean loss at some positions times a vector (p,), undamped."""
        grads = torch.autograd.grad(self.loss(index), self.params, create_graph=True)
        parts = zip(grads, self.split(vector), strict=True)
        along = torch.stack([(g * v).sum() for g, v in parts]).sum()
        return torch.cat([p.flatten() for p in torch.autograd.grad(along, self.params)])

    def recursion(self, vector: Tensor, damp: float, scale: float, batches: list[Tensor]) -> Tensor:
        """The released recursion, h <- v + (1 - damp) h - H h / scale, over some minibatches."""
        h = vector.clone()
        for index in batches:
            h = vector + (1 - damp) * h - self.product(h, index) / scale
        return h / scale

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views of (p,) in the shapes of the parameters."""
        parts = flat.split([p.numel() for p in self.params])
        return [part.view(p.shape) for part, p in zip(parts, self.params, strict=True)]


# What a Hessian product of the trained layers costs, beside a pass over the same batch.


@dataclass(frozen=True)
class Product:
    """Seconds of both on random batches of training pairs, in turns and with one thread.

    takes is the number of rounds a batch, of which the median counts: others share the machine.
    """

    batch: int = 32
    batches: int = 10
    takes: int = 5

    def run(self, model: Model, scratch: Path) -> dict[str, Any]:
        """Seconds of a product and of a forward and backward pass, (batches,) each."""
        at_least(1, batch=self.batch, batches=self.batches, takes=self.takes)
        there = trained(model)
        check_counts(len(there.pairs), batch=(self.batch,))
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        draw = numpy_generator(model.seed, "batches of products that are timed")
        vector = torch.randn(1, there.task.size, generator=torch_generator(model.seed, "direction"))
        module = deepcopy(there.module).requires_grad_(True)
        unit = partial(one_pass, module, list(module.parameters()))
        found: dict[str, list[float]] = {}
        try:
            for i in range(self.batches):
                chosen = draw.permutation(len(there.pairs))[: self.batch]
                batch = take(there.train, torch.from_numpy(np.sort(chosen)))
                works: Works = {
                    "product": (partial(Hessian(there.task, batch).apply, vector), 1),
                    "product_pass": (partial(unit, batch), 1),
                }
                taken = rounds(works, self.takes + (i == 0))[-self.takes :]  # one to warm up
                for name in works:
                    found.setdefault(name, []).append(median(one[name] for one in taken))
        finally:
            torch.set_num_threads(before)
        product, one = (np.array(found[name]) for name in ("product", "product_pass"))
        return {
            "work": "product",
            "result": f"{np.median(product / one):.3g} passes a Hessian product",
            "product": product,
            "product_pass": one,
            "num_params": there.task.size,
        }


DAMPING, SCALE = FastIF().damping, 1e4  # the released settings: no number here changes the time
PASSED = 64  # pairs of a batched pass
Works = dict[str, tuple[Callable[[], Any], int]]  # by name, with the units that each is of


@dataclass(frozen=True)
class RunTime:
    """Seconds of the linear parts, which the artifact multiplies; one thread a process.

    ks          sizes of the candidate set
    depth       J of both; the artifact multiplies seconds of a step by it
    batch       B of the original; the fast has 1
    workers     processes, and T of the fast s_test
    candidates  pairs whose influence is computed one at a time, a point
    batched     nearest pairs whose influence is computed in batches, a point
    steps       of the recursion, a point and process
    takes       rounds of all works a point, of which the median counts: others share the machine
    """

    sample: Sample = Sample("mnli dev")
    n_points: int = 10
    ks: tuple[int, ...] = (10_000, 1_000)
    depth: int = 1_000
    batch: int = 32
    workers: int = 2
    candidates: int = 30
    batched: int = 1_000
    steps: int = 3
    takes: int = 3

    def run(self, model: Model, scratch: Path) -> dict[str, Any]:
        """Seconds of every work, (n_points,) each, measured in turns point after point."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._run(model)
        finally:
            torch.set_num_threads(before)

    def _run(self, model: Model) -> dict[str, Any]:
        at_least(1, depth=self.depth, steps=self.steps, takes=self.takes, workers=self.workers)
        there = trained(model)
        n = len(there.pairs)
        check_counts(
            n,
            ks=self.ks,
            batched=(self.batched,),
            candidates=(self.candidates,),
            batch=(self.batch,),
        )
        index = influence.balanced(model, self.sample, self.n_points)
        query = influence.examples(model, self.sample, index)
        seen = influence.features(model, model.train)
        features = influence.features(model, self.sample)[index]
        near = neighbours(features, seen, self.batched)
        bench = _Bench(self, model, there)
        found: dict[str, list[float]] = {}
        for point in range(len(index)):
            at = slice(point, point + 1)
            works = bench.works(take(query, at), features[at], seen, near[at], point)
            taken = rounds(works, self.takes + (point == 0))[-self.takes :]  # one to warm up
            for name in works:
                found.setdefault(name, []).append(median(one[name] for one in taken))
        began = time.perf_counter()
        shared, spent = workers.run(_shared, self.workers, self, model, query, near)
        start = time.perf_counter() - began - spent
        return {
            "work": "run time",
            "result": _told(found),
            **{name: np.array(values) for name, values in {**found, **shared}.items()},
            "points": index,
            "right": influence.predicted(model, self.sample)[1][index],
            "n_train": n,
            "num_params": there.task.size,
            "workers": self.workers,
            "startup_seconds": max(start, 0.0),
            **_once_a_model(model),
        }


def rounds(works: Works, takes: int) -> list[dict[str, float]]:
    """Seconds a unit of every work, in turns."""
    return [
        {name: _seconds(work) / units for name, (work, units) in works.items()}
        for _ in range(takes)
    ]


class _Bench:
    """What the works of a point are made of: pairs, models and recursions, opened once."""

    def __init__(self, work: RunTime, model: Model, there: Trained) -> None:
        self.work, self.there = work, there
        self.draw = numpy_generator(model.seed, "minibatches that are timed")
        self.chosen = torch.from_numpy(
            np.sort(self.draw.permutation(len(there.pairs))[: self.pool])
        )
        pairs = there.pairs.take(self.chosen.numpy())
        some, label = take(there.train, self.chosen), there.train["label"][self.chosen]
        enter = through_trunk(model.network.open(), pairs)
        self.whole = Plain(there.module, enter, label)
        self.cached = Plain(there.module, from_column(some), label)
        self.recursion = recursion(there, work.steps, 1)
        self.batch = take(there.train, self.chosen[: work.batch])
        self.hessian = Hessian(there.task, self.batch)
        module = self.cached.module
        self.unit = partial(one_pass, module, list(module.parameters()))

    @property
    def pool(self) -> int:
        """Random pairs that the original meets: tokens of all would take longer than they last."""
        work = self.work
        return min(len(self.there.pairs), max(work.candidates, work.batch * work.steps))

    def works(
        self, query: Examples, features: Tensor, seen: Tensor, near: Tensor, point: int
    ) -> Works:
        """Every work of one point; near (1, batched) are its candidates."""
        work, there = self.work, self.there
        vector = query_gradients(there.task, query)
        size = len(self.chosen)
        some = torch.from_numpy(self.draw.permutation(size)[: work.candidates])
        large, small = (
            [torch.from_numpy(self.draw.permutation(size)[:b]) for _ in range(work.steps)]
            for b in (work.batch, 1)
        )
        candidates = take(there.train, near[0, there.train["length"][near[0]].argsort()])
        found: Works = {f"search_{k}": (partial(neighbours, features, seen, k), 1) for k in work.ks}
        for name, plain in (("whole", self.whole), ("cached", self.cached)):
            found[f"{name}_candidate"] = partial(plain.scores, vector[0], some), len(some)
            step = partial(plain.recursion, vector[0], DAMPING / SCALE, SCALE)
            found[f"{name}_step_large"] = partial(step, large), work.steps
            found[f"{name}_step_one"] = partial(step, small), work.steps
        found |= {
            "rows_candidate": (
                partial(scores, there.task, vector, there.train, near),
                near.numel(),
            ),
            "rows_pass": (partial(self.unit, candidates), near.numel()),
            "step_one": (partial(self.recursion.estimate, vector, point), work.steps),
            "product": (partial(self.hessian.apply, vector), 1),
            "product_pass": (partial(self.unit, self.batch), 1),
        }
        return found


def recursion(there: Trained, depth: int, repeats: int) -> Recursion:
    """The fast recursion, B = 1, on hidden states that are there."""
    lissa = LiSSA(depth, 1, SCALE, repeats)
    return recursion_of(there.task, there.train, FastIF(None, lissa, DAMPING))


def one_pass(module: torch.nn.Module, params: list[Tensor], batch: Examples) -> None:
    """The unit: a forward and a backward pass in batches, nothing for each example."""
    for some in chunks(batch, PASSED):
        torch.autograd.grad(cross_entropy(module, some).mean(), params)


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _shared(
    group: Group, work: RunTime, model: Model, query: Examples, near: Tensor
) -> tuple[dict[str, list[float]], float]:
    """Seconds of T repeats of the recursion, a step, and of a candidate: together, and alone.

    In turns within the same processes: while the first works alone, the others wait for it.
    """
    began = time.perf_counter()
    there = trained(model)
    steps = recursion(there, work.steps, group.size)
    found: dict[str, list[float]] = {}
    for point in range(count(query)):
        vector = query_gradients(there.task, take(query, slice(point, point + 1)))
        own, works = near[point : point + 1], Works()
        for name, who in (("together", group), ("alone", ALONE)):
            step = partial(averaged, steps, vector, group.size, who, point * group.size)
            works[f"{name}_step"] = partial(_in_step, group, who, step), work.steps
            part = partial(scores, there.task, vector, there.train, own, who)
            works[f"{name}_candidate"] = partial(_in_step, group, who, part), own.numel()
        taken = rounds(works, work.takes + (point == 0))[-work.takes :]
        for name in works:
            found.setdefault(name, []).append(median(one[name] for one in taken))
    return found, time.perf_counter() - began


def _in_step(group: Group, who: Group, call: Callable[[], Any]) -> None:
    """Begin and end together, whoever works: the group, or its first process alone."""
    group.sum(torch.zeros(1))
    if who.size == group.size or group.rank == 0:
        call()
    group.sum(torch.zeros(1))


def _told(found: dict[str, list[float]]) -> str:
    candidate, step, rows, ours = (
        1e3 * float(np.median(found[name]))
        for name in ("whole_candidate", "whole_step_large", "rows_candidate", "step_one")
    )
    return (
        f"ms a candidate {rows:.3g}, originally {candidate:.3g}; "
        f"a step {ours:.3g}, originally {step:.3g}"
    )


def _once_a_model(model: Model) -> dict[str, float]:
    """What is spent once, whoever is asked about: no part of the table, but told beside it."""
    spent = {
        "hidden_seconds": runs.find("nli_hidden", models.Hidden(model.network, model.train)),
        "features_seconds": runs.find("nli_pass", Pass(model, model.train)),
    }
    return {name: float(run.meta["seconds"]) for name, run in spent.items() if run is not None}
