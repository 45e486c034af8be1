"""Figure 2 of Subsets, with Table 2b: agreement of networks seed by seed, and beside accuracy."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.agreement import CHANCE_MARKS
from analysis.ink.marks import draw_matrix, write_in_cell
from analysis.ink.style import BLACK, GREY, PAGE, UNNAMED, new_panels
from analysis.numbers import agreement
from analysis.numbers.agreement import RESNET, TOLERANCE
from analysis.numbers.claims import Claim, Paper
from analysis.numbers.statistics import NONE, over_seeds, single, welch
from analysis.numbers.table import Row, claim, curve, records, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

# The figure is a picture: what it shows is Table 3's rows in which both differ.
PAPER = {
    "CIFAR-10, Inception": (0.947, 0.942),
    "CIFAR-10, ResNet-18": (0.959, 0.952),
    "CIFAR-100, Inception": (0.754, 0.742),
    "CIFAR-100, ResNet-18": (0.818, 0.778),
    "DTD, Inception": (0.405, 0.301),
    "DTD, ResNet-18": (0.548, 0.372),
    "Flowers, Inception": (0.519, 0.542),
    "Flowers, ResNet-18": (0.668, 0.513),
}
UNPRINTED = (math.nan, math.nan)
PAIR = "pair"
HARD = (0.4, 0.7)  # "models have agreement from 40-70%" on DTD and Flowers

QUOTE = Paper(
    "This is especially true for more challenging tasks such as the DTD and Flowers datasets, where"
    " the mean accuracy is lower and models have agreement from 40-70%.",
    "Sec. 4.1, of Table 2b",
)
HARDER = Claim(
    "agreement is lower where a data set is harder",
    QUOTE,
    "For each network, data sets are ordered by its accuracy: the agreement on each minus that on"
    " the next.",
    null=0.0,
)
FORTY = Claim(
    "on DTD and Flowers agreement is 40-70%",
    QUOTE,
    f"Agreement on DTD and Flowers, between {HARD[0]:g} and {HARD[1]:g}. Of networks that do not"
    " depend on the seed it is 1.",
    null=1.0,
)
NOTES = f"Printed numbers: to {TOLERANCE:g}."


def tabulate(runs: list[Run]) -> pd.DataFrame:
    by_name = agreement.by_classifier(runs)
    rows = _claims(by_name) + _hard(by_name)
    for name, run in by_name.items():
        rows += agreement.agreement_rows(run, PAPER.get(name, UNPRINTED), series="")
    shown = agreement.first_present(by_name, RESNET)
    if shown is not None:
        rows += _matrix(shown, by_name[shown])
    return tabulated(rows)


def _claims(by_name: dict[str, Run]) -> list[Row]:
    """A row a network and two data sets that follow each other in accuracy."""
    rows = []
    networks = dict.fromkeys(name.rpartition(", ")[2] for name in by_name)
    for network in networks:
        own = [name for name in by_name if name.endswith(f", {network}")]
        own.sort(key=lambda name: -agreement.accuracy(by_name[name]).mean())
        for better, worse in pairwise(own):
            gap = welch(agreement.agreement(by_name[better]), agreement.agreement(by_name[worse]))
            easy, hard = (name.rpartition(", ")[0] for name in (better, worse))
            paper = PAPER.get(better, UNPRINTED)[0] - PAPER.get(worse, UNPRINTED)[0]
            label = f"agreement, {easy} − {hard}"
            about: dict[str, Any] = {"of": HARDER, "at_least": 0.0, "paper": paper, "series": ""}
            rows.append(claim(network, label, "", gap, **about))
        if len(own) < 2:
            label = "agreement, an easier data set − a harder one"
            rows.append(claim(network, label, "", NONE, of=HARDER, at_least=0.0, series=""))
    return rows


def _hard(by_name: dict[str, Run]) -> list[Row]:
    rows = []
    for name, run in by_name.items():
        if name.startswith(("DTD, ", "Flowers, ")):
            bounds = {"at_least": HARD[0], "at_most": HARD[1]}
            about: dict[str, Any] = {"of": FORTY, "paper": PAPER[name][0], "series": "", **bounds}
            ours = over_seeds(agreement.agreement(run))
            rows.append(claim(name, "agreement, of a hard data set", "share", ours, **about))
    return rows


def _matrix(name: str, run: Run) -> list[Row]:
    about: dict[str, Any] = {"kind": PAIR, "series": ""}
    return [
        curve(name, "agreement of two networks", "", single(value), **about, one=i, other=j)
        for (i, j), value in np.ndenumerate(np.asarray(run.array("agreement")))
    ]


def draw(table: pd.DataFrame) -> Figure:
    figure, (left, right) = new_panels(["network", "accuracy"], "network", width=PAGE, height=2.9)
    _draw_matrix(left, table[table["kind"] == PAIR])
    _draw_groups(right, table[table["quantity"] != "agreement of two networks"])
    return figure


def _draw_matrix(axes: Axes, rows: pd.DataFrame) -> None:
    k = int(rows["one"].max()) + 1
    matrix = np.full((k, k), math.nan)
    matrix[rows["one"].astype(int), rows["other"].astype(int)] = rows["ours"]
    diagonal = np.eye(k, dtype=bool)
    between = matrix[~diagonal] if k > 1 else matrix
    low, high = float(between.min()), float(between.max())
    ticks = {i: str(i + 1) for i in range(0, k, 1 if k <= 6 else 5)}
    shades = np.where(diagonal, math.nan, matrix)
    draw_matrix(axes, shades, ticks, colours="viridis", bar="neither", vmin=low, vmax=high)
    if k <= 6:
        for cell, value in np.ndenumerate(matrix):
            dark = not diagonal[cell] and value <= (low + high) / 2
            write_in_cell(axes, cell, f"{value:.3f}", "white" if dark else BLACK)
    axes.set_title(f"agreement: {rows['method'].iat[0]}")


def _draw_groups(axes: Axes, table: pd.DataFrame) -> None:
    """Agreement against accuracy, one colour per network, joined over data sets."""
    rows = records(table[table["kind"] != "claim"])
    by_name: dict[tuple[str, str], Row] = {(row["method"], row["quantity"]): row for row in rows}
    names = list(dict.fromkeys(name for name, _ in by_name))
    networks = list(dict.fromkeys(name.rpartition(", ")[2] for name in names))
    for network, (colour, marker) in zip(networks, UNNAMED, strict=False):
        own = [name for name in names if name.endswith(f", {network}")]
        own.sort(key=lambda name: by_name[name, "accuracy"]["ours"])
        points = [(by_name[name, "accuracy"], by_name[name, "agreement"]) for name in own]
        ours = [[point[k]["ours"] for point in points] for k in (0, 1)]
        axes.plot(*ours, f"{marker}-", color=colour, label=network)
        for x, y in points:
            axes.plot([x["low"], x["high"]], [y["ours"]] * 2, color=colour, linewidth=1)
            axes.plot([x["ours"]] * 2, [y["low"], y["high"]], color=colour, linewidth=1)
            axes.plot(x["paper"], y["paper"], marker, color=colour, fillstyle="none")
        for name, (x, _) in zip(own, points, strict=True):
            for key, (sign, grey) in CHANCE_MARKS.items():
                axes.plot(x["ours"], by_name[name, key]["ours"], sign, color=grey)
    for data in dict.fromkeys(name.rpartition(", ")[0] for name in names):
        own = [name for name in names if name.startswith(f"{data}, ")]
        top = max(own, key=lambda name: by_name[name, "agreement"]["ours"])
        at = by_name[top, "accuracy"]["ours"], by_name[top, "agreement"]["ours"]
        axes.annotate(data, at, (-9, 7), textcoords="offset points", ha="right", color=BLACK)
    for key, (sign, grey) in CHANCE_MARKS.items():
        axes.plot([], [], sign, color=grey, label=key)
    axes.axline((0, 0), slope=1, color=GREY, linewidth=0.8, ls=":", label="agreement = accuracy")
    axes.set_xlim(0, 1.04)
    axes.set_ylabel("agreement")
    axes.set_ylim(0, 1.08)
    axes.set_title("every data set and network")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


ARTIFACT = Artifact(
    id="models_fig2",
    experiment="nondeterminism",
    tabulate=tabulate,
    draw=draw,
    claims=(HARDER, FORTY),
    notes=NOTES,
    title="Agreement of networks trained on the same data",
    claim=(
        "Networks trained on the same data agree less the harder the data set, and on 40 to 70% of"
        " the examples of the hardest."
    ),
    paper="Subsets (Doubov et al., 2022), Figure 2, Sec. 4.1",
    deviations=(
        *agreement.DEVIATIONS,
        "The paper shows the figure and its table as a picture; the printed numbers here are"
        " those of Table 3, where initial parameters and order both differ.",
    ),
    tier_notes=agreement.TIER_NOTES,
    needs=agreement.differing_in(agreement.BOTH),
    page=agreement.page,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
