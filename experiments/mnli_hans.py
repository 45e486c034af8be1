"""Error correction on HANS: steps on the training pairs that influence functions call helpful.

Reproduces Figure 7, Sec. 6.3 and B.3 of FastIF (Guo et al., 2021): ten anchors of a slice, ten
steps of plain SGD on the ten most helpful of their nearest pairs, scored anew after every step.
Two controls are added: the most similar gradients (H = I), and the nearest pairs.
Deviations: anchors stay the same over the steps (the released code draws new ones); neighbours are
searched once, by the features before the first step, near the anchors' mean feature.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.func import grad
from torch.nn import functional as F

from experiments.data.hans import SLICES
from experiments.data.pairs import Pairs
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.pairs import models
from experiments.pairs.influence import BY_RULE, RELEASED, Plan, features
from methods import fastif
from methods.curvature.operators import Operator
from methods.progress import track
from methods.randomness import numpy_generator
from methods.task import Examples, Task, take


@dataclass(frozen=True)
class Influential:
    """Pairs of the pool with the highest influence on the anchors, or the lowest."""

    pool: models.Sample = models.Sample()
    side: Literal["helpful", "harmful"] = "helpful"


@dataclass(frozen=True)
class Similar:
    """The control without a Hessian: pairs whose gradients are most similar to the anchors'."""

    pool: models.Sample = models.Sample()


@dataclass(frozen=True)
class Nearest:
    """The control without a gradient: pairs whose features are nearest the anchors' mean."""

    pool: models.Sample = models.Sample()


@dataclass(frozen=True)
class Random:
    """Pairs drawn from the whole pool, anew at every step."""

    pool: models.Sample = models.Sample()


@dataclass(frozen=True)
class Anchors:
    """The anchors themselves."""


Arm = Influential | Similar | Nearest | Random | Anchors


@dataclass(frozen=True)
class Pool:
    """Pairs to choose from; `near` (k,) are positions, the nearest to the anchors first."""

    examples: Examples
    pairs: Pairs
    near: Tensor


def arms(training: models.Sample, augmentation: models.Sample) -> list[Arm]:
    """The anchors, and every other arm with either pool."""
    every: list[Arm] = [Anchors()]
    for pool in (training, augmentation):
        every += [Influential(pool, "helpful"), Influential(pool, "harmful")]
        every += [Random(pool), Similar(pool), Nearest(pool)]
    return every


def choose(
    arm: Arm,
    task: Task,
    anchors: Examples,
    pool: Pool,
    n: int,
    inverse: Operator | None,
    draw: np.random.Generator,
) -> tuple[Tensor, float]:
    """Positions (n,) in the pool to step on, and the cosine of s_test with the anchors' gradient.

    inverse  the damped inverse Hessian; None is the identity
    draw     the generator of a `Random` arm
    """
    if isinstance(arm, Anchors | Nearest):
        return pool.near[:n], 1.0
    if isinstance(arm, Random):
        return torch.from_numpy(draw.choice(len(pool.pairs), n, replace=False)), 1.0
    gradient = mean_gradient(task, anchors)
    direction = gradient if inverse is None else inverse.apply(gradient)
    scores = fastif.scores(task, direction, pool.examples, pool.near[None])[0]
    harmful = isinstance(arm, Influential) and arm.side == "harmful"
    best = scores.topk(n, largest=not harmful).indices
    return pool.near[best], float(F.cosine_similarity(direction, gradient))


def mean_gradient(task: Task, examples: Examples) -> Tensor:
    """The gradient of the mean training loss of some examples, (1, p)."""
    loss = task.function(task.loss)
    gradient = grad(lambda params: loss(params, examples).mean())(task.params)
    return task.flatten(gradient)[None]


def descend(task: Task, examples: Examples, lr: float) -> None:
    """One step of plain SGD, in place: the trained module shares the parameters."""
    change = task.unflatten(mean_gradient(task, examples)[0])
    for name, value in task.params.items():
        value.sub_(change[name], alpha=lr)


Part = Literal["lexical_overlap", "subsequence", "constituent"]


@dataclass(frozen=True)
class Config:
    """Steps on the pairs that an arm chooses, each followed by an evaluation on one slice.

    repeat      number of the draw of the anchors
    batch       pairs in each step
    """

    model: models.Model = models.SMALL_TWO
    arm: Arm = Influential()
    part: Part = "lexical_overlap"
    lr: float = 1e-4
    repeat: int = 0
    plan: Plan = Plan()
    evaluation: models.Sample = models.WHOLE_HANS.evaluation
    n_anchors: int = 10
    iterations: int = 10
    batch: int = 10


@dataclass(frozen=True)
class Slice:
    """The anchors, the rest of their slice, and the positions of the anchors in its sample."""

    anchors: Examples
    rest: Examples
    index: Tensor


def run(config: Config, scratch: Path) -> dict[str, Any]:
    slice_ = draw_anchors(config)
    pool = _pool(config, slice_)
    classifier = models.trained(config.model)
    # Parameters change in place, so the recursion uses the current model's Hessian at every step.
    inverse, metrics = None, {}
    if isinstance(config.arm, Influential):
        settings = config.plan.settle(config.model)
        inverse = fastif.recursion_of(classifier.task, classifier.train, settings)
        metrics = {"damping": settings.damping, "depth": settings.lissa.depth}
        metrics["scale"] = inverse.scale
    measured = [_measured(classifier, slice_)]
    chosen, cosines = [], []
    for step in track(range(config.iterations), "steps"):
        draw = numpy_generator(
            config.model.seed, f"random pairs, {config.part}", config.repeat, step
        )
        index, cosine = choose(
            config.arm, classifier.task, slice_.anchors, pool, config.batch, inverse, draw
        )
        descend(classifier.task, take(pool.examples, index), config.lr)
        measured.append(_measured(classifier, slice_))
        chosen.append(index.numpy())
        cosines.append(cosine)
    accuracy, loss, anchor_loss = (np.array(column) for column in zip(*measured, strict=True))
    stepped_on = np.concatenate(chosen)
    return {
        **metrics,
        "accuracy_start": accuracy[0],
        "accuracy_end": accuracy[-1],
        "gain": accuracy[-1] - accuracy[0],
        "loss_change": loss[-1] - loss[0],
        "own_slice": float((pool.pairs.part[stepped_on] == config.part).mean()),
        "entailed": float((pool.pairs.label[stepped_on] == 0).mean()),
        "n_evaluation": len(slice_.rest["label"]),
        "accuracy": accuracy,
        "loss": loss,
        "anchor_loss": anchor_loss,
        "chosen": np.stack(chosen),
        "cosine": np.array(cosines),
    }


def draw_anchors(config: Config) -> Slice:
    """Random pairs of the slice, rightly or wrongly predicted, and all its other pairs."""
    columns, pairs = models.load(config.model, config.evaluation)
    positions = np.flatnonzero(pairs.part == config.part)
    if len(positions) <= config.n_anchors:
        raise UserError(
            f"{config.n_anchors} anchors of {len(positions)} pairs of {config.part} in "
            f"{config.evaluation.which}: raise n of the evaluation sample, or lower n_anchors"
        )
    draw = numpy_generator(config.model.seed, f"anchors of {config.part}", config.repeat)
    drawn = torch.from_numpy(draw.permutation(positions))
    index, rest = drawn[: config.n_anchors], drawn[config.n_anchors :].sort().values
    return Slice(take(columns, index), take(columns, rest), index)


def _pool(config: Config, slice_: Slice) -> Pool:
    if isinstance(config.arm, Anchors):
        examples, pairs = models.load(config.model, config.evaluation)
        return Pool(examples, pairs, slice_.index)
    examples, pairs = models.load(config.model, config.arm.pool)
    k = config.plan.k or len(pairs)
    if config.batch > min(k, len(pairs)):
        raise UserError(
            f"{config.batch} pairs in each step of {min(k, len(pairs))} candidates: raise plan.k "
            "or n of the pool, or lower batch"
        )
    mean = features(config.model, config.evaluation)[slice_.index].mean(0, keepdim=True)
    near = fastif.neighbours(mean, features(config.model, config.arm.pool), k)[0]
    return Pool(examples, pairs, near)


@torch.no_grad()
def _measured(classifier: models.Trained, slice_: Slice) -> tuple[float, float, float]:
    """Accuracy and mean loss on the rest of the slice, and mean loss on the anchors."""
    rest, anchors = (
        models.logits(classifier.module, part) for part in (slice_.rest, slice_.anchors)
    )
    right = (rest.argmax(1) == slice_.rest["label"]).double().mean()
    loss = F.cross_entropy(rest, slice_.rest["label"])
    anchor_loss = F.cross_entropy(anchors, slice_.anchors["label"])
    return float(right), float(loss), float(anchor_loss)


def cells(at: Config, pairs: models.Hans, seeds: int, repeats: dict[float, int]) -> list[Config]:
    """Ordered by seeds, then draws of the anchors, so that the first cells make a figure.

    repeats  draws of the anchors at each learning rate
    """
    cell = partial(replace, at, evaluation=pairs.evaluation)
    return [
        cell(model=replace(at.model, seed=seed), arm=arm, part=part, lr=lr, repeat=repeat)
        for seed in range(seeds)
        for repeat in range(max(repeats.values()))
        for lr in repeats
        if repeat < repeats[lr]
        for part in SLICES
        for arm in arms(at.model.train, pairs.train)
    ]


# The second rate was chosen before any run: the small network was trained by AdamW at 2e-4, and
# plain SGD, which does not rescale gradients, needs a far higher rate to move it as far.
PAPER_LR, HIGHER_LR = 1e-4, 1e-2
TRUNCATED = Plan(k=30, depth=8)
PRESETS: dict[str, list[Config]] = {
    "smoke": cells(
        Config(models.SMOKE_TWO, plan=TRUNCATED, iterations=2),
        models.hans_pairs("generated", 150, 210),
        2,
        {PAPER_LR: 1},
    ),
    "small": cells(
        Config(models.SMALL_TWO, plan=BY_RULE),
        models.hans_pairs("subset", 3_000, 1_830),
        3,
        {PAPER_LR: 3, HIGHER_LR: 1},
    ),
    "paper": cells(
        Config(models.PAPER_TWO, plan=RELEASED), models.WHOLE_HANS, 3, {PAPER_LR: 3, HIGHER_LR: 3}
    ),
}

EXPERIMENT = Experiment(
    "mnli_hans",
    run,
    PRESETS,
    summary="error correction on HANS: steps on helpful, harmful, random and nearest pairs",
    columns=("accuracy_start", "accuracy_end", "gain", "loss_change"),
    seconds={"smoke": 25, "small": 8_260},
)


if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
