"""Figure 4 of Subsets: the distribution of p over examples, with test-time augmentation or not."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.ink.agreement import draw_histogram
from analysis.ink.style import BLUE, COLUMN, ORANGE, PAGE, new_panels
from analysis.numbers import agreement
from analysis.numbers.agreement import BIN, INCEPTION, PLAIN, VIEWS
from analysis.numbers.claims import Claim, Paper
from analysis.numbers.statistics import NONE, resampled, wasserstein
from analysis.numbers.table import Row, claim, curve, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

SERIES = {"plain": PLAIN, "several views": VIEWS}
COLOURS = dict(zip(SERIES, (BLUE, ORANGE), strict=True))
MARGINAL = 0.05
SHOWN = ("Inception", "CNN")

MARGINALLY = Claim(
    "test-time augmentation changes p only marginally",
    Paper(
        "Figure 4 shows the empirical distribution of p values on CIFAR-100 with Inception,"
        " which only marginally changes when using TTA.",
        "App. B, of Figure 4",
    ),
    "The distance of the two distributions of p (Wasserstein's: the least average move of p that"
    f" turns one into the other), below {MARGINAL:g}, for Inception on CIFAR-100 or what stands in"
    " for it at a smaller tier, the CNN. From p spread evenly to p = 1/2 it is a quarter.",
    null=0.25,
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    by_name = agreement.by_classifier(runs)
    shown = agreement.first_present(by_name, INCEPTION)
    quantity = "distance of the distributions of p"
    about: dict[str, Any] = {"of": MARGINALLY, "at_most": MARGINAL, "series": ""}
    claims: list[Row] = []
    rows: list[Row] = []
    for name, run in by_name.items():
        sample = np.stack([agreement.right(run, suffix) for suffix in SERIES.values()], axis=1)
        distance = resampled(sample, lambda some: wasserstein(*some.mean(0)))
        moved = resampled(sample, lambda some: float(np.abs(np.diff(some.mean(0), axis=0)).mean()))
        if name == shown:
            claims.append(claim(name, quantity, "", distance, **about))
        else:
            rows.append(curve(name, quantity, "", distance, series=""))
        rows.append(curve(name, "change of an example's p", "", moved, series=""))
    if shown is None:
        claims.append(claim(INCEPTION[0], quantity, "", NONE, **about))
    for run in by_name.values():
        for series, suffix in SERIES.items():
            rows += agreement.histogram_rows(run, suffix, series)
    return tabulated(claims + rows)


def draw(table: pd.DataFrame) -> Figure:
    rows = table[table["kind"] == BIN]
    every = list(dict.fromkeys(rows["method"]))
    names = [name for name in every if name.rpartition(", ")[2] in SHOWN] or every[:1]
    labels = ["p, share of seeds that are right"] * len(names)
    figure, axes = new_panels(labels, width=COLUMN if len(names) == 1 else PAGE, height=2.5)
    for panel, name in zip(axes, names, strict=True):
        draw_histogram(panel, rows[rows["method"] == name], COLOURS)
        panel.set_title(name)
    axes[0].legend(loc="upper left")
    return figure


ARTIFACT = Artifact(
    id="models_fig4",
    experiment="nondeterminism",
    tabulate=tabulate,
    draw=draw,
    claims=(MARGINALLY,),
    title="How often each example is classified right, with test-time augmentation",
    claim="Test-time augmentation changes the distribution of p over examples only marginally.",
    paper="Subsets (Doubov et al., 2022), Figure 4, App. B",
    deviations=(
        *agreement.DEVIATIONS,
        "Intervals are the estimate plus and minus the normal quantile times the bootstrap's"
        " standard deviation over seeds.",
    ),
    tier_notes=agreement.TIER_NOTES,
    needs=agreement.differing_in(agreement.BOTH),
    page=agreement.page,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
