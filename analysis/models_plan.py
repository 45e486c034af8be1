"""Resolution of a subset ensemble for a budget, and when to stop: plans against simulation."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.style import BLACK, PAGE, SHADES, UNNAMED, new_panels, tick_values
from analysis.numbers.claims import Claim, Ours
from analysis.numbers.statistics import Interval, exact, over_seeds
from analysis.numbers.table import Row, claim, curve, records, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

WITHIN_ERROR, WITHIN_RATE, WITHIN_FALSE = 0.05, 0.01, 0.1
ENOUGH = 50  # models from which on the arms' sizes hardly vary
KINDS = ("Budget", "Threshold", "Ensembles")
BUDGET, NEEDED, ERROR, IOU, STOP = "budget", "needed", "error", "iou", "stop"
BUDGET_LABELS = {  # by metric
    "standard_error": "standard error",
    "threshold": "threshold",
    "influence": "influence",
    "null_iou": "null iou",
}
NEEDED_LABELS = {
    "quiet_sustained": "models, few false pairs",
    "found_sustained": "models, true pairs found",
}

PLAN = Ours("The plan is ours and in no paper.")
PLANNED = Claim(
    "plans are as simulated",
    PLAN,
    "Over seeds of simulated ensembles: the relative difference of the standard error of estimates"
    f" whose true value is 0 from the plan's, from {ENOUGH} models on, within {WITHIN_ERROR:.0%};"
    f" the largest gap of the rates at which they pass a threshold, below {WITHIN_RATE:g}; that of"
    " the IOU of two ensembles by chance alone, on average, as much either way.",
    null=1.0,
)
CONSERVATIVE = Claim(
    "the stop rule is conservative",
    PLAN,
    f"The false share it expects minus the true one, at any threshold that 50 pairs pass, above"
    f" -{WITHIN_FALSE:g}. Of a rule that expects none where all are false it is -1.",
    null=-1.0,
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    budgets, thresholds, simulated = (
        [run for run in runs if run.config["type"] == kind] for kind in KINDS
    )
    rows = _claims(simulated) if simulated else []
    for run in budgets:
        rows += _calculated(run, BUDGET, "models", BUDGET_LABELS)
    for run in thresholds:
        rows += _calculated(run, NEEDED, "threshold", NEEDED_LABELS)
    return tabulated(rows + (_simulated(simulated) if simulated else []))


def _claims(runs: list[Run]) -> list[Row]:
    error, rate, overlap, false = [], [], [], []
    for run in runs:
        a = {name: np.asarray(value, dtype=float) for name, value in run.arrays().items()}
        some = a["models"] >= ENOUGH
        error.append(float((a["error"] / a["error_planned"] - 1)[some].mean()))
        rate.append(float(np.abs(a["rate"] - a["rate_planned"])[some].max()))
        overlap.append(float(np.nanmean((a["iou"] - a["iou_planned"])[some])))
        false.append(float(np.nanmin((a["false_planned"] - a["false"])[some])))
    name, bound = "simulated − planned", WITHIN_RATE
    within = {"at_least": -WITHIN_ERROR, "at_most": WITHIN_ERROR}
    lowest, near = over_seeds(false), {"at_least": -bound, "at_most": bound}
    largest = "rate of passing by chance, largest gap"
    conservative: dict[str, Any] = {"of": CONSERVATIVE, "at_least": -WITHIN_FALSE}
    return [
        claim(name, "standard error, relative", "", over_seeds(error), of=PLANNED, **within),
        claim(name, largest, "", over_seeds(rate), of=PLANNED, at_most=bound),
        claim(name, "IOU by chance", "", over_seeds(overlap), of=PLANNED, **near),
        claim("expected − true", "false share, lowest", "", lowest, **conservative),
    ]


def _calculated(run: Run, kind: str, column: str, labels: dict[str, str]) -> list[Row]:
    """Rows of the plan for one budget of models, or for one threshold."""
    config = run.config
    about = {"kind": kind, column: config[column], "p": config["p"]}
    return [
        curve(f"p = {config['p']:g}", label, "", exact(run.metrics[metric]), **about)
        for metric, label in labels.items()
        if metric in run.metrics
    ]


def _simulated(runs: list[Run]) -> list[Row]:
    """Means over seeds, beside the plan's numbers, which are the same for every seed."""
    first = runs[0]
    models, p, thresholds = (np.asarray(first.array(n)) for n in ("models", "p", "thresholds"))

    def row(kind: str, name: str, place: tuple[int, ...], planned: Any, **about: Any) -> Row:
        # A seed in which no pair passes has no number and is left out.
        values = [float(run.array(name)[place]) for run in runs]
        known = [value for value in values if math.isfinite(value)]
        ours = over_seeds(known) if known else Interval(math.nan, math.nan, math.nan, len(runs))
        about = {"planned": float(planned)} | about
        return curve("simulated", name, "", ours, kind=kind, **about)

    rows = []
    for i, n in enumerate(models):
        for j, right in enumerate(p):
            about = {"models": int(n), "p": float(right)}
            rows.append(row(ERROR, "error", (i, j), first.array("error_planned")[i, j], **about))
            for k, threshold in enumerate(thresholds):
                planned, at = first.array("iou_planned")[i, j, k], {"threshold": float(threshold)}
                rows.append(row(IOU, "iou", (i, j, k), planned, **about, **at))
        for k, threshold in enumerate(thresholds):
            planned = np.mean([run.array("false_planned")[i, k] for run in runs])
            about = {"models": int(n), "threshold": float(threshold)}
            rows.append(row(STOP, "false", (i, k), planned, **about))
    return rows


def draw(table: pd.DataFrame) -> Figure:
    labels = ["models", "threshold of influence", "threshold of influence"]
    figure, (left, middle, right) = new_panels(labels, width=PAGE, height=2.7)
    _draw_budget(left, table[table["kind"] == BUDGET])
    _draw_planned(middle, table[(table["kind"] == IOU) & (table["p"] == 0.5)])
    middle.set_ylim(0, 0.4)
    middle.set_title("IOU by chance alone, p = 0.5\n(line: planned, points: simulated)")
    middle.legend()
    _draw_planned(right, table[table["kind"] == STOP])
    right.set_ylim(-0.02, 1.02)
    right.set_title("false pairs among those found\n(line: expected, points: true)")
    return figure


def _draw_budget(axes: Axes, rows: pd.DataFrame) -> None:
    """Threshold and influence that a budget resolves, one colour per p."""
    for (p, of_p), (colour, _) in zip(rows.groupby("p"), UNNAMED, strict=False):
        for quantity, line in (("threshold", "-"), ("influence", "--")):
            part = of_p[of_p["quantity"] == quantity].sort_values("models")
            label = f"p = {p:g}" if line == "-" else None
            axes.plot(part["models"], part["ours"], line, color=colour, label=label)
    axes.set_xscale("log")
    tick_values(axes, [n for n in rows["models"] if n != 50], at_most=6)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("influence")
    axes.set_title("solid: passed by chance in 5%,\ndashed: then found in 95%")
    axes.legend()


def _draw_planned(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw plans (lines) and simulations (points) by threshold, for some numbers of models."""
    models = sorted({int(n) for n in rows["models"]})
    models = [n for n in models if n in (50, 100, 400, 1000)] or models
    for n, colour in zip(models, (*SHADES, BLACK), strict=False):
        part = rows[rows["models"] == n].sort_values("threshold")
        axes.plot(part["threshold"], part["planned"], color=colour, label=f"{n} models")
        axes.plot(part["threshold"], part["ours"], "o", color=colour, markersize=2.5)


def page(table: pd.DataFrame) -> pd.DataFrame:
    """The claims, then a line for each budget and each threshold."""
    lines = []
    for row in records(table[table["kind"].isin(["claim", BUDGET, NEEDED])]):
        question, answer = f"{row['models']:g} models, {row['method']}", row["quantity"]
        form = ".0f" if row["kind"] == NEEDED else ".3g"
        if row["kind"] == "claim":
            question, answer = "claim", f"{row['method']}: {row['quantity']}"
        elif row["kind"] == NEEDED:
            question = f"threshold {row['threshold']:g}, {row['method']}"
        lines.append((question, answer, format(row["ours"], form)))
    columns = ["question", "answer", "value"]
    return pd.DataFrame(lines, columns=pd.Index(columns)).fillna("")


ARTIFACT = Artifact(
    id="models_plan",
    experiment="model_count",
    tabulate=tabulate,
    draw=draw,
    claims=(PLANNED, CONSERVATIVE),
    title="What a subset ensemble resolves for a budget of models, and when to stop",
    claim=(
        "Standard errors, agreement by chance and the share of false pairs of a subset ensemble"
        " can be predicted before it is trained and updated while it is trained."
    ),
    paper="no paper: planning, which Subsets (Doubov et al., 2022) leaves open",
    deviations=(
        "Part of the numbers is calculated, for a share of 0.7 of the models trained with each"
        " example. In an ensemble that share varies from example to example: rates and IOU by"
        " chance take this into account; the standard error and the resolved threshold do not.",
        "Ensembles are simulated: models are right at random, with a probability that depends on"
        " their masks. The code that estimates from trained ensembles estimates from these.",
    ),
    tier_notes={"smoke": "Smoke tier: 25 and 100 models, 60 examples and 100 queries."},
    remarks=(
        "The paper finds that 200 to 400 models agree on what is above a threshold. At 0.15 and p"
        " = 0.5, pairs without any influence pass with probability 0.17 at 50 models, 0.03 at 200"
        " and 0.003 at 400: among hundreds of millions of pairs, chance alone fills the sets"
        " below that.",
        "Few false pairs do not mean that true pairs are found. To distinguish an influence of"
        " 0.15 from none, with misses as rare as false pairs, takes four times the models that"
        " keep false pairs from passing.",
    ),
    needs=lambda config: config["type"] in KINDS,
    page=page,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
