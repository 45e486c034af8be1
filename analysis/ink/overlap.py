"""IOU of influential pairs against the threshold: what the figures on subset ensembles share."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.ink import agreement
from analysis.ink.style import BLACK, BLUE, GREEN, ORANGE, PAGE, PURPLE, SKY, VERMILLION, new_panels
from analysis.numbers.statistics import Interval, over_seeds
from analysis.numbers.table import Row, curve
from experiments.laboratory.runs import Run

LOW, HIGH = 0.1, 0.5  # thresholds over which a curve is told by its mean
COLOURS = (SKY, BLUE, GREEN, ORANGE, VERMILLION, PURPLE, BLACK)
IOU = "iou"
LINES = {"probabilities": "-", "right or wrong": "--"}

DEVIATIONS = (
    "The figures are only pictures in the paper: a curve is judged by its mean over thresholds from"
    f" {LOW:g} to {HIGH:g} at which any pair is found.",
    "Memorization, of which pairs need more than 0.25, is estimated from the whole ensemble.",
    "Intervals are over splits of one ensemble, which share models where they are large.",
)
TIER_NOTES = {
    "smoke": "Smoke tier: 200 MLPs on 150 of scikit-learn's digits, at most 100 in an estimate.",
    "small": (
        "Small tier: 2,000 MLPs on 2,000 MNIST digits and 800 small CNNs on 4,000 images of"
        " JPEG-recompressed CIFAR-10, in place of 2,000 Inception networks on CIFAR-100."
    ),
}


def named(run: Run) -> str:
    """The name of a run's ensemble."""
    return titled(run.config["ensemble"])


def titled(ensemble: Mapping[str, Any]) -> str:
    """The name of an ensemble, by its config: its data and its network."""
    return agreement.name_of(ensemble["data"]["source"], ensemble["network"]["type"])


def of(found: Iterable[Run], kind: str) -> list[Run]:
    """The runs of one kind of config."""
    return [run for run in found if run.config["type"] == kind]


def wants(*kinds: str) -> Any:
    """What an artifact needs: configs of these kinds."""
    return lambda config: config["type"] in kinds


def sizes(run: Run) -> list[int]:
    return [int(size) for size in run.array("sizes")]


def mean(run: Run, series: str, size: int) -> np.ndarray:
    """The mean of a curve from LOW to HIGH, one a split; nan where it is not defined."""
    curves = np.asarray(run.array(series))[sizes(run).index(size)]
    return _means(run, curves)


def alone(run: Run, series: str) -> float:
    """The same of a curve that has no splits."""
    return float(_means(run, np.asarray(run.array(series))[None])[0])


def _means(run: Run, curves: np.ndarray) -> np.ndarray:
    thresholds = np.asarray(run.array("thresholds"))
    some = curves[:, (thresholds >= LOW - 1e-9) & (thresholds <= HIGH + 1e-9)]
    known = np.isfinite(some)
    count = known.sum(1)
    summed = np.where(known, some, 0.0).sum(1)
    return np.divide(summed, count, out=np.full(len(some), np.nan), where=count > 0)


def over(values: np.ndarray) -> Interval:
    """The interval over splits that have a value."""
    return over_seeds(values[np.isfinite(values)])


def curves(run: Run, series: Mapping[str, str]) -> list[Row]:
    """The rows of curves, by size and threshold; `series` names them for people."""
    rows = []
    thresholds = np.asarray(run.array("thresholds"))
    for key, label in series.items():
        values = np.asarray(run.array(key))
        for i, size in enumerate(sizes(run)):
            for k, threshold in enumerate(thresholds):
                ours = over(values[i, :, k])
                if ours.n:
                    about = {"series": label, "models": size, "threshold": float(threshold)}
                    rows.append(curve(named(run), "IOU", "", ours, **about) | {"kind": IOU})
    return rows


def draw(axes: Axes, table: pd.DataFrame, name: str, lines: Mapping[str, str]) -> None:
    """Draw an ensemble's curves, a colour a size; `lines` are the line styles of the series."""
    rows = table[(table["kind"] == IOU) & (table["method"] == name)]
    for series, line in lines.items():
        of_series = rows[rows["series"] == series]
        for (size, part), colour in zip(of_series.groupby("models"), COLOURS, strict=False):
            part = part.sort_values("threshold")
            label = f"{size:g}" if line == "-" else None
            axes.plot(part["threshold"], part["ours"], line, color=colour, label=label)
            if line == "-":
                low, high = (part[side].clip(0, 1) for side in ("low", "high"))
                axes.fill_between(part["threshold"], low, high, color=colour, alpha=0.15, lw=0)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(name)


def side_by_side(table: pd.DataFrame) -> Figure:
    """Draw a panel an ensemble: curves of probabilities and, dashed, of right answers."""
    shown = names(table)
    labels = ["influence threshold"] * len(shown)
    figure, axes = new_panels(
        labels, "IOU", width=PAGE if len(shown) > 1 else 3.5, height=2.6, share_y=True
    )
    for each, name in zip(axes, shown, strict=True):
        draw(each, table, name, LINES)
    name_sizes(figure, axes[0], "models (dashed: right or wrong):")
    return figure


def name_sizes(figure: Figure, axes: Axes, title: str) -> None:
    """Name the lines of a panel above all of them, in one row behind a title."""
    handles, labels = axes.get_legend_handles_labels()
    heading = Line2D([], [], linestyle="none")
    figure.legend(
        [heading, *handles], [title, *labels], loc="outside upper center", ncols=len(labels) + 1
    )


def names(table: pd.DataFrame) -> list[str]:
    """The ensembles that have curves, in their order."""
    return list(dict.fromkeys(table[table["kind"] == IOU]["method"]))


def page(table: pd.DataFrame) -> pd.DataFrame:
    """The table without the curves, for the report."""
    shown = table[table["kind"] != IOU]
    return shown[["method", "quantity", "paper", "ours", "low", "high", "n", "verdict"]]
