"""Figure 4 of 004: the distribution of p over examples, with and without test-time augmentation."""

import sys

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.ink import agreement as panels
from analysis.ink import probabilities as shares
from analysis.ink.style import BLUE, COLUMN, ORANGE, PAGE, new_panels
from analysis.numbers.statistics import NONE, resampled, wasserstein
from analysis.numbers.table import Row, claim, curve, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

LOOKS = {"plain": BLUE, "several views": ORANGE}
MARGINAL = 0.05
SHOWN = ("Inception", "CNN")

RULE = (
    "Claim: the distance of the two distributions of p (Wasserstein's: how far p moves on average"
    f" from one to the other) is below {MARGINAL:g} ('only marginally changes'), for Inception on"
    " CIFAR-100, or what stands in for it at a smaller tier, the CNN."
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    by_name = panels.of(found)
    shown = panels.subject(by_name, panels.INCEPTION)
    quantity = "distance of the distributions of p"
    rows: list[Row] = []
    for name, run in by_name.items():
        both = [shares.outcomes(run, suffix) for suffix in (panels.PLAIN, panels.VIEWS)]
        sample = np.stack(both, axis=1)
        distance = resampled(sample, lambda some: wasserstein(*some.mean(0)))
        row = (
            claim(name, quantity, "", distance, at_most=MARGINAL, series="")
            if name == shown
            else curve(name, quantity, "", distance, series="")
        )
        moved = resampled(sample, lambda some: float(np.abs(np.diff(some.mean(0), axis=0)).mean()))
        rows += [row, curve(name, "change of an example's p", "", moved, series="")]
    if shown is None:
        rows.append(claim(panels.INCEPTION[0], quantity, "", NONE, at_most=MARGINAL, series=""))
    rows.sort(key=lambda row: row["kind"] != "claim")
    for run in by_name.values():
        for series, suffix in zip(LOOKS, (panels.PLAIN, panels.VIEWS), strict=True):
            rows += shares.bins(run, suffix, series)
    return tabulated(rows)


def draw(table: pd.DataFrame) -> Figure:
    rows = table[table["kind"] == shares.BIN]
    every = list(dict.fromkeys(rows["method"]))
    names = [name for name in every if name.rpartition(", ")[2] in SHOWN] or every[:1]
    label = "p, share of seeds that are right"
    width = COLUMN if len(names) == 1 else PAGE
    figure, axes = new_panels([label] * len(names), width=width, height=2.5)
    for panel, name in zip(axes, names, strict=True):
        shares.draw(panel, rows[rows["method"] == name], LOOKS)
        panel.set_title(name)
    axes[0].legend(loc="upper left")
    return figure


ARTIFACT = Artifact(
    id="models_fig4",
    experiment="nondeterminism",
    tabulate=tabulate,
    draw=draw,
    rule=RULE,
    title="How often each example is classified right, with test-time augmentation",
    claim="Test-time augmentation changes the distribution of p over examples only marginally.",
    paper="How many trained neural networks are needed (Doubov et al., 2022), Figure 4, App. B",
    deviations=(
        *panels.DEVIATIONS,
        "Intervals are of the bootstrap over seeds, its deviation either side of the estimate.",
    ),
    tier_notes=panels.TIER_NOTES,
    needs=panels.compared(panels.BOTH),
    page=panels.page,
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
