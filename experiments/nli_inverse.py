"""What s_test costs and how wrong it is, over J, B and T (Sec. 5.2)."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import nli_points
from experiments.hidden import Sample
from experiments.nli_curvature import Plan
from experiments.nli_head import HeadAlone, Part
from experiments.nli_models import Model, trained
from experiments.pieces import kept
from experiments.problems import UserError
from methods.fastif import FastIF, query_gradients, recursion_of
from methods.ihvp.cg import CG
from methods.ihvp.inverse import norms
from methods.ihvp.lissa import LiSSA
from methods.operators import Hessian
from methods.progress import track
from methods.task import Examples, MethodError, Task, take


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
        index = nli_points.balanced(model, self.sample, self.n_points)
        query = take(self.part.examples(model, self.sample), torch.from_numpy(index))
        curvature = self.part.curvature(model, min(self.samples)).metrics
        plan = Plan(None, max(self.depths), repeats=self.repeats, damping=self.damping)
        settings = plan.settled(curvature | ({} if self.scale is None else {"scale": self.scale}))
        vectors = query_gradients(task, query)
        solved = kept(
            scratch, "solution", partial(_solve, self.solver, task, train, vectors, settings)
        )
        solution = torch.from_numpy(solved["solution"])
        best: Tensor | None = None
        paths = []
        for sample in track(sorted(self.samples, reverse=True), "minibatch sizes"):
            walk = partial(_walk, self, sample, settings, task, train, vectors, solution, best)
            paths.append(kept(scratch, f"sample-{sample}", walk))
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
            "right": nli_points.predicted(model, self.sample)[1][index],
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
