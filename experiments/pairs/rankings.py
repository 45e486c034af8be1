"""Training pairs by what they do to a point: FastIF, and the controls it has to beat."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import Run
from experiments.pairs.influence import Plan, balanced, examples, features
from experiments.pairs.models import Model, Sample, Trained, trained
from methods import fastif
from methods.rows.gradients import gradient_rows
from methods.task import Examples


@dataclass(frozen=True)
class SameGradient:
    """The control H = I: inner products of gradients, over the k nearest; None is all of them."""

    k: int | None = None


@dataclass(frozen=True)
class SameFeatures:
    """The control without gradients: the nearest by features.

    Those with the point's own label stand for helpful ones, those with another for harmful ones.
    """


System = Plan | SameGradient | SameFeatures


@dataclass(frozen=True)
class Ranking:
    """The `keep` most helpful and most harmful training pairs of balanced points of a sample.

    Influence is on the loss at the point's true label.
    """

    model: Model
    sample: Sample
    points: int
    system: System
    keep: int


def ranked(config: Ranking) -> Run:
    """The run with the positions `helpful` and `harmful` (points, keep), the strongest first.

    Also `helpful_score` and `harmful_score`, positive = proponent; of FastIF its `damping`, `scale`
    and `depth`, and, of several repeats, the mean `relative_error` of s_test.
    """
    return runs.once("nli_ranking", config, lambda scratch: _rank(config))


def random_of_label(labels: np.ndarray, label: int, n: int, draw: np.random.Generator) -> Any:
    """n random positions of a label, (n,); of one generator state, fewer are the first of more."""
    there = np.flatnonzero(labels == label)
    if len(there) < n:
        raise UserError(
            f"{n} of {len(there)} training pairs of label {label}: ask for fewer pairs, or raise n "
            "of the training sample"
        )
    return draw.permutation(there)[:n]


def _rank(config: Ranking) -> dict[str, Any]:
    there = trained(config.model)
    at = balanced(config.model, config.sample, config.points)
    query = examples(config.model, config.sample, at)
    seen = (
        features(config.model, config.sample)[torch.from_numpy(at)],
        features(config.model, config.model.train),
    )
    if isinstance(config.system, SameFeatures):
        return _by_features(query["label"], there.train["label"], seen, config.keep)
    about, index, scores = _by_gradients(there, query, seen, config.system)
    n = index.shape[1]
    if n < 2 * config.keep:
        raise UserError(
            f"{config.keep} most helpful and {config.keep} most harmful of {n} candidates: raise "
            f"k to {2 * config.keep} or more"
        )
    order = scores.argsort(dim=1, descending=True, stable=True)
    ends = {"helpful": order[:, : config.keep], "harmful": order.flip(1)[:, : config.keep]}
    return {**about, **_arrays({name: (index, scores, of) for name, of in ends.items()})}


def _by_gradients(
    there: Trained, query: Examples, seen: tuple[Tensor, Tensor], system: Plan | SameGradient
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Facts about the computation; candidates of each point and their scores, (points, k)."""
    if isinstance(system, Plan):
        settings = system.settle(there.model)
        found = fastif.influential(there.task, there.train, query, seen, settings)
        about: dict[str, Any] = {
            "damping": settings.damping,
            "scale": settings.lissa.scale,
            "depth": settings.lissa.depth,
        }
        if settings.lissa.repeats > 1:
            about["relative_error"] = float(found.s_test.relative_error.mean())
        return about, found.candidates, found.scores
    n = len(there.pairs)
    index = (
        torch.arange(n).expand(len(query["label"]), n)
        if system.k is None
        else fastif.neighbours(*seen, system.k)
    )
    gradients = gradient_rows(there.task, query).dense()
    return {}, index, fastif.scores(there.task, gradients, there.train, index)


def _by_features(
    label: Tensor, labels: Tensor, seen: tuple[Tensor, Tensor], keep: int
) -> dict[str, Any]:
    """Scores are distances, of another label with a minus sign."""
    distance = torch.cdist(*seen, compute_mode="donot_use_mm_for_euclid_dist")
    same = labels == label[:, None]
    fewest = min(int(same.sum(1).min()), int((~same).sum(1).min()))
    if fewest < keep:
        raise UserError(
            f"{keep} neighbours of one label among {fewest} training pairs of it: ask for fewer "
            "pairs, or raise n of the training sample"
        )
    index = torch.arange(len(labels)).expand_as(distance)
    found = {}
    for name, wanted, sign in (("helpful", same, 1.0), ("harmful", ~same, -1.0)):
        order = distance.masked_fill(~wanted, torch.inf).argsort(dim=1, stable=True)
        found[name] = (index, sign * distance, order[:, :keep])
    return _arrays(found)


def _arrays(found: dict[str, tuple[Tensor, Tensor, Tensor]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, (index, scores, order) in found.items():
        out[name] = index.gather(1, order).numpy()
        out[f"{name}_score"] = scores.gather(1, order).numpy()
    return out
