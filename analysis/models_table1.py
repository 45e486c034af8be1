"""Table 1 of Subsets: networks fine-tuned without an example against networks trained again."""

import math
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.ink.agreement import draw
from analysis.ink.style import BLUE, GREEN, GREY, ORANGE, PURPLE
from analysis.numbers import agreement
from analysis.numbers.agreement import TOLERANCE
from analysis.numbers.claims import Claim, Ours, Paper
from analysis.numbers.statistics import over_seeds, pair_values, quotient
from analysis.numbers.table import Row, claim, curve, number, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

PAPER = {  # agreement, accuracy of the retrained, of the fine-tuned
    "CIFAR-100, Inception": (0.756, 0.740, 0.742),
    "CIFAR-100, ResNet-18": (0.820, 0.777, 0.778),
    "Flowers, Inception": (0.544, 0.538, 0.542),
    "Flowers, ResNet-18": (0.671, 0.511, 0.512),
}
UNPRINTED = (math.nan,) * 3
BETTER, SIGNIFICANT = 0.03, 0.9
AGAINST, SEEDS = "fine-tuned and retrained", "retrained, two seeds"
OTHER = "fine-tuned and retrained, two seeds"
APART = f"disagreement, {AGAINST} ÷ {SEEDS}"
START, AGAIN = "fine-tuned and its start", "retrained and with the example"
LOOKS = {
    "agreement": {
        AGAINST: (BLUE, "o"),
        OTHER: (PURPLE, "v"),
        SEEDS: (ORANGE, "^"),
        AGAIN: (GREEN, "s"),
        START: (GREY, "x"),
    },
    "accuracy": {"fine-tuned": (BLUE, "o"), "retrained": (ORANGE, "^")},
}

DISAGREE = Claim(
    "fine-tuned and retrained networks disagree significantly",
    Paper(
        "Evidently, there is significant model disagreement between the re-trained and fine-tuned"
        " models, showing that this is not a viable strategy for generating influence estimates.",
        "Sec. 4.2, of Table 1",
    ),
    "The share of predictions on which they disagree over that of two retrained networks of"
    f" different seeds, for each classifier, above {SIGNIFICANT:g}. Significant is read as what the"
    " sentence is about: by the paper's Tables 1 and 3 this ratio is 0.95 to 0.99 for its four"
    " classifiers. A fine-tuning that gives what retraining gives has 0.",
    null=0.0,
)
NO_BETTER = Claim(
    "fine-tuned and retrained agree no better than two seeds",
    Ours("Sharper than the paper; between its tables they agree better by up to 0.025."),
    "Their agreement minus that of retrained networks of two seeds, paired over seeds, below"
    f" {BETTER:g}. Networks that always agree are 0.05 or more above.",
    null=0.05,
)
NOTES = f"Printed numbers: to {TOLERANCE:g}."


def tabulate(runs: list[Run]) -> pd.DataFrame:
    claims: list[Row] = []
    rows: list[Row] = []
    for run in runs:
        name = agreement.classifier_of(run)
        printed, *accuracies = PAPER.get(name, UNPRINTED)
        against = _mean(run, "tuned_retrained")
        seeds = pair_values(run.array("between_retrained"))
        # Two seeds are one pair: only the difference of means is known.
        paired = against if len(seeds) == len(against) else against.mean()
        label = f"agreement, {AGAINST} − {SEEDS}"
        ours = over_seeds(paired - seeds)
        no_better: dict[str, Any] = {"of": NO_BETTER, "at_most": BETTER}
        disagree: dict[str, Any] = {"of": DISAGREE, "at_least": SIGNIFICANT}
        apart = quotient(over_seeds(1 - against), over_seeds(1 - seeds))
        claims.append(claim(name, APART, "x", apart, **disagree, series=""))
        claims.append(claim(name, label, "", ours, **no_better, series=""))
        rows += _agreement(run, name, printed)
        keys = {"retrained": "accuracy_retrained", "fine-tuned": "accuracy_tuned"}
        for (series, key), paper in zip(keys.items(), accuracies, strict=True):
            ours = over_seeds(_mean(run, key))
            rows.append(number(name, "accuracy", "share", ours, paper, TOLERANCE, series=series))
    return tabulated(claims + rows)


def _agreement(run: Run, name: str, printed: float) -> list[Row]:
    others = np.asarray(run.array("tuned_others"))
    ours = over_seeds(_mean(run, "tuned_retrained"))
    controls = {
        OTHER: pair_values((others + others.T) / 2),
        SEEDS: pair_values(run.array("between_retrained")),
        "of the whole set, two seeds": pair_values(run.array("between_full")),
        AGAIN: _mean(run, "retrained_full"),
        START: _mean(run, "tuned_full"),
    }
    rows = [number(name, "agreement", "share", ours, printed, TOLERANCE, series=AGAINST)]
    for series, values in controls.items():
        rows.append(curve(name, "agreement", "share", over_seeds(values), series=series))
    return rows


def _mean(run: Run, key: str) -> np.ndarray:
    """The mean over the dropped examples, one value a seed."""
    return np.asarray(run.array(key), dtype=float).mean(1)


ARTIFACT = Artifact(
    id="models_table1",
    experiment="finetune_vs_retrain",
    tabulate=tabulate,
    draw=partial(draw, panels=LOOKS),
    claims=(DISAGREE, NO_BETTER),
    notes=NOTES,
    title="Fine-tuning without an example against training again without it",
    claim=(
        "A network fine-tuned without an example disagrees with one retrained without it about as"
        " much as two networks of different seeds do."
    ),
    paper="Subsets (Doubov et al., 2022), Table 1, Sec. 4.2",
    deviations=(
        "The paper does not say at which rate it fine-tunes: here the last 6% of the training"
        " (one epoch at least) are repeated without the example, at the same learning rates.",
        "The fine-tuned and the retrained network have the same seed: initial parameters, and"
        " order but for the missing example. One row compares different seeds.",
        "We add the agreement between seeds (in other tables of the paper), of a fine-tuned"
        " network with its start, and of networks trained with and without the example.",
        "Intervals are over the 3 seeds, of means over the 10 dropped examples; agreements"
        " between seeds have the jackknife interval.",
    ),
    tier_notes={
        "smoke": "Smoke tier: an MLP on 500 of scikit-learn's digits, 4 dropped examples.",
        "small": (
            "Small tier: an MLP on 3,000 MNIST digits and a small CNN on 10,000 images of"
            " JPEG-recompressed CIFAR-10; 6% of their epochs is one epoch."
        ),
    },
    needs=lambda config: config["type"] == "Compared",
    page=agreement.page,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
