"""FastIF on a classifier of sentence pairs: its settings, the pairs asked about, and their scores.

The rule for the damping uses training pairs only: twice the size of the lowest eigenvalue that
Lanczos finds. So H + damping is positive definite with a margin, which LiSSA needs to converge, and
neither queries nor evaluation pairs have an effect on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.laboratory import counting, runs
from experiments.laboratory.device import device
from experiments.laboratory.errors import UserError
from experiments.laboratory.work import Step, Work
from experiments.pairs.models import (
    Model,
    Sample,
    Simulator,
    load,
    pass_work,
    passed,
    task_model,
    trained,
    unit,
    work,
)
from methods.curvature.operators import Hessian
from methods.errors import MethodError
from methods.examples import Examples, count, take
from methods.fastif import FastIF, inverted
from methods.ihvp.arnoldi import krylov
from methods.ihvp.inverse import largest_eigenvalue
from methods.ihvp.lissa import MARGIN, LiSSA
from methods.progress import track
from methods.randomness import numpy_generator
from methods.rows.factored import Rows
from methods.rows.gradients import Gradients, gradient_rows
from methods.task import Task

DEPTH = 1_000  # about, where the curvature decides it
CONVERGED = 3.0  # depth * damping / scale: of the slowest direction's error exp(-3), 5%, remains


@dataclass(frozen=True)
class Curvature:
    """Lanczos over `n` random training pairs; largest eigenvalues of `draws` minibatches of B."""

    model: Model | Simulator
    n: int = 256
    steps: int = 16
    sample: int = 1
    draws: int = 16


@dataclass(frozen=True)
class Plan:
    """FastIF's settings; those that are None follow from the model's curvature.

    depth    J; None: as many steps as leave 5% of the error in the slowest direction
    damping  None: twice the size of the lowest eigenvalue
    scale    None: 1.1 times the largest eigenvalue of minibatches of B
    """

    k: int | None = 1_000
    depth: int | None = None
    sample: int = 1
    repeats: int = 1
    damping: float | None = None
    scale: float | None = None
    seed: int = 0

    def settle(self, model: Model | Simulator) -> FastIF:
        """The settings in numbers; measures the model's curvature only if they need it."""
        given = self.damping is not None and self.scale is not None
        return self.settled({} if given else curvature(model, self.sample).metrics)

    def settled(self, measured: Mapping[str, Any]) -> FastIF:
        """The settings in numbers by a curvature: its `damping`, and `scale` at this B."""
        damping = measured["damping"] if self.damping is None else self.damping
        scale = max(measured["scale"], MARGIN * damping) if self.scale is None else self.scale
        depth = ceil(CONVERGED * scale / damping) if self.depth is None else self.depth
        lissa = LiSSA(depth, self.sample, scale, self.repeats, self.seed)
        return FastIF(self.k, lissa, damping)


BY_RULE = Plan(sample=32)  # with so few parameters a step over 32 pairs hardly costs more than one
RELEASED = Plan(k=1_000, depth=1_000, damping=50.0, scale=1e4, repeats=3)  # of the released code


def curvature(model: Model | Simulator, sample: int = 1) -> runs.Run:
    """The run with `largest`, `lowest`, `damping` and, for minibatches of `sample`, `scale`."""
    config = Curvature(model, sample=sample)

    def compute(_: Path) -> dict[str, Any]:
        classifier = trained(model)
        return measure(classifier.task, classifier.train, config)

    return runs.once("nli_curvature", config, compute)


def measure(task: Task, train: Examples, config: Curvature) -> dict[str, Any]:
    """`largest`, `lowest`, `damping`, `scale` and `ritz` (steps,) of any task's training loss."""
    chosen = numpy_generator(0, "curvature of a classifier").permutation(count(train))[: config.n]
    pairs = take(train, torch.from_numpy(np.sort(chosen)))
    bare = Hessian(replace(task, weight_decay=0.0), pairs)
    _, projected = krylov(bare, config.steps, seed=0)
    values = np.linalg.eigvalsh(((projected + projected.T) / 2).double().cpu().numpy())
    batches = Hessian(task, train, sample=config.sample)
    batches_largest = largest_eigenvalue(batches, iterations=8, draws=config.draws)
    lowest = float(values[0])
    if lowest >= 0:
        raise UserError(
            f"the lowest eigenvalue found is {lowest:.2g}: the training loss is convex here, so "
            "the rule for the damping does not apply; give damping"
        )
    return {
        "largest": float(values[-1]),
        "lowest": lowest,
        "damping": -2 * lowest,
        "scale": MARGIN * batches_largest,
        "ritz": values,
    }


def as_metrics(settings: FastIF, prefix: str = "") -> dict[str, Any]:
    """J, B, T, damping and scale, by name."""
    lissa = settings.lissa
    return {
        f"{prefix}depth": lissa.depth,
        f"{prefix}sample": lissa.sample,
        f"{prefix}repeats": lissa.repeats,
        f"{prefix}damping": settings.damping,
        f"{prefix}scale": lissa.scale,
    }


def predicted(model: Model | Simulator, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """The predicted class of each pair (n,), and whether it is right (n,)."""
    classes = np.asarray(passed(model, sample).array("logits")).argmax(1)
    _, pairs = load(task_model(model), sample)
    return classes, classes == pairs.label


def balanced(model: Model | Simulator, sample: Sample, n: int) -> np.ndarray:
    """n random positions: first n / 2 of rightly predicted pairs, then as many of wrong ones."""
    _, right = predicted(model, sample)
    draw = numpy_generator(task_model(model).seed, "evaluation points")
    halves = []
    for name, among in (("right", right), ("wrong", ~right)):
        positions = np.flatnonzero(among)
        if len(positions) < n // 2:
            raise UserError(
                f"{len(positions)} pairs of {sample.which} are predicted {name}, {n // 2} are "
                f"needed: ask for {2 * len(positions)} points at most"
            )
        halves.append(np.sort(draw.permutation(positions)[: n // 2]))
    return np.concatenate(halves)


def wrong(model: Model | Simulator, sample: Sample, n: int, part: str) -> np.ndarray:
    """n random positions of wrongly predicted pairs of one part of a sample."""
    _, right = predicted(model, sample)
    _, pairs = load(task_model(model), sample)
    positions = np.flatnonzero(~right & (pairs.part == part))
    if len(positions) < n:
        raise UserError(
            f"{len(positions)} wrongly predicted pairs of {part} in {sample.which}, {n} are "
            "needed: lower the number of points, or raise n of the sample"
        )
    draw = numpy_generator(task_model(model).seed, f"wrong pairs of {part}")
    return np.sort(draw.permutation(positions)[:n])


def examples(model: Model | Simulator, sample: Sample, index: np.ndarray) -> Examples:
    """The pairs at some positions, as a network takes them."""
    columns, _ = load(task_model(model), sample)
    return take(columns, torch.from_numpy(index))


def features(model: Model | Simulator, sample: Sample) -> Tensor:
    """The classifier's inputs for each pair, (n, width), whose distances define neighbours.

    They are on the device.
    """
    return torch.from_numpy(np.array(passed(model, sample).array("features"))).to(device())


def influences(model: Model, query: Examples, settings: FastIF) -> dict[str, np.ndarray]:
    """`scores` and `similarity` (n_query, n_train); positive = proponent; `relative_error` (n,).

    similarity is the inner product of gradients: the score with the identity for the Hessian.
    relative_error is that of s_test by the spread of its repeats, nan if there is one.
    """
    classifier = trained(model)
    gradients = gradient_rows(classifier.task, query).dense()
    s_test = inverted(classifier.task, classifier.train, gradients, settings)
    directions = torch.cat([s_test.mean, gradients])
    products = gradient_products(classifier.task, classifier.train, directions)
    scores, similarity = (block.numpy() for block in products.split(len(gradients)))
    error = s_test.relative_error.cpu().numpy()
    return {"scores": scores, "similarity": similarity, "relative_error": error}


def gradient_products(task: Task, train: Examples, directions: Tensor) -> Tensor:
    """Inner products of directions (k, p) with the gradients of all examples, (k, n), in one pass.

    Examples with a column `length` are taken in its order.
    """
    gradients = Gradients(task)
    rows, n = Rows.dense_of(directions, gradients.sizes()), count(train)
    order = train["length"].argsort(stable=True) if "length" in train else torch.arange(n)
    step = gradients.chunk(take(train, order[:4]))
    out = torch.empty(len(directions), n, dtype=task.dtype)
    for places in track(list(order.split(step)), "influence of all pairs"):
        out[:, places] = gradients.rows(take(train, places)).inner(rows).T.cpu()
    if not torch.isfinite(out).all():
        raise MethodError("a score is not finite: raise `damping`, or LiSSA's `scale`")
    return out


def check_counts(n: int, **counts: tuple[int, ...]) -> None:
    """Refuse numbers of training pairs below 1 or above n."""
    for name, values in counts.items():
        if not values or not 0 < min(values) <= max(values) <= n:
            listed = ", ".join(f"{value:,}" for value in values) or "nothing"
            raise UserError(
                f"{name} asks for {listed} of {n:,} training pairs: give numbers from 1 to {n:,}"
            )


def recursion_steps(plan: Plan, model: Model | Simulator, vectors: float) -> tuple[Step, ...]:
    """What s_test of some points takes; a depth that the curvature decides is taken as DEPTH."""
    base = task_model(model)
    lissa = LiSSA(plan.depth or DEPTH, plan.sample, 1.0, plan.repeats)
    return (counting.recursion(unit(base.network, base.labels), lissa, vectors),)


def needed(model: Model | Simulator, plan: Plan | None, *samples: Sample) -> tuple[Work, ...]:
    """What the model, its passes over samples, and its curvature for a plan take."""
    base = task_model(model)
    parts = work(model), *(pass_work(model, one) for one in (base.train, *samples))
    if plan is None or (plan.damping is not None and plan.scale is not None):
        return parts
    config, of = Curvature(model, sample=plan.sample), unit(base.network, base.labels)
    steps = (
        counting.products(of, config.n, config.steps),
        counting.products(of, plan.sample, 8 * config.draws),
    )
    return *parts, Work("curvature", steps, (work(model),), "nli_curvature", config)
