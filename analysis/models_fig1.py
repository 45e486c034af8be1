"""Figure 1 of 004: agreement of influence estimates by the number of models, and over restarts."""

import sys
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink import overlap as panels
from analysis.ink.style import BLACK, GREY, PAGE, UNNAMED, new_panels
from analysis.numbers.statistics import NONE, Interval
from analysis.numbers.table import Row, claim, curve, records, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

NULL = "null_memorized"
SERIES = {
    "hard_memorized": "memorized pairs",
    "hard_all": "all pairs",
    NULL: "by chance",
}
LINES = {"memorized pairs": "-", "by chance": ":"}
ENOUGH, FEW, SOME, MANY = 0.7, 25, 100, (200, 400)
WIDE, NEAR_ZERO, LOW = 0.5, 0.1, 0.3
RESTARTS = "restarts"
PAIRS, SHOWN = "memorized pairs above", (0.1, 0.3, 0.5)

RULE = (
    "Claims, for each ensemble, on memorized pairs: (1) the mean IOU rises with the models, at"
    f" every step of the sizes; (2) with {FEW} models it is below {NEAR_ZERO:g} ('near 0'); (3)"
    f" with {SOME} no threshold has {ENOUGH:g}; (4) with {MANY[0]} to {MANY[1]} more than {WIDE:g}"
    f" of the thresholds have {ENOUGH:g} ('a wide range'); (5) two sets of 50 on the same"
    f" subsets, started anew, have a mean below {LOW:g} ('extremely low')."
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    rows: list[Row] = []
    halves = panels.of(found, "Halves")
    for run in halves:
        rows += _claims(run)
    for run in panels.of(found, "Restarts"):
        rows += _restarts(run)
    for run in halves:
        rows += panels.curves(run, SERIES)
    return tabulated(rows)


def _claims(run: Run) -> list[Row]:
    name, sizes = panels.named(run), panels.sizes(run)
    means = {size: panels.mean(run, "hard_memorized", size) for size in sizes}
    rows = [
        claim(
            name, f"mean IOU, {more} − {fewer} models", "",
            panels.over(means[more] - means[fewer]), at_least=0.0,
        )
        for fewer, more in pairwise(sizes)
    ]  # fmt: skip
    few = panels.over(means[FEW]) if FEW in means else NONE
    rows.append(claim(name, f"mean IOU, {FEW} models", "", few, at_most=NEAR_ZERO))
    if SOME in sizes:
        peak = np.nanmax(_well(run, SOME), axis=1)
        label = f"peak IOU, {SOME} models"
        rows.append(claim(name, label, "", panels.over(peak), at_most=ENOUGH, paper=0.6))
    enough = [size for size in sizes if MANY[0] <= size <= MANY[1]]
    label = f"share of thresholds with an IOU above {ENOUGH:g}, {MANY[1]} models"
    ours = panels.over(np.mean(_well(run, max(enough)) > ENOUGH, axis=1)) if enough else NONE
    rows.append(claim(name, label, "", ours, at_least=WIDE))
    for size in sizes:
        for series, what in SERIES.items():
            each = panels.over(panels.mean(run, series, size))
            rows.append(curve(name, _mean_named(what, size), "", each))
    return rows + _left(run)


def _mean_named(what: str, size: int) -> str:
    return f"mean IOU, {what}, {size} models"


def _left(run: Run) -> list[Row]:
    """How many memorized pairs pass some thresholds, by all models: few of them make IOU jump."""
    thresholds = np.asarray(run.array("thresholds"))
    above = np.asarray(run.array("pairs_above"))[1]
    places = [int(np.abs(thresholds - threshold).argmin()) for threshold in SHOWN]
    return [
        curve(panels.named(run), f"{PAIRS} {thresholds[k]:g}", "", _measured(float(above[k])))
        for k in places
    ]


def _well(run: Run, size: int) -> np.ndarray:
    """IOU (splits, n) at the thresholds of the mean: above, so few pairs are left that it jumps."""
    thresholds = np.asarray(run.array("thresholds"))
    some = (thresholds >= panels.LOW - 1e-9) & (thresholds <= panels.HIGH + 1e-9)
    return np.asarray(run.array("hard_memorized"))[panels.sizes(run).index(size)][:, some]


def _restarts(run: Run) -> list[Row]:
    name = panels.named(run)
    same, other = (panels.alone(run, f"{k}_memorized") for k in ("same", "different"))
    n_models = run.config["n_models"]
    label = f"mean IOU, {n_models} models on the same subsets started anew"
    rows = [claim(name, label, "", _measured(same), at_most=LOW)]
    rows.append(curve(name, f"mean IOU, {n_models} on other subsets", "", _measured(other)))
    thresholds = np.asarray(run.array("thresholds"))
    for key, series in (("same", "same subsets"), ("different", "other subsets")):
        values = np.asarray(run.array(f"{key}_memorized"))
        for threshold, value in zip(thresholds, values, strict=True):
            if np.isfinite(value):
                about = {"series": series, "threshold": float(threshold), "models": n_models}
                row = curve(name, "IOU", "", _measured(float(value)), **about)
                rows.append(row | {"kind": RESTARTS})
    return rows


def _measured(value: float) -> Interval:
    return panels.over(np.array([value]))


def draw(table: pd.DataFrame) -> Figure:
    names = panels.names(table)
    labels = ["influence threshold"] * (len(names) + 1)
    figure, axes = new_panels(labels, "IOU", width=PAGE, height=2.6, share_y=True)
    for each, name in zip(axes, names, strict=False):
        panels.draw(each, table, name, LINES)
    axes[0].plot([], [], ":", color=GREY, label="by chance")
    panels.name_sizes(figure, axes[0], "models:")
    _draw_restarts(axes[-1], table)
    return figure


def _draw_restarts(axes: Axes, table: pd.DataFrame) -> None:
    rows = table[table["kind"] == RESTARTS]
    for (name, of), (colour, _) in zip(rows.groupby("method"), UNNAMED, strict=False):
        for series, line in (("same subsets", "-"), ("other subsets", ":")):
            part = of[of["series"] == series].sort_values("threshold")
            label = str(name) if line == "-" else None
            axes.plot(part["threshold"], part["ours"], line, color=colour, label=label)
    axes.plot([], [], ":", color=GREY, label="other subsets")
    axes.set_title("same subsets, started anew", color=BLACK)
    axes.legend()


def findings(table: pd.DataFrame) -> list[str]:
    """Say how many pairs there are to agree on, and what the fewest models do beside chance."""
    said = []
    rows = records(table)
    for name in panels.names(table):
        of = {row["quantity"]: row for row in rows if row["method"] == name}
        left = [
            f"{int(row['ours']):,} above {what.removeprefix(PAIRS).strip()}"
            for what, row in of.items()
            if what.startswith(PAIRS)
        ]
        few, chance = (of.get(_mean_named(SERIES[k], FEW)) for k in ("hard_memorized", NULL))
        if not left or few is None or chance is None:
            continue
        said.append(
            f"{name}: memorized pairs whose influence by all models is {', '.join(left)}. Where few"
            f" are left, IOU jumps between 0 and 1. With {FEW} models the mean IOU is"
            f" {few['ours']:.3f}, by chance {chance['ours']:.3f}: noise passes the lower thresholds"
            " everywhere, so that at these more models can agree on less."
        )
    return said


ARTIFACT = Artifact(
    id="models_fig1",
    experiment="subset_ensembles",
    tabulate=tabulate,
    draw=draw,
    rule=RULE,
    title="How many models until influence estimates agree",
    claim=(
        "The IOU of two sets of models is above 0.7 for a wide range of thresholds only with 200 to"
        " 400 models, near 0 with 25, and low even on the same subsets with other seeds."
    ),
    headline=("MNIST, MLP", "share of thresholds with an IOU above 0.7, 400 models"),
    paper="How many trained neural networks are needed (Doubov et al., 2022), Figure 1, Sec. 3",
    deviations=(
        *panels.DEVIATIONS,
        "Dotted, and ours: the IOU by chance alone, of outcomes dealt to other models than they are"
        " of; and, on the right, of 50 models on other subsets.",
    ),
    tier_notes=panels.TIER_NOTES,
    needs=panels.wants("Halves", "Restarts"),
    page=panels.page,
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
