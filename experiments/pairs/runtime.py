"""Seconds of each part of an influence function, as released and as written here (Sec. 3.5).

`PlainAutograd` computes influence as the released code does: plain autograd, no caches, one pair at
a time. `Product` times a Hessian product of the trained layers against a pass over the same batch.
"""

import time
from collections.abc import Callable, Sequence
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
from experiments.laboratory import clock, runs
from experiments.laboratory.device import device, on_device
from experiments.models.bert import Encoder, Top
from experiments.pairs import influence, models
from experiments.pairs.influence import check_counts
from experiments.pairs.models import Model, Pass, Sample, Trained, cross_entropy, trained
from methods import workers
from methods.curvature.operators import Hessian
from methods.errors import at_least
from methods.examples import Examples, chunks, count, take
from methods.fastif import FastIF, averaged, neighbours, recursion_of, scores
from methods.ihvp.lissa import LiSSA, Recursion
from methods.precision import FullPrecision
from methods.randomness import numpy_generator, torch_generator
from methods.rows.gradients import gradient_rows
from methods.workers import ALONE, Group

DAMPING, SCALE = FastIF().damping, 1e4  # the released settings, which do not affect the time
PASS_BATCH = 64  # pairs of a batched pass
Works = dict[str, tuple[Callable[[], Any], int]]  # by name: what is timed, and of how many units
States = Callable[[Tensor], tuple[Tensor, Tensor]]  # positions to hidden states and lengths


def through_trunk(encoder: Encoder, pairs: Pairs) -> States:
    """Hidden states (b, T, width) and lengths (b,), computed by the frozen layers at each call.

    The tokens are computed once.
    """
    tokens = encoder.to(device()).tokens(pairs)

    def states(index: Tensor) -> tuple[Tensor, Tensor]:
        length = tokens["length"][index]
        batch = {name: tokens[name][index, : int(length.max())] for name in ("ids", "types")}
        return encoder.trunk({**batch, "length": length}), length.to(device())

    return states


def from_column(examples: Examples) -> States:
    """Hidden states and lengths that were computed once."""

    def states(index: Tensor) -> tuple[Tensor, Tensor]:
        length = examples["length"][index]
        hidden = examples["hidden"][index][:, : int(length.max())]
        return hidden.to(device()), length.to(device())

    return states


class PlainAutograd(FullPrecision):
    """Gradients and Hessian products of a classifier by autograd over its own parameters."""

    def __init__(self, top: Top, states: States, label: Tensor) -> None:
        self.module = deepcopy(top).requires_grad_(True)
        self.params = list(self.module.parameters())
        self.states, self.label = states, label.to(device())

    def loss(self, index: Tensor) -> Tensor:
        """The mean loss of the pairs at some positions."""
        return F.cross_entropy(self.module(*self.states(index)), self.label[index])

    def scores(self, s_test: Tensor, index: Tensor) -> Tensor:
        """<s_test (p,), gradient> of the pairs at some positions, (n,), one after another."""
        parts = self.split(s_test)
        out = torch.empty(len(index))
        for i, position in enumerate(index):
            grads = torch.autograd.grad(self.loss(position[None]), self.params)
            out[i] = sum(float((g * s).sum()) for g, s in zip(grads, parts, strict=True))
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

    def split(self, vector: Tensor) -> list[Tensor]:
        """Views of (p,) in the shapes of the parameters."""
        parts = vector.split([p.numel() for p in self.params])
        return [part.view(p.shape) for part, p in zip(parts, self.params, strict=True)]


@dataclass(frozen=True)
class Product:
    """Seconds of a Hessian product and of a pass on random batches of training pairs.

    Both are timed alternately with one thread. takes is the number of rounds for each batch; their
    median counts, because other processes share the machine.
    """

    batch: int = 32
    batches: int = 10
    takes: int = 5

    def run(self, model: Model, scratch: Path) -> dict[str, Any]:
        """Seconds of a product and of a forward and backward pass, (batches,) each."""
        at_least(1, batch=self.batch, batches=self.batches, takes=self.takes)
        classifier = trained(model)
        task, n = classifier.task, len(classifier.pairs)
        check_counts(n, batch=(self.batch,))
        draw = numpy_generator(model.seed, "batches of products that are timed")
        drawn = torch.randn(1, task.size, generator=torch_generator(model.seed, "direction"))
        vector = drawn.to(task.device)
        module = deepcopy(classifier.module).requires_grad_(True)
        unit = partial(one_pass, module, list(module.parameters()))
        seconds = Seconds(self.takes)
        with clock.threads(1):
            for _ in range(self.batches):
                chosen = np.sort(draw.permutation(n)[: self.batch])
                batch = task.move(take(classifier.train, torch.from_numpy(chosen)))
                seconds.add(
                    {
                        "product": (partial(Hessian(task, batch).apply, vector), 1),
                        "product_pass": (partial(unit, batch), 1),
                    }
                )
        product, passes = seconds.arrays["product"], seconds.arrays["product_pass"]
        return {
            "work": "product",
            "result": f"{np.median(product / passes):.3g} passes for each Hessian product",
            "product": product,
            "product_pass": passes,
            "num_params": task.size,
        }


@dataclass(frozen=True)
class RunTime:
    """Seconds of the linear parts, which the artifact multiplies; one thread in each process.

    ks          sizes of the candidate set
    depth       J of both; the artifact multiplies seconds of a step by it
    batch       B of the released script of this table; the fast recursion has 1
    repeats     T of the fast s_test, as released, shared by the processes
    workers     processes
    candidates  pairs for each point whose influence is computed one at a time
    batched     nearest pairs for each point whose influence is computed in batches
    steps       of the recursion, for each point and process
    takes       rounds for each point; their median counts, as other processes share the machine
    """

    sample: Sample = Sample("mnli dev")
    n_points: int = 10
    ks: tuple[int, ...] = (10_000, 1_000)
    depth: int = 1_000
    batch: int = 128
    repeats: int = 4
    workers: int = 2
    candidates: int = 30
    batched: int = 1_000
    steps: int = 3
    takes: int = 3

    @clock.threads(1)
    def run(self, model: Model, scratch: Path) -> dict[str, Any]:
        """Seconds of every work, (n_points,) each, measured alternately, point after point."""
        at_least(1, depth=self.depth, steps=self.steps, takes=self.takes, workers=self.workers)
        classifier = trained(model)
        n = len(classifier.pairs)
        check_counts(
            n,
            ks=self.ks,
            batched=(self.batched,),
            candidates=(self.candidates,),
            batch=(self.batch,),
        )
        index = influence.balanced(model, self.sample, self.n_points)
        query = influence.examples(model, self.sample, index)
        train_features = influence.features(model, model.train)
        features = influence.features(model, self.sample)[index]
        near = neighbours(features, train_features, self.batched)
        bench = _Bench(self, model, classifier)
        seconds = Seconds(self.takes)
        for point in range(len(index)):
            at = slice(point, point + 1)
            seconds.add(bench.works(take(query, at), features[at], train_features, near[at], point))
        began = time.perf_counter()
        query = {name: column.cpu() for name, column in query.items()}  # a GPU's cannot be sent
        shared, spent = workers.run(_shared, self.workers, self, model, query, near, device=device)
        start = time.perf_counter() - began - spent
        return {
            "work": "run time",
            "result": _summary(seconds.arrays),
            **seconds.arrays,
            **shared,
            "points": index,
            "right": influence.predicted(model, self.sample)[1][index],
            "n_train": n,
            "num_params": classifier.task.size,
            "workers": self.workers,
            "startup_seconds": max(start, 0.0),
            **_preparation_seconds(model),
        }


class Seconds:
    """Seconds a unit of each work, the median of several rounds in which works alternate."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self._medians: dict[str, list[float]] = {}

    def add(self, works: Works) -> None:
        """Time every work; the first time, one more round comes before to warm up."""
        calls = {name: call for name, (call, _) in works.items()}
        rounds = self.takes + (not self._medians)
        now = partial(clock.wall, device().type)
        for name, values in clock.in_turns(calls, rounds, now, warm=True).items():
            seconds = median(values[-self.takes :]) / works[name][1]
            self._medians.setdefault(name, []).append(seconds)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The medians by name, one for each call of `add`."""
        return {name: np.array(values) for name, values in self._medians.items()}


class _Bench:
    """The pairs, models and recursions that the works of all points share.

    The released code meets a random pool of pairs: tokenising every pair would outlast the timing.
    """

    def __init__(self, work: RunTime, model: Model, classifier: Trained) -> None:
        self.work, self.classifier = work, classifier
        self.draw = numpy_generator(model.seed, "minibatches that are timed")
        pool_size = max(work.candidates, work.batch * work.steps)
        pool = np.sort(self.draw.permutation(len(classifier.pairs))[:pool_size])
        self.pool = torch.from_numpy(pool)
        examples = take(classifier.train, self.pool)
        module, label = classifier.module, examples["label"]
        trunk = through_trunk(model.network.open(), classifier.pairs.take(pool))
        self.whole = PlainAutograd(module, trunk, label)
        self.cached = PlainAutograd(module, from_column(examples), label)
        self.recursion = recursion(classifier, work.steps, 1)
        self.batch = on_device(take(classifier.train, self.pool[: work.batch]))
        self.hessian = Hessian(classifier.task, self.batch)
        self.unit = partial(one_pass, self.cached.module, self.cached.params)

    def works(
        self, query: Examples, features: Tensor, train_features: Tensor, near: Tensor, point: int
    ) -> Works:
        """Every work of one point; near (1, batched) are its candidates."""
        work, task, train = self.work, self.classifier.task, self.classifier.train
        vector = gradient_rows(task, query).dense()
        size = len(self.pool)
        single = torch.from_numpy(self.draw.permutation(size)[: work.candidates])
        large, small = (
            [torch.from_numpy(self.draw.permutation(size)[:b]) for _ in range(work.steps)]
            for b in (work.batch, 1)
        )
        candidates = on_device(take(train, near[0, train["length"][near[0]].argsort()]))
        works: Works = {
            f"search_{k}": (partial(neighbours, features, train_features, k), 1) for k in work.ks
        }
        for name, plain in (("whole", self.whole), ("cached", self.cached)):
            works[f"{name}_candidate"] = (partial(plain.scores, vector[0], single), len(single))
            step = partial(plain.recursion, vector[0], DAMPING / SCALE, SCALE)
            works[f"{name}_step_large"] = partial(step, large), work.steps
            works[f"{name}_step_one"] = partial(step, small), work.steps
        works |= {
            "rows_candidate": (partial(scores, task, vector, train, near), near.numel()),
            "rows_pass": (partial(self.unit, candidates), near.numel()),
            "step_one": (partial(self.recursion.estimate, vector, point), work.steps),
            "product": (partial(self.hessian.apply, vector), 1),
            "product_pass": (partial(self.unit, self.batch), 1),
        }
        return works


def recursion(classifier: Trained, depth: int, repeats: int) -> Recursion:
    """The fast recursion, B = 1, on hidden states that were computed once."""
    lissa = LiSSA(depth, 1, SCALE, repeats)
    return recursion_of(classifier.task, classifier.train, FastIF(None, lissa, DAMPING))


def one_pass(module: torch.nn.Module, params: Sequence[Tensor], batch: Examples) -> None:
    """The unit of cost: a forward and a backward pass in batches, without per-example work."""
    for chunk in chunks(batch, PASS_BATCH):
        torch.autograd.grad(cross_entropy(module, chunk).mean(), params)


def _shared(
    group: Group, work: RunTime, model: Model, query: Examples, near: Tensor
) -> tuple[dict[str, np.ndarray], float]:
    """Seconds of a step of T repeats of the recursion, and of a candidate: together, and alone.

    Both alternate within the same processes: while the first works alone, the others wait for it.
    """
    began = time.perf_counter()
    classifier = trained(model)
    task, train = classifier.task, classifier.train
    steps = recursion(classifier, work.steps, group.size)
    seconds = Seconds(work.takes)
    for point in range(count(query)):
        vector = gradient_rows(task, take(query, slice(point, point + 1))).dense()
        own, works = near[point : point + 1], Works()
        for name, processes in (("together", group), ("alone", ALONE)):
            step = partial(averaged, steps, vector, group.size, processes, point * group.size)
            works[f"{name}_step"] = partial(_in_step, group, processes, step), work.steps
            part = partial(scores, task, vector, train, own, processes)
            works[f"{name}_candidate"] = partial(_in_step, group, processes, part), own.numel()
        seconds.add(works)
    return seconds.arrays, time.perf_counter() - began


def _in_step(group: Group, working: Group, call: Callable[[], Any]) -> None:
    """Let all processes begin and end together, though only the `working` ones call."""
    group.sum(torch.zeros(1))
    if working.size == group.size or group.rank == 0:
        call()
    group.sum(torch.zeros(1))


def _summary(seconds: dict[str, np.ndarray]) -> str:
    candidate, step, rows, fast = (
        1e3 * float(np.median(seconds[name]))
        for name in ("whole_candidate", "whole_step_large", "rows_candidate", "step_one")
    )
    return (
        f"candidate {rows:.3g} ms, in the released code {candidate:.3g}; "
        f"step {fast:.3g} ms, in the released code {step:.3g}"
    )


def _preparation_seconds(model: Model) -> dict[str, float]:
    """Seconds spent once for all points: not part of the table, but shown with it."""
    spent = {
        "hidden_seconds": runs.find("nli_hidden", models.Hidden(model.network, model.train)),
        "features_seconds": runs.find("nli_pass", Pass(model, model.train)),
    }
    return {name: float(run.meta["seconds"]) for name, run in spent.items() if run is not None}
