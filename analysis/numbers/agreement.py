"""Agreement of networks trained on the same data, and how often each example is classified right.

What the tables and figures of Subsets on nondeterminism share.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.numbers.claims import Claim, Paper
from analysis.numbers.statistics import NONE, Interval, over_seeds, pair_values, resampled
from analysis.numbers.table import Row, claim, curve, number, records, written
from experiments.laboratory.runs import Run

EXPERIMENT = "nondeterminism"
SOURCES = {
    "digits": "digits",
    "mnist": "MNIST",
    "jpeg": "CIFAR-10 (JPEG)",
    "original": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "dtd": "DTD",
    "flowers": "Flowers",
}
NETWORKS = {
    "DigitsMLP": "MLP",
    "StridedCNN": "CNN",
    "SmallInception": "Inception",
    "InceptionV3": "Inception",
    "SmallImageResNet18": "ResNet-18",
    "ResNet18": "ResNet-18",
}
PLAIN, VIEWS = "", "_views"  # suffixes of arrays: of the image, of several views of it
BOTH, INIT, ORDER = "both", "init", "order"  # what differs between networks
TOLERANCE = 0.02  # of a printed agreement or accuracy
# The classifiers whose pictures the paper shows, then what stands in for them at smaller tiers.
INCEPTION = ("CIFAR-100, Inception", "CIFAR-10 (JPEG), CNN", "digits, CNN")
RESNET = ("CIFAR-100, ResNet-18", "CIFAR-10 (JPEG), CNN", "digits, CNN")
CHANCE, BY_CLASS = "agreement by chance", "agreement by class"
BIN = "bin"  # the kind of row that is a bar of a histogram over examples
MOST, LOW, HIGH, TAIL = 0.5, 0.1, 0.9, 0.1
MAJORITY = Claim(
    "most examples have p close to 1",
    Paper(
        "The majority of examples have p close to 1, suggesting that influence estimation for"
        " these scores should require fewer models",
        "Sec. 4.3, of Figure 3 (right)",
    ),
    f"Of {INCEPTION[0]} or what stands in for it: the share of examples with p of at least"
    f" {HIGH:g}, above {MOST:g}. Of p spread evenly it is a tenth.",
    null=0.1,
)
LONG_TAIL = Claim(
    "p has a fairly long tail",
    Paper(
        "However, we do see a fairly long tail for p, suggesting that for these examples,"
        " significantly more models may be necessary.",
        "Sec. 4.3, of Figure 3 (right)",
    ),
    f"Of the same: the share of examples with p from {LOW:g} to below {HIGH:g}, above {TAIL:g}.",
    null=0.0,
)

DEVIATIONS = (
    "20 seeds where the paper's tables have 3. Intervals are over seeds. Pairs share seeds, so a"
    " mean over pairs has the jackknife interval over seeds.",
    "We add two controls: the agreement of networks that predict each class as often but"
    " independently (the sum over classes of q²), over all queries (by chance) and within each"
    " label (by class). This is the agreement that accuracy and confusions alone explain.",
    "Networks on DTD and Flowers are trained on the official training split; learning rate and"
    " weight decay are chosen on the official validation split, never on the evaluation data.",
)
TIER_NOTES = {
    "smoke": "Smoke tier: an MLP and a small CNN on 500 of scikit-learn's digits, 4 to 6 seeds.",
    "small": (
        "Small tier: an MLP and a small CNN on 3,000 MNIST digits and on 10,000 images of"
        " JPEG-recompressed CIFAR-10, with learning rates fixed beforehand, except for the CNN on"
        " CIFAR-10: at its first rate, 0.05, the training loss of two networks of twenty stayed"
        " at the level of chance, so it is 0.02. 20 seeds where both differ, 10 where one does."
        " Digits are shifted by at most 2 pixels and not mirrored: 5 views, not 10."
    ),
}


def classifier_name(source: str, network: str) -> str:
    """`data, network` as the papers call them."""
    return f"{SOURCES.get(source, source)}, {NETWORKS.get(network, network)}"


def classifier_of(run: Run) -> str:
    """The name of a run's classifier: its data and its network."""
    recipe = run.config["recipe"]
    return classifier_name(recipe["data"]["source"], recipe["network"]["type"])


def differing_in(*vary: str) -> Callable[[dict[str, Any]], bool]:
    """The filter of the runs that an artifact needs: networks compared that differ in these."""
    return lambda config: config["type"] == "Compared" and config["vary"] in vary


def by_classifier(runs: Iterable[Run], vary: str = BOTH) -> dict[str, Run]:
    """The comparisons of networks that differ in `vary`, by the classifier's name."""
    return {classifier_of(run): run for run in runs if run.config.get("vary") == vary}


def first_present(names: Iterable[str], order: Sequence[str]) -> str | None:
    """The first of `order` that is among the names."""
    return next((name for name in order if name in set(names)), None)


def agreement(run: Run, suffix: str = PLAIN) -> np.ndarray:
    """Agreement, one value a seed (see pair_values)."""
    return pair_values(run.array(f"agreement{suffix}"))


def accuracy(run: Run, suffix: str = PLAIN) -> np.ndarray:
    """Accuracy, one value a seed."""
    return np.asarray(run.array(f"accuracy{suffix}"), dtype=float)


def agreement_rows(
    run: Run, printed: tuple[float, float], suffix: str = PLAIN, **more: Any
) -> list[Row]:
    """Agreement and accuracy beside the printed ones, and agreement by chance."""
    name = classifier_of(run)
    values = {"agreement": agreement(run, suffix), "accuracy": accuracy(run, suffix)}
    controls = {CHANCE: "chance", BY_CLASS: "by_class"}
    rows = [
        number(name, quantity, "share", over_seeds(ours), paper, TOLERANCE, **more)
        for (quantity, ours), paper in zip(values.items(), printed, strict=True)
    ]
    return rows + [
        curve(name, quantity, "share", over_seeds(pair_values(run.array(key + suffix))), **more)
        for quantity, key in controls.items()
    ]


def right(run: Run, suffix: str = PLAIN) -> np.ndarray:
    """Which examples each network classifies right, (n_seeds, n_examples), 0 or 1."""
    return np.asarray(run.array(f"right{suffix}"), dtype=float)


def share_between(right: np.ndarray, low: float, high: float) -> Interval:
    """The share of examples whose p, the share of seeds right, is in [low, high]."""

    def share(sample: np.ndarray) -> float:
        p = sample.mean(0)
        return float(((p >= low - 1e-9) & (p <= high + 1e-9)).mean())

    return resampled(right, share)


def histogram_rows(run: Run, suffix: str, series: str) -> list[Row]:
    """A row for each p there can be, with the share of examples that have it."""
    name, sample = classifier_of(run), right(run, suffix)
    about, k = {"kind": BIN, "series": series}, len(sample)
    return [
        curve(
            name,
            "p, share of examples",
            "share",
            share_between(sample, p, p),
            **about,
            p=p,
            width=1 / k,
        )
        for p in (count / k for count in range(k + 1))
    ]


def majority_rows(runs: list[Run]) -> list[Row]:
    """Claims (most examples have p near 1; a tail does not) and rows of the histogram.

    For an artifact of another experiment: rows say in `experiment` whose runs they are made of.
    """
    classifiers = by_classifier(runs)
    name = first_present(classifiers, INCEPTION)
    most = tail = NONE
    if name is not None:
        sample = right(classifiers[name])
        most, tail = share_between(sample, HIGH, 1.0), share_between(sample, LOW, HIGH - 1e-6)
    method, what = name or INCEPTION[0], "p, share of examples from"
    rows = [
        claim(method, f"{what} {HIGH:g}", "share", most, of=MAJORITY, at_least=MOST),
        claim(method, f"{what} {LOW:g} to {HIGH:g}", "share", tail, of=LONG_TAIL, at_least=TAIL),
    ]
    if name is not None:
        rows += histogram_rows(classifiers[name], PLAIN, "plain")
    return [row | {"experiment": EXPERIMENT} for row in rows]


def page(table: pd.DataFrame) -> pd.DataFrame:
    """One line per classifier and series, one column per quantity, as Table 2b of the paper."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in records(table[table["kind"].isin(["number", "curve"])]):
        # A column without any text is read back as missing numbers.
        key = row["method"], row["series"] if isinstance(row["series"], str) else ""
        line = lines.setdefault(key, {"classifier": key[0], "which": key[1]})
        line[row["quantity"]] = written(row, ".3f")
    shown = pd.DataFrame(list(lines.values())).fillna("")
    return shown.drop(columns="which") if not shown["which"].any() else shown
