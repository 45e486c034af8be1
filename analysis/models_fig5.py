"""Figure 5 of 004: self-consistency of estimates from probabilities and from right answers."""

import sys

import pandas as pd

from analysis.ink import overlap as panels
from analysis.numbers.table import Row, claim, curve, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

SERIES = {"soft_memorized": "probabilities", "hard_memorized": "right or wrong"}

RULE = (
    "Claims, for each ensemble and number of models, paired over splits: the mean IOU of two sets"
    " of models is higher where influence is on the probability of the right class than where it is"
    " on being right."
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    rows: list[Row] = []
    for run in found:
        for size in panels.sizes(run):
            means = {k: panels.mean(run, k, size) for k in SERIES}
            gap = panels.over(means["soft_memorized"] - means["hard_memorized"])
            label = f"mean IOU, probabilities − right or wrong, {size} models"
            rows.append(claim(panels.named(run), label, "", gap, at_least=0.0))
            for series, what in SERIES.items():
                each = panels.over(means[series])
                rows.append(curve(panels.named(run), f"mean IOU, {what}, {size} models", "", each))
    for run in found:
        rows += panels.curves(run, SERIES)
    return tabulated(rows)


ARTIFACT = Artifact(
    id="models_fig5",
    experiment="subset_ensembles",
    tabulate=tabulate,
    draw=panels.side_by_side,
    rule=RULE,
    title="Estimates from probabilities and from right answers, against themselves",
    claim="Softmax outputs give more consistent influence scores than 0-1 outputs.",
    paper="How many trained neural networks are needed (Doubov et al., 2022), Figure 5, App. D",
    deviations=panels.DEVIATIONS,
    tier_notes=panels.TIER_NOTES,
    needs=panels.wants("Halves"),
    page=panels.page,
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
