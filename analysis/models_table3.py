"""Table 3 of 004: agreement of networks by what is random, initial parameters, order, or both."""

import math
import sys

import pandas as pd
from matplotlib.figure import Figure

from analysis.ink import agreement as panels
from analysis.numbers.statistics import NONE, Interval, apart
from analysis.numbers.table import Row, claim, records, tabulated
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
SERIES = {
    "initial parameters": panels.INIT,
    "order": panels.ORDER,
    "both": panels.BOTH,
}
ALIKE = 0.02

RULE = (
    "Claims, for each classifier: agreement where only initial parameters differ, and where only"
    f" the order does, is within {ALIKE:g} of that where both do ('similar'). Printed numbers: to"
    f" {panels.TOLERANCE:g}."
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    by = {series: panels.of(found, vary) for series, vary in SERIES.items()}
    names = list(dict.fromkeys(name for of in by.values() for name in of))
    claims: list[Row] = []
    rows: list[Row] = []
    for name in names:
        printed = dict(zip(SERIES, PAPER.get(name, UNPRINTED), strict=True))
        whole = by["both"].get(name)
        for series, of in by.items():
            run = of.get(name)
            if run is not None:
                rows += panels.rows(run, printed[series], series=series)
            if series != "both":
                gap = NONE if run is None or whole is None else _gap(run, whole)
                label = f"agreement, {series} − both"
                paper = printed[series][0] - printed["both"][0]
                claims.append(
                    claim(
                        name, label, "", gap, at_least=-ALIKE, at_most=ALIKE, paper=paper, series=""
                    )
                )
    return tabulated(claims + rows)


def _gap(run: Run, whole: Run) -> Interval:
    return apart(panels.agreed(run), panels.agreed(whole))


def draw(table: pd.DataFrame) -> Figure:
    looks = dict(zip(SERIES, panels.THREE, strict=False))
    return panels.draw(table, {name: (name, looks) for name in ("agreement", "accuracy")})


def findings(table: pd.DataFrame) -> list[str]:
    """Say where the paper's own numbers are further apart than its claim says."""
    rows = records(table[(table["kind"] == "claim") & (table["paper"].abs() > ALIKE)])
    return [
        f"{row['method']}: the paper's own numbers are {row['paper']:+.3f} apart"
        f" ({row['quantity']})."
        for row in rows
    ]


ARTIFACT = Artifact(
    id="models_table3",
    experiment="nondeterminism",
    tabulate=tabulate,
    draw=draw,
    rule=RULE,
    title="Agreement by what is random: initial parameters, order, or both",
    claim="Whatever the source of nondeterminism, networks agree about as much.",
    paper="How many trained neural networks are needed (Doubov et al., 2022), Table 3, App. C",
    deviations=(
        *panels.DEVIATIONS,
        "What moves images in training goes with the order: networks of one order see the same"
        " images moved the same way. The paper does not say with which of the two its goes.",
    ),
    tier_notes=panels.TIER_NOTES,
    findings=findings,
    needs=panels.compared(panels.BOTH, panels.INIT, panels.ORDER),
    page=panels.page,
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
