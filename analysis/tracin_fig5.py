"""TracIn, Figure 5: proponents and opponents of a correctly classified cat by three methods."""

import sys
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from analysis.ink import proponents as panels
from analysis.numbers import cifar_proponents
from analysis.numbers.proponents import CORRECT, RULE
from analysis.page.artifact import Artifact


def draw(table: pd.DataFrame) -> Figure:
    return panels.draw(table, cifar_proponents.classes_of(table), CORRECT)


ARTIFACT = Artifact(
    id="tracin_fig5",
    experiment="cifar_proponents",
    tabulate=partial(cifar_proponents.tabulate, stratum=CORRECT, display=0),
    draw=draw,
    rule=RULE,
    title="CIFAR-10 proponents and opponents of a correctly classified cat",
    claim=(
        "Proponents share the query's class and opponents are of a class it may be taken for, by"
        " each method; TracIn is the most consistent."
    ),
    paper="TracIn (arXiv:2002.08484), appendix, Figure 5 and Sec. B",
    deviations=cifar_proponents.DEVIATIONS,
    tier_notes=cifar_proponents.TIER_NOTES,
    remarks=(cifar_proponents.CAUSE_NOTE, cifar_proponents.SPEED_NOTE),
    page=cifar_proponents.page,
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
