"""Figure 3 of Subsets: models needed for an influence, and the p of trained networks."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.ink.agreement import draw_majority
from analysis.ink.marks import draw_key, draw_matrix, mark
from analysis.ink.style import BLACK, PAGE, UNNAMED, VERMILLION, new_panels
from analysis.numbers import agreement
from analysis.numbers.claims import Claim, Ours, Paper
from analysis.numbers.statistics import exact, over_seeds
from analysis.numbers.table import Row, claim, curve, records, tabulated
from analysis.page.artifact import Artifact, SecondExperiment
from experiments.laboratory.runs import Run

TEXT = (0.6, 0.4)  # the pair of the text: "> 100 models"
MANY, FEW, WIDE = 100, 10, 0.5
NEAR_ONE = (0.9, 0.95, 1.0)
SCORES = (0.1, 0.5)
FACTOR, STEADY, AGREE = 5.0, 0.95, 0.001
KINDS = ("Pair", "Grid", "Line", "Coins")
GRID, LINE = "grid", "line"

STAR: dict[str, Any] = {
    "color": VERMILLION, "marker": "*", "linestyle": "none", "markersize": 8,
    "markeredgecolor": "white",
}  # fmt: skip

LEFT = "Sec. 4.3, of Figure 3 (left)"
HUNDRED = Claim(
    "p = 0.6 and q = 0.4 need more than 100 models",
    Paper(
        "For example, with p = 0.6 and q = 0.4, we see that > 100 models would need to"
        " be trained for that example to detect the influence score.",
        LEFT,
    ),
    "The exact number at delta = 0.05. One model suffices if they are as far apart as 0 and 1.",
    null=1.0,
    contradicted="the code of the paper's Appendix F returns 67, as we do",
)
SIMILAR = Claim(
    "the more similar p and q, the more models",
    Paper(
        "Here we see that the more similar p and q are, the more models are needed, as expected.",
        LEFT,
    ),
    f"The share of steps of q towards p that need no fewer models, at every p drawn, above"
    f" {STEADY:g}. By chance it is one half.",
    null=0.5,
)
SMALLER = Claim(
    "smaller scores need significantly more models",
    Paper(
        "In particular, we see that smaller influence scores require significantly more models to"
        " detect.",
        "Sec. 4.3, of Figure 3 (middle)",
    ),
    f"The models for a score of {SCORES[0]} over those for {SCORES[1]}, at every p drawn;"
    f" significantly is read as over {FACTOR:g} times.",
    null=1.0,
)
FEWER = Claim(
    "p from 0.9 to 1 needs fewer than 10 for a wide range of q",
    Paper(
        "if we compare with our plot on the left, we can see that p ranging from 0.9-1"
        " corresponds to < 10 models for a wide range of q values",
        LEFT,
    ),
    f"At p = 0.9, 0.95 and 1: the share of the values of q below p that need fewer than {FEW}; a"
    f" wide range is read as more than {WIDE:g}.",
    null=0.0,
)
SIMULATED = Claim(
    "simulations agree with the calculation",
    Ours("A check of our counts."),
    f"The mean difference of error rates, within {AGREE:g}; the rate itself is 0.05.",
    null=0.05,
)
NOTES = "A calculated number is its own interval."


def tabulate(runs: list[Run]) -> pd.DataFrame:
    pairs, grids, lines, coins = (
        [run for run in runs if run.config["type"] == kind] for kind in KINDS
    )
    lines = list({float(run.config["p"]): run for run in lines}.values())
    rows = [row for run in pairs for row in _pair(run)]
    for run in sorted(lines, key=lambda run: float(run.config["p"])):
        rows += _claims(float(run.config["p"]), run)
    rows += [row for run in grids for row in _whole(run)]
    difference = over_seeds([run.metrics["difference"] for run in coins])
    bounds = {"at_least": -AGREE, "at_most": AGREE}
    about: dict[str, Any] = {"of": SIMULATED, **bounds}
    rows.append(claim("simulated − calculated", "error rate", "", difference, **about))
    rows += agreement.majority_rows(runs)
    for kind, run in [(GRID, run) for run in grids] + [(LINE, run) for run in lines]:
        rows += _counts(kind, run)
    return tabulated(rows)


def _pair(run: Run) -> list[Row]:
    """Models that the text's pair needs under each reading of the question."""
    config, metrics = run.config, run.metrics
    if (config["p"], config["q"]) != TEXT:
        return []
    quantity, first = f"models, delta {config['delta']:g}", exact(metrics["one_first"])
    name = "p and q known, first"
    readings = {
        "p and q known, sustained": metrics["one_sustained"],
        "the paper's code": metrics["paper"],
        "neither known, per arm, first": metrics["half_first"] / 2,
        "neither known, per arm, normal approximation": metrics["normal_half"] / 2,
    }
    judged = config["delta"] == 0.05
    known = claim(name, quantity, "", first, of=HUNDRED, at_least=MANY, paper=MANY)
    rows = [known if judged else curve(name, quantity, "", first)]
    return rows + [curve(reading, quantity, "", exact(n)) for reading, n in readings.items()]


def _claims(p: float, run: Run) -> list[Row]:
    q, first, sustained = (np.asarray(run.array(name)) for name in ("q", "first", "sustained"))
    rows = []
    if p in NEAR_ONE:
        quantity = f"share of q below p that need fewer than {FEW} models"
        share = exact(float((first < FEW).mean()))
        rows.append(claim(f"p = {p:g}", quantity, "share", share, of=FEWER, at_least=WIDE))
    small, large = (sustained[np.isclose(p - q, score)] for score in SCORES)
    if len(small) and len(large):
        ours = exact(float(small[0] / large[0]))
        quantity = f"models for a score of {SCORES[0]} over those for {SCORES[1]}"
        rows.append(claim(f"p = {p:g}", quantity, "x", ours, of=SMALLER, at_least=FACTOR))
    steady = exact(float((np.diff(sustained) >= 0).mean()))
    quantity = "share of steps towards p that need no fewer models"
    return [*rows, claim(f"p = {p:g}", quantity, "share", steady, of=SIMILAR, at_least=STEADY)]


def _whole(run: Run) -> list[Row]:
    names = ("p", "first", "sustained", "paper")
    p, first, sustained, code = (np.asarray(run.array(name)) for name in names)
    facts = {
        "pairs": len(p),
        "pairs where a larger number fails again": int((first < sustained).sum()),
        "pairs where the paper's code has no answer": int(np.isinf(code).sum()),
        "of these, pairs with p or q = 1": int((np.isinf(code) & (p == 1)).sum()),
        "most models, sustained": float(sustained.max()),
    }
    return [curve("whole grid", name, "", exact(float(value))) for name, value in facts.items()]


def _counts(kind: str, run: Run) -> list[Row]:
    names = ("p", "q", "first", "sustained", "paper")
    columns = zip(*(np.asarray(run.array(name)) for name in names), strict=True)
    return [
        curve(kind, "models", "", exact(first), kind=kind, p=p, q=q, sustained=sustained, code=code)
        for p, q, first, sustained, code in columns
    ]


def _draw_grid(axes: Axes, table: pd.DataFrame) -> None:
    """Models needed over p and q, a square a pair."""
    rows = table[table["kind"] == GRID]
    values = sorted({*rows["p"], *rows["q"]})
    place = {value: i for i, value in enumerate(values)}
    counts = np.full((len(values), len(values)), math.nan)
    for row in records(rows):
        at = place[row["q"]], place[row["p"]]
        counts[at] = counts[at[::-1]] = row["sustained"]
        if math.isinf(row["code"]):
            for x, y in (at, at[::-1]):
                axes.plot(x, y, ".", color="white", markersize=1.8)
    fifths = [value for value in values if math.isclose(5 * value, round(5 * value))]
    ticks = {place[value]: f"{value:g}" for value in fifths}
    norm = LogNorm(1, 1000)
    draw_matrix(axes, counts, ticks, colours="viridis_r", bar="max", norm=norm, origin="lower")
    for level, line in ((FEW, "-"), (MANY, "--")):
        axes.contour(counts, [level], colors=BLACK, linewidths=0.8, linestyles=line)
    if set(TEXT) <= set(values):
        x, y = (place[value] for value in TEXT)
        axes.plot(x, y, **STAR)
    axes.set_ylabel("q")
    axes.set_title("models needed")


def _draw_lines(axes: Axes, table: pd.DataFrame) -> None:
    """Models needed against the influence score, one line per p."""
    rows = table[table["kind"] == LINE]
    for (p, line), (colour, _) in zip(rows.groupby("p"), UNNAMED, strict=False):
        line = line.sort_values("q")
        score = line["p"] - line["q"]
        axes.plot(score, line["sustained"], color=colour, label=f"p = {p:g}")
        axes.plot(score, line["ours"], color=colour, linewidth=0.6, alpha=0.6)
    for level, style in ((FEW, "-"), (MANY, "--")):
        axes.axhline(level, color=BLACK, linewidth=0.8, linestyle=style)
    axes.set_yscale("log")
    axes.set_ylabel("models")
    axes.set_title("bold: sustained; thin: the first")
    axes.legend()


PANELS: dict[str, Callable[[Axes, pd.DataFrame], None]] = {
    "p": _draw_grid,
    "influence score, p − q": _draw_lines,
    "p, share of seeds that are right": draw_majority,
}


def draw(table: pd.DataFrame) -> Figure:
    figure, places = new_panels(list(PANELS), width=PAGE, height=3.1)
    for axes, panel in zip(places, PANELS.values(), strict=True):
        panel(axes, table)
    marks = {
        f"{FEW} models": mark("", BLACK, "-", linewidth=0.8),
        f"{MANY} models": mark("", BLACK, "--", linewidth=0.8),
        "the text's pair, said to need over 100": Line2D([], [], **STAR),
        "no answer from the paper's code": mark("."),
    }
    draw_key(figure, marks)
    return figure


def page(table: pd.DataFrame) -> pd.DataFrame:
    """The claims and the readings, without the squares and lines of the figure."""
    shown = table[~table["kind"].isin([GRID, LINE, agreement.BIN])]
    columns = ["method", "quantity", "paper", "ours", "low", "high"]
    return shown[columns]


ARTIFACT = Artifact(
    id="models_fig3",
    experiment="model_count",
    tabulate=tabulate,
    draw=draw,
    claims=(HUNDRED, SIMILAR, SMALLER, FEWER, agreement.MAJORITY, agreement.LONG_TAIL, SIMULATED),
    notes=NOTES,
    title="How many models distinguish an influence from none",
    claim=(
        "The more similar p and q, the more models are needed: above 100 for p = 0.6 and q = 0.4,"
        " below 10 for p from 0.9 to 1 and a wide range of q. Most examples have p close to 1, with"
        " a fairly long tail."
    ),
    paper="Subsets (Doubov et al., 2022), Figure 3, Sec. 4.3",
    deviations=(
        "The right panel shows trained networks of the highest tier that has been run, named in"
        " its title: `python -m experiments.nondeterminism --preset small` trains small ones.",
        "The paper does not print the grid of p and q of its figure: ours has steps of 0.05, and"
        " 0.01 and 0.99.",
        "The figure shows the number from which every larger number of models suffices"
        " (sustained); the paper's is the first that suffices. p or q equal to 0 or 1 is"
        " included: there, one model may decide.",
    ),
    tier_notes={"smoke": "Smoke tier: steps of 0.1 in the grid and of 0.05 in the lines."},
    remarks=(
        "The text's number, more than 100 models for p = 0.6 and q = 0.4 at delta = 0.05, is not"
        " what the code of its Appendix F returns, 67; that code and our count agree. More than"
        " 100 are needed at delta = 0.02, or per arm where neither p nor q is known beforehand.",
        "That p from 0.9 to 1 needs fewer than 10 models holds for q up to 0.40 at p = 0.9 and up"
        " to 0.47 at p = 0.95: for less than half of the values of q, or barely more.",
        "White dots are pairs for which the paper's code has no answer: those with p or q = 1,"
        " where its threshold is not a number, and those that need more than its limit of 999"
        " models.",
        "Shares of right answers come in steps, so a larger number of models may fail where a"
        " smaller one sufficed. With p known to be 1, one wrong answer decides.",
    ),
    needs=lambda config: config["type"] in KINDS,
    page=page,
    second=SecondExperiment("nondeterminism", agreement.differing_in(agreement.BOTH)),
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
