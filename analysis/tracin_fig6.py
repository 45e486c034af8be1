"""Figure 6 of 001: proponents and opponents of a misclassified automobile by three methods."""

import sys
from functools import partial

from analysis import cifar_pictures
from analysis.artifact import Artifact
from analysis.proponents import WRONG
from analysis.verdict import conclude

ARTIFACT = Artifact(
    id="tracin_fig6",
    experiment=cifar_pictures.EXPERIMENT,
    tabulate=partial(cifar_pictures.tabulate, stratum=WRONG, display=1),
    draw=partial(cifar_pictures.draw, stratum=WRONG),
    judge=partial(conclude, rule=cifar_pictures.RULE),
    title="CIFAR-10 proponents and opponents of a misclassified automobile",
    claim=(
        "Of misclassified queries, too, proponents share the query's class and opponents are of the"
        " class it is confused with; TracIn is the most consistent."
    ),
    paper="TracIn (arXiv:2002.08484), appendix, Figure 6 and Sec. B",
    deviations=cifar_pictures.DEVIATIONS,
    tier_notes=cifar_pictures.TIER_NOTES,
    remarks=(cifar_pictures.CAUSE_NOTE, cifar_pictures.SPEED_NOTE),
    page=cifar_pictures.page,
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
