"""TracIn, Figure 8: mislabelled digits found per class by self-influence at three checkpoints."""

from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.ink.style import SHADES, new_axes
from analysis.numbers import mislabel, statistics
from analysis.numbers.frame import Method, read_name
from analysis.numbers.statistics import NONE, Interval, over_seeds
from analysis.numbers.table import Row, claim, curve, records, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

SHARE = 0.1
CLASSES = 10
SINGLE, LAST = "TracIn@", Method("TracIn", 1)  # of one checkpoint, of the last
SIGNIFICANT = 0.05
FEWEST = 3  # seeds: with two, permuting within seeds cannot get below SIGNIFICANT
Masks = dict[int, np.ndarray]  # by seed

RULE = (
    "Claims: (1) within a model, the examples that only one of two checkpoints finds are of other"
    " classes than those that only the other finds: chi-square of the discordant examples against"
    " its distribution with fixed margins, Fisher's combination over seeds, Bonferroni over pairs"
    f" of checkpoints, p < {SIGNIFICANT:g} for some pair; (2) the difference is more than seed"
    " noise: the checkpoints' mean class profiles, checkpoints permuted within seeds, p <"
    f" {SIGNIFICANT:g} (needs {FEWEST} seeds)."
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    observations = mislabel.observe(runs, "LargeCNN")
    single = [one for one in observations if one.method.family == SINGLE]
    hits: dict[Method, Masks] = {method: {} for method in sorted({one.method for one in single})}
    labels: Masks = {}
    for one in single:
        hits[one.method][one.seed] = _hits(one.run)
        labels[one.seed] = np.asarray(one.run.array("given"))
    labels = {s: labels[s] for s in sorted(labels) if all(s in masks for masks in hits.values())}
    if len(hits) < 2 or not labels:
        return tabulated([])
    counts = np.array([[_count(hits[n][s], labels[s]) for n in hits] for s in labels])
    rows = []
    for method, counted in zip(hits, counts.swapaxes(0, 1), strict=True):
        for label, values in (("all", counted.sum(-1)), *enumerate(counted.T)):
            ours = over_seeds(values)
            rows.append(curve(method, "found", "examples", ours, label=str(label)))
    return tabulated([*rows, *_comparisons(hits, labels), *_claims(hits, labels, counts)])


def _hits(run: Run) -> np.ndarray:
    """Which examples are corrupted and among the top tenth by self-influence."""
    scores = np.asarray(run.array("self_influence"))
    top = np.zeros(len(scores), dtype=bool)
    top[np.argsort(-scores, kind="stable")[: round(SHARE * len(scores))]] = True
    return top & np.asarray(run.array("corrupted"), dtype=bool)


def _count(mask: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.bincount(labels[mask], minlength=CLASSES)


def _comparisons(hits: dict[Method, Masks], labels: Masks) -> list[Row]:
    rows = []
    for one, other in combinations(hits, 2):
        shared = over_seeds([statistics.overlap(hits[one][s], hits[other][s]) for s in labels])
        p = _point(_discordance(hits[one], hits[other], labels), len(labels))
        rows.append(curve(f"{one} and {other}", "overlap of found", "IOU", shared))
        rows.append(curve(f"{one} and {other}", "p, same classes", "", p))
    return rows


def _discordance(one: Masks, other: Masks, labels: Masks) -> float:
    """The p-value, over all seeds, that two checkpoints disagree on the same classes."""
    p_values = []
    for seed, given in labels.items():
        first, second = one[seed], other[seed]
        counts = (_count(only, given) for only in (first & ~second, second & ~first))
        p_values.append(statistics.homogeneity(*counts, seed=seed))
    return statistics.combine(p_values)


def _claims(hits: dict[Method, Masks], labels: Masks, counts: np.ndarray) -> list[Row]:
    pairs = list(combinations(hits, 2))
    smallest = min(_discordance(hits[one], hits[other], labels) for one, other in pairs)
    within = _point(min(1.0, smallest * len(pairs)), len(labels))
    noise = NONE
    if len(labels) >= FEWEST:
        profiles = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
        noise = _point(statistics.exchangeable(profiles), len(labels))
    what = "p, same classes within a model"
    return [
        claim("some two checkpoints", what, "", within, at_most=SIGNIFICANT),
        claim("all checkpoints", "p, seed noise alone", "", noise, at_most=SIGNIFICANT),
    ]


def _point(p: float, n: int) -> Interval:
    return Interval(p, p, p, n)


def draw(table: pd.DataFrame) -> Figure:
    figure, axes = new_axes("Given label", "Mislabelled digits found", height=2.4)
    shown = table[(table["quantity"] == "found") & (table["label"] != "all")]
    names = list(dict.fromkeys(shown["method"]))
    if len(names) > len(SHADES):  # the paper shows three: an early, a middle, the last
        names = [names[0], names[len(names) // 2], names[-1]]
    width = 0.8 / len(names)
    for place, (name, colour) in enumerate(zip(names, SHADES, strict=False)):
        rows = records(shown[shown["method"] == name])
        x = [int(row["label"]) - 0.4 + width * (place + 0.5) for row in rows]
        label = f"epoch {read_name(name).dim}"
        axes.bar(x, [row["ours"] for row in rows], width * 0.92, color=colour, label=label)
        low, high = [max(0.0, row["low"]) for row in rows], [row["high"] for row in rows]
        axes.vlines(x, low, high, color="black", linewidth=0.6)
    axes.set_ylim(0, 1.8 * max(shown["ours"].max(), 1))  # wide intervals run out of the picture
    axes.set_xticks(range(CLASSES))
    axes.grid(False, axis="x")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


ARTIFACT = Artifact(
    id="tracin_fig8",
    experiment="mnist_mislabel",
    tabulate=tabulate,
    draw=draw,
    rule=RULE,
    title="Mislabelled digits found per class within the top 10% by self-influence",
    claim="Different checkpoints highlight different labels.",
    paper="TracIn (arXiv:2002.08484), appendix, Figure 8",
    deviations=(
        "The model, the data and the corruption are those of Arnoldi, Sec. 5.1 (10% of MNIST, 20%"
        " of labels changed at random before training); TracIn describes its own in Sec. 4.2,"
        " outside the appendix.",
        "Class is read as the given label; bars are means over seeds with 95% intervals, where the"
        " paper shows one model and does not say which checkpoints.",
    ),
    tier_notes=mislabel.TIER_NOTES,
    needs=mislabel.needs("LargeCNN", lambda one: one.family == SINGLE or one == LAST),
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
