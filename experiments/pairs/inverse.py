"""The cost and the error of s_test over J, B and T (FastIF, Sec. 5.2).

Errors are exact over the last two layers alone, the head: it has few parameters, and its input, the
first token after the last encoder layer, is computed once as a column.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.laboratory import clock, runs
from experiments.laboratory.disk import checkpointed
from experiments.laboratory.errors import UserError
from experiments.models.bert import Top
from experiments.pairs import influence
from experiments.pairs.influence import Curvature, Plan, curvature, measure
from experiments.pairs.models import Model, Sample, in_batches, load, trained
from experiments.training.plans import CrossEntropy
from methods.curvature.operators import Hessian
from methods.errors import MethodError
from methods.fastif import FastIF, recursion_of
from methods.ihvp.cg import CG
from methods.ihvp.inverse import norms
from methods.ihvp.lissa import LiSSA
from methods.progress import track
from methods.rows.gradients import gradient_rows
from methods.task import Examples, Task, take


class Head(nn.Module):
    """Pooler and classifier: first token (b, width) to the logits of the whole model."""

    def __init__(self, top: Top) -> None:
        super().__init__()
        self.pooler, self.classifier = top.pooler, top.classifier

    def forward(self, first: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pooler(first[:, None]))
        return logits


cross_entropy = CrossEntropy(("first",))


@dataclass(frozen=True)
class First:
    """The first token of each pair of a sample after the last layer of a model."""

    model: Model
    sample: Sample


def column(model: Model, sample: Sample) -> Examples:
    """Examples with `first` (n, width) and `label` (n,)."""
    examples, _ = load(model, sample)

    def compute(_: Path) -> dict[str, Any]:
        return {"first": in_batches(trained(model).module.first, examples, "first tokens").numpy()}

    run = runs.once("nli_first", First(model, sample), compute)
    return {"first": torch.from_numpy(np.array(run.array("first"))), "label": examples["label"]}


@dataclass(frozen=True)
class HeadAlone:
    """Differentiate only pooler and classifier."""

    def task(self, model: Model) -> Task:
        """The task whose parameters are the head's."""
        head = Head(trained(model).module).eval()
        return Task.of(head, cross_entropy, weight_decay=model.fit.weight_decay)

    def examples(self, model: Model, sample: Sample) -> Examples:
        """The pairs of a sample, as inputs of the head."""
        return column(model, sample)

    def curvature(self, model: Model, sample: int) -> runs.Run:
        """The curvature of the head's training loss, at minibatches of `sample`."""
        config = Curvature(model, sample=sample)

        def compute(_: Path) -> dict[str, Any]:
            return measure(self.task(model), self.examples(model, model.train), config)

        return runs.once("nli_head_curvature", config, compute)


@dataclass(frozen=True)
class Everything:
    """Differentiate all trained parameters."""

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
    """The grid of Sec. 5.2 over `part` of the parameters, and seconds per step over all of them.

    One path of the recursion passes through every J, and its independent repeats are averaged for
    every T up to `repeats`. All B share one damping and one scale, that of the smallest B unless
    given. Errors are relative distances from two references: the solution by conjugate gradients,
    and the estimate of the largest J, B and T.
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

        error is from the solution, distance from the most expensive estimate; seconds are those of
        one repeat for all points together. All are nan where the recursion diverged.
        """
        if not self.depths or not self.samples:
            raise UserError("depths or samples are empty: give at least one of each")
        task, train = self.part.task(model), self.part.examples(model, model.train)
        index = influence.balanced(model, self.sample, self.n_points)
        query = take(self.part.examples(model, self.sample), torch.from_numpy(index))
        curvature = self.part.curvature(model, min(self.samples)).metrics
        plan = Plan(None, max(self.depths), repeats=self.repeats, damping=self.damping)
        settings = plan.settled(curvature | ({} if self.scale is None else {"scale": self.scale}))
        vectors = gradient_rows(task, query).dense()
        solved = checkpointed(
            scratch, "solution", partial(_solve, self.solver, task, train, vectors, settings)
        )
        solution = torch.from_numpy(solved["solution"])
        best: Tensor | None = None
        paths = []
        for sample in track(sorted(self.samples, reverse=True), "minibatch sizes"):
            path = partial(_path, self, sample, settings, task, train, vectors, solution, best)
            paths.append(checkpointed(scratch, f"sample-{sample}", path))
            best = torch.from_numpy(paths[0]["last"])
        grids = {
            name: np.stack([path[name] for path in reversed(paths)])
            for name in ("error", "distance", "seconds")
        }
        cheapest, dearest = (np.nanmean(grids["error"][i, -1, j]) for i, j in ((0, 0), (-1, -1)))
        return {
            "work": "inverse",
            "result": f"error {cheapest:.2g} at J = {max(self.depths):,}, B = {min(self.samples)}, "
            f"T = 1; {dearest:.2g} at B = {max(self.samples)}, T = {self.repeats}",
            **grids,
            "samples": np.array(sorted(self.samples)),
            "depths": np.array(sorted(self.depths)),
            "points": index,
            "right": influence.predicted(model, self.sample)[1][index],
            "whole_seconds": _step_seconds(self, model),
            "damping": settings.damping,
            "scale": settings.lissa.scale,
            "lowest": curvature["lowest"],
            "largest": curvature["largest"],
            "residual": float(solved["residual"].max()),
            "num_params": task.size,
            "n_train": len(train["label"]),
            "diverged": int(np.isnan(grids["seconds"]).any(1).sum()),
        }


def _solve(
    solver: CG, task: Task, train: Examples, vectors: Tensor, settings: FastIF
) -> dict[str, np.ndarray]:
    """`solution` (k, p) of the damped Hessian over all pairs, and its relative `residual` (k,)."""
    hessian = Hessian(task, train, settings.damping)
    solution = solver.invert(hessian, {}).apply(vectors)
    residual = norms(hessian.apply(solution) - vectors) / norms(vectors)
    return {"solution": solution.numpy(), "residual": residual.numpy()}


def _path(
    work: Inverse,
    sample: int,
    settings: FastIF,
    task: Task,
    train: Examples,
    vectors: Tensor,
    solution: Tensor,
    best: Tensor | None,
) -> dict[str, np.ndarray]:
    """`error`, `distance`, `seconds` at one B; `best` None is the last estimate at this B."""
    depths = sorted(work.depths)
    lissa = LiSSA(depths[-1], sample, settings.lissa.scale, work.repeats)
    recursion = recursion_of(task, train, FastIF(None, lissa, settings.damping))
    seconds = np.full((len(depths), work.repeats), np.nan)
    sums = torch.zeros(len(depths), *vectors.shape)
    means: dict[tuple[int, int], Tensor] = {}  # filled only while the best is not known yet
    shape = (len(depths), work.repeats, len(vectors))
    error, distance = np.full(shape, np.nan), np.full(shape, np.nan)
    for repeat in track(range(work.repeats), f"repeats of B = {sample}"):
        path, spent = recursion.along(vectors, repeat, depths), 0.0
        for place in range(len(depths)):
            began = clock.now(task.device.type)
            try:
                _, estimate = next(path)
            except MethodError as cause:
                if best is None:
                    raise MethodError(
                        f"LiSSA diverged at the largest minibatch, {sample}: raise scale, or "
                        "damping"
                    ) from cause
                none = {"seconds": np.full_like(seconds, np.nan), "last": np.zeros(0)}
                return {"error": error, "distance": distance, **none}
            spent += clock.now(task.device.type) - began
            seconds[place, repeat] = spent
            sums[place] += estimate
            mean = sums[place] / (repeat + 1)
            error[place, repeat] = relative_distance(mean, solution)
            if best is None:
                means[place, repeat] = mean
            else:
                distance[place, repeat] = relative_distance(mean, best)
    last = sums[-1] / work.repeats
    for (place, repeat), mean in means.items():
        distance[place, repeat] = relative_distance(mean, last)
    return {"error": error, "distance": distance, "seconds": seconds, "last": last.numpy()}


def relative_distance(estimate: Tensor, reference: Tensor) -> np.ndarray:
    """Length of the difference over the length of the reference, row by row, (k,)."""
    return ((estimate - reference).norm(dim=1) / norms(reference)).numpy()


def _step_seconds(work: Inverse, model: Model) -> np.ndarray:
    """Seconds of steps for one vector over all trained parameters, (whole_samples, whole_steps)."""
    classifier = trained(model)
    task = classifier.task
    vector = torch.randn(1, task.size, generator=torch.Generator().manual_seed(0))
    seconds = np.empty((len(work.whole_samples), work.whole_steps))
    for row, sample in zip(seconds, work.whole_samples, strict=True):
        hessian = Hessian(task, classifier.train, sample=sample)
        hessian.apply(vector, 0)
        for step in range(work.whole_steps):
            began = clock.now(task.device.type)
            hessian.apply(vector, 1 + step)
            row[step] = clock.now(task.device.type) - began
    return seconds
