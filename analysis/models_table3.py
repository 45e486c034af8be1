"""Table 3 of Subsets: agreement by what is random, initial parameters, order, or both."""

import math
from functools import partial
from typing import Any

import pandas as pd

from analysis.ink.agreement import draw_series
from analysis.numbers import agreement
from analysis.numbers.agreement import BOTH, INIT, ORDER, TOLERANCE
from analysis.numbers.claims import Claim, Paper
from analysis.numbers.statistics import NONE, Interval, over_seeds, quotient
from analysis.numbers.table import Row, claim, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

PAPER = {  # agreement and accuracy where initial parameters, order, or both differ
    "CIFAR-10, Inception": ((0.947, 0.943), (0.950, 0.944), (0.947, 0.942)),
    "CIFAR-10, ResNet-18": ((0.959, 0.952), (0.958, 0.953), (0.959, 0.952)),
    "CIFAR-100, Inception": ((0.753, 0.739), (0.744, 0.734), (0.754, 0.742)),
    "CIFAR-100, ResNet-18": ((0.818, 0.778), (0.820, 0.780), (0.818, 0.778)),
    "DTD, Inception": ((0.413, 0.308), (0.412, 0.329), (0.405, 0.301)),
    "DTD, ResNet-18": ((0.564, 0.386), (0.566, 0.368), (0.548, 0.372)),
    "Flowers, Inception": ((0.585, 0.547), (0.408, 0.462), (0.519, 0.542)),
    "Flowers, ResNet-18": ((0.672, 0.507), (0.671, 0.511), (0.668, 0.513)),
}
UNPRINTED = ((math.nan, math.nan),) * 3
SERIES = {"initial parameters": INIT, "order": ORDER, "both": BOTH}


def _printed(agreements: tuple[tuple[float, float], ...]) -> list[float]:
    """The disagreement where only one source differs over that where both do."""
    *one, both = (1 - agreement for agreement, _ in agreements)
    return [each / both for each in one]


PRINTED = [times for rows in PAPER.values() for times in _printed(rows)]
LEAST, MOST = min(PRINTED), max(PRINTED)

SIMILAR = Claim(
    "agreement is similar for every source of nondeterminism",
    Paper(
        "we find that regardless of the source of nondeterminism, a similar level of model"
        " agreement is observed.",
        "Sec. 4.1, of Table 3",
    ),
    "The share of predictions on which networks disagree where only initial parameters differ, and"
    " where only the order does, over that where both do, for each classifier. Between"
    f" {LEAST:.2g} and {MOST:.3g}, the lowest and the highest of the paper's own rows, which it"
    " calls similar. A source that does not matter has 0.",
    null=0.0,
)
NOTES = f"Printed numbers: to {TOLERANCE:g}."


def tabulate(runs: list[Run]) -> pd.DataFrame:
    by_series = {series: agreement.by_classifier(runs, vary) for series, vary in SERIES.items()}
    claims: list[Row] = []
    rows: list[Row] = []
    for name in dict.fromkeys(name for group in by_series.values() for name in group):
        printed = dict(zip(SERIES, PAPER.get(name, UNPRINTED), strict=True))
        for series, group in by_series.items():
            run = group.get(name)
            if run is not None:
                rows += agreement.agreement_rows(run, printed[series], series=series)
            if series != BOTH:
                times = _times(run, by_series[BOTH].get(name))
                paper = (1 - printed[series][0]) / (1 - printed[BOTH][0])
                bounds: dict[str, Any] = {"of": SIMILAR, "at_least": LEAST, "at_most": MOST}
                label = f"disagreement, {series} ÷ both"
                claims.append(claim(name, label, "x", times, series="", paper=paper, **bounds))
    return tabulated(claims + rows)


def _times(run: Run | None, both: Run | None) -> Interval:
    if run is None or both is None:
        return NONE
    return quotient(*(over_seeds(1 - agreement.agreement(each)) for each in (run, both)))


ARTIFACT = Artifact(
    id="models_table3",
    experiment="nondeterminism",
    tabulate=tabulate,
    draw=partial(draw_series, series=SERIES),
    claims=(SIMILAR,),
    notes=NOTES,
    title="Agreement by what is random: initial parameters, order, or both",
    claim="Networks agree about as much for every source of nondeterminism.",
    paper="Subsets (Doubov et al., 2022), Table 3, App. C",
    deviations=(
        *agreement.DEVIATIONS,
        "Augmentation follows the order: networks of one order see the same images augmented the"
        " same way. The paper does not say which of the two seeds its augmentation follows.",
    ),
    tier_notes=agreement.TIER_NOTES,
    needs=agreement.differing_in(agreement.BOTH, agreement.INIT, agreement.ORDER),
    page=agreement.page,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
