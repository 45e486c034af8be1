"""TracIn, Figure 6: proponents and opponents of a misclassified automobile by three methods."""

import sys
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from analysis.ink import proponents as panels
from analysis.numbers import cifar_proponents
from analysis.numbers.proponents import RULE, WRONG
from analysis.page.artifact import Artifact


def draw(table: pd.DataFrame) -> Figure:
    return panels.draw(table, cifar_proponents.classes_of(table), WRONG)


ARTIFACT = Artifact(
    id="tracin_fig6",
    experiment="cifar_proponents",
    tabulate=partial(cifar_proponents.tabulate, stratum=WRONG, display=1),
    draw=draw,
    rule=RULE,
    title="CIFAR-10 proponents and opponents of a misclassified automobile",
    claim=(
        "Of misclassified queries, too, proponents share the query's class and opponents are of the"
        " class it is confused with; TracIn is the most consistent."
    ),
    paper="TracIn (arXiv:2002.08484), appendix, Figure 6 and Sec. B",
    deviations=cifar_proponents.DEVIATIONS,
    tier_notes=cifar_proponents.TIER_NOTES,
    remarks=(cifar_proponents.CAUSE_NOTE, cifar_proponents.SPEED_NOTE),
    page=cifar_proponents.page,
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
