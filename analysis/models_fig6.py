"""Figure 6 of Subsets: estimates from probabilities and right answers, against all models."""

import pandas as pd

from analysis.ink.overlap import draw
from analysis.numbers import overlap
from analysis.numbers.claims import MEAN, Claim, Paper
from analysis.numbers.overlap import mean_iou, mean_label, over_splits
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
GAP = "right or wrong − probabilities"

BETTER = Claim(
    "from 200 models on, right answers sample better",
    Paper(
        'if we treat the 0-1 outputs as the "ground-truth", in the same fashion as Feldman and'
        " Zhang [2020], then after a certain amount of models (100-200), it appears that the 0-1"
        " bernoulli variables are a better sampling strategy than using softmax probabilities",
        "App. D, of Figure 6",
    ),
    "Against right answers of the whole ensemble: the mean IOU of right answers minus that of"
    f" probabilities, for each ensemble and number of models from {FROM} on, paired over splits;"
    " their mean.",
    null=0.0,
    rule=MEAN,
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    rows: list[Row] = []
    for run in runs:
        sizes = overlap.sizes(run)
        for size in sizes:
            rows += _compared(run, size)
        if not any(size >= FROM for size in sizes):
            name = overlap.ensemble_of(run)
            rows.append(claim(name, mean_label(GAP, FROM), "", NONE, of=BETTER, at_least=0.0))
    return tabulated([*rows, *overlap.curve_rows(runs, SERIES)])


def _compared(run: Run, size: int) -> list[Row]:
    """The gap between right answers and probabilities: a claim from FROM models on."""
    name, label = overlap.ensemble_of(run), mean_label(GAP, size)
    soft, hard, soft_rest, hard_rest = (mean_iou(run, series, size) for series in SERIES)
    full, rest = over_splits(hard - soft), over_splits(hard_rest - soft_rest)
    judged = claim(name, label, "", full, of=BETTER, at_least=0.0)
    return [
        judged if size >= FROM else curve(name, label, "", full),
        curve(name, f"{label}, against the rest", "", rest),
        *overlap.mean_rows(run, SERIES, size),
    ]


ARTIFACT = Artifact(
    id="models_fig6",
    experiment="subset_ensembles",
    tabulate=tabulate,
    draw=draw,
    claims=(BETTER,),
    title="Estimates from probabilities and from right answers, against all models' right answers",
    claim=(
        "With 100 to 200 models or more, 0-1 outputs are closer to the 0-1 estimate of all models"
        " than softmax outputs are."
    ),
    paper="Subsets (Doubov et al., 2022), Figure 6, App. D",
    deviations=(
        *overlap.DEVIATIONS,
        "The whole ensemble contains the models that are compared with it, with their 0-1"
        " outputs, which favours 0-1 outputs. Rows 'against the rest' leave these models out and"
        " decide nothing.",
    ),
    tier_notes=overlap.TIER_NOTES,
    needs=overlap.of_kind("Halves"),
    page=overlap.page,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
