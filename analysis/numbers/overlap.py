"""Overlap of the influential pairs that two sets of models find: IOU against the threshold.

What the figures of Subsets on subset ensembles share.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from analysis.numbers.agreement import classifier_name
from analysis.numbers.statistics import Interval, over_seeds
from analysis.numbers.table import Row, curve
from experiments.laboratory.runs import Run

LOW, HIGH = 0.1, 0.5  # thresholds between which a curve's mean is taken
ENOUGH = 50  # pairs above a threshold, for an IOU to say something
IOU = "iou"  # the kind of row that is a point of a curve

DEVIATIONS = (
    "The paper shows the figures without numbers. A curve is judged by its mean over thresholds"
    f" from {LOW:g} to {HIGH:g} that at least {ENOUGH} memorized pairs pass by all models.",
    "Memorized pairs are those whose training example has a memorization above 0.25, estimated"
    " from the whole ensemble.",
    "Intervals are over splits of one ensemble; large splits share models.",
)
TIER_NOTES = {
    "smoke": "Smoke tier: 200 MLPs on 150 of scikit-learn's digits, at most 100 in an estimate.",
    "small": (
        "Small tier: 2,000 MLPs on 2,000 MNIST digits and 800 small CNNs on 4,000 images of"
        " JPEG-recompressed CIFAR-10, in place of 2,000 Inception networks on CIFAR-100."
    ),
}


def ensemble_name(ensemble: Mapping[str, Any]) -> str:
    """The name of an ensemble, by its config: its data and its network."""
    return classifier_name(ensemble["data"]["source"], ensemble["network"]["type"])


def ensemble_of(run: Run) -> str:
    """The name of a run's ensemble."""
    return ensemble_name(run.config["ensemble"])


def of_kind(*kinds: str) -> Callable[[dict[str, Any]], bool]:
    """The filter of the runs that an artifact needs: configs of these kinds."""
    return lambda config: config["type"] in kinds


def sizes(run: Run) -> list[int]:
    """The numbers of models that a run compares sets of."""
    return [int(size) for size in run.array("sizes")]


def thresholds(run: Run) -> np.ndarray:
    """The thresholds of influence that a run's curves are over."""
    return np.asarray(run.array("thresholds"))


def between(run: Run) -> np.ndarray:
    """Which of the thresholds are from LOW to HIGH, and passed by enough memorized pairs."""
    within = (thresholds(run) >= LOW - 1e-9) & (thresholds(run) <= HIGH + 1e-9)
    return within & enough_pairs(run, "memorized")


def enough_pairs(run: Run, series: str) -> np.ndarray:
    """Which thresholds at least ENOUGH pairs pass by all models: with fewer, an IOU jumps.

    Of memorized pairs where the series is of them, else of all; all of them where no run counted.
    """
    if "pairs_above" not in run.meta["arrays"]:
        return np.ones(len(thresholds(run)), dtype=bool)
    return np.asarray(run.array("pairs_above"))[int("memorized" in series)] >= ENOUGH


def mean_iou(run: Run, series: str, size: int) -> np.ndarray:
    """The mean of a curve from LOW to HIGH, one a split; nan where it is not defined."""
    return _means(np.asarray(run.array(series))[sizes(run).index(size)][:, between(run)])


def mean_iou_unsplit(run: Run, series: str) -> float:
    """The mean of a curve that has no splits."""
    return float(_means(np.asarray(run.array(series))[None, between(run)])[0])


def _means(curves: np.ndarray) -> np.ndarray:
    known = np.isfinite(curves)
    count, total = known.sum(1), np.where(known, curves, 0.0).sum(1)
    return np.divide(total, count, out=np.full(len(curves), np.nan), where=count > 0)


def over_splits(values: np.ndarray) -> Interval:
    """The interval over splits that have a value."""
    return over_seeds(values[np.isfinite(values)])


def mean_rows(run: Run, series: Mapping[str, str], size: int) -> list[Row]:
    """The mean IOU of each series at a size; `series` names them for people."""
    return [
        curve(ensemble_of(run), mean_label(label, size), "", over_splits(mean_iou(run, key, size)))
        for key, label in series.items()
    ]


def mean_label(label: str, size: int) -> str:
    """The name of a series' mean IOU."""
    return f"mean IOU, {label}, {size} models"


def curve_rows(runs: Iterable[Run], series: Mapping[str, str]) -> list[Row]:
    """The rows of all curves, by size and threshold; `series` names them for people."""
    rows = []
    for run in runs:
        for key, label in series.items():
            values, enough = run.array(key), enough_pairs(run, key)
            places = product(enumerate(sizes(run)), enumerate(thresholds(run)))
            for (i, size), (k, threshold) in places:
                ours = over_splits(values[i, :, k])
                if ours.n and enough[k]:
                    about = {"series": label, "models": size, "threshold": float(threshold)}
                    rows.append(curve(ensemble_of(run), "IOU", "", ours, kind=IOU, **about))
    return rows


def ensembles(table: pd.DataFrame) -> list[str]:
    """The ensembles that have curves, in their order."""
    return list(dict.fromkeys(table[table["kind"] == IOU]["method"]))


def page(table: pd.DataFrame) -> pd.DataFrame:
    """The table without the curves, for the report."""
    shown = table[table["kind"] != IOU]
    return shown[["method", "quantity", "paper", "ours", "low", "high", "n"]]
