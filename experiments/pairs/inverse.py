"""What s_test costs and how wrong it is, over J, B and T (Sec. 5.2)."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.laboratory import runs
from experiments.laboratory.disk import checkpointed
from experiments.laboratory.errors import UserError
from experiments.models.bert import Top
from experiments.pairs import influence
from experiments.pairs.influence import Curvature, Plan, curvature, measure
from experiments.pairs.models import BATCH, Model, Sample, load, task_model, trained
from methods.curvature.operators import Hessian
from methods.errors import MethodError
from methods.fastif import FastIF, query_gradients, recursion_of
from methods.ihvp.cg import CG
from methods.ihvp.inverse import norms
from methods.ihvp.lissa import LiSSA
from methods.progress import track
from methods.task import Examples, Task, take

# The last two layers of a classifier as a task of their own: so few parameters that all is exact.
#
# What enters them, the first token after the last encoder layer, is computed once and a column.


class Head(nn.Module):
    """Pooler and classifier: first token (b, width) to logits, the same as the whole model's."""

    def __init__(self, top: Top) -> None:
        super().__init__()
        self.pooler, self.classifier = top.pooler, top.classifier

    def forward(self, first: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pooler(first[:, None]))
        return logits


def cross_entropy(model: nn.Module, batch: Examples) -> Tensor:
    """Negative log-likelihood of the given label in nats, (b,)."""
    return F.cross_entropy(model(batch["first"]), batch["label"], reduction="none")


@dataclass(frozen=True)
class First:
    """The first token of each pair of a sample after the last layer of a model."""

    model: Model
    sample: Sample


def column(model: Model, sample: Sample) -> Examples:
    """Examples with `first` (n, width) and `label` (n,)."""
    config = First(model, sample)
    run = runs.once("nli_first", config, lambda scratch: _compute(config))
    examples, _ = load(task_model(model), sample)
    return {"first": torch.from_numpy(np.array(run.array("first"))), "label": examples["label"]}


@torch.no_grad()
def _compute(config: First) -> dict[str, Any]:
    there = trained(config.model)
    examples, _ = load(task_model(config.model), config.sample)
    order = examples["length"].argsort(stable=True)
    first = torch.empty(len(order), there.module.classifier.in_features)
    for rows in track(list(order.split(BATCH)), "first tokens"):
        first[rows] = there.module.first(examples["hidden"][rows], examples["length"][rows])
    return {"first": first.numpy()}


@dataclass(frozen=True)
class HeadAlone:
    """Differentiate pooler and classifier alone."""

    def task(self, model: Model) -> Task:
        """The task of the loss as a function of the head."""
        head = Head(trained(model).module).eval()
        return Task.of(head, cross_entropy, weight_decay=model.fit.weight_decay)

    def examples(self, model: Model, sample: Sample) -> Examples:
        """The pairs of a sample, as the head takes them."""
        return column(model, sample)

    def curvature(self, model: Model, sample: int) -> runs.Run:
        """The curvature of the head's training loss, at minibatches of `sample`."""
        config = Curvature(model, sample=sample)

        def compute(_: Path) -> dict[str, Any]:
            return measure(self.task(model), self.examples(model, model.train), config)

        return runs.once("nli_head_curvature", config, compute)


@dataclass(frozen=True)
class Everything:
    """Differentiate all that was trained."""

    def task(self, model: Model) -> Task:
        """The task of the trained model."""
        return trained(model).task

    def examples(self, model: Model, sample: Sample) -> Examples:
        """The pairs of a sample, as hidden states."""
        return load(model, sample)[0]

    def curvature(self, model: Model, sample: int) -> runs.Run:
        """The curvature of the training loss, at minibatches of `sample`."""
        return curvature(model, sample)


Part = HeadAlone | Everything


@dataclass(frozen=True)
class Inverse:
    """The grid of Sec. 5.2 over `part` of the parameters, and seconds a step over all of them.

    One path of the recursion passes through every J, and its independent repeats are averaged to
    every T up to `repeats`. All B share one damping and one scale, found at the smallest B unless
    given. Errors are lengths of differences over the length of what they are taken from: of the
    solution by conjugate gradients, and of the estimate by the largest J, B and T.
    """

    part: Part = HeadAlone()
    sample: Sample = Sample("mnli dev")
    n_points: int = 8
    depths: tuple[int, ...] = (700, 800, 900, 1_000, 1_100, 1_200, 1_300)
    samples: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    repeats: int = 4
    damping: float | None = None
    scale: float | None = None
    solver: CG = CG(tolerance=1e-5)
    whole_samples: tuple[int, ...] = (1, 8, 32, 128)
    whole_steps: int = 5

    def run(self, model: Model, scratch: Path) -> dict[str, Any]:
        """`error`, `distance` (samples, depths, repeats, n_points), `seconds` (..., repeats).

        error is taken from the solution, distance from the most expensive estimate; seconds are of
        one repeat and all points at once. Where the recursion diverged all are nan.
        """
        if not self.depths or not self.samples:
            raise UserError("depths and samples are empty: give one of each at least")
        task, train = self.part.task(model), self.part.examples(model, model.train)
        index = influence.balanced(model, self.sample, self.n_points)
        query = take(self.part.examples(model, self.sample), torch.from_numpy(index))
        curvature = self.part.curvature(model, min(self.samples)).metrics
        plan = Plan(None, max(self.depths), repeats=self.repeats, damping=self.damping)
        settings = plan.settled(curvature | ({} if self.scale is None else {"scale": self.scale}))
        vectors = query_gradients(task, query)
        solved = checkpointed(
            scratch, "solution", partial(_solve, self.solver, task, train, vectors, settings)
        )
        solution = torch.from_numpy(solved["solution"])
        best: Tensor | None = None
        paths = []
        for sample in track(sorted(self.samples, reverse=True), "minibatch sizes"):
            walk = partial(_walk, self, sample, settings, task, train, vectors, solution, best)
            paths.append(checkpointed(scratch, f"sample-{sample}", walk))
            best = torch.from_numpy(paths[0]["last"])
        found = {
            name: np.stack([path[name] for path in reversed(paths)])
            for name in ("error", "distance", "seconds")
        }
        return {
            "work": "inverse",
            "result": self._told(found["error"]),
            **found,
            "samples": np.array(sorted(self.samples)),
            "depths": np.array(sorted(self.depths)),
            "points": index,
            "right": influence.predicted(model, self.sample)[1][index],
            "whole_seconds": _whole(self, model),
            "damping": settings.damping,
            "scale": settings.lissa.scale,
            "lowest": curvature["lowest"],
            "largest": curvature["largest"],
            "residual": float(solved["residual"].max()),
            "num_params": task.size,
            "n_train": len(train["label"]),
            "diverged": int(np.isnan(found["seconds"]).any(1).sum()),
        }

    def _told(self, error: np.ndarray) -> str:
        one, all_ = np.nanmean(error[0, -1, 0]), np.nanmean(error[-1, -1, -1])
        return (
            f"error {one:.2g} at J = {max(self.depths):,}, B = {min(self.samples)}, T = 1; "
            f"{all_:.2g} at B = {max(self.samples)}, T = {self.repeats}"
        )


def _solve(
    solver: CG, task: Task, train: Examples, vectors: Tensor, settings: FastIF
) -> dict[str, np.ndarray]:
    """`solution` (k, p) of the damped Hessian over all pairs, and its relative `residual` (k,)."""
    hessian = Hessian(task, train, settings.damping)
    solution = solver.invert(hessian, {}).apply(vectors)
    residual = norms(hessian.apply(solution) - vectors) / norms(vectors)
    return {"solution": solution.numpy(), "residual": residual.numpy()}


def _walk(
    work: Inverse,
    sample: int,
    settings: FastIF,
    task: Task,
    train: Examples,
    vectors: Tensor,
    solution: Tensor,
    best: Tensor | None,
) -> dict[str, np.ndarray]:
    """The paths of all repeats at one B; `best` None: the last estimate of all is the best."""
    depths = sorted(work.depths)
    lissa = LiSSA(depths[-1], sample, settings.lissa.scale, work.repeats)
    recursion = recursion_of(task, train, FastIF(None, lissa, settings.damping))
    seconds = np.full((len(depths), work.repeats), np.nan)
    sums = torch.zeros(len(depths), *vectors.shape)
    means: dict[tuple[int, int], Tensor] = {}  # held only where the best is yet to come
    shape = (len(depths), work.repeats, len(vectors))
    error, distance = np.full(shape, np.nan), np.full(shape, np.nan)
    for repeat in track(range(work.repeats), f"repeats of B = {sample}"):
        path, spent = recursion.along(vectors, repeat, depths), 0.0
        for place in range(len(depths)):
            began = _now()
            try:
                _, estimate = next(path)
            except MethodError:
                return _diverged(sample, best, {"error": error, "distance": distance}, seconds)
            spent += _now() - began
            seconds[place, repeat] = spent
            sums[place] += estimate
            mean = sums[place] / (repeat + 1)
            error[place, repeat] = apart(mean, solution)
            if best is None:
                means[place, repeat] = mean
            else:
                distance[place, repeat] = apart(mean, best)
    last = sums[-1] / work.repeats
    for (place, repeat), mean in means.items():
        distance[place, repeat] = apart(mean, last)
    return {"error": error, "distance": distance, "seconds": seconds, "last": last.numpy()}


def _diverged(
    sample: int, best: Tensor | None, found: Mapping[str, np.ndarray], seconds: np.ndarray
) -> dict[str, np.ndarray]:
    """What is known of a B whose recursion diverged; of the largest, nothing can be measured."""
    if best is None:
        raise MethodError(
            f"LiSSA diverged at the largest minibatch, {sample}: raise scale, or damping"
        )
    return {**found, "seconds": np.full_like(seconds, np.nan), "last": np.zeros(0)}


def apart(one: Tensor, other: Tensor) -> np.ndarray:
    """Length of the difference over the length of the other, row by row, (k,)."""
    return ((one - other).norm(dim=1) / norms(other)).numpy()


def _whole(work: Inverse, model: Model) -> np.ndarray:
    """Seconds of steps for one vector over all trained parameters, (whole_samples, whole_steps)."""
    there = trained(model)
    vector = torch.randn(1, there.task.size, generator=torch.Generator().manual_seed(0))
    seconds = np.empty((len(work.whole_samples), work.whole_steps))
    for row, sample in zip(seconds, work.whole_samples, strict=True):
        hessian = Hessian(there.task, there.train, sample=sample)
        hessian.apply(vector, 0)
        for step in range(work.whole_steps):
            began = _now()
            hessian.apply(vector, 1 + step)
            row[step] = _now() - began
    return seconds


def _now() -> float:
    """Seconds of the processor, which other processes do not lengthen; with a GPU, of the clock."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()
