"""What a subset ensemble can resolve for a budget, and when to stop: plans against simulation."""

import math
import sys

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.style import BLACK, PAGE, SHADES, UNNAMED, new_panels, tick_values
from analysis.numbers.statistics import Interval, exact, over_seeds
from analysis.numbers.table import Row, claim, curve, records, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

WITHIN_ERROR, WITHIN_RATE, WITHIN_FALSE = 0.05, 0.01, 0.1
ENOUGH = 50  # models from which on the arms' sizes hardly vary
BUDGET, NEEDED, ERROR, IOU, STOP = "budget", "needed", "error", "iou", "stop"

RULE = (
    "Claims, over seeds of simulated ensembles, each from one: (1) the standard error of estimates"
    f" that should be 0 is within {WITHIN_ERROR:.0%} of the plan's, from {ENOUGH} models on; (2) so"
    f" is the rate at which they pass a threshold, to {WITHIN_RATE:g} at the worst threshold; (3)"
    f" and the IOU of two ensembles by chance alone, to {WITHIN_RATE:g} on average; (4) the stop"
    " rule is on the safe side: the false share it expects is not below the true one by more than"
    f" {WITHIN_FALSE:g} at any threshold that 50 pairs pass. The plan is no paper's:"
    " its numbers decide nothing."
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    of = {kind: [r for r in found if r.config["type"] == kind] for kind in KINDS}
    rows = _claims(of["Ensembles"]) if of["Ensembles"] else []
    rows += [row for run in of["Budget"] for row in _budget(run)]
    rows += [row for run in of["Threshold"] for row in _needed(run)]
    return tabulated(rows + (_simulated(of["Ensembles"]) if of["Ensembles"] else []))


def _claims(simulated: list[Run]) -> list[Row]:
    error, rate, overlap, false = [], [], [], []
    for run in simulated:
        a = {name: np.asarray(value, dtype=float) for name, value in run.arrays().items()}
        some = a["models"] >= ENOUGH
        error.append(float((a["error"] / a["error_planned"] - 1)[some].mean()))
        rate.append(float(np.abs(a["rate"] - a["rate_planned"])[some].max()))
        overlap.append(float(np.nanmean((a["iou"] - a["iou_planned"])[some])))
        false.append(float(np.nanmin((a["false_planned"] - a["false"])[some])))
    name = "simulated − planned"
    bound = WITHIN_RATE
    return [
        claim(
            name, "standard error, relative", "", over_seeds(error),
            at_least=-WITHIN_ERROR, at_most=WITHIN_ERROR,
        ),
        claim(name, "rate of passing by chance, largest gap", "", over_seeds(rate), at_most=bound),
        claim(name, "IOU by chance", "", over_seeds(overlap), at_least=-bound, at_most=bound),
        claim(
            "expected − true", "false share, lowest", "", over_seeds(false),
            at_least=-WITHIN_FALSE,
        ),
    ]  # fmt: skip


def _budget(run: Run) -> list[Row]:
    one, m = run.config, run.metrics
    about = {"models": one["models"], "p": one["p"]}
    names = ("standard_error", "threshold", "influence", "null_iou")
    return [
        curve(f"p = {one['p']:g}", name.replace("_", " "), "", exact(m[name]), **about)
        | {"kind": BUDGET}
        for name in names
        if name in m
    ]


def _needed(run: Run) -> list[Row]:
    one, m = run.config, run.metrics
    about = {"threshold": one["threshold"], "p": one["p"]}
    what = {"quiet_sustained": "models, quiet", "found_sustained": "models, found"}
    return [
        curve(f"p = {one['p']:g}", label, "", exact(m[name]), **about) | {"kind": NEEDED}
        for name, label in what.items()
        if name in m
    ]


def _simulated(found: list[Run]) -> list[Row]:
    """Means over seeds, beside the plan's numbers, which are the same for every seed."""
    one = found[0]
    models, p, thresholds = (np.asarray(one.array(n)) for n in ("models", "p", "thresholds"))
    rows = []
    for i, n in enumerate(models):
        for j, right in enumerate(p):
            where = {"models": int(n), "p": float(right)}
            row = _over(found, "error", (i, j), where, float(one.array("error_planned")[i, j]))
            rows.append(row | {"kind": ERROR})
            for k, t in enumerate(thresholds):
                at = where | {"threshold": float(t)}
                planned = float(one.array("iou_planned")[i, j, k])
                rows.append(_over(found, "iou", (i, j, k), at, planned) | {"kind": IOU})
        for k, t in enumerate(thresholds):
            at = {"models": int(n), "threshold": float(t)}
            planned = float(np.mean([r.array("false_planned")[i, k] for r in found]))
            rows.append(_over(found, "false", (i, k), at, planned) | {"kind": STOP})
    return rows


def _over(
    found: list[Run], name: str, at: tuple[int, ...], where: dict[str, float], planned: float
) -> Row:
    """The interval over the seeds that have a number there: without any pair there is none."""
    values = [float(run.array(name)[at]) for run in found]
    known = [value for value in values if math.isfinite(value)]
    ours = over_seeds(known) if known else Interval(math.nan, math.nan, math.nan, len(found))
    return curve("simulated", name, "", ours, planned=planned, **where)


def _resolves(axes: Axes, table: pd.DataFrame) -> None:
    """Threshold and influence that a budget resolves, a colour a p."""
    rows = table[table["kind"] == BUDGET]
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


def _overlap(axes: Axes, table: pd.DataFrame) -> None:
    """IOU by chance against the threshold, planned and simulated, for some numbers of models."""
    rows = table[(table["kind"] == IOU) & (table["p"] == 0.5)]
    for n, colour in zip(_few(rows), (*SHADES, BLACK), strict=False):
        part = rows[rows["models"] == n].sort_values("threshold")
        axes.plot(part["threshold"], part["planned"], color=colour, label=f"{n} models")
        axes.plot(part["threshold"], part["ours"], "o", color=colour, markersize=2.5)
    axes.set_ylim(0, 0.4)
    axes.set_title("IOU by chance alone, p = 0.5\n(line: planned, points: simulated)")
    axes.legend()


def _stop(axes: Axes, table: pd.DataFrame) -> None:
    """The share of false pairs among those found, true and as the stop rule expects it."""
    rows = table[table["kind"] == STOP]
    for n, colour in zip(_few(rows), (*SHADES, BLACK), strict=False):
        part = rows[rows["models"] == n].sort_values("threshold")
        axes.plot(part["threshold"], part["planned"], color=colour, label=f"{n} models")
        axes.plot(part["threshold"], part["ours"], "o", color=colour, markersize=2.5)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title("false pairs among those found\n(line: expected, points: true)")


def _few(rows: pd.DataFrame) -> list[int]:
    known = sorted({int(n) for n in rows["models"]})
    return [n for n in known if n in (50, 100, 400, 1000)] or known


def draw(table: pd.DataFrame) -> Figure:
    labels = ["models", "threshold of influence", "threshold of influence"]
    figure, panels = new_panels(labels, width=PAGE, height=2.7)
    for axes, panel in zip(panels, (_resolves, _overlap, _stop), strict=True):
        panel(axes, table)
    return figure


def page(table: pd.DataFrame) -> pd.DataFrame:
    """The claims, then a line for each budget and each threshold that was asked about."""
    lines = [
        {
            "asked": "claim",
            "answer": f"{row['method']}: {row['quantity']}",
            "value": f"{row['ours']:.3g}",
            "verdict": row["verdict"],
        }
        for row in records(table[table["kind"] == "claim"])
    ]
    for row in records(table[table["kind"].isin([BUDGET, NEEDED])]):
        by_models = row["kind"] == BUDGET
        asked = f"{row['models']:g} models" if by_models else f"threshold {row['threshold']:g}"
        value = f"{row['ours']:.3g}" if by_models else f"{row['ours']:.0f}"
        lines.append(
            {"asked": f"{asked}, {row['method']}", "answer": row["quantity"], "value": value}
        )
    return pd.DataFrame(lines, columns=["asked", "answer", "value", "verdict"]).fillna("")


KINDS = ("Budget", "Threshold", "Ensembles")
ARTIFACT = Artifact(
    id="models_plan",
    experiment="model_count",
    tabulate=tabulate,
    draw=draw,
    rule=RULE,
    title="What a subset ensemble resolves for a budget of models, and when to stop",
    claim=(
        "Standard errors, agreement by chance and the share of false pairs of a subset ensemble can"
        " be told before and while it is trained."
    ),
    paper="beyond the paper (Doubov et al., 2022): it asks how many, and plans nothing",
    deviations=(
        "Half of the numbers are calculated: a share of 0.7 of the models is trained with an"
        " example. In an ensemble that share varies from example to example: rates and IOU by"
        " chance take that into account, the standard error and what is resolved do not.",
        "Ensembles are simulated: models that are right by chance, with a probability that depends"
        " on their masks, estimated by the code that estimates trained ones.",
    ),
    tier_notes={"smoke": "Smoke tier: 25 and 100 models, 60 examples and 100 queries."},
    remarks=(
        "The paper finds that 200 to 400 models agree on what is above a threshold. At 0.15 and"
        " p = 0.5, pairs without any influence pass with probability 0.17 at 50 models, 0.03 at 200"
        " and 0.003 at 400: of hundreds of millions of pairs, chance alone fills the sets below.",
        "Quiet is not found: to tell an influence of 0.15 from none, missing it as seldom as"
        " believing a false one, takes four times the models that keep false ones from passing.",
    ),
    needs=lambda config: config["type"] in KINDS,
    page=page,
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
