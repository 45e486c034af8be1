"""The numbers of FastIF's Figures 5 and 9: a simulator's loss after a step, by type of pair."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.numbers.cells import listed
from analysis.numbers.claims import Claim, Ours, Paper
from analysis.numbers.statistics import over_seeds, share, single
from analysis.numbers.table import Row, claim, curve, records, tabulated, written
from experiments.laboratory.runs import Run

ENDS = {"right": "helpful", "wrong": "harmful"}  # what should lower the loss, by prediction
CONTROLS = ("H = I", "features")

WHERE = "Sec. 6.1, of Figure 5"
CLAIMS = {  # by prediction
    "right": Claim(
        "helpful pairs improve the simulator where the prediction is right",
        Paper(
            "We can observe that when the prediction is correct, finetuning on helpful data-points"
            " significantly improves the simulator's ability to predict the task model's behavior.",
            WHERE,
        ),
        "The share of points whose loss is lower after steps on helpful pairs.",
        null=0.5,
        over="points",
    ),
    "wrong": Claim(
        "harmful pairs improve the simulator where the prediction is wrong",
        Paper(
            "Similarly, when the prediction is incorrect, finetuning on data-points that are"
            " harmful (to the task model's loss on ground-truth labels) improves the simulator's"
            " predictions of the task model.",
            WHERE,
        ),
        "The share of points whose loss is lower after steps on harmful pairs.",
        null=0.5,
        over="points",
    ),
}
BEYOND_RANDOM = Claim(
    "influential pairs do more than random ones",
    Paper(
        "the effect on the loss from influential data-points is greater than the random selection"
        " of data-points overall.",
        WHERE,
    ),
    "The share of all points whose loss falls further, by those pairs, than by random ones (the"
    " mean over their labels).",
    null=0.5,
    over="points",
)
SIZE = Claim(
    "the loss falls on average",
    Ours("The size of the effect, which a share of points does not tell."),
    "The mean change of the loss over points, in nats, and that minus the change by random pairs.",
    null=0.0,
    over="points",
)
NOTES = (
    "A point's change is the simulator's loss on the task model's prediction after the step minus"
    " the loss before it, averaged over all pairs of a type and over the whole grid of learning"
    " rates, so that no rate is selected. Changes of different points spread over decades, so that"
    " the paper's sentences are judged by signs: a share of points (in place of seeds) with"
    " Wilson's interval."
)

CLAIM = (
    "Fine-tuning on helpful pairs improves the simulator where the prediction is right, on harmful"
    " ones where it is wrong, and both have a greater effect than random ones."
)
DEVIATIONS = (
    "A step is p − lr g with the gradient of the loss alone, without dropout or weight decay, as"
    " the released code has it.",
    "Candidates are the k nearest of the point, k = 1,000, for FastIF and for H = I; the paper"
    " does not state its k here. Damping, scale and depth follow from the training loss by the"
    " rule of the experiment's plan; the paper tier takes the released ones.",
    "Our controls are pairs by gradients alone, nearest pairs by features with the true label (as"
    " helpful) or another (as harmful), and random pairs of the predicted label.",
    "The paper shows lines and no numbers; the measure is ours, written down before the runs. The"
    " largest learning rates weigh most in the mean over the grid.",
)
TIER_NOTES = {
    "smoke": (
        "Smoke tier: a random three-layer network on 300 generated pairs, 8 points, 4 pairs of a"
        " type, 12 learning rates, 100 candidates; numbers are not comparable."
    ),
    "small": (
        "Small tier: a 6-layer encoder of width 384, whose embedding training included NLI pairs,"
        " in place of BERT-base. Its upper half was fine-tuned on 12,808 of the 392,702 training"
        " pairs, and its last layer was then retrained on them. The simulator shares the layers"
        " below, which have seen the true labels. Points, pairs, types and learning rates are the"
        " paper's. s_test is the mean of 2 repeats."
    ),
}


@dataclass(frozen=True)
class Points:
    """Changes (points, types) of all runs, in nats, and what each point is.

    labelled (points, types) is the share of a type's pairs that have the predicted label.
    """

    change: pd.DataFrame
    labelled: pd.DataFrame
    right: np.ndarray
    guess: np.ndarray

    def predicted(self, kind: str) -> np.ndarray:
        """Which points are predicted `right` or `wrong`, (points,) bool."""
        return self.right == (kind == "right")

    def changes(self, kind: str, name: str) -> np.ndarray:
        """Changes of the points predicted `right` or `wrong` under one type of pair."""
        rows = self.change[self.predicted(kind)]
        if name == "random":
            return rows[[one for one in rows if one.startswith("random, ")]].mean(axis=1).to_numpy()
        if name == "random, predicted label":
            guess = self.guess[self.predicted(kind)]
            return np.array([rows[f"random, {g}"].iat[i] for i, g in enumerate(guess)])
        return rows[name].to_numpy()


def tabulate(runs: list[Run], shown: int | None) -> pd.DataFrame:
    """Claims and changes over the points of all runs; lines of the first run's points.

    `shown` is how many of either kind have lines, from the first on; None is all.
    """
    points = _points(runs)
    rows = [
        curve("models", quantity, "", over_seeds([run.metrics[metric] for run in runs]))
        for metric, quantity in (
            ("accuracy", "accuracy of the task model"),
            ("agreement", "predictions of the task model that the simulator shares"),
        )
    ]
    for kind, end in ENDS.items():
        rows += _changes(points, kind, end)
    grid = listed(runs[0].array("lrs"))
    rows.append(curve("learning rates", "", "", single(math.nan), kind="grid", mean=grid))
    rows += _lines(runs[0], shown)
    return tabulated(rows + _claims(points))


def _points(runs: Sequence[Run]) -> Points:
    changes, shares, right, guess = [], [], [], []
    for run in runs:
        before, loss = (np.asarray(run.array(name), float) for name in ("before", "loss"))
        predicted = np.asarray(run.array("predicted"))
        names = [str(one) for one in run.array("types")]
        # loss (points, types, pairs, learning rates)
        changes.append(pd.DataFrame(loss.mean((2, 3)) - before[:, None], columns=names))
        same = np.asarray(run.array("example_label")) == predicted[:, None, None]
        shares.append(pd.DataFrame(same.mean(2), columns=names))
        right.append(np.asarray(run.array("right")))
        guess.append(np.asarray(run.array("classes"))[predicted])
    change, labelled = (pd.concat(parts, ignore_index=True) for parts in (changes, shares))
    return Points(change, labelled, np.concatenate(right), np.concatenate(guess))


def _changes(points: Points, kind: str, end: str) -> list[Row]:
    def row(method: str, values: np.ndarray) -> Row:
        return curve(method, f"change, predicted {kind}", "nats", over_seeds(values), group=kind)

    names = [*points.change, "random", "random, predicted label"]
    rows = [row(name, points.changes(kind, name)) for name in names]
    for name in (f"{one}, {end}" for one in ("FastIF", *CONTROLS)):
        share = over_seeds(points.labelled.loc[points.predicted(kind), name])
        rows.append(curve(name, f"predicted label, {kind}", "share", share, group=f"{kind} label"))
    ours = points.changes(kind, f"FastIF, {end}")
    for other in (*(f"{one}, {end}" for one in CONTROLS), "random, predicted label"):
        rows.append(row(f"FastIF, {end} − {other}", ours - points.changes(kind, other)))
    return rows


def _claims(points: Points) -> list[Row]:
    rows: list[Row] = []
    further: list[bool] = []
    for kind, end in ENDS.items():
        ours, name = points.changes(kind, f"FastIF, {end}"), f"FastIF, {end}"
        above, quantity = ours - points.changes(kind, "random"), f"change, predicted {kind}"
        lower, label = share(int((ours < 0).sum()), len(ours)), f"points that improve, {kind}"
        rows.append(claim(name, label, "share", lower, of=CLAIMS[kind], at_least=0.5))
        for method, values in {name: ours, f"{name} − random": above}.items():
            rows.append(claim(method, quantity, "nats", over_seeds(values), of=SIZE, at_most=0.0))
        further += list(above < 0)
    beyond, label = share(sum(further), len(further)), "points that improve further"
    about: dict[str, Any] = {"of": BEYOND_RANDOM, "at_least": 0.5}
    return [*rows, claim("FastIF − random", label, "share", beyond, **about)]


def _lines(run: Run, shown: int | None) -> list[Row]:
    """A row a point and type: mean, least and most over its pairs, at each learning rate."""
    loss, before = (np.asarray(run.array(name), float) for name in ("loss", "before"))
    right, classes = np.asarray(run.array("right")), run.array("classes")
    rows = []
    for kind in ENDS:
        places = np.flatnonzero(right == (kind == "right"))[:shown]
        for number, place in enumerate(places, start=1):
            guess, truth = (str(classes[run.array(n)[place]]) for n in ("predicted", "label"))
            about = {"kind": "line", "group": kind, "point": number, "guess": guess}
            about |= {"before": before[place], "truth": truth}
            for name, lines in zip(run.array("types"), loss[place], strict=True):
                ends = {"mean": lines.mean(0), "least": lines.min(0), "most": lines.max(0)}
                cells = {key: listed(values) for key, values in ends.items()}
                change, quantity = single(lines.mean() - before[place]), f"change, {kind} {number}"
                rows.append(curve(str(name), quantity, "nats", change, **about, **cells))
    return rows


def findings(table: pd.DataFrame) -> list[str]:
    """Whether the Hessian, the gradients, or anything beside the label was needed: in sentences."""
    rows = {(r["method"], r["group"]): r for r in records(table[table["kind"] == "curve"])}
    sentences = []
    for kind, end in ENDS.items():
        ours = rows.get((f"FastIF, {end}", kind))
        if ours is None or not ours["n"]:
            continue
        truth = "the true label" if end == "helpful" else "another label than the true one"
        beside = "; ".join(
            f"{how} {written(rows[name, kind], '.3g')}, FastIF minus that"
            f" {written(rows[f'FastIF, {end} − {name}', kind], '.2g')}"
            for name, how in (
                (f"H = I, {end}", "by gradients alone (H = I)"),
                (f"features, {end}", f"nearest by features, with {truth}"),
                ("random, predicted label", "at random with the predicted label"),
            )
        )
        shares = "; ".join(
            f"{one} {written(rows[f'{one}, {end}', f'{kind} label'], '.2f')}"
            for one in ("FastIF", *CONTROLS)
        )
        sentences.append(
            f"Where the prediction is {kind}, {end} pairs by FastIF change the loss by"
            f" {written(ours, '.3g')} nats [95% interval over points]. Pairs found otherwise:"
            f" {beside}. The share of these pairs that have the predicted label: {shares}."
        )
    return sentences
