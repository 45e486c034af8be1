"""Throughput of self-influence in translation: passes over the data, pairs an hour, a corpus."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.ink.style import BLACK, GREEN, GREY, new_axes
from analysis.numbers.claims import Claim, Ours
from analysis.numbers.frame import FORMER_DRAWS
from analysis.numbers.statistics import geometric
from analysis.numbers.table import aside, claim, curve, records, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

MOST = 1.5  # plain passes that scoring through ten directions may cost
PAPER_RATE = 2.2e6  # pairs an hour on a TPU v2 of 16 cores, p~ = 10, b = 2,048
CORPUS = 100e6  # pairs of ParaCrawl
WORKS = {"scored": "Arnoldi or RandProj 10", "norms": "TracIn", "loss": "Loss"}

CHEAP = Claim(
    "scoring costs little more than a pass",
    Ours("The paper prints a rate, 2.2 million pairs an hour, and no cost (Sec. 5.2)."),
    "The time of scoring through ten fixed directions over that of plain forward and backward"
    f" passes over the same batches, below {MOST:g}; a pass for each direction would be 10.",
    null=10.0,
)
NOTES = "Pairs an hour depend on the machine and decide nothing."


def tabulate(runs: list[Run]) -> pd.DataFrame:
    def values(metric: str) -> np.ndarray:
        return np.array([float(run.metrics[metric]) for run in runs])

    costs = {work: geometric(values(f"ratio_{work}")) for work in WORKS}
    scored = WORKS["scored"]
    rate = values("pairs_per_hour")
    return tabulated(
        [
            claim(scored, "cost", "plain passes", costs.pop("scored"), of=CHEAP, at_most=MOST),
            *(curve(WORKS[work], "cost", "plain passes", ours) for work, ours in costs.items()),
            aside(scored, "throughput", "pairs/hour", geometric(rate), PAPER_RATE),
            curve(scored, "100 million pairs", "hours", geometric(CORPUS / rate)),
            curve("Model", "parameters", "", geometric(values("num_params"))),
        ]
    )


def draw(table: pd.DataFrame) -> Figure:
    rows = [row for row in records(table) if row["quantity"] == "cost"]
    figure, axes = new_axes("Plain forward and backward passes", "", height=1.9)
    for place, row in enumerate(rows):
        colour = GREEN if row["kind"] == "claim" else GREY
        axes.barh(place, row["ours"], 0.6, color=colour, alpha=0.6)
        axes.plot([row["low"], row["high"]], [place, place], color=BLACK, linewidth=1)
        end = max(v for v in (row["ours"], row["high"]) if v == v)
        axes.annotate(f" {row['ours']:.2f}", (end, place), va="center", fontsize=7)
    axes.axvline(MOST, color=BLACK, linewidth=0.8, linestyle=":")
    axes.set_xlim(0, 1.15 * max(MOST, *(row["ours"] for row in rows)))
    axes.set_yticks(range(len(rows)), [row["method"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    ours = dict(zip(table["quantity"], table["ours"], strict=True))
    rate, hours = ours["throughput"], ours["100 million pairs"]
    title = f"{rate:,.0f} pairs an hour; 100 million in {hours:,.0f} hours"
    axes.set_title(title, fontsize=7, loc="right")
    return figure


ARTIFACT = Artifact(
    id="speed_translation",
    experiment="speed_translation",
    tabulate=tabulate,
    draw=draw,
    claims=(CHEAP,),
    notes=NOTES,
    title="Cost of self-influence of sentence pairs through ten directions",
    claim="Scoring through a fixed basis costs little more than a forward and backward pass.",
    paper="no paper: a bound of our own, beside the rate of Arnoldi (arXiv:2112.03052), Sec. 5.2",
    deviations=(
        "The paper's rate is of Transformer Base on a TPU v2 of 16 cores; ours is of the tier's"
        " model and one processor core or GPU, and covers a pair's pass without reading it from"
        " disk.",
        FORMER_DRAWS,
    ),
    tier_notes={
        "smoke": "Smoke tier: a network of 50 thousand parameters, where overheads dominate.",
        "small": (
            "Small tier: a Transformer of 1.4 million parameters; the ratio is comparable; the"
            " rate and the hours for 100 million pairs are this model's, not Transformer Base's."
        ),
    },
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
