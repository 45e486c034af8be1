"""TracIn, Sec. D: mislabelled digits found by TracIn on different checkpoints of one training."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink import style
from analysis.numbers.claims import Claim, Ours, Paper
from analysis.numbers.frame import Method, Observation, numbers, read_name, tidy
from analysis.numbers.statistics import difference, geometric, over_seeds, ratio, single
from analysis.numbers.table import Row, claim, curve, records, tabulated, written
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

CHOICES = {  # by their config's type, in the order of the figure
    "All": "all",
    "Unconverged": "all before convergence",
    "Early": "early, loss fluctuates",
    "Steady": "steady decrease",
    "Converged": "after convergence",
    "Last": "last alone",
    "Proposed": "proposed",
    "Even": "evenly spaced",
    "Random": "random",
}
PHASES: dict[str, Callable[[Run], bool]] = {
    "early": lambda run: run.metrics["settled"] > 0,
    "steady decrease": lambda run: run.metrics["settled"] < run.metrics["converged"],
    "after convergence": lambda run: run.metrics["converged"] < len(run.array("steps")),
}
METRICS = {"AUC": "auc", "AP": "ap", "AP of the loss": "loss_ap"}
COUNT = "checkpoints"
PERCENT = {*METRICS.values(), "accuracy_true", "chance_ap"}
POINT = 1.0  # of AP x100: a smaller difference counts as none
TINY = 0.1

SECTION = "appendix, Sec. D"
STEADY = Claim(
    "the steady decrease is better than the beginning",
    Paper(
        "It is worth avoiding checkpoints at the beginning of training when loss fluctuates.",
        SECTION,
    ),
    "AP of the checkpoints of the steady decrease minus that of the early ones.",
    null=0.0,
)
LITTLE = Claim(
    "checkpoints after convergence add little",
    Paper(
        "checkpoints that are selected after training has converged add little to the result,"
        " because the loss gradients here are tiny.",
        SECTION,
    ),
    f"Leaving them out changes the AP of all by less than {POINT:g}, on the seeds that have any;"
    f" their self-influence is below {TINY:g} of that in the steady decrease, per checkpoint.",
    null=1.0,
)
NOISY = Claim(
    "the last alone is noisy",
    Paper("computing TracInCP with just the final model could result in noisy results.", SECTION),
    "AP of the checkpoints of the steady decrease minus that of the last alone.",
    null=0.0,
)
SAME = Claim(
    "the steady decrease, and the proposed ones, do as well as all",
    Ours("What one would save by choosing."),
    f"Their AP minus that of all, above -{POINT:g}. A ranking by chance is 50 or more below.",
    null=-50.0,
)
PROPOSED = Claim(
    "the proposed ones are better than as many others",
    Ours("Checkpoints are proposed from the loss alone, as Sec. D advises."),
    "Their AP minus that of as many drawn at random, and of as many evenly spaced in steps.",
    null=0.0,
)
NOTES = "AP is of mislabelled digits, x100, paired over seeds."


def tabulate(runs: list[Run]) -> pd.DataFrame:
    groups: dict[str, list[Observation]] = {name: [] for name in CHOICES}
    for run in runs:
        groups[run.config["choice"]["type"]].append(_observation(run))
    rows = []
    for group in filter(None, groups.values()):
        name, frame = _title(group[0]), tidy(group)
        for quantity, metric in METRICS.items():
            rows.append(curve(name, quantity, "x100", frame.estimate(metric)))
        rows.append(curve(name, COUNT, "", frame.estimate("n_checkpoints")))
    rows += _training(groups["All"]) + _proposals(groups["Proposed"])
    return tabulated(rows + _claims(groups))


def _observation(run: Run) -> Observation:
    choice, seed = run.config["choice"], int(run.config["dense"]["model"]["seed"])
    method = Method(choice["type"], int(choice.get("count", 0)))
    return Observation(seed, method, run, numbers(run.metrics, PERCENT), int(choice.get("draw", 0)))


def _title(one: Observation) -> str:
    """The name of a choice in tables and the figure."""
    return str(Method(CHOICES[one.method.family], one.method.dim))


def _training(whole: list[Observation]) -> list[Row]:
    """Rows on the training, over seeds: each moment, and where its phases meet."""
    if not whole:
        return []
    runs, frame = [one.run for one in whole], tidy(whole)
    epoch, rows = _epoch(runs[0]), []
    moments = (("loss", "train_loss", "nats", 1), ("AP alone", "ap_each", "x100", 100))
    for quantity, array, unit, scale in moments:
        by_step = np.stack([run.array(array).astype(float) for run in runs], axis=1)
        for step, values in zip(runs[0].array("steps"), by_step, strict=True):
            ours = over_seeds(values * scale)
            about = {"kind": "moment", "epoch": float(step / epoch)}
            rows.append(curve("one checkpoint", quantity, unit, ours, **about))
    for boundary in ("settled", "converged"):
        at = [_moment(run, int(run.metrics[boundary])) / epoch for run in runs]
        rows.append(curve("training", boundary, "epochs", over_seeds(at)))
    saved = over_seeds([(run.array("steps") <= epoch).sum() for run in runs])
    rows.append(curve("training", "saved in the first epoch", "", saved))
    for phase, has in PHASES.items():
        count = replace(single(sum(map(has, runs))), n=len(runs))
        rows.append(curve("training", f"seeds with a phase: {phase}", "seeds", count))
    accuracy, chance = frame.estimate("accuracy_true"), frame.estimate("chance_ap")
    rows.append(curve("training", "accuracy, true labels", "%", accuracy))
    return [*rows, curve("chance", "AP", "x100", chance)]


def _epoch(run: Run) -> float:
    """Steps in an epoch."""
    model = run.config["dense"]["model"]
    return float(np.ceil(model["data"]["n_train"] / model["fit"]["batch_size"]))


def _moment(run: Run, position: int) -> float:
    """The step of a checkpoint; the last one's where the position is beyond it."""
    steps = run.array("steps")
    return float(steps[min(position, len(steps) - 1)])


def _proposals(group: list[Observation]) -> list[Row]:
    """Which checkpoints were proposed on each seed."""
    rows = []
    for one in group:
        for position in one.run.array("positions"):
            at = single(_moment(one.run, position) / _epoch(one.run))
            about = {"kind": "proposal", "seed": one.seed}
            rows.append(curve(_title(one), "chosen", "epoch", at, **about))
    return rows


def _claims(groups: dict[str, list[Observation]]) -> list[Row]:
    ap = {name: tidy(group).by_seed("ap") for name, group in groups.items()}
    has_end = PHASES["after convergence"]
    ap["Unconverged"] = tidy(o for o in groups["Unconverged"] if has_end(o.run)).by_seed("ap")

    def gap(of: Claim, one: str, other: str, **bounds: float) -> Row:
        label = f"{CHOICES[one]} − {CHOICES[other]}"
        ours = over_seeds(difference(ap[one], ap[other]))
        return claim(label, "AP", "points", ours, of=of, **bounds)

    share = geometric(ratio(_strength(groups["Converged"]), _strength(groups["Steady"])))
    label = "after convergence ÷ steady decrease"
    return [
        gap(STEADY, "Steady", "Early", at_least=0.0),
        gap(LITTLE, "Unconverged", "All", at_least=-POINT, at_most=POINT),
        claim(label, "self-influence per checkpoint", "", share, of=LITTLE, at_most=TINY),
        gap(NOISY, "Steady", "Last", at_least=0.0),
        gap(SAME, "Steady", "All", at_least=-POINT),
        gap(SAME, "Proposed", "All", at_least=-POINT),
        gap(PROPOSED, "Proposed", "Random", at_least=0.0),
        gap(PROPOSED, "Proposed", "Even", at_least=0.0),
    ]


def _strength(group: list[Observation]) -> pd.Series:
    """The mean self-influence of an example at a checkpoint of a choice, by seed."""
    strengths = {}
    for one in group:
        chosen = one.run.array("positions")
        if len(chosen):
            strengths[one.seed] = float(one.run.array("self_influence_mean")[chosen].mean())
    return pd.Series(strengths, dtype=float)


def draw(table: pd.DataFrame) -> Figure:
    figure = style.new_figure(style.PAGE, height=3.3)
    grid = figure.add_gridspec(2, 2, width_ratios=[1.15, 1])
    top = figure.add_subplot(grid[0, 0])
    bottom = figure.add_subplot(grid[1, 0], sharex=top)
    moments = table[table["kind"] == "moment"]
    for axes, look in (
        (top, style.Look(style.BLUE, ".", "loss")),
        (bottom, style.Look(style.VERMILLION, ".", "AP alone")),
    ):
        rows = moments[moments["quantity"] == look.name]
        style.draw_curve(axes, rows, "epoch", look)
        style.fit_values(axes, rows["ours"])
        _draw_phases(axes, table)
    if len(moments):
        top.set_xscale("log")
    top.set_ylabel("Training loss (nats)")
    top.tick_params(labelbottom=False)
    bottom.set_ylabel("AP of one\ncheckpoint (×100)")
    bottom.set_xlabel("Epochs of training")
    _name_phases(top, table)
    top.plot([], [], "|", color=style.GREEN, markeredgewidth=1.8, label="proposed, on one seed")
    top.legend(loc="lower left", bbox_to_anchor=(0, 0.08), handletextpad=0.1)
    _draw_choices(figure.add_subplot(grid[:, 1]), table)
    return figure


def _boundaries(table: pd.DataFrame) -> list[float]:
    """Where the loss has settled and converged, in epochs; nothing if no run says."""
    rows = table[table["method"] == "training"].set_index("quantity")["ours"]
    return [float(rows[name]) for name in ("settled", "converged") if name in rows]


def _draw_phases(axes: Axes, table: pd.DataFrame) -> None:
    for at in _boundaries(table):
        axes.axvline(at, color=style.GREY, linewidth=0.8, linestyle=":")
    proposed = table[table["kind"] == "proposal"]
    if len(proposed):
        for at in proposed.loc[proposed["seed"] == proposed["seed"].min(), "ours"]:
            axes.axvline(at, ymax=0.08, color=style.GREEN, linewidth=1.8)


def _name_phases(axes: Axes, table: pd.DataFrame) -> None:
    boundaries = _boundaries(table)
    if not boundaries:
        return
    epochs = table.loc[table["kind"] == "moment", "epoch"]
    edges, where = [epochs.min(), *boundaries, epochs.max()], axes.get_xaxis_transform()
    for name, low, high in zip(("early", "steady", "converged"), edges, edges[1:], strict=False):
        middle = float(np.sqrt(low * high))
        axes.text(middle, 1.02, name, transform=where, ha="center", fontsize=6.5)


def _draw_choices(axes: Axes, table: pd.DataFrame) -> None:
    curves = table[(table["kind"] == "curve") & (table["method"] != "chance")]
    shown = [row for row in records(curves[curves["quantity"] == "AP"]) if row["n"]]
    values = curves.set_index(["quantity", "method"])["ours"]
    at = np.arange(len(shown))[::-1]
    low, ours, high = ([row[name] for row in shown] for name in ("low", "ours", "high"))
    axes.hlines(at, low, high, colors=style.BLUE, lw=1.6)
    axes.plot(ours, at, "o", color=style.BLUE, label="TracIn's self-influence")
    if not shown:
        return
    names = [row["method"] for row in shown]
    control, counts = (list(values[name].loc[names]) for name in ("AP of the loss", COUNT))
    label = "training loss"
    axes.plot(control, at, "D", color=style.ORANGE, markersize=3.5, mfc="none", label=label)
    labels = zip(names, counts, strict=True)
    axes.set_yticks(at, [f"{read_name(name).family} ({count:.3g})" for name, count in labels])
    least = min(*ours, *control)
    axes.set(xlim=(least - 0.15 * (100 - least), 100), ylim=(-0.6, len(shown) - 0.4))
    axes.set_xlabel("AP (×100); in brackets: checkpoints used")
    axes.legend(loc="lower center", bbox_to_anchor=(0.35, 1.0), ncols=2, columnspacing=1)


def page(table: pd.DataFrame) -> pd.DataFrame:
    """The choices side by side."""
    wide: dict[str, dict[str, str]] = {}
    for row in records(table[table["kind"] == "curve"]):
        line = wide.setdefault(row["method"], {"method": row["method"]})
        name = f"{row['quantity']} ×100" if row["unit"] == "x100" else row["quantity"]
        line[name] = written(row, ".1f")
    names = ["method", *(f"{quantity} ×100" for quantity in METRICS), COUNT]
    choices = [line for line in wide.values() if COUNT in line]
    return pd.DataFrame(choices, columns=pd.Index(names)).fillna("")


ARTIFACT = Artifact(
    id="tracin_checkpoints",
    experiment="mnist_checkpoints",
    tabulate=tabulate,
    draw=draw,
    claims=(STEADY, LITTLE, NOISY, SAME, PROPOSED),
    notes=NOTES,
    title="Which checkpoints to trace: mislabelled digits found by parts of a training",
    claim=(
        "Checkpoints of the steady decrease of the loss do as well as all; those at the beginning"
        " do worse, those after convergence add little, and the last alone is noisy."
    ),
    headline=("proposed − random", "AP"),
    paper="TracIn (arXiv:2002.08484), appendix, Sec. D",
    deviations=(
        "Sec. D gives advice and no experiment. Network, data and corruption (20% of labels changed"
        " at random before training) are those of Arnoldi, Sec. 5.1. Training is plain gradient"
        " descent at a constant learning rate, at which the loss fluctuates at the beginning; it"
        " continues until the wrong labels are learned.",
        "Where the loss fluctuates, falls steadily and has converged is decided on the training"
        " loss alone, by the constants of methods/tracin.py.",
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
    raise SystemExit(ARTIFACT.main())
