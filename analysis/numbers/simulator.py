"""The numbers of FastIF's Figures 5 and 9: a simulator's loss after a step, by type of pair."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.numbers.cells import listed
from analysis.numbers.statistics import Interval, over_seeds
from analysis.numbers.table import Row, claim, curve, records, tabulated, written
from experiments.laboratory.runs import Run

ENDS = {"right": "helpful", "wrong": "harmful"}  # what should lower the loss, by prediction
CONTROLS = ("H = I", "features")

RULE = (
    "A point's change is the simulator's loss on the task model's prediction after the step less"
    " that before it, averaged over all pairs of a type and over the whole grid of learning rates:"
    " none is chosen. Claims, over points (in place of seeds): helpful pairs lower the loss where"
    " the prediction is right, harmful pairs where it is wrong; and both lower it by more than"
    " random pairs do, the mean over their labels."
)

CLAIM = (
    "Fine-tuning on helpful pairs improves the simulator where the prediction is right, on harmful"
    " ones where it is wrong, and both have a greater effect than random ones."
)
DEVIATIONS = (
    "A step is p − lr g with the gradient of the loss alone, without dropout or weight decay, as"
    " the released code has it.",
    "Candidates are the k nearest of the point, k = 1,000, for FastIF and for H = I; the paper does"
    " not say its k here. Damping, scale and depth are found from the training loss by the rule of"
    " the experiment's plan, except at the paper tier, which has the released ones.",
    "Pairs by gradients alone, nearest pairs by features with the true label (as helpful) or"
    " another (as harmful), and the comparison with random pairs of the predicted label are ours,"
    " as controls.",
    "The paper shows lines and no numbers: the claims are ours, and were written down before the"
    " runs. Largest learning rates weigh most in the mean over the grid.",
)
TIER_NOTES = {
    "smoke": (
        "Smoke tier: a random three-layer network on 300 generated pairs, 8 points, 4 pairs of a"
        " type, 12 learning rates, 100 candidates; numbers are not comparable."
    ),
    "small": (
        "Small tier: a 6-layer encoder of width 384, whose embedding training included NLI pairs,"
        " in place of BERT-base; its upper half was fine-tuned on 12,808 of the 392,702 training"
        " pairs, and its last layer trained again on them. The simulator shares the trunk below,"
        " which has seen the true labels. Points, pairs, types and learning rates are the paper's."
        " s_test is the mean of 2 repeats."
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

    def of(self, kind: str, name: str) -> np.ndarray:
        """Changes of the points predicted `right` or `wrong` under one type of pair."""
        chosen = self.right == (kind == "right")
        if name == "random":
            names = [one for one in self.change if one.startswith("random, ")]
            return self.change.loc[chosen, names].mean(axis=1).to_numpy()
        if name == "random, predicted label":
            rows = self.change[chosen]
            guess = self.guess[chosen]
            return np.array([rows[f"random, {g}"].iat[i] for i, g in enumerate(guess)])
        return self.change.loc[chosen, name].to_numpy()


def tabulate(found: list[Run], shown: int | None) -> pd.DataFrame:
    """Claims and changes over the points of all runs; lines of the first run's points.

    `shown` is how many of either kind have lines, from the first on; None is all.
    """
    points = _points(found)
    rows: list[Row] = []
    for name, metric in (
        ("accuracy of the task model", "accuracy"),
        ("predictions of the task model that the simulator shares", "agreement"),
    ):
        rows.append(curve("models", name, "", over_seeds([r.metrics[metric] for r in found])))
    for kind, end in ENDS.items():
        rows += _changes(points, kind, end)
    rows += [_grid(found[0]), *_lines(found[0], shown)]
    return tabulated([*rows, *_claims(points)])


def _points(found: Sequence[Run]) -> Points:
    changes, shares, right, guess = [], [], [], []
    for run in found:
        before, predicted = (
            np.asarray(run.array("before"), float),
            np.asarray(run.array("predicted")),
        )
        mean = np.asarray(run.array("loss"), float).mean((2, 3)) - before[:, None]
        names = [str(one) for one in run.array("types")]
        changes.append(pd.DataFrame(mean, columns=names))
        same = np.asarray(run.array("example_label")) == predicted[:, None, None]
        shares.append(pd.DataFrame(same.mean(2), columns=names))
        right.append(np.asarray(run.array("right")))
        guess.append(np.asarray(run.array("classes"))[predicted])
    change, labelled = (pd.concat(of, ignore_index=True) for of in (changes, shares))
    return Points(change, labelled, np.concatenate(right), np.concatenate(guess))


def _changes(points: Points, kind: str, end: str) -> list[Row]:
    def row(method: str, values: np.ndarray) -> Row:
        return curve(method, f"change, predicted {kind}", "nats", over_seeds(values), group=kind)

    names = [*points.change, "random", "random, predicted label"]
    rows = [row(name, points.of(kind, name)) for name in names]
    ours = points.of(kind, f"FastIF, {end}")
    others = [*(f"{one}, {end}" for one in CONTROLS), "random, predicted label"]
    chosen = points.right == (kind == "right")
    for name in (f"{one}, {end}" for one in ("FastIF", *CONTROLS)):
        share = over_seeds(points.labelled.loc[chosen, name])
        rows.append(curve(name, f"predicted label, {kind}", "share", share, group=f"{kind} label"))
    return rows + [row(f"FastIF, {end} − {one}", ours - points.of(kind, one)) for one in others]


def _claims(points: Points) -> list[Row]:
    rows = []
    for kind, end in ENDS.items():
        ours, what = points.of(kind, f"FastIF, {end}"), f"change, predicted {kind}"
        above = over_seeds(ours - points.of(kind, "random"))
        rows.append(claim(f"FastIF, {end}", what, "nats", over_seeds(ours), at_most=0.0))
        rows.append(claim(f"FastIF, {end} − random", what, "nats", above, at_most=0.0))
    return rows


def _grid(run: Run) -> Row:
    lrs = np.asarray(run.array("lrs"))
    row = curve("learning rates", "", "", Interval(math.nan, math.nan, math.nan, len(lrs)))
    return row | {"kind": "grid", "verdict": "", "n": 1, "mean": listed(lrs)}


def _lines(run: Run, shown: int | None) -> list[Row]:
    """A row a point and type: mean, least and most over its pairs, at each learning rate."""
    loss, before = np.asarray(run.array("loss"), float), np.asarray(run.array("before"), float)
    right, classes = np.asarray(run.array("right")), run.array("classes")
    rows = []
    for kind in ENDS:
        places = np.flatnonzero(right == (kind == "right"))[:shown]
        for number, place in enumerate(places, start=1):
            guess = str(classes[run.array("predicted")[place]])
            about = {"group": kind, "point": number, "guess": guess, "before": before[place]}
            about["truth"] = str(classes[run.array("label")[place]])
            for column, name in enumerate(run.array("types")):
                of = loss[place, column]
                start = Interval(float(of.mean() - before[place]), math.nan, math.nan, 1)
                line = {"mean": of.mean(0), "least": of.min(0), "most": of.max(0)}
                row = curve(str(name), f"change, {kind} {number}", "nats", start, **about)
                packed = {key: listed(values) for key, values in line.items()}
                rows.append(row | packed | {"kind": "line"})
    return rows


def findings(table: pd.DataFrame) -> list[str]:
    """Whether the Hessian, the gradients, or anything beside the label was needed: in sentences."""
    rows = {(r["method"], r["group"]): r for r in records(table[table["kind"] == "curve"])}
    said = []
    for kind, end in ENDS.items():
        ours = rows.get((f"FastIF, {end}", kind))
        if ours is None or not ours["n"]:
            continue
        beside = "; ".join(
            f"{told} {written(rows[name, kind], '.3g')}, FastIF less that"
            f" {written(rows[f'FastIF, {end} − {name}', kind], '.2g')}"
            for name, told in (
                (f"H = I, {end}", "by gradients alone (H = I)"),
                (f"features, {end}", f"nearest by features, {_labelled(end)}"),
                ("random, predicted label", "at random with the predicted label"),
            )
        )
        said.append(
            f"Where the prediction is {kind}, {end} pairs by FastIF change the loss by"
            f" {written(ours, '.3g')} nats [95% interval over points]. Pairs found otherwise:"
            f" {beside}. {_labels(rows, kind, end)}"
        )
    return said


def _labels(rows: dict[tuple[str, str], Row], kind: str, end: str) -> str:
    """How many of the pairs that should lower the loss have the label that is predicted."""
    shares = "; ".join(
        f"{one} {written(rows[f'{one}, {end}', f'{kind} label'], '.2f')}"
        for one in ("FastIF", *CONTROLS)
    )
    return f"The share of these pairs that have the predicted label: {shares}."


def _labelled(end: str) -> str:
    return "with the true label" if end == "helpful" else "with another label than the true one"
