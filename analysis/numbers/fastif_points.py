"""Runs, points and notes that the artifacts of FastIF's own analysis share."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from analysis.numbers.statistics import Interval, over_seeds
from analysis.numbers.table import Row, written
from experiments.laboratory.runs import Run

PAPER_N = 392_702  # training pairs of MultiNLI
PREDICTED = ("right", "wrong", "either")

POINTS_RULE = (
    "Intervals are over points of one trained model, half of them predicted rightly. They give"
    " the uncertainty of the mean over points, not the spread over trainings."
)
TIER_NOTES = {
    "smoke": (
        "Smoke tier: a BERT of three narrow layers with random lower ones, on a few hundred"
        " generated pairs; numbers are not comparable."
    ),
    "small": (
        "Small tier: all-MiniLM-L6-v2, six layers 384 wide, in place of bert-base; its training"
        " as an embedding model included NLI pairs. It is fine-tuned on 12,808 of the 392,702"
        " pairs of MultiNLI, cut at 64 tokens, in two rounds of 2 epochs with a batch of 64: the"
        " upper three layers at a learning rate of 2e-4, then the last layer, pooler and"
        " classifier again at 1e-4. Those 1.9 million parameters are differentiated, the rest is"
        " frozen."
    ),
    "paper": (
        "The text freezes 9 layers and counts 14.7 million trained parameters, which corresponds"
        " to 10 frozen layers. Here 10 are frozen, as in the released code, whose settings are"
        " taken where the paper gives none."
    ),
}


def of_work(*kinds: str) -> Callable[[dict[str, Any]], bool]:
    """The filter of the runs that an artifact needs: configs of these measurements."""
    return lambda config: config["work"]["type"] in kinds


def by_prediction(run: Run) -> dict[str, np.ndarray]:
    """Which points are predicted rightly, wrongly, and either way, (n_points,) each."""
    right = np.asarray(run.array("right"), dtype=bool)
    return dict(zip(PREDICTED, (right, ~right, np.ones_like(right)), strict=True))


def over_points(values: ArrayLike) -> Interval:
    """The mean and interval over points, those left out that could not be measured."""
    sample = np.asarray(values, dtype=float)
    return over_seeds(sample[np.isfinite(sample)])


def counted(value: float) -> str:
    """Write a whole number: 1,000."""
    return f"{int(value):,}"


def stated(row: Row | None, form: str = ".1f") -> str:
    """Write a row's value and interval, or that it was not run."""
    return written(row, form) if row is not None and row["n"] > 0 else "not run"
