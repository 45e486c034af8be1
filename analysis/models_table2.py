"""Table 2 of Subsets: agreement and accuracy with and without test-time augmentation."""

import math
from functools import partial
from typing import Any

import pandas as pd

from analysis.ink.agreement import draw_series
from analysis.numbers import agreement
from analysis.numbers.agreement import PLAIN, TOLERANCE, VIEWS
from analysis.numbers.claims import Claim, Ours, Paper
from analysis.numbers.statistics import over_seeds
from analysis.numbers.table import Row, claim, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

PAPER = {  # agreement and accuracy, plain and from several views
    "CIFAR-100, Inception": ((0.754, 0.742), (0.777, 0.753)),
    "CIFAR-100, ResNet-18": ((0.818, 0.778), (0.837, 0.785)),
    "Flowers, Inception": ((0.519, 0.542), (0.522, 0.544)),
    "Flowers, ResNet-18": ((0.668, 0.513), (0.669, 0.518)),
}
UNPRINTED = ((math.nan, math.nan), (math.nan, math.nan))
SERIES = {"plain": PLAIN, "several views": VIEWS}
SLIGHT = 0.05

QUOTE = Paper(
    "Table 2 shows slight improvements across the model agreement between 3 seeds of the network,"
    " however, these are not very significant, especially for the more complex Flowers dataset.",
    "App. B, of Table 2",
)
RAISES = Claim(
    "test-time augmentation improves agreement",
    QUOTE,
    "Agreement from several views minus that from the plain image, for each classifier, paired over"
    " seeds.",
    null=0.0,
)
SLIGHTLY = Claim(
    "it improves agreement only slightly",
    QUOTE,
    f"The same differences, below {SLIGHT:g}; the paper prints at most 0.023. On its networks all"
    " disagreement would be 0.25.",
    null=0.25,
)
ACCURACY = Claim(
    "it improves accuracy",
    Ours("The table prints it and the text does not speak of it."),
    "Accuracy from several views minus that from the plain image, for each classifier.",
    null=0.0,
)
NOTES = f"Printed numbers: to {TOLERANCE:g}."


def tabulate(runs: list[Run]) -> pd.DataFrame:
    claims: list[Row] = []
    rows: list[Row] = []
    for name, run in agreement.by_classifier(runs).items():
        printed = PAPER.get(name, UNPRINTED)
        measures = {"agreement": agreement.agreement, "accuracy": agreement.accuracy}
        for (quantity, measure), plain, views in zip(measures.items(), *printed, strict=True):
            gain = over_seeds(measure(run, VIEWS) - measure(run, PLAIN))
            label = f"{quantity}, several views − plain"
            about: dict[str, Any] = {"paper": views - plain, "series": ""}
            of = RAISES if quantity == "agreement" else ACCURACY
            claims.append(claim(name, label, "", gain, of=of, at_least=0.0, **about))
            if of == RAISES:
                label = f"{label}, slight"
                claims.append(claim(name, label, "", gain, of=SLIGHTLY, at_most=SLIGHT, **about))
        for numbers, (series, suffix) in zip(printed, SERIES.items(), strict=True):
            rows += agreement.agreement_rows(run, numbers, suffix, series=series)
    return tabulated(claims + rows)


ARTIFACT = Artifact(
    id="models_table2",
    experiment="nondeterminism",
    tabulate=tabulate,
    draw=partial(draw_series, series=SERIES),
    claims=(RAISES, SLIGHTLY, ACCURACY),
    notes=NOTES,
    title="Test-time augmentation: agreement and accuracy",
    claim="Averaging logits over views of the image slightly raises agreement and accuracy.",
    paper="Subsets (Doubov et al., 2022), Table 2, App. B",
    deviations=(
        *agreement.DEVIATIONS,
        "The paper does not say how large its crops are. Ours have the size of the training images:"
        " corners and middle of the image with training's black margin, or of the photograph.",
        "The paper prints no number for CIFAR-10 and DTD; they are judged by the claims alone.",
    ),
    tier_notes=agreement.TIER_NOTES,
    needs=agreement.differing_in(agreement.BOTH),
    page=agreement.page,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
