"""Rows that Figures 5 and 6 of TracIn share: retrieval on CIFAR-10, and TracIn's cost."""

from collections.abc import Mapping

import pandas as pd

from analysis.numbers import proponents
from analysis.numbers.claims import Claim
from analysis.numbers.statistics import over_seeds
from analysis.numbers.table import curve, records, tabulated, written
from experiments.laboratory.runs import Run

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
DIGITS = tuple("0123456789")  # what the smoke tier shows instead
COST = "cost of scores"
DEVIATIONS = (
    *proponents.DEVIATIONS,
    "The network, the recipe and the checkpoints of the paper's Sec. 4.1 were not available to"
    " us. The standard recipe for residual networks on CIFAR-10 (He et al., 2016) is used, with"
    " batch normalisation, crops and flips, and five checkpoints at the ends of epochs.",
    "TracIn weighs a checkpoint by the learning rate there, which the recipe divides by ten"
    " twice: of five checkpoints the first two have 94% of the weight. A row without learning"
    " rates shows the effect of this. Predicted classes and the other methods use the final"
    " network.",
    "Influence functions invert the Hessian on its dominant eigenvectors (Arnoldi on fresh random"
    " minibatches, damping 0.01, negative eigenvalues kept) and leave out the rest. The paper"
    " sketches the inverse (Sec. A.1), which tracin_sketched_inverse measures. A row with half of"
    " the eigenvectors shows the effect of their number.",
    "Batch normalisation is in evaluation mode, each checkpoint with its own running statistics;"
    " gradients do not flow into the statistics, and candidates are scored without augmentation.",
)
TIER_NOTES = {
    "smoke": "The bundled digits as grey RGB images: a 3 in place of a cat, a 1 in place of an"
    " automobile.",
    "small": (
        "JPEG-recompressed CIFAR-10, not the original pixels: 10,000 random training images and"
        " 2,000 of the test split; ResNet-8 for 25 epochs, learning rate 0.1 divided by 10 after"
        " half and three quarters of them, weight decay 5e-4. Influence functions: 30 eigenvectors"
        " of 60 products with 256 examples each."
    ),
    "paper": (
        "ResNet-56 on all 50,000 images. Influence functions: 50 eigenvectors of 200 products with"
        " 512 examples each."
    ),
}
CAUSE_NOTE = (
    "Where TracIn is less consistent than the other methods on CIFAR-10, its weights are a likely"
    " cause. With the recipe's learning rates it mostly uses the first two checkpoints, whose"
    " predictions differ from those of the final network, which determines the queries and their"
    " confusable classes. Without learning rates both shares are higher. On the last layer alone"
    " a score is a product of errors in the logits and of features, which nearly sorts by class."
)
SPEED_NOTE = (
    "The cost of TracIn's scores, finding the top included, is in passes per checkpoint. A pass"
    " is one batched forward and backward over the same queries and candidates, timed before and"
    " after in the same run, in processor seconds. The cost must be above one: scoring m queries"
    " multiplies rows of p numbers, 2 m p operations a candidate, and a pass costs 6 p T, where T"
    " is the number of positions a weight acts on, averaged over weights: m / (3 T) of a pass (T"
    " = 163 in ResNet-8, 147 in ResNet-56), in addition to the pass itself and the weight"
    " gradients of single examples."
)


def classes_of(table: pd.DataFrame) -> tuple[str, ...]:
    """The names of the classes that the tier's images have."""
    return classes_at(str(table["tier"].iloc[0]))


def classes_at(tier: str) -> tuple[str, ...]:
    """The names of the classes that a tier's images have."""
    return DIGITS if tier == "smoke" else CLASSES


def tabulate(
    runs: list[Run],
    claims: Mapping[str, Claim],
    stratum: str,
    display: int,
    opponents: Claim = proponents.CLASS,
) -> pd.DataFrame:
    """Make the rows of one figure: the shares, its stratum's claims, its images, and the cost."""
    table = proponents.tabulate(runs, claims, stratum, (display,), opponents=opponents)
    timed = [run for run in runs if "ratio" in run.metrics]
    ratio = over_seeds([run.metrics["ratio"] for run in timed])
    rows = [curve(proponents.OURS, COST, "passes", ratio)]
    for name, what in (("accuracy_train", "train"), ("accuracy_eval", "test")):
        ours = over_seeds([100 * run.metrics[name] for run in timed if name in run.metrics])
        rows.append(curve("network", f"{what} accuracy", "%", ours))
    return pd.concat([table, tabulated(rows)], ignore_index=True)


def page(table: pd.DataFrame) -> pd.DataFrame:
    """The methods side by side, and what the scores of TracIn cost."""
    wide = proponents.page(table)
    cost = {r["method"]: written(r, ".2f") for r in records(table[table["quantity"] == COST])}
    return wide.assign(**{f"{COST}, passes a checkpoint": wide["method"].map(cost).fillna("")})
