"""How fast ensembles are trained, by the number of networks in a stack, and estimated."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.ink.style import BLACK, GREY, UNNAMED, new_axes, tick_values
from analysis.numbers.claims import Claim, Ours
from analysis.numbers.statistics import NONE, Interval, geometric
from analysis.numbers.table import Row, claim, curve, records, tabulated, written
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

MLP, CNN, GPU, LIMIT = 2.0, 1.0, 20.0, 2.0
NETWORKS = {"DigitsMLP": ("MLP", MLP), "StridedCNN": ("CNN", CNN)}
SEVERAL = {"Stacked": "stack of {}", "Apart": "{} apart"}
BFLOAT = "one, bfloat16"
RATE = "models an hour"

GOAL = Ours("No paper: bounds of our own.")
STACKS = Claim(
    "stacks train faster on a CPU", GOAL,
    "On one thread, the models an hour of the best stack over those of one after another: more than"
    f" {MLP:g} times as many MLPs, and more than {CNN:g} times as many CNNs.",
    null=1.0,
)  # fmt: skip
ON_GPU = Claim(
    "stacks train faster on a GPU", GOAL,
    f"The same on a GPU, more than {GPU:g} times as many of either.",
    null=1.0,
)  # fmt: skip
ESTIMATE = Claim(
    "an estimate costs little more than its product", GOAL,
    "The time of the estimate of all pairs over that of its product of zeros and ones, below"
    f" {LIMIT:g}; ten products would be 10.",
    null=10.0,
)  # fmt: skip


def tabulate(runs: list[Run]) -> pd.DataFrame:
    rows: list[Row] = []
    for work, (name, bound) in NETWORKS.items():
        members = [run for run in runs if run.metrics["work"] == work]
        for device, least in (("cpu", bound), ("cuda", GPU)):
            measured = [run for run in members if run.config["device"] == device]
            rows += _network(name, device, measured, least)
    deep = [run for run in runs if run.metrics["work"] == "SmallInception"]
    rows += _network("Inception", "cuda", deep, None)
    return tabulated(rows + _estimate([run for run in runs if run.metrics["work"] == "Estimate"]))


def _network(name: str, device: str, runs: list[Run], bound: float | None) -> list[Row]:
    where = f"{name}, {'GPU' if device == 'cuda' else 'one CPU thread'}"
    label = "best stack, models an hour over one after another"
    ways: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        ways.setdefault((run.metrics["way"], int(run.metrics["size"])), []).append(run)
    ratios = {way: _mean(members, "ratio") for way, members in ways.items()}
    several = [ratio for (way, _), ratio in ratios.items() if way in SEVERAL]
    best = max(several, key=lambda ratio: ratio.mean, default=NONE)
    of = STACKS if device == "cpu" else ON_GPU
    rows = [] if bound is None else [claim(where, label, "x", best, of=of, at_least=bound)]
    if runs:
        alone = _mean(runs, "models_per_hour_alone")
        rows.append(curve(where, RATE, "", alone, way="one after another", size=1, device=device))
    for (way, size), members in sorted(ways.items()):
        shown = SEVERAL[way].format(size) if way in SEVERAL else BFLOAT
        about: dict[str, Any] = {"way": shown, "size": size, "device": device}
        rows.append(curve(where, RATE, "", _mean(members, "models_per_hour"), **about))
        rows.append(curve(where, "ratio", "x", ratios[way, size], **about))
    return rows


def _estimate(runs: list[Run]) -> list[Row]:
    name, label = "estimate of all pairs", "time over that of the product alone"
    rows = [claim(name, label, "x", _mean(runs, "over_limit"), of=ESTIMATE, at_most=LIMIT)]
    for metric, quantity, unit in (
        ("seconds", "influence", "s"),
        ("errors_seconds", "standard errors", "s"),
        ("product_gops", "rate of the 8-bit product", "Gop/s"),
    ):
        if runs:
            rows.append(curve(name, quantity, unit, _mean(runs, metric)))
    return rows


def _mean(runs: list[Run], metric: str) -> Interval:
    return geometric([float(run.metrics[metric]) for run in runs])


def draw(table: pd.DataFrame) -> Figure:
    figure, axes = new_axes("networks in the stack", "times as many models an hour")
    rows = table[(table["quantity"] == "ratio") & (table["device"] == "cpu")]
    for (where, line), (colour, marker) in zip(rows.groupby("method"), UNNAMED, strict=False):
        name = str(where).split(",")[0]
        stacks = line[line["way"] != BFLOAT].sort_values("size")
        x, ours, low, high = ([1.0, *stacks[column]] for column in ("size", "ours", "low", "high"))
        axes.plot(x, ours, color=colour, marker=marker, label=f"{name}, stack")
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        for ratio in line.loc[line["way"] == BFLOAT, "ours"]:
            label = f"{name}, bfloat16"
            axes.plot(1, ratio, marker, color=colour, fillstyle="none", label=label)
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    tick_values(axes, [1, *rows["size"]])
    axes.set_ylim(bottom=0)
    axes.set_title("One CPU thread, against one after another", color=BLACK)
    axes.legend()
    return figure


def page(table: pd.DataFrame) -> pd.DataFrame:
    """The claims, then models an hour by network and way."""
    lines = []
    for row in records(table[table["quantity"] != "ratio"]):
        quantity, form = f"{row['quantity']}, {row['unit']}", ".3g"
        if row["kind"] == "claim":
            quantity, form = row["quantity"], ".2f"
        elif row["quantity"] == RATE:
            quantity, form = f"{RATE}, {row['way']}", ",.0f"
        lines.append({"work": row["method"], "quantity": quantity, "ours": written(row, form)})
    return pd.DataFrame(lines)


def findings(table: pd.DataFrame) -> list[str]:
    """Say which way is the fastest on the CPU, and how many models that is."""
    rows = table[(table["quantity"] == RATE) & (table["device"] == "cpu")]
    best = [max(records(of), key=lambda row: row["ours"]) for _, of in rows.groupby("method")]
    return [
        f"{row['method']}: the fastest is the {row['way']}, {row['ours']:,.0f} models an hour."
        for row in best
        if np.isfinite(row["ours"])
    ]


ARTIFACT = Artifact(
    id="speed_ensembles",
    experiment="speed_ensembles",
    tabulate=tabulate,
    draw=draw,
    claims=(STACKS, ON_GPU, ESTIMATE),
    title="Training many networks and estimating from them",
    claim="Small networks are trained faster in a stack than one after another.",
    paper="no paper: bounds of our own",
    deviations=(
        "Data are random and shaped like MNIST: 1,400 examples a network, batches of 50, 20"
        " epochs; one epoch is timed. MLP: one hidden layer of 64. CNN: two convolutions of"
        " stride 2, 9,226 parameters.",
        "CPU time of one thread, so that other processes matter little. The cores of a machine"
        " train different parts of an ensemble, one process each.",
        "The claims about a GPU need one: `python -m experiments.speed_ensembles --preset gpu`"
        " measures them; its runs belong to no tier.",
    ),
    tier_notes={
        "smoke": "Smoke tier: 70 examples a network and a stack of 4, to check shapes only."
    },
    remarks=(
        "A stack saves the cost of a step besides arithmetic. This is likely most of a small"
        " MLP's step and less of a CNN's, whose convolutions become grouped ones. At 32 x 32"
        " pixels, three colours and twice the channels, a stack of 16 trained 1.1 times as many"
        " an hour. bfloat16 brings nothing to networks this small.",
    ),
    findings=findings,
    page=page,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
