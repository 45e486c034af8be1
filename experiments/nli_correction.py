"""What a wrong slice may be corrected with: which pairs to step on, by influence or by controls."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.func import grad
from torch.nn import functional as F

from experiments.data.pairs import Pairs
from experiments.hidden import Sample
from methods import fastif
from methods.operators import Operator
from methods.task import Examples, Task


@dataclass(frozen=True)
class Influential:
    """Pairs of the pool with the highest influence on the anchors, or the lowest."""

    pool: Sample = Sample()
    side: Literal["helpful", "harmful"] = "helpful"


@dataclass(frozen=True)
class Similar:
    """The control without a Hessian: pairs whose gradients are most like the anchors'."""

    pool: Sample = Sample()


@dataclass(frozen=True)
class Nearest:
    """The control without a gradient: pairs whose features are nearest the anchors' mean."""

    pool: Sample = Sample()


@dataclass(frozen=True)
class Random:
    """Pairs drawn from the whole pool, others at every step."""

    pool: Sample = Sample()


@dataclass(frozen=True)
class Anchors:
    """The anchors themselves."""


Arm = Influential | Similar | Nearest | Random | Anchors


@dataclass(frozen=True)
class Pool:
    """What may be stepped on; `near` (k,) are positions, nearest the anchors first."""

    examples: Examples
    pairs: Pairs
    near: Tensor


def arms(training: Sample, augmentation: Sample) -> list[Arm]:
    """Every arm from either pool; the anchors are the same for both."""
    made: list[Arm] = [Anchors()]
    for pool in (training, augmentation):
        made += [Influential(pool, "helpful"), Influential(pool, "harmful")]
        made += [Random(pool), Similar(pool), Nearest(pool)]
    return made


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
    draw     what a `Random` arm draws with
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
    found = grad(lambda params: loss(params, examples).mean())(task.params)
    return task.flatten(found)[None]


def descend(task: Task, examples: Examples, lr: float) -> None:
    """One step of plain SGD, in place: the trained module has its parameters in common."""
    change = task.unflatten(mean_gradient(task, examples)[0])
    for name, value in task.params.items():
        value.sub_(change[name], alpha=lr)
