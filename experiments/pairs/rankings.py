"""Training pairs ranked by their influence on a point: by FastIF, and by its controls."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.laboratory import counting, runs
from experiments.laboratory.counting import FLOAT
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import Run
from experiments.laboratory.work import Step, Work
from experiments.pairs.influence import Plan, balanced, examples, features, needed, recursion_steps
from experiments.pairs.models import Model, Sample, Trained, pairs_of, trained, unit
from methods import fastif
from methods.examples import Examples
from methods.rows.gradients import gradient_rows


@dataclass(frozen=True)
class SameGradient:
    """The control H = I: inner products of gradients, of the k nearest pairs; None is all pairs."""

    k: int | None = None


@dataclass(frozen=True)
class SameFeatures:
    """The control without gradients: the nearest pairs by features.

    Those with the point's label count as helpful, those with another label as harmful.
    """


System = Plan | SameGradient | SameFeatures


@dataclass(frozen=True)
class Ranking:
    """The `keep` most helpful and most harmful training pairs of balanced points of a sample.

    Influence is that on the loss of the point's true label.
    """

    model: Model
    sample: Sample
    points: int
    system: System
    keep: int


def ranked(config: Ranking) -> Run:
    """The run with the positions `helpful` and `harmful` (points, keep), the strongest first.

    It has `helpful_score` and `harmful_score` too, positive = proponent; for FastIF `damping`,
    `scale`, `depth` and, with several repeats, the mean `relative_error` of s_test.
    """
    return runs.once("nli_ranking", config, lambda _: _rank(config))


def random_of_label(labels: np.ndarray, label: int, n: int, draw: np.random.Generator) -> Any:
    """n random positions of a label, (n,); a smaller n gives the first of a larger one's."""
    positions = np.flatnonzero(labels == label)
    if len(positions) < n:
        raise UserError(
            f"{n} of {len(positions)} training pairs of label {label}: ask for fewer pairs, or "
            "raise n of the training sample"
        )
    return draw.permutation(positions)[:n]


def _rank(config: Ranking) -> dict[str, Any]:
    classifier = trained(config.model)
    points = balanced(config.model, config.sample, config.points)
    query = examples(config.model, config.sample, points)
    both = (  # features of the points, and of the training pairs
        features(config.model, config.sample)[torch.from_numpy(points)],
        features(config.model, config.model.train),
    )
    if isinstance(config.system, SameFeatures):
        return _by_features(query["label"], classifier.train["label"], both, config.keep)
    metrics, index, scores = _by_gradients(classifier, query, both, config.system)
    n = index.shape[1]
    if n < 2 * config.keep:
        raise UserError(
            f"{config.keep} most helpful and {config.keep} most harmful pairs of {n} candidates: "
            f"raise k to {2 * config.keep} or more"
        )
    order = scores.argsort(dim=1, descending=True, stable=True)
    ends = {"helpful": order[:, : config.keep], "harmful": order.flip(1)[:, : config.keep]}
    for name, end in ends.items():
        metrics[name] = index.gather(1, end).numpy()
        metrics[f"{name}_score"] = scores.gather(1, end).numpy()
    return metrics


def _by_gradients(
    classifier: Trained, query: Examples, both: tuple[Tensor, Tensor], system: Plan | SameGradient
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Metrics of the computation; candidates of each point and their scores, (points, k)."""
    task, train = classifier.task, classifier.train
    if isinstance(system, Plan):
        settings = system.settle(classifier.model)
        influence = fastif.influential(task, train, query, both, settings)
        metrics: dict[str, Any] = {
            "damping": settings.damping,
            "scale": settings.lissa.scale,
            "depth": settings.lissa.depth,
        }
        if settings.lissa.repeats > 1:
            metrics["relative_error"] = float(influence.s_test.relative_error.mean())
        return metrics, influence.candidates, influence.scores
    if system.k is None:
        n = len(classifier.pairs)
        index = torch.arange(n).expand(len(query["label"]), n)
    else:
        index = fastif.neighbours(*both, system.k)
    gradients = gradient_rows(task, query).dense()
    return {}, index, fastif.scores(task, gradients, train, index)


def _by_features(
    label: Tensor, labels: Tensor, both: tuple[Tensor, Tensor], keep: int
) -> dict[str, Any]:
    """Scores are distances, negative for another label."""
    distance = torch.cdist(*both, compute_mode="donot_use_mm_for_euclid_dist").cpu()
    same = labels == label[:, None]
    fewest = min(int(same.sum(1).min()), int((~same).sum(1).min()))
    if fewest < keep:
        raise UserError(
            f"{keep} neighbours of one label among {fewest} training pairs of it: ask for fewer "
            "pairs, or raise n of the training sample"
        )
    arrays = {}
    for name, wanted, sign in (("helpful", same, 1.0), ("harmful", ~same, -1.0)):
        order = distance.masked_fill(~wanted, torch.inf).argsort(dim=1, stable=True)[:, :keep]
        arrays[name] = order.numpy()
        arrays[f"{name}_score"] = (sign * distance).gather(1, order).numpy()
    return arrays


def work(config: Ranking) -> Work:
    """What a ranking takes, with the model, its passes and its curvature."""
    model, system = config.model, config.system
    of, n = unit(model.network, model.labels), pairs_of(model.train)
    plan = system if isinstance(system, Plan) else None
    steps: tuple[Step, ...] = (counting.dot(config.points, 768, n),)
    if not isinstance(system, SameFeatures):
        k = min(system.k or n, n)
        seen = n if system.k is None else config.points * k
        steps += (counting.gradients(of, seen), counting.dot(config.points, of.size, k))
    if plan is not None:
        steps += recursion_steps(plan, model, config.points)
    parts = needed(model, plan, config.sample)
    memory = FLOAT * of.size * 3 * config.points
    return Work("rankings", steps, parts, "nli_ranking", config, memory=memory)
