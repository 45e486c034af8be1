"""Sec. D of 001: mislabelled digits found by TracIn on different checkpoints of one training."""

import math
import re
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.style import (
    BLUE,
    FOOT,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    VERMILLION,
    Look,
    draw_curve,
    fit_values,
)
from analysis.numbers.statistics import Interval, difference, geometric, over_seeds, per_seed, ratio
from analysis.numbers.table import Row, claim, curve, records, tabulated, written
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

# The panels of tracin_checkpoints: the training with its phases, and what each choice finds.


def draw(table: pd.DataFrame) -> Figure:
    height = 3.3
    figure = Figure(figsize=(PAGE, height), layout="constrained")
    figure.set_layout_engine("constrained", rect=(0, FOOT / height, 1, 1 - FOOT / height))
    grid = figure.add_gridspec(2, 2, width_ratios=[1.15, 1])
    top = figure.add_subplot(grid[0, 0])
    bottom = figure.add_subplot(grid[1, 0], sharex=top)
    moments = table[table["kind"] == "moment"]
    for axes, quantity, colour in ((top, "loss", BLUE), (bottom, "AP alone", VERMILLION)):
        rows = moments[moments["quantity"] == quantity]
        draw_curve(axes, rows, "epoch", Look(colour, ".", quantity))
        fit_values(axes, rows["ours"])
        _draw_phases(axes, table)
    if len(moments):
        top.set_xscale("log")
    top.set_ylabel("Training loss (nats)")
    top.tick_params(labelbottom=False)
    bottom.set_ylabel("AP of one\ncheckpoint (×100)")
    bottom.set_xlabel("Epochs of training")
    _name_phases(top, table)
    top.plot([], [], "|", color=GREEN, markeredgewidth=1.8, label="proposed, on one seed")
    top.legend(loc="lower left", bbox_to_anchor=(0, 0.08), handletextpad=0.1)
    _draw_choices(figure.add_subplot(grid[:, 1]), table)
    return figure


def _boundaries(table: pd.DataFrame) -> list[float]:
    """Where the loss has settled and converged, in epochs; nothing if no run says."""
    rows = table[table["method"] == "training"].set_index("quantity")["ours"]
    return [float(rows[name]) for name in ("settled", "converged") if name in rows]


def _draw_phases(axes: Axes, table: pd.DataFrame) -> None:
    for at in _boundaries(table):
        axes.axvline(at, color=GREY, linewidth=0.8, linestyle=":")
    proposed = table[table["kind"] == "proposal"]
    if proposed.empty:
        return
    for row in records(proposed[proposed["seed"] == proposed["seed"].min()]):
        axes.axvline(row["ours"], ymax=0.08, color=GREEN, linewidth=1.8)


def _name_phases(axes: Axes, table: pd.DataFrame) -> None:
    boundaries = _boundaries(table)
    if not boundaries:
        return
    epochs = table.loc[table["kind"] == "moment", "epoch"]
    edges = [epochs.min(), *boundaries, epochs.max()]
    for name, low, high in zip(("early", "steady", "converged"), edges, edges[1:], strict=False):
        middle = float(np.sqrt(low * high))
        axes.annotate(
            name, (middle, 1.02), xycoords=("data", "axes fraction"), ha="center", fontsize=6.5
        )


def _draw_choices(axes: Axes, table: pd.DataFrame) -> None:
    wide = {
        quantity: table[(table["quantity"] == quantity) & (table["kind"] == "curve")]
        for quantity in ("AP", "AP of the loss", "checkpoints")
    }
    shown = [row for row in records(wide["AP"]) if row["n"] and row["method"] != "chance"]
    counts = wide["checkpoints"].set_index("method")["ours"]
    losses = wide["AP of the loss"].set_index("method")["ours"]
    at = np.arange(len(shown))[::-1]
    axes.hlines(at, [r["low"] for r in shown], [r["high"] for r in shown], colors=BLUE, lw=1.6)
    axes.plot([row["ours"] for row in shown], at, "o", color=BLUE, label="TracIn's self-influence")
    if not shown:
        return
    control = [losses[row["method"]] for row in shown]
    label = "training loss"
    axes.plot(control, at, "D", color=ORANGE, markersize=3.5, mfc="none", label=label)
    names = [re.sub(r" \d+$", "", row["method"]) for row in shown]
    said = [f"{n} ({counts[r['method']]:.3g})" for n, r in zip(names, shown, strict=True)]
    axes.set_yticks(at, said)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    values = [*(row["ours"] for row in shown), *control]
    axes.set_xlim(min(values) - 0.15 * (100 - min(values)), 100)
    axes.set_xlabel("AP (×100); in brackets: checkpoints used")
    axes.legend(loc="lower center", bbox_to_anchor=(0.35, 1.0), ncols=2, columnspacing=1)


CHOICES = {  # as the runs name them, in the order of the figure
    "all": "all",
    "all before convergence": "all before convergence",
    "early": "early, loss fluctuates",
    "steady decrease": "steady decrease",
    "after convergence": "after convergence",
    "last": "last alone",
    "proposed": "proposed",
    "even": "evenly spaced",
    "random": "random",
}
PHASES: dict[str, Callable[[Run], bool]] = {
    "early": lambda run: run.metrics["settled"] > 0,
    "steady decrease": lambda run: run.metrics["settled"] < run.metrics["converged"],
    "after convergence": lambda run: run.metrics["converged"] < len(run.array("steps")),
}
METRICS = {"AUC": "auc", "AP": "ap", "AP of the loss": "loss_ap"}
POINT = 1.0  # of AP x100: what counts as little
TINY = 0.1

RULE = (
    "Claims, paired over seeds, in AP x100: the checkpoints of the steady decrease find more than"
    " the early ones and than the last alone; within"
    f" {POINT:g} of them, all do as well without those after convergence, on the seeds that have"
    " any; the steady decrease, and"
    f" the few proposed from the loss alone, do no more than {POINT:g} worse than all; the proposed"
    " find more than as many drawn at random, and than as many evenly spaced in steps."
    " Self-influence after convergence is below"
    f" {TINY:g} of that in the steady decrease, per checkpoint."
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    groups: dict[str, list[Run]] = {}
    for run in found:
        groups.setdefault(str(run.metrics["method"]), []).append(run)
    ordered = sorted(groups, key=lambda name: list(CHOICES).index(_kind(name)))
    rows = []
    for name in ordered:
        for quantity, metric in METRICS.items():
            ours = over_seeds(_by_seed(groups[name], metric))
            rows.append(curve(_title(name), quantity, "x100", ours))
        counts = over_seeds(_by_seed(groups[name], "n_checkpoints"))
        rows.append(curve(_title(name), "checkpoints", "", counts))
    whole = groups.get("all", [])
    return tabulated([*rows, *_training(whole), *_proposals(groups), *_claims(groups)])


def _kind(name: str) -> str:
    return re.sub(r" \d+$", "", name)


def _title(name: str) -> str:
    """How tables and the figure call a choice; the number of `proposed 5` stays."""
    return name.replace(_kind(name), CHOICES[_kind(name)])


def _seed(run: Run) -> int:
    return int(run.config["dense"]["model"]["seed"])


def _by_seed(members: list[Run], metric: str) -> pd.Series:
    """A metric of the runs that have it, draws of one seed averaged."""
    having = [run for run in members if metric in run.metrics]
    scale = 1.0 if metric == "n_checkpoints" else 100.0
    values = [scale * run.metrics[metric] for run in having]
    return per_seed(values, [_seed(run) for run in having])


def _training(whole: list[Run]) -> list[Row]:
    """What the training was like, over seeds: moments, and where its phases meet."""
    if not whole:
        return []
    epoch = _epoch(whole[0])
    steps = np.asarray(whole[0].array("steps"))
    rows = []
    for quantity, array, unit in (("loss", "train_loss", "nats"), ("AP alone", "ap_each", "x100")):
        values = np.stack([np.asarray(run.array(array), float) for run in whole])
        for place, step in enumerate(steps):
            ours = over_seeds(values[:, place] * (100 if unit == "x100" else 1))
            row = curve("one checkpoint", quantity, unit, ours, epoch=float(step / epoch))
            rows.append(row | {"kind": "moment"})
    for boundary in ("settled", "converged"):
        at = [_moment(run, int(run.metrics[boundary])) / epoch for run in whole]
        rows.append(curve("training", boundary, "epochs", over_seeds(at)))
    steps_per_epoch = [int((np.asarray(run.array("steps")) <= epoch).sum()) for run in whole]
    rows.append(curve("training", "saved in the first epoch", "", over_seeds(steps_per_epoch)))
    for phase, has in PHASES.items():
        number = float(sum(has(run) for run in whole))
        counted = Interval(number, math.nan, math.nan, len(whole))
        rows.append(curve("training", f"seeds with a phase: {phase}", "seeds", counted))
    accuracy = [100 * run.metrics["accuracy_true"] for run in whole]
    chance = [100 * run.metrics["chance_ap"] for run in whole]
    rows.append(curve("training", "accuracy, true labels", "%", over_seeds(accuracy)))
    rows.append(curve("chance", "AP", "x100", over_seeds(chance)))
    return rows


def _epoch(run: Run) -> float:
    """Steps in an epoch."""
    model = run.config["dense"]["model"]
    return float(np.ceil(model["data"]["n_train"] / model["fit"]["batch_size"]))


def _moment(run: Run, position: int) -> float:
    steps = np.asarray(run.array("steps"))
    return float(steps[min(position, len(steps) - 1)])


def _proposals(groups: dict[str, list[Run]]) -> list[Row]:
    """Which checkpoints were proposed on each seed."""
    rows = []
    for name, members in groups.items():
        for run in members if _kind(name) == "proposed" else []:
            for position in np.asarray(run.array("positions")):
                at = over_seeds([_moment(run, int(position)) / _epoch(run)])
                row = curve(_title(name), "chosen", "epoch", at, seed=_seed(run))
                rows.append(row | {"kind": "proposal"})
    return rows


def _claims(groups: dict[str, list[Run]]) -> list[Row]:
    ap = {_kind(name): _by_seed(members, "ap") for name, members in groups.items()}
    shorter = filter(PHASES["after convergence"], groups.get("all before convergence", []))
    ap["all before convergence"] = _by_seed(list(shorter), "ap")
    missing = pd.Series(dtype=float)

    def gap(one: str, other: str, **bounds: float) -> Row:
        gaps = difference(ap.get(one, missing), ap.get(other, missing))
        label = f"{CHOICES[one]} − {CHOICES[other]}"
        return claim(label, "AP", "points", over_seeds(gaps), **bounds)

    share = geometric(
        ratio(*(_strength(groups, n) for n in ("after convergence", "steady decrease")))
    )
    label = "after convergence ÷ steady decrease"
    return [
        gap("steady decrease", "early", at_least=0.0),
        gap("all before convergence", "all", at_least=-POINT, at_most=POINT),
        claim(label, "self-influence per checkpoint", "", share, at_most=TINY),
        gap("steady decrease", "last", at_least=0.0),
        gap("steady decrease", "all", at_least=-POINT),
        gap("proposed", "all", at_least=-POINT),
        gap("proposed", "random", at_least=0.0),
        gap("proposed", "even", at_least=0.0),
    ]


def _strength(groups: dict[str, list[Run]], name: str) -> pd.Series:
    """The mean self-influence of an example at a checkpoint of a choice, by seed."""
    found = {}
    for run in groups.get(name, []):
        chosen = np.asarray(run.array("positions"))
        if len(chosen):
            found[_seed(run)] = float(np.asarray(run.array("self_influence_mean"))[chosen].mean())
    return pd.Series(found, dtype=float)


def page(table: pd.DataFrame) -> pd.DataFrame:
    """The choices side by side."""
    wide: dict[str, dict[str, str]] = {}
    for row in records(table[table["kind"] == "curve"]):
        line = wide.setdefault(row["method"], {"method": row["method"]})
        name = f"{row['quantity']} ×100" if row["unit"] == "x100" else row["quantity"]
        line[name] = written(row, ".1f")
    names = [*(f"{quantity} ×100" for quantity in METRICS), "checkpoints"]
    kept = [line for line in wide.values() if "checkpoints" in line]
    return pd.DataFrame(kept, columns=pd.Index(["method", *names])).fillna("")


ARTIFACT = Artifact(
    id="tracin_checkpoints",
    experiment="mnist_checkpoints",
    tabulate=tabulate,
    draw=draw,
    rule=RULE,
    title="Which checkpoints to trace: mislabelled digits found by parts of a training",
    claim=(
        "Checkpoints of the steady decrease of the loss do as well as all; those at the beginning"
        " do worse, those after convergence add little, and the last alone is noisy."
    ),
    headline=("proposed − random", "AP"),
    paper="TracIn (arXiv:2002.08484), appendix, Sec. D",
    deviations=(
        "Sec. D gives advice and no experiment. Network, data and corruption (20% of labels changed"
        " at random before training) are those of 003, Sec. 5.1; training is plain gradient descent"
        " at a constant learning rate, at which the loss fluctuates at the beginning, and goes on"
        " until the wrong labels are learned.",
        "Where the loss fluctuates, falls steadily and has converged is decided on the training"
        " loss alone, by the constants of methods/checkpoints.py.",
        "During the first epoch checkpoints lie a few steps apart, so that there are some while the"
        " loss fluctuates: 18 of the 38 saved at tier paper, 16 of 36 at small. Random sets are"
        " drawn from all of these, so that nearly half of such a set lies in the first epoch. All"
        " have the same weight, as with equal learning rates.",
        '"Noisy" is read as worse than the steady decrease; the spread over seeds is the width of'
        " the interval.",
    ),
    tier_notes={
        "smoke": (
            "Smoke tier: 500 of the 8 x 8 digits that scikit-learn ships, a network of 1,448"
            " parameters."
        ),
        "small": "Small tier: 6,000 of the 60,000 training images, three seeds.",
    },
    page=page,
)


if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
