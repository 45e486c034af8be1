"""The cost and the error of s_test over J, B and T (FastIF, Sec. 5.2).

Errors are exact over the last two layers alone, the head: it has few parameters, and its input, the
first token after the last encoder layer, is computed once as a column.
"""

from dataclasses import dataclass
from functools import partial
from itertools import product
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
from methods.examples import Examples, take
from methods.fastif import FastIF, recursion_of
from methods.ihvp.cg import CG
from methods.ihvp.inverse import norms
from methods.ihvp.lissa import LiSSA
from methods.progress import track
from methods.rows.gradients import gradient_rows
from methods.task import Task


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

    J is given in decay lengths, scale / damping steps each: without curvature exp(-1) of the error
    is left after one, so that J decides as much at any damping. 3.5 to 6.5 of them are
    the paper's 700 to 1,300 steps at the released settings. Every point has minibatches of its own;
    one path of the recursion passes through every J, and independent paths are averaged for every T
    up to `repeats`. All B share one damping and one scale, that of the smallest B unless given.
    Errors are relative distances from two references: the solution by conjugate gradients, and the
    estimate of the largest J, B and T.
    """

    part: Part = HeadAlone()
    sample: Sample = Sample("mnli dev")
    n_points: int = 8
    lengths: tuple[float, ...] = (3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5)
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
        one repeat, the mean over points. All are nan where the recursion diverged.
        """
        if not self.lengths or not self.samples or min(self.lengths) <= 0:
            raise UserError(
                "lengths or samples are empty or not positive: give one of each at least"
            )
        task, train = self.part.task(model), self.part.examples(model, model.train)
        index = influence.balanced(model, self.sample, self.n_points)
        query = take(self.part.examples(model, self.sample), torch.from_numpy(index))
        curvature = self.part.curvature(model, min(self.samples)).metrics
        plan = Plan(None, repeats=self.repeats, damping=self.damping)
        settings = plan.settled(curvature | ({} if self.scale is None else {"scale": self.scale}))
        depths, vectors = self.depths(settings), gradient_rows(task, query).dense()
        solved = checkpointed(
            scratch, "solution", partial(_solve, self.solver, task, train, vectors, settings)
        )
        solution = torch.from_numpy(solved["solution"]).to(task.device)
        best: Tensor | None = None
        paths = []
        for sample in track(sorted(self.samples, reverse=True), "minibatch sizes"):
            path = partial(_path, self, sample, settings, task, train, vectors, solution, best)
            paths.append(checkpointed(scratch, f"sample-{sample}", path))
            best = torch.from_numpy(paths[0]["last"]).to(task.device)
        grids = {
            name: np.stack([path[name] for path in reversed(paths)])
            for name in ("error", "distance", "seconds")
        }
        cheapest, dearest = (np.nanmean(grids["error"][i, -1, j]) for i, j in ((0, 0), (-1, -1)))
        return {
            "work": "inverse",
            "result": f"error {cheapest:.2g} at J = {depths[-1]:,}, B = {min(self.samples)}, "
            f"T = 1; {dearest:.2g} at B = {max(self.samples)}, T = {self.repeats}",
            **grids,
            "samples": np.array(sorted(self.samples)),
            "depths": np.array(depths),
            "lengths": np.array(sorted(self.lengths)),
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

    def depths(self, settings: FastIF) -> list[int]:
        """J of each of the decay lengths, ascending and distinct."""
        if settings.lissa.scale is None:
            raise UserError("decay lengths are steps of scale / damping: settle the scale first")
        one = settings.lissa.scale / settings.damping
        depths = [max(1, round(length * one)) for length in sorted(self.lengths)]
        if len(set(depths)) < len(depths):
            raise UserError(
                f"decay lengths of {one:.3g} steps make the depths {depths}: raise scale, lower "
                "damping, or give lengths further apart"
            )
        return depths


def _solve(
    solver: CG, task: Task, train: Examples, vectors: Tensor, settings: FastIF
) -> dict[str, np.ndarray]:
    """`solution` (k, p) of the damped Hessian over all pairs, and its relative `residual` (k,)."""
    hessian = Hessian(task, train, settings.damping)
    solution = solver.invert(hessian, {}).apply(vectors)
    residual = norms(hessian.apply(solution) - vectors) / norms(vectors)
    return {"solution": solution.cpu().numpy(), "residual": residual.cpu().numpy()}


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
    depths = work.depths(settings)
    lissa = LiSSA(depths[-1], sample, settings.lissa.scale, work.repeats)
    recursion = recursion_of(task, train, FastIF(None, lissa, settings.damping))
    shape = (len(depths), work.repeats, len(vectors))
    seconds, error, distance = (np.full(shape, np.nan) for _ in range(3))
    sums = vectors.new_zeros(len(depths), *vectors.shape)
    means: dict[tuple[int, int, int], Tensor] = {}  # filled only while the best is not known yet
    paths = list(product(range(len(vectors)), range(work.repeats)))
    for number, (point, repeat) in enumerate(track(paths, f"paths of B = {sample}")):
        path, spent = recursion.along(vectors[point, None], number, depths), 0.0
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
                none = np.full(shape, np.nan)
                return {"error": none, "distance": none, "seconds": none[..., 0], "last": none[:0]}
            spent += clock.now(task.device.type) - began
            at = place, repeat, point
            seconds[at] = spent
            sums[place, point] += estimate[0]
            mean = sums[place, point, None] / (repeat + 1)
            error[at] = relative_distance(mean, solution[point, None])[0]
            if best is None:
                means[at] = mean
            else:
                distance[at] = relative_distance(mean, best[point, None])[0]
    last = sums[-1] / work.repeats
    for at, mean in means.items():
        distance[at] = relative_distance(mean, last[at[2], None])[0]
    outcome = {"error": error, "distance": distance, "seconds": seconds.mean(2)}
    return {**outcome, "last": last.cpu().numpy()}


def relative_distance(estimate: Tensor, reference: Tensor) -> np.ndarray:
    """Length of the difference over the length of the reference, row by row, (k,)."""
    return ((estimate - reference).norm(dim=1) / norms(reference)).cpu().numpy()


def _step_seconds(work: Inverse, model: Model) -> np.ndarray:
    """Seconds of steps for one vector over all trained parameters, (whole_samples, whole_steps)."""
    classifier = trained(model)
    task = classifier.task
    vector = torch.randn(1, task.size, generator=torch.Generator().manual_seed(0)).to(task.device)
    seconds = np.empty((len(work.whole_samples), work.whole_steps))
    for row, sample in zip(seconds, work.whole_samples, strict=True):
        hessian = Hessian(task, classifier.train, sample=sample)
        hessian.apply(vector, 0)
        for step in range(work.whole_steps):
            began = clock.now(task.device.type)
            hessian.apply(vector, 1 + step)
            row[step] = clock.now(task.device.type) - began
    return seconds
