"""Table 5 of FastIF: whether training pairs influence two slices alike."""

import sys
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from analysis.ink.style import GREY, PAGE, new_panels
from analysis.numbers import influence_graph
from analysis.numbers.influence_graph import (
    HANS,
    KINDS,
    SLICES,
    Edges,
    Graph,
    graph,
    runs_of,
    shared,
)
from analysis.numbers.statistics import Interval, over_seeds
from analysis.numbers.table import Row, claim, curve, number, records, tabulated
from analysis.numbers.verdict import TOLERANCE_RULE
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

PARTS = tuple(SLICES.values())
PAPER = {  # correlation and number of training pairs
    ("H (L)", "H (L)"): (1.0, 29581),
    ("H (L)", "H (S)"): (0.99, 14917),
    ("H (L)", "H (C)"): (0.99, 3425),
    ("H (L)", "M"): (0.92, 5380),
    ("H (S)", "H (S)"): (1.0, 25145),
    ("H (S)", "H (C)"): (0.99, 6218),
    ("H (S)", "M"): (0.91, 6270),
    ("H (C)", "H (C)"): (1.0, 26621),
    ("H (C)", "M"): (0.67, 13972),
    ("M", "M"): (1.0, 72324),
}
PAIRS = tuple(combinations_with_replacement(PARTS, 2))
TOLERANCE, NEAR_ONE = 0.1, 0.9
RULE = (
    "Claims, of the model of MultiNLI: the mean influences of training pairs on any two slices of"
    f" HANS correlate above {NEAR_ONE:g}, and more than those on a slice of HANS and MultiNLI do,"
    f" in the mean. Tolerance of a printed correlation: {TOLERANCE:g}. {TOLERANCE_RULE} Intervals"
    " are over models; columns query_low and query_high are those over wrong predictions by"
    " bootstrap. Numbers of pairs grow with the pool and are not judged."
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    by_seed = runs_of(found, "MultiNLI")
    if not by_seed:
        return tabulated([])
    rows: list[Row] = []
    for kind in KINDS:
        graphs = [graph(by_seed[seed], kind) for seed in sorted(by_seed)]
        for one, other in PAIRS:
            rows += _pair(graphs, one, other, kind)
        if kind == "influence":
            rows += _claims(graphs)
    return tabulated(rows)


def correlation(one: Edges, other: Edges) -> float:
    """Pearson's correlation over the training pairs with edges to both; nan below three."""
    first, second = shared(one, other)
    if len(first) < 3 or not first.std() or not second.std():
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def _pair(graphs: list[Graph], one: str, other: str, kind: str) -> list[Row]:
    name = f"{one}, {other}"
    where = {"one": one, "other": other, "kind_of_score": kind}
    there = [each for each in graphs if one in each and other in each]
    counts = over_seeds([float(len(shared(each[one], each[other])[0])) for each in there])
    printed, n_printed = PAPER[one, other]
    rows = []
    if kind == "influence":
        rows.append(curve(name, "training pairs of both", "", counts, **where))
        rows[0]["paper"] = n_printed  # of another pool: beside ours, and not compared
    if one == other:
        return rows
    ours, between = _over(graphs, one, other), {}
    if ours.n:
        between = influence_graph.over_queries(graphs, (one, other), correlation)
    ranks = over_seeds(
        [float(stats.spearmanr(*shared(each[one], each[other])).statistic) for each in there]
    )
    rows.append(curve(name, f"rank correlation, {kind}", "", ranks, **where))
    if kind == "influence":
        judged = number(name, "correlation", "", ours, printed, TOLERANCE)
        return [*rows, judged | where | between]
    return [*rows, curve(name, f"correlation, {kind}", "", ours) | where | between]


def _over(graphs: list[Graph], one: str, other: str) -> Interval:
    there = [each for each in graphs if one in each and other in each]
    values = np.array([correlation(each[one], each[other]) for each in there])
    return over_seeds(values[np.isfinite(values)])


def _claims(graphs: list[Graph]) -> list[Row]:
    rows = [
        claim(f"{one}, {other}", "correlate", "", _over(graphs, one, other), at_least=NEAR_ONE)
        for one, other in PAIRS
        if one != other and "M" not in (one, other)
    ]
    gaps = []
    for each in graphs:
        if all(part in each for part in PARTS):
            inner = [correlation(each[a], each[b]) for a, b in PAIRS if a != b and b != "M"]
            outer = [correlation(each[part], each["M"]) for part in HANS]
            gaps.append(float(np.mean(inner) - np.mean(outer)))
    apart = over_seeds([gap for gap in gaps if np.isfinite(gap)])
    rows.append(claim("within HANS − with M", "mean correlation", "", apart, at_least=0.0))
    return rows


def draw(table: pd.DataFrame) -> Figure:
    figure, panels = new_panels([""] * 3, width=PAGE, height=3.0, share_y=True)
    ours = table[table["quantity"] == "correlation"]
    control = table[table["quantity"] == "correlation, H = I"]
    counts = table[table["quantity"] == "training pairs of both"]
    _grid(panels[0], "printed", ours, counts, "paper")
    _grid(panels[1], "ours", ours, counts, "ours")
    _grid(panels[2], "ours, H = I", control, counts.head(0), "ours")
    panels[0].set_yticks(range(len(PARTS)), PARTS)
    panels[1].set_xlabel("correlation; below it, the training pairs that influence both slices")
    return figure


def _grid(axes: Axes, title: str, rows: pd.DataFrame, counts: pd.DataFrame, column: str) -> None:
    """Correlations as a symmetric matrix, the numbers of training pairs below them."""
    values = np.eye(len(PARTS))
    known = {(r["one"], r["other"]): r[column] for r in records(rows)}
    numbers = {(r["one"], r["other"]): r[column] for r in records(counts)}
    for i, one in enumerate(PARTS):
        for j, other in enumerate(PARTS):
            key = (one, other) if (one, other) in PAPER else (other, one)
            values[i, j] = known.get(key, np.nan) if i != j else 1.0
            said = "" if np.isnan(values[i, j]) else f"{values[i, j]:.2f}"
            colour = "white" if abs(values[i, j]) > 0.6 else "black"
            axes.text(j, i - 0.1, said, ha="center", va="center", color=colour, fontsize=7.5)
            if key in numbers and numbers[key] == numbers[key]:
                below = f"{numbers[key]:,.0f}"
                axes.text(j, i + 0.25, below, ha="center", va="center", color=colour, fontsize=5.5)
    axes.imshow(values, cmap="RdBu", vmin=-1.2, vmax=1.2)
    axes.set_title(title)
    axes.set_xticks(range(len(PARTS)), PARTS)
    axes.tick_params(length=0)
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)


def findings(table: pd.DataFrame) -> list[str]:
    """A sentence on what gradients alone say of the same pairs."""
    rows = records(table)
    ours = {row["method"]: row for row in rows if row["quantity"] == "correlation"}
    control = {row["method"]: row for row in rows if row["quantity"] == "correlation, H = I"}
    both = [name for name in ours if ours[name]["n"] and control.get(name, {}).get("n")]
    if not both:
        return []
    apart = {name: abs(ours[name]["ours"] - control[name]["ours"]) for name in both}
    worst = max(apart, key=lambda name: apart[name])
    return [
        "Under H = I, gradients alone, the correlations are within"
        f" {apart[worst]:.2f} of those of influence (furthest: {worst})."
    ]


ARTIFACT = Artifact(
    id="fastif_table5",
    experiment="mnli_effects",
    tabulate=tabulate,
    draw=draw,
    rule=RULE,
    title="Correlations between slices of the influences of training pairs",
    claim=(
        "Training pairs that influence two slices influence them alike: slices of HANS correlate"
        " near 1 with one another, and less with MultiNLI."
    ),
    paper="FastIF (arXiv:2012.15781), Table 5, Sec. 6.2 and B.2",
    deviations=(
        *influence_graph.DEVIATIONS,
        "A training pair counts for two slices if it is among the k nearest of a wrong prediction"
        " in each; its influence on a slice is the mean over those, as B.2 has it. Correlations are"
        " Pearson's; Spearman's are in the table as well.",
    ),
    findings=findings,
    tier_notes=influence_graph.TIER_NOTES,
    needs=lambda config: config["model"]["train"]["which"] == "mnli train",
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
