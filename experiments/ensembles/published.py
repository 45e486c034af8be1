"""Estimates against what others published: released ensembles, their pairs, and C-scores."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.data import cifar100, released
from experiments.ensembles import subsets
from experiments.ensembles.subsets import PAPER, STEPS, Data, Ensemble, Outcomes
from experiments.models.inception import SmallInception
from methods.ensembles.lds import spearman
from methods.ensembles.masks import Packed
from methods.ensembles.subset import influence, memorization
from methods.randomness import numpy_generator

INFLUENTIAL = 0.15  # of published pairs (Feldman & Zhang, 2020, Sec. 3.3)
DRAWS = 1_000


@dataclass(frozen=True)
class Released:
    """Models that Feldman and Zhang trained, from their files: correctness alone is known."""

    data: Data = Data("cifar100", 50_000, 10_000)
    network: SmallInception = SmallInception()
    seed: int = 0


@dataclass(frozen=True)
class Pairs:
    """The influences of published pairs against those that the released models give here."""

    ensemble: Released = Released()
    n_models: int = 2_000


@dataclass(frozen=True)
class Blind:
    """The memorization of an ensemble on a whole training file against published C-scores."""

    ensemble: Ensemble | Released = PAPER
    n_models: int = 2_000


def gathered(ensemble: Ensemble | Released, n_models: int) -> Outcomes:
    """The first models of an ensemble: trained here, or read from the released files.

    The probabilities of released models are 0 and 1, so that soft estimates are the hard ones.
    """
    if isinstance(ensemble, Ensemble):
        return subsets.gathered(ensemble, n_models)
    data = ensemble.data
    masks, right = released.ensemble(n_models, data.n_train, data.n_query)
    steps = right.astype(np.uint8) * STEPS
    return Outcomes(Packed.of(masks), Packed.of(right), steps, data.n_train)


def pairs(config: Pairs) -> dict[str, Any]:
    """How far influences here are from the published ones: equal models give equal numbers."""
    whole = gathered(config.ensemble, config.n_models)
    train, query, published = released.pairs()
    right = whole.right.unpacked()[:, whole.n_train :]
    asked = np.unique(query)
    ours = influence(whole.masks, right[:, asked])[np.searchsorted(asked, query), train].numpy()
    return {
        "published_pairs": len(train),
        "largest_difference": float(np.abs(ours - published).max(initial=0.0)),
        "above": float((ours >= INFLUENTIAL).mean()),
        "published": published,
        "ours": ours.astype(float),
    }


def blind(config: Blind) -> dict[str, Any]:
    """The rank correlation of memorization with 1 - C-score, and its bootstrap draws."""
    whole = gathered(config.ensemble, config.n_models)
    scores = 1 - released.c_scores(*_rows(config.ensemble))
    own = memorization(whole.masks, whole.right.unpacked()[:, : whole.n_train]).numpy()
    known = np.isfinite(own)
    draw, n = numpy_generator(0, "c-scores"), int(known.sum())
    rows = [draw.integers(n, size=n) for _ in range(DRAWS if n < 5_000 else DRAWS // 10)]
    ours, theirs = own[known], scores[known]
    each = [spearman(ours[some][None], theirs[some][None])[0] for some in rows]
    return {
        "agreement": float(spearman(ours[None], theirs[None])[0]),
        "draws": np.array(each),
        "examples": n,
    }


def _rows(ensemble: Ensemble | Released) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the training file of an ensemble's examples, and their labels."""
    data = ensemble.data
    if isinstance(ensemble, Ensemble):
        return subsets.rows(data), subsets.load(data)[0]["label"].numpy()
    index = np.arange(data.n_train)
    return index, cifar100.load("train", index)["label"].numpy()
