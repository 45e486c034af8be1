"""TracIn, Figure 5: proponents and opponents of a correctly classified cat by three methods."""

from functools import partial

from analysis.ink.proponents import draw_cifar
from analysis.numbers import cifar_proponents
from analysis.numbers.proponents import CORRECT, RULE
from analysis.page.artifact import Artifact

ARTIFACT = Artifact(
    id="tracin_fig5",
    experiment="cifar_proponents",
    tabulate=partial(cifar_proponents.tabulate, stratum=CORRECT, display=0),
    draw=partial(draw_cifar, stratum=CORRECT),
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
    raise SystemExit(ARTIFACT.main())
