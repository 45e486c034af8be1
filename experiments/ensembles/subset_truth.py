"""The influence that an ensemble trained on random subsets measures, and scores against it.

The first models are held out, the next choose settings, the rest only estimate.
"""

from dataclasses import dataclass, replace

import numpy as np
from sklearn.metrics import average_precision_score
from torch import Tensor

from experiments.ensembles import subsets
from experiments.ensembles.attributions import Scores
from experiments.ensembles.subsets import MEMORIZED, MNIST, Ensemble, Outcomes
from experiments.laboratory.errors import UserError
from methods.ensembles.lds import area, lds, reliability, spearman
from methods.ensembles.masks import Packed
from methods.ensembles.subset import influence, memorization

TIED = 0.5  # a query has no score if this share of networks gives it the same probability
CONTESTED = 0.05  # a query is contested if at least this share is right, and this share wrong
INFLUENTIAL = 0.15  # an influential pair has at least this (Feldman & Zhang, 2020, Sec. 3.3)


@dataclass(frozen=True)
class Division:
    """How an ensemble's `n_models` are used: held out, then choosing dampings, then the rest.

    n_restarts  how many of the first masks are trained on a second time
    n_query     how many of the first queries are scored
    """

    ensemble: Ensemble = MNIST
    n_models: int = 2_000
    n_held: int = 200
    n_choosing: int = 600
    n_restarts: int = 50
    n_query: int = 500

    def __post_init__(self) -> None:
        if not self.n_restarts <= self.n_held < self.n_models - self.n_choosing:
            raise UserError(
                f"{self.n_models} models, {self.n_held} held out, {self.n_choosing} choosing,"
                f" {self.n_restarts} trained twice: leave some models over, and train twice at most"
                " those held out"
            )

    @property
    def held_out(self) -> slice:
        return slice(0, self.n_held)

    @property
    def choosing(self) -> slice:
        return slice(self.n_held, self.n_held + self.n_choosing)


@dataclass(frozen=True)
class Truth:
    """The ensemble's measurements, without the models that choose dampings.

    influence     (n_query, n_train), on the probability of the right class
    strong        (n_query, n_train) bool, the pairs that Subsets counts as influential
    memorization  (n_train,)
    """

    influence: Tensor
    strong: np.ndarray
    memorization: np.ndarray


def truth_of(division: Division, whole: Outcomes) -> Truth:
    models = np.arange(division.n_models)
    models = np.delete(models, division.choosing)
    masks, right = (Packed(x.bits[models], x.width) for x in (whole.masks, whole.right))
    correct = right.unpacked()
    own = memorization(masks, correct[:, : whole.n_train]).numpy()
    right_about_queries = correct[:, whole.n_train :][:, : division.n_query]
    strong = (influence(masks, right_about_queries).numpy() >= INFLUENTIAL) & (own > MEMORIZED)
    return Truth(whole.soft_influence(models, division.n_query), strong, own)


def outcomes(division: Division, whole: Outcomes, models: slice) -> np.ndarray:
    """Probabilities of the scored queries by some models, (n, n_query), in 255ths."""
    return whole.probability[models, whole.n_train :][:, : division.n_query]


def score(division: Division, whole: Outcomes, models: slice, pairs: Tensor) -> np.ndarray:
    """The linear datamodeling score of each query over the masks of some models, (n_query,).

    It is nan for queries that are not `varied`, whose ranks would be ties.
    """
    masks = whole.masks.unpacked(models)
    scores = lds(masks, outcomes(division, whole, models), pairs)
    return np.where(varied(division, whole), scores, np.nan)


def varied(division: Division, whole: Outcomes) -> np.ndarray:
    """Which queries get varied probabilities from the models not held out, (n_query,) bool."""
    steps = outcomes(division, whole, slice(division.n_held, division.n_models))
    most = np.array([np.bincount(column).max() for column in steps.T])
    return most < TIED * len(steps)


def reliability_of(division: Division, whole: Outcomes) -> np.ndarray:
    """How well two trainings on the same masks agree on each query, (n_query,)."""
    ensemble = division.ensemble
    again = replace(ensemble, restart=ensemble.restart + 1)
    restarted = subsets.gathered(again, division.n_restarts)
    same = slice(0, division.n_restarts)
    agreement = reliability(*(outcomes(division, one, same) for one in (whole, restarted)))
    return np.where(varied(division, whole), agreement, np.nan)


def contested(division: Division, whole: Outcomes) -> np.ndarray:
    """Which queries the models not held out disagree about, (n_query,) bool."""
    right = whole.right.unpacked(slice(division.n_held, None))[:, whole.n_train :]
    accuracy = right[:, : division.n_query].double().mean(0).numpy()
    return (accuracy >= CONTESTED) & (accuracy <= 1 - CONTESTED)


def measure(
    measures: dict[str, list[np.ndarray]],
    kind: str,
    scores: Scores,
    truth: Truth,
    division: Division,
    whole: Outcomes,
) -> None:
    """Append the quality of `scores` to the lists in `measures`, named "MEASURE_KIND".

    lds    (n_query,), linear datamodelling score on the models held out
    pairs  (n_query,), rank correlation with the influence estimated from subsets
    area   (n_query,), area under the ROC curve of finding the strong influences
    own    rank correlation of self-influence with memorization; only if the scores have it
    ap     average precision of finding memorized examples by self-influence; likewise
    """
    values = {
        "lds": score(division, whole, division.held_out, scores.pairs),
        "pairs": spearman(scores.pairs, truth.influence),
        "area": area(scores.pairs, truth.strong),
    }
    if scores.own is not None:
        own, memorized = scores.own.numpy(), truth.memorization
        values["own"] = spearman(own[None], memorized[None])[0]
        some = memorized > MEMORIZED
        values["ap"] = np.array(average_precision_score(some, own) if some.any() else np.nan)
    for name, value in values.items():
        measures.setdefault(f"{name}_{kind}", []).append(value)
