"""Table 4 of FastIF: strengths and numbers of helpful and harmful edges, by slice."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.ink.marks import draw_key, draw_value, mark, name_lines, printed_mark
from analysis.ink.style import BLUE, GREY, PAGE, new_panels
from analysis.numbers import influence_graph
from analysis.numbers.bounds import TOLERANCE_RULE
from analysis.numbers.influence_graph import (
    ASKED,
    HELPFUL_STRONGER,
    KINDS,
    MORE_HARMFUL,
    SLICES,
    Graph,
    helpful_share,
    ratio,
)
from analysis.numbers.statistics import geometric, over_seeds
from analysis.numbers.table import Row, claim, curve, number, records, tabulated, written
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
NOTES = (
    f"Tolerance of the printed shares of helpful edges: {TOLERANCE:g}; of the ratios of the printed"
    f" strengths, which are comparable within a row only: a factor of {FACTOR:g}."
    f" {TOLERANCE_RULE} Intervals are over models; query_low and query_high are bootstrap intervals"
    " over wrong predictions."
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    by_seed = influence_graph.runs_by_seed(runs, "MultiNLI")
    if not by_seed:
        return tabulated([])
    rows: list[Row] = []
    for kind in KINDS:
        graphs = [influence_graph.graph(by_seed[seed], kind) for seed in sorted(by_seed)]
        for part in SLICES.values():
            rows += _slice(graphs, part, kind)
    return tabulated(rows + influence_graph.count_rows("model", by_seed))


def _slice(graphs: list[Graph], part: str, kind: str) -> list[Row]:
    edges = [each[part] for each in graphs if part in each]
    shares = over_seeds([helpful_share(each) for each in edges])
    ratios = [ratio(each) for each in edges]
    times = geometric([value for value in ratios if 0 < value < math.inf])
    logs = influence_graph.over_queries(graphs, (part,), _log_ratio)
    own: dict[str, Any] = {"part": part}
    of_shares = own | influence_graph.over_queries(graphs, (part,), helpful_share)
    of_times = own | {side: math.exp(log) for side, log in logs.items()}
    rows = []
    for word, sign in (("helpful", -1), ("harmful", 1)):
        sizes = np.array([influence_graph.strength(each, sign) for each in edges])
        size = over_seeds(sizes[np.isfinite(sizes)])
        rows.append(curve(kind, f"mean |I|, {word}", "", size, **own))
    if kind != "influence":
        shown = curve(kind, SHARE, "share", shares, **of_shares)
        return [*rows, shown, curve(kind, TIMES, "", times, **of_times)]
    strong, weak, helpful, _ = PAPER[part]
    return [
        *rows,
        number(kind, SHARE, "share", shares, helpful, TOLERANCE, **of_shares),
        number(kind, TIMES, "x", times, strong / weak, factor=FACTOR, **of_times),
        claim(part, f"edges: {SHARE}", "share", shares, of=MORE_HARMFUL, at_most=0.5, **own),
        claim(part, f"edges: {TIMES}", "x", times, of=HELPFUL_STRONGER, at_least=1.0, **own),
    ]


def _log_ratio(edges: influence_graph.Edges) -> float:
    """The logarithm of `ratio`, whose mean over models is that of the geometric mean."""
    value = ratio(edges)
    return math.log(value) if 0 < value < math.inf else math.nan


def draw(table: pd.DataFrame) -> Figure:
    labels = ["share of edges that are helpful", "mean |I|, helpful ÷ harmful"]
    figure, panels = new_panels(labels, width=PAGE * 0.75, height=2.1, share_y=True)
    parts = list(SLICES.values())
    for axes, quantity, middle in zip(panels, (SHARE, TIMES), (0.5, 1), strict=True):
        for row in records(table[table["quantity"] == quantity]):
            place, interval = parts.index(row["part"]), ("query_low", "query_high")
            if row["method"] == "influence":
                draw_value(axes, row, place, BLUE, interval=interval)
            else:
                draw_value(axes, row, place + 0.25, GREY, "s", interval=interval, size=3)
        axes.axvline(middle, color=GREY, linewidth=0.7, linestyle=":")
        axes.tick_params(axis="y", length=0)
    panels[0].set_xlim(0, 1)
    panels[1].set_xscale("log")
    name_lines(panels[0], parts, margin=0.4)
    ours, control = mark("o", BLUE, "-"), mark("s", line="-", markersize=3)
    marks = {"ours, 95% over wrong predictions": ours, "H = I": control}
    draw_key(figure, marks | {"printed": printed_mark()})
    return figure


def page(table: pd.DataFrame) -> pd.DataFrame:
    """A line a slice and kind, in the columns of the paper's table, its own numbers beside."""
    lines = []
    measured = table[table["method"].isin(list(KINDS))]
    for (kind, part), rows in measured.groupby(["method", "part"], sort=False):
        by_quantity = {row["quantity"]: row for row in records(rows)}
        strong, weak, helpful, _ = PAPER[str(part)]
        printed = f"{strong / weak:.3g} and {helpful:g}" if kind == "influence" else ""
        line = {"slice": part, "": kind}
        for heading, quantity, form in (
            ("mean |I|, helpful", "mean |I|, helpful", ".3g"),
            ("mean |I|, harmful", "mean |I|, harmful", ".3g"),
            ("helpful ÷ harmful", TIMES, ".3g"),
            ("share helpful", SHARE, ".3f"),
        ):
            line[heading] = written(by_quantity[quantity], form)
        lines.append(line | {"printed ratio and share": printed})
    return pd.DataFrame(lines)


def findings(table: pd.DataFrame) -> list[str]:
    """Sentences on how many were wrong, and on what H = I says."""
    rows = records(table)
    sentences = [
        f"{row['part']}: {row['ours']:.0f} wrong predictions per model were examined: all that"
        " there are."
        for row in rows
        if row["quantity"] == ASKED and row["n"] and row["ours"] < 100
    ]
    known = [row for row in rows if row["quantity"] == SHARE and row["n"]]
    shares = {(row["method"], row["part"]): row["ours"] for row in known}
    gaps = [
        abs(shares["influence", part] - shares["H = I", part])
        for part in SLICES.values()
        if ("H = I", part) in shares
    ]
    if gaps:
        sentences.append(
            "Gradients alone (H = I) put the share of helpful edges within"
            f" {max(gaps):.3f} of influence on every slice."
        )
    return sentences


ARTIFACT = Artifact(
    id="fastif_table4",
    experiment="mnli_effects",
    tabulate=tabulate,
    draw=draw,
    claims=(MORE_HARMFUL, HELPFUL_STRONGER),
    notes=NOTES,
    title="Helpful and harmful training pairs of wrong predictions, by slice",
    claim=(
        "More training pairs are harmful to wrong predictions than helpful, and their influence"
        " is much weaker: there are few strong helpful edges and many weak harmful ones."
    ),
    paper="FastIF (arXiv:2012.15781), Table 4 and Sec. 6.2",
    deviations=influence_graph.DEVIATIONS,
    findings=findings,
    tier_notes=influence_graph.TIER_NOTES,
    needs=lambda config: config["model"]["train"]["which"] == "mnli train",
    page=page,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
