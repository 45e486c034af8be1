"""Table 5 of FastIF: whether training pairs influence two slices alike."""

from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from analysis.ink.marks import draw_matrix, write_in_cell
from analysis.ink.style import GREY, PAGE, new_panels
from analysis.numbers import influence_graph
from analysis.numbers.bounds import TOLERANCE_RULE
from analysis.numbers.claims import Claim, Paper
from analysis.numbers.influence_graph import HANS, KINDS, SLICES, Edges, Graph, graph, shared
from analysis.numbers.statistics import Interval, over_seeds
from analysis.numbers.table import Row, claim, curve, number, records, tabulated
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
TOLERANCE, HIGH = 0.1, 0.5
R = "correlation"
CORRELATION, COUNT = "correlation", "training pairs tied to both"
QUOTE = Paper(
    "We can see from the table that the correlation is reasonably high between each pair of data"
    " slices, and in particular between HANS subsets.",
    "Sec. 6.2, of Table 5",
)
EACH = Claim(
    "each pair of slices correlates",
    QUOTE,
    "Of the model of MultiNLI: the correlation of the mean influences of training pairs on two"
    f" slices, of each pair of slices; 'reasonably high' is read as above {HIGH:g}, below the"
    " lowest that is printed.",
    null=0.0,
)
IN_PARTICULAR = Claim(
    "subsets of HANS correlate most of all",
    QUOTE,
    "The mean correlation of two subsets of HANS minus that of a subset of HANS with MultiNLI.",
    null=0.0,
)
NOTES = (
    f"Tolerance of a printed correlation: {TOLERANCE:g}. {TOLERANCE_RULE} Intervals are over"
    " models; query_low and query_high are bootstrap intervals over wrong predictions. Numbers of"
    " pairs grow with the pool and are not judged."
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    by_seed = influence_graph.runs_by_seed(runs, "MultiNLI")
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
    about: dict[str, Any] = {"one": one, "other": other, "kind_of_score": kind}
    both = [shared(edges[one], edges[other]) for edges in graphs if one in edges and other in edges]
    printed, n_printed = PAPER[one, other]
    rows = []
    if kind == "influence":
        counts = over_seeds([float(len(first)) for first, _ in both])
        # Of another pool: printed beside ours, and not compared.
        rows.append(curve(name, COUNT, "", counts, **about) | {"paper": n_printed})
    if one == other:
        return rows
    ranks = over_seeds([float(stats.spearmanr(*means).statistic) for means in both])
    rows.append(curve(name, f"rank correlation, {kind}", R, ranks, **about))
    ours = _over_models(graphs, one, other)
    if ours.n:
        about |= influence_graph.over_queries(graphs, (one, other), correlation)
    if kind == "influence":
        return [*rows, number(name, CORRELATION, R, ours, printed, TOLERANCE, **about)]
    return [*rows, curve(name, f"{CORRELATION}, {kind}", R, ours, **about)]


def _over_models(graphs: list[Graph], one: str, other: str) -> Interval:
    tied = [edges for edges in graphs if one in edges and other in edges]
    values = [correlation(edges[one], edges[other]) for edges in tied]
    return over_seeds([value for value in values if np.isfinite(value)])


def _claims(graphs: list[Graph]) -> list[Row]:
    rows, gaps = [], []
    within_hans = [(one, other) for one, other in PAIRS if one != other and other != "M"]
    for one, other in (pair for pair in PAIRS if len(set(pair)) > 1):
        ours = _over_models(graphs, one, other)
        rows.append(claim(f"{one}, {other}", "correlate", R, ours, of=EACH, at_least=HIGH))
    for edges in graphs:
        if all(part in edges for part in PARTS):
            within = [correlation(edges[one], edges[other]) for one, other in within_hans]
            across = [correlation(edges[part], edges["M"]) for part in HANS]
            gaps.append(float(np.mean(within) - np.mean(across)))
    gap = over_seeds([gap for gap in gaps if np.isfinite(gap)])
    about: dict[str, Any] = {"of": IN_PARTICULAR, "at_least": 0.0}
    rows.append(claim("within HANS − with M", "mean correlation", "", gap, **about))
    return rows


def draw(table: pd.DataFrame) -> Figure:
    figure, panels = new_panels([""] * 3, width=PAGE, height=3.0, share_y=True)
    ours, control, counts = (
        records(table[table["quantity"] == quantity])
        for quantity in (CORRELATION, f"{CORRELATION}, H = I", COUNT)
    )
    _draw_correlations(panels[0], "printed", ours, counts, "paper")
    _draw_correlations(panels[1], "ours", ours, counts, "ours")
    _draw_correlations(panels[2], "ours, H = I", control, [], "ours")
    panels[1].set_xlabel("correlation; below it, the training pairs that influence both slices")
    return figure


def _draw_correlations(
    axes: Axes, title: str, rows: list[Row], counts: list[Row], column: str
) -> None:
    """Correlations as a symmetric matrix, the numbers of training pairs below them."""
    known = {(row["one"], row["other"]): row[column] for row in rows}
    numbers = {(row["one"], row["other"]): row[column] for row in counts}
    values = np.eye(len(PARTS))
    for cell in np.ndindex(values.shape):
        one, other = (PARTS[place] for place in sorted(cell))
        if one != other:
            values[cell] = known.get((one, other), np.nan)
        colour = "white" if abs(values[cell]) > 0.6 else "black"
        if not np.isnan(values[cell]):
            write_in_cell(axes, cell, f"{values[cell]:.2f}", colour, down=-0.1)
        if not np.isnan(count := numbers.get((one, other), np.nan)):
            write_in_cell(axes, cell, f"{count:,.0f}", colour, down=0.25, size=5.5)
    draw_matrix(axes, values, dict(enumerate(PARTS)), colours="RdBu", vmin=-1.2, vmax=1.2)
    axes.set_title(title)
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)


def findings(table: pd.DataFrame) -> list[str]:
    """A sentence on what gradients alone say of the same pairs."""
    ours, control = (
        {row["method"]: row["ours"] for row in records(table) if row["n"] and row["quantity"] == q}
        for q in (CORRELATION, f"{CORRELATION}, H = I")
    )
    gaps = {name: abs(ours[name] - control[name]) for name in ours if name in control}
    if not gaps:
        return []
    worst = max(gaps, key=lambda name: gaps[name])
    return [
        "Under H = I, gradients alone, the correlations are within"
        f" {gaps[worst]:.2f} of those of influence (furthest: {worst})."
    ]


ARTIFACT = Artifact(
    id="fastif_table5",
    experiment="mnli_effects",
    tabulate=tabulate,
    draw=draw,
    claims=(EACH, IN_PARTICULAR),
    notes=NOTES,
    title="Correlations between slices of the influences of training pairs",
    claim=(
        "Training pairs that influence two slices influence them alike: slices of HANS correlate"
        " near 1 with one another, and less with MultiNLI."
    ),
    paper="FastIF (arXiv:2012.15781), Table 5, Sec. 6.2 and B.2",
    deviations=(
        *influence_graph.DEVIATIONS,
        "A training pair counts for two slices if it is among the k nearest of a wrong prediction"
        " in each; its influence on a slice is the mean over those, as in B.2. Correlations are"
        " Pearson's; Spearman's are in the table too.",
    ),
    findings=findings,
    tier_notes=influence_graph.TIER_NOTES,
    needs=lambda config: config["model"]["train"]["which"] == "mnli train",
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
