"""TracIn, Figure 8: mislabelled digits found per class by self-influence at three checkpoints."""

from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.style import SHADES, new_lattice
from analysis.numbers import mislabel, statistics
from analysis.numbers.claims import Claim, Paper
from analysis.numbers.frame import Method, read_name
from analysis.numbers.statistics import NONE, Interval, over_seeds
from analysis.numbers.table import Row, claim, curve, records, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

SHARE = 0.1
CLASSES = 10
SINGLE = "TracIn@"  # self-influence at one checkpoint
NOISE = 0.1  # of the labels are wrong: as many as the share that is looked at
SIGNIFICANT = 0.05
CHANGE = "found more"
FEWEST = 3  # seeds: with two, permuting within seeds cannot get below SIGNIFICANT
Masks = dict[int, np.ndarray]  # by seed

DIFFERENT = Claim(
    "different checkpoints highlight different labels",
    Paper("Different checkpoints highlight different labels", "appendix, Figure 8, caption"),
    "The p-value that the examples which only one of two checkpoints finds are of the same classes"
    " as those that only the other finds: chi-square of the discordant examples of a model against"
    " its distribution with fixed margins, Fisher's combination over seeds, Bonferroni over pairs"
    " of checkpoints; and the p-value of the checkpoints' mean class profiles, checkpoints permuted"
    f" within seeds (needs {FEWEST} seeds). Each below {SIGNIFICANT:g}.",
    null=0.5,
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
    rows += _changes(list(hits), counts)
    return tabulated([*rows, *_comparisons(hits, labels), *_claims(hits, labels, counts)])


def _changes(names: list[Method], counts: np.ndarray) -> list[Row]:
    """What each checkpoint finds minus what the first finds, paired over seeds, by class.

    counts is (seeds, checkpoints, classes).
    """
    rows = []
    for place, name in enumerate(names[1:], start=1):
        change = counts[:, place] - counts[:, 0]
        for label, values in (("all", change.sum(-1)), *enumerate(change.T)):
            ours = over_seeds(values)
            rows.append(curve(f"{name} − {names[0]}", CHANGE, "examples", ours, label=str(label)))
    return rows


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
    what, noisy = "p, same classes within a model", "p, seed noise alone"
    return [
        claim("some two checkpoints", what, "", within, of=DIFFERENT, at_most=SIGNIFICANT),
        claim("all checkpoints", noisy, "", noise, of=DIFFERENT, at_most=SIGNIFICANT),
    ]


def _point(p: float, n: int) -> Interval:
    return Interval(p, p, p, n)


def draw(table: pd.DataFrame) -> Figure:
    """Above, what the checkpoints find; below, how it differs from the first, paired over seeds."""
    figure, lattice = new_lattice(2, 1, height=4.2, share_y=False)
    top, bottom = (line[0] for line in lattice)
    shown = table[(table["quantity"] == "found") & (table["label"] != "all")]
    names = list(dict.fromkeys(shown["method"]))
    if len(names) > len(SHADES):  # the paper shows three: an early, a middle, the last
        names = [names[0], names[len(names) // 2], names[-1]]
    changes = [f"{name} − {names[0]}" for name in names[1:]]
    moved = table[(table["quantity"] == CHANGE) & (table["label"] != "all")]
    _bars(top, shown, dict(zip(names, SHADES, strict=False)))
    _bars(bottom, moved, dict(zip(changes, SHADES[1:], strict=False)))
    top.set_ylim(0, 1.4 * max(shown["ours"].max(), 1))  # wide intervals run out of the picture
    top.set_ylabel("Mislabelled digits found")
    bottom.axhline(0, color="black", linewidth=0.6)
    bottom.set(ylabel="Found more than at\nthe first checkpoint", xlabel="Given label")
    epochs = [f"epoch {read_name(name).dim}" for name in names]
    handles, _ = top.get_legend_handles_labels()
    figure.legend(handles, epochs, loc="outside upper center", ncols=3)
    return figure


def _bars(axes: Axes, table: pd.DataFrame, colours: dict[str, str]) -> None:
    width = 0.8 / max(1, len(colours))
    for place, (name, colour) in enumerate(colours.items()):
        rows = records(table[table["method"] == name])
        x = [int(row["label"]) - 0.4 + width * (place + 0.5) for row in rows]
        axes.bar(x, [row["ours"] for row in rows], width * 0.92, color=colour, label=name)
        low, high = ([row[end] for row in rows] for end in ("low", "high"))
        axes.vlines(x, low, high, color="black", linewidth=0.6)
    axes.set_xticks(range(CLASSES))
    axes.grid(False, axis="x")


ARTIFACT = Artifact(
    id="tracin_fig8",
    experiment="mnist_mislabel",
    tabulate=tabulate,
    draw=draw,
    claims=(DIFFERENT,),
    title="Mislabelled digits found per class within the top 10% by self-influence",
    claim="Different checkpoints highlight different labels.",
    paper="TracIn (arXiv:2002.08484), appendix, Figure 8",
    deviations=(
        "The model and the data are those of Arnoldi, Sec. 5.1 (10% of MNIST); a tenth of the"
        " labels is changed at random before training, as many as the figure looks at. TracIn"
        " describes its own model in Sec. 4.2, outside the appendix.",
        "Class is read as the given label; bars are means over seeds with 95% intervals, where the"
        " paper shows one model and does not say which checkpoints.",
    ),
    tier_notes=mislabel.TIER_NOTES,
    needs=mislabel.needs("LargeCNN", lambda one: one.family == SINGLE, NOISE),
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
