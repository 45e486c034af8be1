"""Figure 5 of 001: proponents and opponents of a correctly classified cat by three methods."""

import sys
from functools import partial

from analysis import cifar_pictures
from analysis.artifact import Artifact
from analysis.proponents import CORRECT
from analysis.verdict import conclude

ARTIFACT = Artifact(
    id="tracin_fig5",
    experiment=cifar_pictures.EXPERIMENT,
    tabulate=partial(cifar_pictures.tabulate, stratum=CORRECT, display=0),
    draw=partial(cifar_pictures.draw, stratum=CORRECT),
    judge=partial(conclude, rule=cifar_pictures.RULE),
    title="CIFAR-10 proponents and opponents of a correctly classified cat",
    claim=(
        "Proponents share the query's class and opponents are of a class it may be taken for, by"
        " each method; TracIn is the most consistent."
    ),
    paper="TracIn (arXiv:2002.08484), appendix, Figure 5 and Sec. B",
    deviations=cifar_pictures.DEVIATIONS,
    tier_notes=cifar_pictures.TIER_NOTES,
    remarks=(cifar_pictures.CAUSE_NOTE, cifar_pictures.SPEED_NOTE),
    page=cifar_pictures.page,
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
