"""Error correction on HANS: steps on the training pairs that influence functions call helpful.

Reproduces Figure 7, Sec. 6.3 and B.3 of FastIF (Guo et al., 2021): ten anchors of a slice, ten
steps of plain SGD on the ten most helpful of their nearest pairs, scored anew after every step.
Two controls are added: the most similar gradients (H = I), and the nearest pairs; at the small tier
also influence at the released damping.
Deviations: anchors stay the same over the steps (the released code draws new ones); neighbours are
searched once, by the features before the first step, near the anchors' mean feature.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.func import grad
from torch.nn import functional as F

from experiments.data.hans import SLICES
from experiments.data.pairs import Pairs
from experiments.laboratory import counting
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.work import Work
from experiments.pairs import models
from experiments.pairs.influence import BY_RULE, RELEASED, Plan, features, needed, recursion_steps
from methods import fastif
from methods.curvature.matrix import Operator
from methods.examples import Examples, take
from methods.precision import full_precision
from methods.progress import track
from methods.randomness import numpy_generator
from methods.task import Task


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


@full_precision()
def mean_gradient(task: Task, examples: Examples) -> Tensor:
    """The gradient of the mean training loss of some examples, (1, p)."""
    loss, examples = task.function(task.loss), task.move(examples)
    gradient = grad(lambda params: loss(params, examples).mean())(task.params)
    return task.flatten(gradient)[None]


@torch.no_grad()
def descend(classifier: models.Trained, examples: Examples, lr: float) -> None:
    """One step of plain SGD, in place: in the task, and in the module that its loss asks."""
    task, module = classifier.task, classifier.module
    change = task.unflatten(mean_gradient(task, examples)[0])
    for name, value in task.params.items():
        module.get_parameter(name).copy_(value.sub_(change[name], alpha=lr))


@dataclass(frozen=True)
class Fixed:
    """A learning rate."""

    lr: float = 1e-4

    def of(self, classifier: models.Trained, batch: int, seed: int) -> float:
        return self.lr


@dataclass(frozen=True)
class Predicted:
    """The learning rate at which steps on training pairs are predicted to lower their own loss.

    A step on a random batch is predicted to lower the batch's mean loss by lr |gradient|^2; here by
    `share` of the mean training loss, on average over `draws` batches. It is decided on the model
    and its training pairs alone, so that networks are moved alike whatever the scale of theirs.
    """

    share: float = 0.05
    draws: int = 20

    def of(self, classifier: models.Trained, batch: int, seed: int) -> float:
        draw, n = numpy_generator(seed, "pairs of the rate"), len(classifier.pairs)
        batches = [
            take(classifier.train, torch.from_numpy(draw.choice(n, batch, replace=False)))
            for _ in range(self.draws)
        ]
        squares = [float(mean_gradient(classifier.task, one).square().sum()) for one in batches]
        losses = [_loss(classifier, one) for one in batches]
        return self.share * float(np.mean(losses)) / float(np.mean(squares))


def _loss(classifier: models.Trained, examples: Examples) -> float:
    logits = models.logits(classifier.module, examples)
    return float(F.cross_entropy(logits, examples["label"]))


Rate = Fixed | Predicted
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
    rate: Rate = Fixed()
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
    lr = config.rate.of(classifier, config.batch, config.model.seed)
    measured = [_measured(classifier, slice_)]
    chosen, cosines = [], []
    for step in track(range(config.iterations), "steps"):
        draw = numpy_generator(
            config.model.seed, f"random pairs, {config.part}", config.repeat, step
        )
        index, cosine = choose(
            config.arm, classifier.task, slice_.anchors, pool, config.batch, inverse, draw
        )
        descend(classifier, take(pool.examples, index), lr)
        measured.append(_measured(classifier, slice_))
        chosen.append(index.numpy())
        cosines.append(cosine)
    columns = {name: np.array([one[name] for one in measured]) for name in measured[0]}
    accuracy, loss = columns["accuracy"], columns["loss"]
    stepped_on = np.concatenate(chosen)
    return {
        **metrics,
        "lr": lr,
        "accuracy_start": accuracy[0],
        "accuracy_end": accuracy[-1],
        "gain": accuracy[-1] - accuracy[0],
        "loss_change": loss[-1] - loss[0],
        "own_slice": float((pool.pairs.part[stepped_on] == config.part).mean()),
        "entailed": float((pool.pairs.label[stepped_on] == 0).mean()),
        "n_evaluation": len(slice_.rest["label"]),
        **columns,
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
def _measured(classifier: models.Trained, slice_: Slice) -> dict[str, float]:
    """What is measured after each step, on the rest of the slice; `anchor_loss` on the anchors.

    A model that predicts entailment everywhere is right on half of a slice, and stays so while all
    answers shift together: accuracy is also given of entailed pairs and of the others, and `auc`,
    which a common shift does not change, is how well the two are told apart.
    """
    rest, label = models.logits(classifier.module, slice_.rest), slice_.rest["label"]
    right, entailed = (rest.argmax(1) == label).double(), label == 0
    score = (rest[:, 0] - rest[:, 1:].logsumexp(1)).numpy()
    return {
        "accuracy": float(right.mean()),
        "accuracy_entailed": float(right[entailed].mean()),
        "accuracy_other": float(right[~entailed].mean()),
        "auc": float(roc_auc_score(entailed.numpy(), score)),
        "loss": float(F.cross_entropy(rest, label)),
        "anchor_loss": _loss(classifier, slice_.anchors),
    }


def work(config: Config) -> Work:
    """What the steps of a cell take, with the model, its passes and its curvature."""
    model, plan, arm = config.model, config.plan, config.arm
    of, n = models.unit(model.network, model.labels), config.iterations
    steps = [counting.forward(of, (n + 1) * models.pairs_of(config.evaluation) / len(SLICES))]
    asked = plan if isinstance(arm, Influential) else None
    if asked is not None:
        (step,) = recursion_steps(plan, model, 1)
        steps.append(replace(step, times=step.times * n))
    if isinstance(arm, Influential | Similar):
        steps.append(counting.gradients(of, n * (plan.k or models.pairs_of(arm.pool))))
    samples = (config.evaluation,) if isinstance(arm, Anchors) else (config.evaluation, arm.pool)
    memory = counting.FLOAT * of.size * 8
    parts = needed(model, asked, *samples)
    return Work(f"steps on {type(arm).__name__}", tuple(steps), parts, memory=memory)


def cells(
    at: Config,
    pairs: models.Hans,
    seeds: int,
    repeats: dict[Rate, int],
    ks: tuple[int, int],
    released: Plan | None = None,
) -> list[Config]:
    """Ordered by seeds, then draws of the anchors, so that the first cells make a figure.

    repeats   draws of the anchors at each learning rate
    ks        candidates of the pool of MultiNLI, and of that of HANS
    released  if given, another plan for the influential pairs of MultiNLI
    """
    size = {at.model.train: ks[0], pairs.train: ks[1]}
    chosen = [
        (arm, replace(at.plan, k=size[getattr(arm, "pool", at.model.train)]))
        for arm in arms(at.model.train, pairs.train)
    ]
    if released is not None:
        again = replace(released, k=ks[0])
        influential = [arm for arm, _ in chosen if isinstance(arm, Influential)]
        chosen += [(arm, again) for arm in influential if arm.pool == at.model.train]
    cell = partial(replace, at, evaluation=pairs.evaluation)
    return [
        cell(
            model=replace(at.model, seed=seed),
            arm=arm,
            part=part,
            rate=rate,
            repeat=repeat,
            plan=plan,
        )
        for seed in range(seeds)
        for repeat in range(max(repeats.values()))
        for rate in repeats
        if repeat < repeats[rate]
        for part in SLICES
        for arm, plan in chosen
    ]


# All three trained layers are differentiated: steps on the last one alone shift all answers alike.
THREE_LAYERS = models.Model(labels=2, fit=replace(models.FIT, epochs=10, every=10))
# The damping of the released settings for HANS, 5,000, in the few steps that its own scale needs.
DAMPED = Plan(sample=32, damping=5e3)
TRUNCATED = Plan(k=30, depth=8)
PRESETS: dict[str, list[Config]] = {
    "smoke": cells(
        Config(models.SMOKE_TWO, plan=TRUNCATED, iterations=2),
        models.hans_pairs("generated", 150, 210),
        2,
        {Predicted(draws=2): 1},
        (30, 30),
        replace(DAMPED, sample=1),
    ),
    "small": cells(
        Config(THREE_LAYERS, plan=BY_RULE),
        models.hans_pairs("subset", 3_000),
        3,
        {Predicted(): 3, Fixed(): 1},
        (33, 100),
        DAMPED,
    ),
    "paper": cells(
        Config(models.PAPER_TWO, plan=RELEASED), models.WHOLE_HANS, 3, {Fixed(): 3}, (1_000, 1_000)
    ),
}

EXPERIMENT = Experiment(
    "mnli_hans",
    run,
    PRESETS,
    summary="error correction on HANS: steps on helpful, harmful, random and nearest pairs",
    columns=("accuracy_start", "accuracy_end", "gain", "loss_change"),
    seconds={"smoke": 25},
    gpu=True,
    work=work,
)


if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
