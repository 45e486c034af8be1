"""Table 4 of FastIF: strengths and numbers of helpful and harmful edges, by slice."""

import math
import sys

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.style import BLACK, BLUE, GREY, PAGE, new_panels
from analysis.numbers import influence_graph
from analysis.numbers.influence_graph import (
    SLICES,
    Graph,
    graph,
    helpful_share,
    ratio,
    runs_of,
    strength,
)
from analysis.numbers.statistics import geometric, over_seeds
from analysis.numbers.table import Row, aside, claim, curve, number, records, tabulated, written
from analysis.numbers.verdict import TOLERANCE_RULE
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

PAPER = {  # mean |I| x 10 helpful and harmful; helpful edges and harmful ones, of 10^5
    "H (L)": (8.66, 0.34, 0.05, 0.95),
    "H (S)": (9.34, 0.66, 0.08, 0.92),
    "H (C)": (4.65, 1.79, 0.29, 0.71),
    "M": (136.89, 44.19, 0.27, 0.73),
}
TOLERANCE = 0.1  # of a share of edges
FACTOR = 3.0  # half an order of magnitude
SHARE, TIMES = "share of edges, helpful", "mean |I|, helpful ÷ harmful"
RULE = (
    "Claims, of the model of MultiNLI, for each slice: fewer than half of the edges are helpful,"
    " and helpful edges are stronger in the mean than harmful ones. Tolerance of the printed shares"
    f" of helpful edges: {TOLERANCE:g}. {TOLERANCE_RULE} Ratios of strengths are compared to a"
    f" factor of {FACTOR:g} and decide nothing. Intervals are over models; columns query_low and"
    " query_high are those over wrong predictions by bootstrap."
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    by_seed = runs_of(found, "MultiNLI")
    if not by_seed:
        return tabulated([])
    rows: list[Row] = []
    for kind in influence_graph.KINDS:
        graphs = [graph(by_seed[seed], kind) for seed in sorted(by_seed)]
        for part in SLICES.values():
            rows += _slice(graphs, part, kind)
    for part in SLICES.values():
        asked = [one[part].metrics for one in by_seed.values() if part in one]
        for name, quantity in (("n_queries", "wrong predictions asked about"),
                               ("n_wrong", "wrong predictions there are")):  # fmt: skip
            of = over_seeds([float(metrics[name]) for metrics in asked])
            rows.append(curve("model", quantity, "", of, part=part))
    return tabulated(rows)


def _slice(graphs: list[Graph], part: str, kind: str) -> list[Row]:
    edges = [one[part] for one in graphs if part in one]
    shares = over_seeds([helpful_share(one) for one in edges])
    positive = [value for one in edges if 0 < (value := ratio(one)) < math.inf]
    times = geometric(positive)
    between = {
        SHARE: influence_graph.over_queries(graphs, (part,), helpful_share),
        TIMES: {
            side: math.exp(log)
            for side, log in influence_graph.over_queries(graphs, (part,), _log_ratio).items()
        },
    }
    strong, weak, helpful, _ = PAPER[part]
    of = {"part": part}
    rows = [
        curve(kind, f"mean |I|, {word}", "", over_seeds(_finite(edges, sign)), part=part)
        for word, sign in (("helpful", -1), ("harmful", 1))
    ]
    if kind != "influence":
        controls = {SHARE: shares, TIMES: times}
        return rows + [curve(kind, q, "", ours, **of, **between[q]) for q, ours in controls.items()]
    name = {"part": part}
    return [
        *rows,
        number(kind, SHARE, "", shares, helpful, TOLERANCE) | name | between[SHARE],
        aside(kind, TIMES, "x", times, strong / weak, FACTOR) | name | between[TIMES],
        claim(part, "most edges are harmful: share helpful", "", shares, at_most=0.5) | name,
        claim(part, "helpful are stronger: helpful ÷ harmful", "x", times, at_least=1.0) | name,
    ]


def _log_ratio(edges: influence_graph.Edges) -> float:
    """The logarithm of `ratio`, whose mean over models is that of the geometric mean."""
    value = ratio(edges)
    return math.log(value) if 0 < value < math.inf else math.nan


def _finite(edges: list[influence_graph.Edges], sign: int) -> np.ndarray:
    values = np.array([strength(one, sign) for one in edges])
    return values[np.isfinite(values)]


def draw(table: pd.DataFrame) -> Figure:
    labels = ["share of edges that are helpful", "mean |I|, helpful ÷ harmful"]
    figure, panels = new_panels(labels, width=PAGE * 0.75, height=2.1, share_y=True)
    parts = list(SLICES.values())
    for axes, quantity in zip(panels, (SHARE, TIMES), strict=True):
        for row in records(table[table["quantity"] == quantity]):
            _mark(axes, row, parts.index(row["part"]))
    panels[0].axvline(0.5, color=GREY, linewidth=0.7, linestyle=":")
    panels[0].set_xlim(0, 1)
    panels[1].set_xscale("log")
    panels[1].axvline(1, color=GREY, linewidth=0.7, linestyle=":")
    panels[0].set_yticks(range(len(parts)), parts)
    panels[0].set_ylim(len(parts) - 0.4, -0.6)
    marks = [
        panels[0].plot([], [], "o-", color=BLUE)[0],
        panels[0].plot([], [], "s-", color=GREY, markersize=3)[0],
        panels[0].plot([], [], "|", color=BLACK, markersize=9, markeredgewidth=1.2)[0],
    ]
    names = ["ours, 95% over wrong predictions", "H = I", "printed"]
    figure.legend(marks, names, loc="outside upper center", ncols=3)
    return figure


def _mark(axes: Axes, row: Row, place: int) -> None:
    control = row["method"] != "influence"
    colour, marker, at = (GREY, "s", place + 0.25) if control else (BLUE, "o", place)
    between = [row["query_low"], row["query_high"]]
    axes.plot(between, [at] * 2, color=colour, linewidth=2, alpha=0.5)
    axes.plot(row["ours"], at, marker, color=colour, markersize=3 if control else 4)
    axes.plot(row["paper"], place, "|", color=BLACK, markersize=9, markeredgewidth=1.2)
    axes.tick_params(axis="y", length=0)


def page(table: pd.DataFrame) -> pd.DataFrame:
    """A line a slice and kind, in the columns of the paper's table, its own numbers beside."""
    lines = []
    for (kind, part), rows in table[table["method"].isin(influence_graph.KINDS)].groupby(
        ["method", "part"], sort=False
    ):
        by = {row["quantity"]: row for row in records(rows)}
        line = {"slice": part, "": kind}
        for word in ("helpful", "harmful"):
            line[f"mean |I|, {word}"] = written(by[f"mean |I|, {word}"], ".3g")
        line["helpful ÷ harmful"] = written(by[TIMES], ".3g")
        line["share helpful"] = written(by[SHARE], ".3f")
        strong, weak, helpful, _ = PAPER[str(part)]
        printed = f"{strong / weak:.3g} and {helpful:g}" if kind == "influence" else ""
        lines.append({**line, "printed ratio and share": printed})
    return pd.DataFrame(lines)


def findings(table: pd.DataFrame) -> list[str]:
    """Sentences on how many were wrong, and on what H = I says."""
    rows = records(table)
    said = [
        f"{row['part']}: {row['ours']:.0f} wrong predictions a model were asked about, all of them"
        " where there were no more."
        for row in rows
        if row["quantity"] == "wrong predictions asked about" and row["n"] and row["ours"] < 100
    ]
    shares = {(row["method"], row["part"]): row for row in rows if row["quantity"] == SHARE}
    apart = [
        abs(shares["influence", part]["ours"] - shares["H = I", part]["ours"])
        for part in SLICES.values()
        if ("H = I", part) in shares and shares["H = I", part]["n"]
    ]
    if apart:
        said.append(
            "Gradients alone (H = I) put the share of helpful edges within"
            f" {max(apart):.3f} of influence on every slice."
        )
    return said


ARTIFACT = Artifact(
    id="fastif_table4",
    experiment="mnli_effects",
    tabulate=tabulate,
    draw=draw,
    rule=RULE,
    title="Helpful and harmful training pairs of wrong predictions, by slice",
    claim=(
        "More training pairs are harmful to wrong predictions than helpful, and their influence is"
        " much weaker: a few strong helpful edges beside many weak harmful ones."
    ),
    paper="FastIF (arXiv:2012.15781), Table 4 and Sec. 6.2",
    deviations=influence_graph.DEVIATIONS,
    findings=findings,
    tier_notes=influence_graph.TIER_NOTES,
    needs=lambda config: config["model"]["train"]["which"] == "mnli train",
    page=page,
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
