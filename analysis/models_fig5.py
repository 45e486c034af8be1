"""Figure 5 of Subsets: self-consistency of estimates from probabilities and right answers."""

import pandas as pd

from analysis.ink.overlap import draw
from analysis.numbers import overlap
from analysis.numbers.claims import MEAN, Claim, Paper
from analysis.numbers.table import Row, claim, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

SOFT, HARD = "soft_memorized", "hard_memorized"
SERIES = {SOFT: "probabilities", HARD: "right or wrong"}

CONSISTENT = Claim(
    "probabilities are more consistent",
    Paper(
        "Figure 5 shows that using softmax outputs does seem to result in more consistent"
        " influence scores, as measured by IOU, especially for very high influence scores.",
        "App. D, of Figure 5",
    ),
    "The mean IOU of two sets of models where influence is on the probability of the right class"
    " minus that where it is on being right, for each ensemble and number of models, paired over"
    " splits; their mean.",
    null=0.0,
    rule=MEAN,
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    rows: list[Row] = []
    for run in runs:
        name = overlap.ensemble_of(run)
        for size in overlap.sizes(run):
            soft, hard = (overlap.mean_iou(run, series, size) for series in SERIES)
            label = overlap.mean_label("probabilities − right or wrong", size)
            gap = overlap.over_splits(soft - hard)
            rows.append(claim(name, label, "", gap, of=CONSISTENT, at_least=0.0))
            rows += overlap.mean_rows(run, SERIES, size)
    return tabulated([*rows, *overlap.curve_rows(runs, SERIES)])


ARTIFACT = Artifact(
    id="models_fig5",
    experiment="subset_ensembles",
    tabulate=tabulate,
    draw=draw,
    claims=(CONSISTENT,),
    title="Estimates from probabilities and from right answers, against themselves",
    claim="Softmax outputs give more consistent influence scores than 0-1 outputs.",
    paper="Subsets (Doubov et al., 2022), Figure 5, App. D",
    deviations=overlap.DEVIATIONS,
    tier_notes=overlap.TIER_NOTES,
    needs=overlap.of_kind("Halves"),
    page=overlap.page,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
