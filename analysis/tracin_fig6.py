"""TracIn, Figure 6: proponents and opponents of a misclassified automobile by three methods."""

from functools import partial

from analysis.ink.proponents import draw_cifar
from analysis.numbers import cifar_proponents
from analysis.numbers.proponents import RULE, WRONG
from analysis.page.artifact import Artifact

ARTIFACT = Artifact(
    id="tracin_fig6",
    experiment="cifar_proponents",
    tabulate=partial(cifar_proponents.tabulate, stratum=WRONG, display=1),
    draw=partial(draw_cifar, stratum=WRONG),
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
    raise SystemExit(ARTIFACT.main())
