"""TracIn, Figure 6: proponents and opponents of a misclassified automobile by three methods."""

from functools import partial

from analysis.ink.proponents import draw_cifar
from analysis.numbers import cifar_proponents
from analysis.numbers.claims import Claim, Paper
from analysis.numbers.proponents import ABOVE, CLASS, MOSTLY, NOTES, OURS, VARIANTS, WRONG
from analysis.page.artifact import Artifact

QUOTE = Paper(
    "For the mis-classified automobile, proponents of TracIn pick up automobiles of a similar"
    " variety type.",
    "appendix, Sec. B, of Figure 6",
)
AUTOMOBILES = Claim(
    "proponents of TracIn are of the query's class",
    QUOTE,
    "The share of TracIn's top proponents of misclassified queries that are of the given label;"
    f" over {MOSTLY:g}%.",
    null=10.0,
)
VARIETY = Claim(
    "proponents of TracIn are of a similar variety",
    QUOTE,
    "Needs a measure of what a class is made of, such as the features of another network.",
    null=0.0,
)

ARTIFACT = Artifact(
    id="tracin_fig6",
    experiment="cifar_proponents",
    tabulate=partial(
        cifar_proponents.tabulate, claims={OURS: AUTOMOBILES}, stratum=WRONG, display=1
    ),
    draw=partial(draw_cifar, stratum=WRONG),
    claims=(AUTOMOBILES, VARIETY, CLASS, VARIANTS, ABOVE),
    notes=NOTES,
    title="CIFAR-10 proponents and opponents of a misclassified automobile",
    claim=(
        "Of misclassified queries, too, TracIn's proponents are of the query's class, and of a"
        " similar variety."
    ),
    paper="TracIn (arXiv:2002.08484), appendix, Figure 6 and Sec. B",
    deviations=cifar_proponents.DEVIATIONS,
    tier_notes=cifar_proponents.TIER_NOTES,
    remarks=(cifar_proponents.CAUSE_NOTE, cifar_proponents.SPEED_NOTE),
    page=cifar_proponents.page,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
