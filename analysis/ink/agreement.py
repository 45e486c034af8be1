"""Agreement of networks trained on the same data: what tables and figures of 004 on it share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.style import BLACK, BLUE, GREEN, GREY, ORANGE, PAGE, new_panels
from analysis.numbers.statistics import over_seeds, pair_values
from analysis.numbers.table import Row, curve, number, records, written
from experiments.laboratory.runs import Run

# What trained classifiers are called: their data and their network.


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


def name_of(source: str, network: str) -> str:
    """`data, network` as the papers call them."""
    return f"{SOURCES.get(source, source)}, {NETWORKS.get(network, network)}"


PLAIN, VIEWS = "", "_views"
BOTH, INIT, ORDER = "both", "init", "order"
TOLERANCE = 0.02  # of a printed agreement or accuracy
# Whose pictures the paper shows, and what stands in for it at the smaller tiers.
INCEPTION = ("CIFAR-100, Inception", "CIFAR-10 (JPEG), CNN", "digits, CNN")
RESNET = ("CIFAR-100, ResNet-18", "CIFAR-10 (JPEG), CNN", "digits, CNN")
Looks = Mapping[str, tuple[str, str]]  # colour and marker by series
CHANCE, BY_CLASS = "agreement by chance", "agreement by class"

DEVIATIONS = (
    "20 seeds where the paper's tables have 3. Intervals are over seeds: pairs share seeds, so that"
    " a mean over pairs has the interval of the jackknife over seeds.",
    "Ours to add: the agreement of networks that predict each class as often but independently,"
    " sum over classes of q², over all queries (by chance) and within each label (by class), which"
    " is what accuracy and confusions alone account for.",
    "Networks on DTD and Flowers are trained on the official training split; learning rate and"
    " weight decay are chosen on the official validation split, never on the evaluation data.",
)
TIER_NOTES = {
    "smoke": "Smoke tier: an MLP and a small CNN on 500 of scikit-learn's digits, 4 to 6 seeds.",
    "small": (
        "Small tier: an MLP and a small CNN on 3,000 MNIST digits and on 10,000 images of"
        " JPEG-recompressed CIFAR-10, with rates fixed beforehand but for the CNN on CIFAR-10: at"
        " its first rate, 0.05, the training loss of two networks of twenty stayed at chance's, so"
        " it is 0.02. 20 seeds where both differ, 10 where one does. Digits are shifted by at most"
        " 2 pixels and not mirrored: 5 views, not 10."
    ),
}


def named(run: Run) -> str:
    """The name of a run's classifier: its data and its network."""
    recipe = run.config["recipe"]
    return name_of(recipe["data"]["source"], recipe["network"]["type"])


def compared(*vary: str) -> Callable[[dict[str, Any]], bool]:
    """What an artifact needs: comparisons of networks that differ in these."""
    return lambda config: config["type"] == "Compared" and config["vary"] in vary


def of(found: Iterable[Run], vary: str = BOTH) -> dict[str, Run]:
    """The comparisons of networks that differ so, by name."""
    return {named(run): run for run in found if run.config.get("vary") == vary}


def subject(names: Iterable[str], order: Sequence[str]) -> str | None:
    """The first of `order` that is there."""
    there = set(names)
    return next((name for name in order if name in there), None)


def agreed(run: Run, suffix: str = PLAIN) -> np.ndarray:
    """Agreement, one value a seed (see pair_values)."""
    return pair_values(run.array(f"agreement{suffix}"))


def right(run: Run, suffix: str = PLAIN) -> np.ndarray:
    """Accuracy, one value a seed."""
    return np.asarray(run.array(f"accuracy{suffix}"), dtype=float)


def rows(run: Run, printed: tuple[float, float], suffix: str = PLAIN, **more: Any) -> list[Row]:
    """Agreement and accuracy beside the printed ones, and agreement by chance."""
    name = named(run)
    found = [
        number(name, quantity, "", over_seeds(values), paper, TOLERANCE, **more)
        for quantity, values, paper in (
            ("agreement", agreed(run, suffix), printed[0]),
            ("accuracy", right(run, suffix), printed[1]),
        )
    ]
    for quantity, key in ((CHANCE, "chance"), (BY_CLASS, "by_class")):
        ours = over_seeds(pair_values(run.array(f"{key}{suffix}")))
        found.append(curve(name, quantity, "", ours, **more))
    return found


def draw(table: pd.DataFrame, panels: Mapping[str, tuple[str, Looks]]) -> Figure:
    """Draw classifiers below each other, a panel a quantity, a dot a series with its interval.

    `panels` are the labels of the axes, and colour and marker by the values of the column `series`.
    """
    names = list(dict.fromkeys(table[table["kind"] == "number"]["method"]))
    most = max(len(looks) for _, looks in panels.values())
    height = 1.0 + 0.16 * -(-most // 2) + len(names) * (0.12 + 0.13 * most)
    labels = [label for label, _ in panels.values()]
    figure, axes = new_panels(labels, width=PAGE, height=height, share_y=True)
    for panel, (quantity, (_, looks)) in zip(axes, panels.items(), strict=True):
        some = table[(table["quantity"] == quantity) & (table["n"] > 0)]
        for place, (series, look) in enumerate(looks.items()):
            shift = 0.8 * ((place + 0.5) / len(looks) - 0.5)
            for row in records(some[some["series"] == series]):
                _dot(panel, row, names.index(row["method"]) + shift, look)
            panel.plot([], [], look[1], color=look[0], label=series)
        if some["paper"].notna().any():
            panel.plot([], [], "|", color=BLACK, markersize=9, label="printed")
        for between in range(1, len(names)):
            panel.axhline(between - 0.5, color=GREY, linewidth=0.4)
        panel.grid(axis="y", visible=False)
        panel.tick_params(axis="y", length=0)
        columns = 2 if len(looks) > 3 else len(looks) + 1
        panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, fontsize=6.5)
    axes[0].set_yticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def _dot(axes: Axes, row: Row, place: float, look: tuple[str, str]) -> None:
    colour, marker = look
    axes.plot([row["low"], row["high"]], [place] * 2, color=colour, linewidth=2, alpha=0.5)
    axes.plot(row["ours"], place, marker, color=colour)
    axes.plot(row["paper"], place, "|", color=BLACK, markersize=9, markeredgewidth=1.2)


CHANCE_MARKS = {BY_CLASS: ("x", GREY), CHANCE: ("+", GREY)}
THREE = ((BLUE, "o"), (ORANGE, "^"), (GREEN, "s"))


def page(table: pd.DataFrame) -> pd.DataFrame:
    """A line a classifier and series, a column a quantity, as Table 2b of the paper."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in records(table[table["kind"].isin(["number", "curve"])]):
        # A column without any text is read back as numbers that are not there.
        key = row["method"], row["series"] if isinstance(row["series"], str) else ""
        line = lines.setdefault(key, {"classifier": key[0], "which": key[1]})
        line[row["quantity"]] = written(row, ".3f")
    shown = pd.DataFrame(list(lines.values())).fillna("")
    return shown.drop(columns="which") if not shown["which"].any() else shown
