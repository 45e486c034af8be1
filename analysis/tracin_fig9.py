"""TracIn, Figure 9: proponents and opponents of MNIST digits by three methods."""

from functools import partial

from analysis.ink import proponents as proponents_picture
from analysis.numbers import explored, proponents
from analysis.numbers.claims import Claim, Paper
from analysis.page.artifact import Artifact

METHODS = ("TracIn", "Representer point", "Influence functions")
CHANCE = 10.0  # percent: one class of ten
SHOWN = Claim(
    "proponents are of the query's class",
    Paper(
        "Proponents and opponents examples of a correctly classified images for TracIn, representer"
        " point, and influence functions.",
        "appendix, Figure 9, caption",
    ),
    "The caption says no more. The share of the top proponents that are of the query's class, by"
    f" each of the three methods, above chance, {CHANCE:g}%.",
    null=CHANCE,
)
DIGITS = tuple("0123456789")

ARTIFACT = Artifact(
    id="tracin_fig9",
    experiment="mnist_proponents",
    tabulate=partial(proponents.tabulate, claims=dict.fromkeys(METHODS, SHOWN), least=CHANCE),
    draw=partial(proponents_picture.draw, classes=DIGITS),
    claims=(SHOWN, proponents.CLASS, proponents.VARIANTS, proponents.ABOVE),
    notes=proponents.NOTES,
    title="Proponents and opponents of MNIST digits",
    claim=(
        "Proponents are of the query's class, and opponents of a class it may be taken for, by each"
        " of three methods."
    ),
    paper="TracIn (arXiv:2002.08484), appendix, Figure 9 and Sec. B",
    deviations=(
        *proponents.DEVIATIONS,
        "The network and its training are those of Arnoldi, Sec. 5.1 (824,458 parameters, 10"
        " epochs, TracIn over the checkpoints at epoch ends times the learning rate); TracIn"
        " describes its own in Sec. 4.3, outside the appendix. Queries are of MNIST's test split.",
        "Influence functions invert the Hessian on 50 eigenvectors of an Arnoldi basis of 200"
        " products on fresh random minibatches, with a damping of 0.01, as in Figures 5 and 6, with"
        " negative eigenvalues kept and nothing outside their span, where Sec. A.1 sketches the"
        " inverse. A row with half of the eigenvectors shows what their number decides.",
        "TracIn on the last layer alone is added, as a control for how much the other layers"
        " change the result; so is a misclassified query, because Figure 9 has none.",
    ),
    tier_notes={
        "smoke": (
            "Smoke tier: the 1,797 digits of 8 x 8 pixels that scikit-learn ships, a network of"
            " 1,448 parameters trained by Adam, whose steps TracIn's learning rates do not"
            " describe, 60 queries of the digits left over, 10 eigenvectors, three seeds."
        ),
        "small": (
            "Small tier: 6,000 training images drawn afresh for each of three seeds, 300 queries at"
            " random and 50 misclassified ones of the 10,000 test images."
        ),
        "paper": "Paper tier: all 60,000 training images, five seeds.",
    },
    page=proponents.page,
    explore=lambda runs, tier: explored.images(runs, DIGITS),
    explored="digits for and against a prediction",
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
