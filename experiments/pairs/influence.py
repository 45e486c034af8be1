"""Influence of every training pair on some pairs, beside that of plain gradients (H = I)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.pairs.models import PAPER as PAPER_THREE
from experiments.pairs.models import SMOKE as SMOKE_THREE
from experiments.pairs.models import (
    Model,
    Sample,
    Simulator,
    load,
    passed,
    small,
    task_model,
    trained,
)
from methods.curvature.operators import Hessian
from methods.errors import MethodError
from methods.fastif import FastIF, inverted, query_gradients
from methods.ihvp.arnoldi import krylov
from methods.ihvp.inverse import largest_eigenvalue
from methods.ihvp.lissa import MARGIN, LiSSA
from methods.progress import track
from methods.randomness import numpy_generator
from methods.rows.rows import Rows
from methods.task import Examples, Task, count, take
from methods.tracin import FittedCheckpoint

# Which pairs of a development or evaluation set are asked about.


def predicted(model: Model | Simulator, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """The predicted class of each pair (n,), and whether it is right (n,)."""
    found = np.asarray(passed(model, sample).array("logits")).argmax(1)
    _, pairs = load(task_model(model), sample)
    return found, found == pairs.label


def balanced(model: Model | Simulator, sample: Sample, n: int) -> np.ndarray:
    """n random positions: half of pairs that are predicted rightly, then half of wrong ones."""
    _, right = predicted(model, sample)
    draw = numpy_generator(task_model(model).seed, "evaluation points")
    parts = []
    for name, among in (("right", right), ("wrong", ~right)):
        there = np.flatnonzero(among)
        if len(there) < n // 2:
            raise UserError(
                f"{n // 2} of {len(there)} pairs of {sample.which} that are predicted {name}: ask "
                f"for {2 * len(there)} points at most"
            )
        parts.append(np.sort(draw.permutation(there)[: n // 2]))
    return np.concatenate(parts)


def wrong(model: Model | Simulator, sample: Sample, n: int, part: str) -> np.ndarray:
    """n random positions of wrongly predicted pairs of one part of a sample."""
    _, right = predicted(model, sample)
    _, pairs = load(task_model(model), sample)
    there = np.flatnonzero(~right & (pairs.part == part))
    if len(there) < n:
        raise UserError(
            f"{n} of {len(there)} wrongly predicted pairs of {part} in {sample.which}: lower the "
            "number of points, or raise n of the sample"
        )
    draw = numpy_generator(task_model(model).seed, f"wrong pairs of {part}")
    return np.sort(draw.permutation(there)[:n])


def examples(model: Model | Simulator, sample: Sample, index: np.ndarray) -> Examples:
    """The pairs at some positions, as a network takes them."""
    columns, _ = load(task_model(model), sample)
    return take(columns, torch.from_numpy(index))


def features(model: Model | Simulator, sample: Sample) -> torch.Tensor:
    """What the classifier sees of each pair, (n, width): by it neighbours are found."""
    return torch.from_numpy(np.array(passed(model, sample).array("features")))


def influences(model: Model, query: Examples, settings: FastIF) -> dict[str, np.ndarray]:
    """`scores` and `similarity` (n_query, n_train); positive = proponent; `relative_error` (n,).

    similarity is the inner product of gradients: the score with the identity for the Hessian.
    relative_error is that of s_test by the spread of its repeats, nan if there is one.
    """
    there = trained(model)
    gradients = query_gradients(there.task, query)
    found = inverted(there.task, there.train, gradients, settings)
    both = along(there.task, there.train, torch.cat([found.mean, gradients]))
    scores, similarity = (one.numpy() for one in both.split(len(gradients)))
    error = found.relative_error.numpy()
    return {"scores": scores, "similarity": similarity, "relative_error": error}


def told(settings: FastIF, prefix: str = "") -> dict[str, Any]:
    """J, B, T, damping and scale, by name."""
    lissa = settings.lissa
    return {
        f"{prefix}depth": lissa.depth,
        f"{prefix}sample": lissa.sample,
        f"{prefix}repeats": lissa.repeats,
        f"{prefix}damping": settings.damping,
        f"{prefix}scale": lissa.scale,
    }


def along(task: Task, train: Examples, directions: Tensor) -> Tensor:
    """Inner products of directions (k, p) with the gradients of all examples, (k, n), in one pass.

    Examples go in the order of their column `length`, if they have one.
    """
    fitted = FittedCheckpoint(task, 1.0, None)
    rows, n = Rows.dense_of(directions, fitted.sizes()), count(train)
    order = train["length"].argsort(stable=True) if "length" in train else torch.arange(n)
    step = fitted.chunk(take(train, order[:4]))
    out = torch.empty(len(directions), n, dtype=task.dtype)
    for places in track(list(order.split(step)), "influence of all pairs"):
        out[:, places] = fitted.train_gradients(take(train, places)).inner(rows).T.cpu()
    if not torch.isfinite(out).all():
        raise MethodError("a score is not finite: raise `damping`, or LiSSA's `scale`")
    return out


def check_counts(n: int, **counts: tuple[int, ...]) -> None:
    """Refuse numbers of training pairs that there are not."""
    for name, values in counts.items():
        if not values or not 0 < min(values) <= max(values) <= n:
            asked = ", ".join(f"{value:,}" for value in values) or "nothing"
            raise UserError(
                f"{name} asks for {asked} of {n:,} training pairs: give numbers from 1 to {n:,}"
            )


# How curved a classifier's training loss is, and what follows for LiSSA; asked once a model.
#
# The rule for the damping sees training pairs alone: twice the size of the lowest eigenvalue that
# Lanczos finds. So H + damping is positive definite with a margin, which LiSSA needs to converge,
# and no query and no evaluation slice has a say.


CONVERGED = 3.0  # J scale/damping-lengths: what is left of the slowest direction is exp(-3), 5%


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
    """FastIF's settings with what is left out found from the model's curvature.

    depth    J; None: so many steps that what is left of the slowest direction is 5%
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
        """The settings in numbers; a model's curvature is measured only if they need it."""
        given = self.damping is not None and self.scale is not None
        return self.settled({} if given else curvature(model, self.sample).metrics)

    def settled(self, found: Mapping[str, Any]) -> FastIF:
        """The same by a curvature that was measured: its `damping`, and `scale` at this B."""
        damping = found["damping"] if self.damping is None else self.damping
        scale = max(found["scale"], MARGIN * damping) if self.scale is None else self.scale
        depth = ceil(CONVERGED * scale / damping) if self.depth is None else self.depth
        lissa = LiSSA(depth, self.sample, scale, self.repeats, self.seed)
        return FastIF(self.k, lissa, damping)


def curvature(model: Model | Simulator, sample: int = 1) -> runs.Run:
    """The run with `largest`, `lowest`, `damping` and, for minibatches of `sample`, `scale`."""
    config = Curvature(model, sample=sample)

    def compute(_: Path) -> dict[str, Any]:
        there = trained(model)
        return measure(there.task, there.train, config)

    return runs.once("nli_curvature", config, compute)


def measure(task: Task, train: Examples, config: Curvature) -> dict[str, Any]:
    """`largest`, `lowest`, `damping`, `scale` and `ritz` (steps,) of any task's training loss."""
    chosen = numpy_generator(0, "curvature of a classifier").permutation(count(train))[: config.n]
    pairs = take(train, torch.from_numpy(np.sort(chosen)))
    bare = Hessian(replace(task, weight_decay=0.0), pairs)
    _, projected = krylov(bare, config.steps, seed=0)
    values = np.linalg.eigvalsh(((projected + projected.T) / 2).double().numpy())
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


# The two-label models of MultiNLI and the pairs of HANS they are asked about, by tier.


SMOKE = replace(SMOKE_THREE, labels=2)
SMALL = small(2)
BY_RULE = Plan(sample=32)  # of so few parameters a step over 32 pairs costs little more than over 1
PAPER = replace(PAPER_THREE, labels=2)
RELEASED = Plan(k=1_000, depth=1_000, damping=50.0, scale=1e4, repeats=3)  # of the released code


@dataclass(frozen=True)
class Hans:
    """Pairs to learn from, and pairs that answers are judged on."""

    train: Sample
    evaluation: Sample


def generated(n_train: int, n_evaluation: int) -> Hans:
    """Traps in the generated language, in place of HANS."""
    return Hans(
        Sample("hans train", "generated", n_train),
        Sample("hans evaluation", "generated", n_evaluation),
    )


def subset(n_train: int, n_evaluation: int) -> Hans:
    """Some pairs of HANS, written as the subset of MultiNLI is."""
    return Hans(
        Sample("hans train", "subset", n_train), Sample("hans evaluation", "subset", n_evaluation)
    )


WHOLE = Hans(Sample("hans train", "whole"), Sample("hans evaluation", "whole"))
