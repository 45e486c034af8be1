"""TracIn, Figure 5: proponents and opponents of a correctly classified cat by three methods."""

from functools import partial

from analysis.ink.proponents import draw_cifar
from analysis.numbers import cifar_proponents, explored
from analysis.numbers.claims import Claim, Paper
from analysis.numbers.proponents import ABOVE, CLASS, CORRECT, MOSTLY, NOTES, VARIANTS
from analysis.page.artifact import Artifact

QUOTE = Paper(
    "All three methods retrieved mostly cats as positive examples and dogs as negative examples",
    "appendix, Sec. B, of Figures 5 and 6",
)
CATS = Claim(
    "proponents are mostly of the query's class",
    QUOTE,
    "The share of the top proponents of correctly classified queries that are of the query's class,"
    f" of TracIn, influence functions and representer points; 'mostly' is over {MOSTLY:g}%.",
    null=10.0,
)
DOGS = Claim(
    "opponents are of a class it may be taken for",
    QUOTE,
    "The share of the top opponents that are of the model's runner-up class, which for a cat may be"
    " dog, minus that of training examples at random, of each of the three.",
    null=0.0,
)
TYPES = Claim(
    "TracIn is more consistent on types within a class",
    Paper(
        "TracIn seems more consistent on the types of cats and dogs",
        "appendix, Sec. B, of Figures 5 and 6",
    ),
    "Needs a measure of what a class is made of, such as the features of another network.",
    null=0.0,
)
METHODS = ("TracIn", "Influence functions", "Representer point")

ARTIFACT = Artifact(
    id="tracin_fig5",
    experiment="cifar_proponents",
    tabulate=partial(
        cifar_proponents.tabulate,
        claims=dict.fromkeys(METHODS, CATS),
        stratum=CORRECT,
        display=0,
        opponents=DOGS,
    ),
    draw=partial(draw_cifar, stratum=CORRECT),
    claims=(CATS, DOGS, TYPES, CLASS, VARIANTS, ABOVE),
    notes=NOTES,
    title="CIFAR-10 proponents and opponents of a correctly classified cat",
    claim=(
        "Proponents are mostly of the query's class and opponents of one it may be taken for, by"
        " each of three methods; TracIn is more consistent on types within a class."
    ),
    paper="TracIn (arXiv:2002.08484), appendix, Figure 5 and Sec. B",
    deviations=cifar_proponents.DEVIATIONS,
    tier_notes=cifar_proponents.TIER_NOTES,
    remarks=(cifar_proponents.CAUSE_NOTE, cifar_proponents.SPEED_NOTE),
    page=cifar_proponents.page,
    explore=lambda runs, tier: explored.images(runs, cifar_proponents.classes_at(tier)),
    explored="images for and against a prediction",
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
