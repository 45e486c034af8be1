"""Figure 1 of Subsets: agreement of influence estimates by the number of models, over restarts."""

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.overlap import draw_ensemble, name_sizes
from analysis.ink.style import BLACK, GREY, PAGE, UNNAMED, new_panels
from analysis.numbers import overlap
from analysis.numbers.claims import Claim, Ours, Paper
from analysis.numbers.overlap import ensemble_of, mean_iou, mean_label, over_splits
from analysis.numbers.statistics import NONE, Interval
from analysis.numbers.table import Row, claim, curve, records, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

MEMORIZED, NULL = "hard_memorized", "null_memorized"
SERIES = {MEMORIZED: "memorized pairs", "hard_all": "all pairs", NULL: "by chance"}
LINES = {"memorized pairs": "-", "by chance": ":"}
ENOUGH, FEW, SOME, MANY = 0.7, 25, 100, (200, 400)
WIDE, NEAR_ZERO, LOW = 0.5, 0.1, 0.3
RESTARTS = "restarts"
PAIRS, SHOWN = "memorized pairs above", (0.1, 0.3, 0.5)

WHERE = "Sec. 3, of Figure 1 (left)"
MANY_NEEDED = Claim(
    "200 to 400 models agree on a wide range of thresholds",
    Paper(
        "in Figure 1 (left) we see that the IOU is > 0.7 for a wide range of thresholds only"
        " when using 200-400 models",
        WHERE,
    ),
    f"With {MANY[1]} models (or as many as there are, from {MANY[0]}), the share of thresholds with"
    f" an IOU above {ENOUGH:g}; a wide range is read as more than {WIDE:g} of them.",
    null=0.0,
)
NEAR = Claim(
    "25 models hardly agree",
    Paper("the IOU for 25 models is near the 0 mark on the y axis (dashed to be visible)", WHERE),
    f"With {FEW} models, the mean IOU minus that by chance, below {NEAR_ZERO:g}. Consistent"
    f" estimates have {ENOUGH:g} or more.",
    null=ENOUGH,
)
PEAK = Claim(
    "100 models are not enough",
    Paper("while for 100 models the IOU scores peak at 0.6 similarity.", WHERE),
    f"With {SOME} models, the highest IOU over thresholds, below {ENOUGH:g}.",
    null=1.0,
)
RANDOMNESS = Claim(
    "other seeds on the same subsets agree as little",
    Paper(
        "Surprisingly, we see extremely low IOU scores across the influence thresholds",
        "Sec. 3, of Figure 1 (right)",
    ),
    "The mean IOU of two sets of 50 models on the same subsets, started anew, below"
    f" {LOW:g}. Consistent estimates have {ENOUGH:g} or more.",
    null=ENOUGH,
)
RISES = Claim(
    "agreement rises with the number of models",
    Ours("What the figure shows from left to right."),
    "The mean IOU with each number of models minus that with the number before.",
    null=0.0,
)
NOTES = "Of memorized pairs, for each ensemble."


def tabulate(runs: list[Run]) -> pd.DataFrame:
    halves, restarts = (
        [run for run in runs if run.config["type"] == kind] for kind in ("Halves", "Restarts")
    )
    rows = [row for run in halves for row in _claims(run)]
    rows += [row for run in restarts for row in _restarts(run)]
    return tabulated([*rows, *overlap.curve_rows(halves, SERIES)])


def _claims(run: Run) -> list[Row]:
    name, sizes = ensemble_of(run), overlap.sizes(run)
    means = {size: mean_iou(run, MEMORIZED, size) for size in sizes}
    rows = []
    for fewer, more in pairwise(sizes):
        gain = over_splits(means[more] - means[fewer])
        label = f"mean IOU, {more} − {fewer} models"
        rows.append(claim(name, label, "", gain, of=RISES, at_least=0.0))
    few, label = NONE, f"mean IOU − that by chance, {FEW} models"
    if FEW in means:
        few = over_splits(means[FEW] - mean_iou(run, NULL, FEW))
    rows.append(claim(name, label, "", few, of=NEAR, at_most=NEAR_ZERO))
    if SOME in sizes:
        peak = over_splits(_highest(_within_range(run, SOME)))
        label = f"peak IOU, {SOME} models"
        rows.append(claim(name, label, "", peak, of=PEAK, at_most=ENOUGH, paper=0.6))
    enough = [size for size in sizes if MANY[0] <= size <= MANY[1]]
    share = NONE
    if enough:
        inside = _within_range(run, max(enough))
        share = over_splits(np.mean(inside > ENOUGH, axis=1)) if inside.shape[1] else NONE
    label = f"share of thresholds with an IOU above {ENOUGH:g}, {MANY[1]} models"
    rows.append(claim(name, label, "share", share, of=MANY_NEEDED, at_least=WIDE))
    rows += [row for size in sizes for row in overlap.mean_rows(run, SERIES, size)]
    return rows + _pairs_above(run)


def _within_range(run: Run, size: int) -> np.ndarray:
    """IOU (splits, thresholds) where its mean is taken."""
    curves = np.asarray(run.array(MEMORIZED))[overlap.sizes(run).index(size)]
    return curves[:, overlap.between(run)]


def _highest(curves: np.ndarray) -> np.ndarray:
    """The highest value of each split; nan where there is none."""
    known = np.isfinite(curves).any(1)
    return np.where(
        known, np.where(np.isfinite(curves), curves, -np.inf).max(1, initial=-np.inf), np.nan
    )


def _pairs_above(run: Run) -> list[Row]:
    """How many memorized pairs pass some thresholds, by all models: few of them make IOU jump."""
    thresholds, above = overlap.thresholds(run), np.asarray(run.array("pairs_above"))[1]
    places = [int(np.abs(thresholds - threshold).argmin()) for threshold in SHOWN]
    name = ensemble_of(run)
    return [curve(name, f"{PAIRS} {thresholds[k]:g}", "", _single(above[k])) for k in places]


def _restarts(run: Run) -> list[Row]:
    name, n_models = ensemble_of(run), run.config["n_models"]
    same, other = (overlap.mean_iou_unsplit(run, f"{k}_memorized") for k in ("same", "different"))
    label = f"mean IOU, {n_models} models on the same subsets started anew"
    rows = [
        claim(name, label, "", _single(same), of=RANDOMNESS, at_most=LOW),
        curve(name, f"mean IOU, {n_models} on other subsets", "", _single(other)),
    ]
    for key, series in (("same", "same subsets"), ("different", "other subsets")):
        values = np.asarray(run.array(f"{key}_memorized"))
        for threshold, value in zip(overlap.thresholds(run), values, strict=True):
            if np.isfinite(value):
                about = {"series": series, "threshold": float(threshold), "models": n_models}
                rows.append(curve(name, "IOU", "", _single(value), kind=RESTARTS, **about))
    return rows


def _single(value: float) -> Interval:
    return over_splits(np.array([float(value)]))


def draw(table: pd.DataFrame) -> Figure:
    names = overlap.ensembles(table)
    labels = ["influence threshold"] * (len(names) + 1)
    figure, axes = new_panels(labels, "IOU", width=PAGE, height=2.6, share_y=True)
    for each, name in zip(axes, names, strict=False):
        draw_ensemble(each, table, name, LINES)
    axes[0].plot([], [], ":", color=GREY, label="by chance")
    name_sizes(figure, axes[0], "models:")
    _draw_restarts(axes[-1], table)
    return figure


def _draw_restarts(axes: Axes, table: pd.DataFrame) -> None:
    rows = table[table["kind"] == RESTARTS]
    for (name, mine), (colour, _) in zip(rows.groupby("method"), UNNAMED, strict=False):
        for series, line in (("same subsets", "-"), ("other subsets", ":")):
            part = mine[mine["series"] == series].sort_values("threshold")
            label = str(name) if line == "-" else None
            axes.plot(part["threshold"], part["ours"], line, color=colour, label=label)
    axes.plot([], [], ":", color=GREY, label="other subsets")
    axes.set_title("same subsets, started anew", color=BLACK)
    axes.legend()


def findings(table: pd.DataFrame) -> list[str]:
    """Say how many pairs there are to agree on, and what the fewest models do beside chance."""
    sentences = []
    rows = records(table)
    for name in overlap.ensembles(table):
        mine = {row["quantity"]: row for row in rows if row["method"] == name}
        left = [
            f"{int(row['ours']):,} above {quantity.removeprefix(PAIRS).strip()}"
            for quantity, row in mine.items()
            if quantity.startswith(PAIRS)
        ]
        few, chance = (mine.get(mean_label(SERIES[k], FEW)) for k in (MEMORIZED, NULL))
        if not left or few is None or chance is None:
            continue
        sentences.append(
            f"{name}: memorized pairs whose influence by all models is {', '.join(left)}. Where"
            f" few are left, an IOU jumps between 0 and 1. With {FEW} models the mean IOU is"
            f" {few['ours']:.3f}, by chance {chance['ours']:.3f}: noise passes the lower"
            " thresholds everywhere, so there more models can agree on fewer pairs."
        )
    return sentences


ARTIFACT = Artifact(
    id="models_fig1",
    experiment="subset_ensembles",
    tabulate=tabulate,
    draw=draw,
    claims=(MANY_NEEDED, NEAR, PEAK, RANDOMNESS, RISES),
    notes=NOTES,
    title="How many models until influence estimates agree",
    claim=(
        "The IOU of two sets of models is above 0.7 for a wide range of thresholds only with 200 to"
        " 400 models, near 0 with 25, and low even on the same subsets with other seeds."
    ),
    headline=("MNIST, MLP", "share of thresholds with an IOU above 0.7, 400 models"),
    paper="Subsets (Doubov et al., 2022), Figure 1, Sec. 3",
    deviations=(
        *overlap.DEVIATIONS,
        "Dotted lines are ours: the IOU by chance alone, with outcomes shuffled over models, and,"
        " on the right, the IOU of 50 models on other subsets.",
    ),
    tier_notes=overlap.TIER_NOTES,
    needs=overlap.of_kind("Halves", "Restarts"),
    page=overlap.page,
    findings=findings,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
