"""Figure 6 of 004: estimates from probabilities and from right answers, against all models."""

import sys

import pandas as pd

from analysis.ink import overlap as panels
from analysis.numbers.statistics import NONE
from analysis.numbers.table import Row, claim, curve, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

SERIES = {
    "soft_full_memorized": "probabilities",
    "hard_full_memorized": "right or wrong",
    "soft_rest_memorized": "probabilities, against the rest",
    "hard_rest_memorized": "right or wrong, against the rest",
}
FROM = 200

RULE = (
    "Claims, for each ensemble, paired over splits: against right answers of the whole ensemble,"
    f" the mean IOU of right answers is higher than that of probabilities from {FROM} models on."
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    rows: list[Row] = []
    for run in found:
        name, sizes = panels.named(run), panels.sizes(run)
        for size in sizes:
            rows += _compared(run, size)
        if not any(size >= FROM for size in sizes):
            label = f"mean IOU, right or wrong − probabilities, {FROM} models"
            rows.append(claim(name, label, "", NONE, at_least=0.0))
    for run in found:
        rows += panels.curves(run, SERIES)
    return tabulated(rows)


def _compared(run: Run, size: int) -> list[Row]:
    name = panels.named(run)
    means = {key: panels.mean(run, key, size) for key in SERIES}
    gaps = {
        kind: panels.over(means[f"hard_{kind}_memorized"] - means[f"soft_{kind}_memorized"])
        for kind in ("full", "rest")
    }
    label = f"mean IOU, right or wrong − probabilities, {size} models"
    head = (
        claim(name, label, "", gaps["full"], at_least=0.0)
        if size >= FROM
        else curve(name, label, "", gaps["full"])
    )
    rows = [head, curve(name, f"{label}, against the rest", "", gaps["rest"])]
    for series, what in SERIES.items():
        each = panels.over(means[series])
        rows.append(curve(name, f"mean IOU, {what}, {size} models", "", each))
    return rows


ARTIFACT = Artifact(
    id="models_fig6",
    experiment="subset_ensembles",
    tabulate=tabulate,
    draw=panels.side_by_side,
    rule=RULE,
    title="Estimates from probabilities and from right answers, against all models' right answers",
    claim=(
        "With 100 to 200 models or more, 0-1 outputs are nearer to the 0-1 estimate of all models"
        " than softmax outputs are."
    ),
    paper="How many trained neural networks are needed (Doubov et al., 2022), Figure 6, App. D",
    deviations=(
        *panels.DEVIATIONS,
        "The whole ensemble contains the models that are held against it, with their 0-1 outputs,"
        " which favours these; rows 'against the rest' leave them out, and decide nothing.",
    ),
    tier_notes=panels.TIER_NOTES,
    needs=panels.wants("Halves"),
    page=panels.page,
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
