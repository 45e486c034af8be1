"""A device held against the CPU, and its speed: what `python -m experiments.gpu_check` found."""

from collections.abc import Iterable

import pandas as pd
from matplotlib.figure import Figure

from analysis.ink.style import BLUE, GREY, PAGE, new_panels
from analysis.numbers.claims import Claim, Ours
from analysis.numbers.statistics import NONE, exact
from analysis.numbers.table import Row, claim, curve, records, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

SAME, PASSES, FAST = "difference from the CPU", "passes", "examples a second"
TOLERANCE = 1e-3
UNITS = {SAME: "relative", PASSES: "passes", "networks an hour": "networks/hour"}

GOAL = Ours("No paper: bounds of our own.")
SAME_NUMBERS = Claim(
    "the device gives the CPU's numbers", GOAL,
    "The difference of the scores and the self-influence of every method, inverse and projection"
    f" from those on the CPU, over their norm, below {TOLERANCE:g}; of scores of zero it is 1.",
    null=1.0,
)  # fmt: skip
RIGHT_SUM = Claim(
    "processes sum right", GOAL,
    "Whether processes that sum a tensor get the right sum: 1.",
    null=0.0,
)  # fmt: skip
NOTES = "Speeds are of one machine and decide nothing."


def tabulate(runs: list[Run]) -> pd.DataFrame:
    return tabulated([row for run in runs for row in _rows(run)])


def _rows(run: Run) -> Iterable[Row]:
    columns = (run.array(name) for name in ("what", "quantity", "values"))
    about = {"part": run.metrics["work"], "device": str(run.meta["device"])}
    for what, quantity, value in zip(*columns, strict=True):
        name, of, ours = str(what), str(quantity), exact(float(value))
        if of == SAME:
            yield claim(name, of, UNITS[of], ours, of=SAME_NUMBERS, at_most=TOLERANCE, **about)
        elif of == "not reached":
            missed = {"of": SAME_NUMBERS, "at_most": TOLERANCE, **about}
            yield claim(name, SAME, UNITS[SAME], NONE, **missed)
        elif of == "sum is right":
            yield claim(name, of, "", ours, of=RIGHT_SUM, at_least=0.5, **about)
        else:
            yield curve(name, of, UNITS.get(of, ""), ours, **about)


def draw(table: pd.DataFrame) -> Figure:
    rows = records(table)
    passes = [row for row in rows if row["quantity"] == PASSES]
    rates = [row for row in rows if row["part"] == "Family" and row["quantity"].endswith(FAST)]
    lines = max(len(passes), len(rates), 1)
    titles = ["Passes: forward and backward", f"{FAST.capitalize()} (log)"]
    figure, panels = new_panels(titles, width=PAGE, height=1.0 + 0.24 * lines)
    names = (
        [row["method"] for row in passes],
        [f"{row['method']}: {row['quantity'].removesuffix(f', {FAST}')}" for row in rates],
    )
    for axes, some, labels in zip(panels, (passes, rates), names, strict=True):
        for place, (row, label) in enumerate(zip(some, labels, strict=True)):
            ours = not label.endswith(("plain torch", "captum", "TRAK"))
            axes.barh(place, row["ours"], 0.6, color=BLUE if ours else GREY, alpha=0.7)
            axes.annotate(f" {row['ours']:.3g}", (row["ours"], place), va="center", fontsize=7)
        axes.set_yticks(range(len(some)), labels)
        axes.set_ylim(lines - 0.4, -0.6)
    panels[0].set_xlim(0, max([1.2 * row["ours"] for row in passes], default=1.0))
    if rates:
        least, most = (end(row["ours"] for row in rates) for end in (min, max))
        panels[1].set_xscale("log")
        panels[1].set_xlim(least / 3, 8 * most)
    devices = sorted({str(row["device"]) for row in rows})
    figure.suptitle(" and ".join(devices), fontsize=7)
    return figure


def page(table: pd.DataFrame) -> pd.DataFrame:
    """One line per number."""
    lines = []
    for row in records(table):
        line = {"part": row["part"], "what": row["method"], "quantity": row["quantity"]}
        lines.append(line | {"ours": f"{row['ours']:.4g}"})
    return pd.DataFrame(lines)


ARTIFACT = Artifact(
    id="speed_gpu",
    experiment="gpu_check",
    tabulate=tabulate,
    draw=draw,
    claims=(SAME_NUMBERS, RIGHT_SUM),
    notes=NOTES,
    title="A device held against the CPU, and its speed",
    claim="A GPU gives the CPU's numbers, and every method runs there.",
    paper="no paper: bounds of our own",
    deviations=(
        "Data and weights are random: only shapes matter here.",
        "Sizes follow from the seconds that each part has, so rates at a small budget are those of"
        " small batches.",
    ),
    tier_notes={
        "smoke": "Smoke tier: tiny networks on the CPU, held against itself.",
        "small": "Small tier: the CPU held against itself, networks of the paper tier.",
        "paper": "Paper tier: one GPU, in at most eight minutes.",
    },
    page=page,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
