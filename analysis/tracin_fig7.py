"""Figure 7 of 001: change in loss at each training step against TracIn influence of that step."""

import math
import sys
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from scipy import stats

from analysis.ink.style import (
    FOOT,
    GREY,
    PAGE,
    SHADES,
    UNNAMED,
    VERMILLION,
    Look,
    draw_curve,
    fit_values,
)
from analysis.numbers.statistics import Interval, difference, geometric, over_seeds
from analysis.numbers.table import Row, claim, curve, records, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

# The panels of TracIn's Figure 7: change in loss against influence, and what it depends on.


LINEAR = 1e-3  # nats: below it the axes are linear, above logarithmic
EDGES = LINEAR * np.sinh(np.linspace(-9.6, 9.6, 49))  # of the squares points are counted in
TICKS = {-1.0: "−1", -0.1: "", -0.01: "−.01", 0.0: "0", 0.01: ".01", 0.1: "", 1.0: "1"}

OPAQUE: dict[str, Any] = {"frameon": True, "framealpha": 0.85, "edgecolor": "none"}  # on intervals


def draw(table: pd.DataFrame) -> Figure:
    height = 4.6
    figure = Figure(figsize=(PAGE, height), layout="constrained")
    figure.set_layout_engine("constrained", rect=(0, FOOT / height, 1, 1 - FOOT / height))
    halves = figure.add_gridspec(2, 1, height_ratios=[1.15, 1])
    top, bottom = (figure.add_subfigure(halves[place]) for place in range(2))
    shown = list(dict.fromkeys(table.loc[table["kind"] == "bin", "method"]))
    panels = list(top.subplots(1, len(shown), squeeze=False, sharey=True)[0])
    whole = table[table["kind"] == "bin"]
    norm = LogNorm(whole["ours"].min(), whole["ours"].max())
    for axes, label in zip(panels, shown, strict=True):
        mesh = _draw_points(axes, table, label, norm)
    panels[0].set_ylabel("Change in loss (nats)")
    top.colorbar(mesh, ax=panels, label="Share of points", pad=0.01, aspect=15)
    left, middle, right = bottom.subplots(1, 3)
    _draw_rates(left, table)
    _draw_classes(middle, table, shown)
    _draw_remainders(right, table)
    return figure


def _draw_points(axes: Axes, table: pd.DataFrame, label: str, norm: LogNorm) -> QuadMesh:
    rows = table[(table["kind"] == "bin") & (table["method"] == label)]
    share = np.full((len(EDGES) - 1, len(EDGES) - 1), np.nan)
    share[rows["up"].astype(int), rows["across"].astype(int)] = rows["ours"]
    ramp = LinearSegmentedColormap.from_list("blues", ["#E3F0FA", *SHADES])
    mesh = axes.pcolormesh(EDGES, EDGES, share, cmap=ramp, norm=norm, rasterized=True)
    for set_scale in (axes.set_xscale, axes.set_yscale):
        set_scale("asinh", linear_width=LINEAR)
    axes.plot(EDGES[[0, -1]], EDGES[[0, -1]], color=VERMILLION, linewidth=0.7, linestyle="--")
    axes.set_xticks(list(TICKS), list(TICKS.values()))
    axes.set_yticks(list(TICKS), list(TICKS.values()))
    axes.minorticks_off()
    axes.set_xlim(EDGES[0], EDGES[-1])
    axes.set_ylim(EDGES[0], EDGES[-1])
    axes.set_xlabel("TracIn influence (nats)")
    axes.set_title(label)
    found = table[(table["kind"] == "curve") & (table["method"] == label)].set_index("quantity")
    said = "\n".join(f"{one} {found.loc[one, 'ours']:.3f}" for one in ("Pearson", "Spearman"))
    axes.text(0.05, 0.95, said, transform=axes.transAxes, va="top", fontsize=6.5)
    return mesh


def _looks(table: pd.DataFrame) -> dict[int, Look]:
    sizes = sorted(table["batch_size"].dropna().unique())
    return {
        int(size): Look(*UNNAMED[place % len(UNNAMED)], f"batch {int(size)}")
        for place, size in enumerate(sizes)
    }


def _draw_rates(axes: Axes, table: pd.DataFrame) -> None:
    rows = table[(table["kind"] == "curve") & table["quantity"].isin(["Pearson", "Spearman"])]
    for size, look in _looks(table).items():
        for quantity, line in (("Pearson", "-"), ("Spearman", ":")):
            one = rows[(rows["batch_size"] == size) & (rows["quantity"] == quantity)]
            if quantity == "Pearson":
                draw_curve(axes, one, "lr", look)
            else:
                axes.plot(one["lr"], one["ours"], color=look.colour, linestyle=line, linewidth=1)
    axes.plot([], [], color=GREY, linestyle=":", linewidth=1, label="Spearman")
    axes.set_xscale("log")
    _fit_correlations(axes, rows)
    axes.set(xlabel="Learning rate", ylabel="Correlation")
    axes.legend(loc="lower left", **OPAQUE)


def _fit_correlations(axes: Axes, rows: pd.DataFrame) -> None:
    """Fit the y axis to the correlations, with room for a legend below them."""
    span = 1 - rows["ours"].min()
    axes.set_ylim(1 - 1.9 * span, 1 + 0.08 * span)


def _draw_classes(axes: Axes, table: pd.DataFrame, shown: list[str]) -> None:
    by_class = table["quantity"].str.startswith("Pearson, class")
    rows = table[by_class & table["method"].isin(shown)]
    for place, label in enumerate(shown):
        colour, marker = UNNAMED[place]
        some = records(rows[rows["method"] == label])
        at = [int(row["label"]) + 0.2 * (place - 1) for row in some]
        axes.vlines(at, [r["low"] for r in some], [r["high"] for r in some], colors=colour, lw=0.8)
        values = [row["ours"] for row in some]
        axes.plot(at, values, marker, color=colour, markersize=3.5, label=label)
    _fit_correlations(axes, rows)
    axes.set_xticks(range(10))
    axes.grid(False, axis="x")
    axes.set(xlabel="Class of the query", ylabel="Pearson's correlation")
    axes.legend(loc="lower left", handletextpad=0.1, **OPAQUE)


def _draw_remainders(axes: Axes, table: pd.DataFrame) -> None:
    """What the first order leaves, at fractions of the step of the smallest rates."""
    rows = table[table["kind"] == "remainder"]
    shown = rows[rows["lr"] == rows.groupby("batch_size")["lr"].transform("min")]
    for size, look in _looks(table).items():
        draw_curve(axes, shown[shown["batch_size"] == size], "step", look)
    steps = np.array([shown["step"].min(), shown["step"].max()])
    guide = 0.3 * shown["ours"].min() * (steps / steps[0]) ** 2
    axes.plot(steps, guide, "--", color=GREY, label="slope 2")
    axes.set(xscale="log", yscale="log", xlabel="Learning rate of the step")
    axes.set_ylabel("Change − influence\n(nats, RMS)")
    fit_values(axes, [*shown["ours"], guide[0]])
    axes.legend(loc="lower right")


Setting = tuple[int, float]  # batch size, learning rate
Grouped = dict[Setting, dict[int, Run]]  # by seed
CORRELATED, IN_CLASS = 0.9, 0.8
SLOPE = (1.8, 2.2)

RULE = (
    "Claims, over seeds, for every batch size: Pearson's correlation of change and influence over"
    f" all recorded steps and queries is above {CORRELATED:g} at its smallest learning rate; there"
    f" it is above {IN_CLASS:g} within every class of query; it is lower at its largest learning"
    " rate; and at its smallest, what the first-order term leaves of the change grows with step"
    f" size to a power between {SLOPE[0]:g} and {SLOPE[1]:g} (second order: 2)."
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    grouped: Grouped = {}
    for run in found:
        config = run.config
        setting = int(config["batch_size"]), float(config["lr"])
        grouped.setdefault(setting, {})[int(config["seed"])] = run
    grouped = dict(sorted(grouped.items()))
    measured = {setting: _correlations(members) for setting, members in grouped.items()}
    rows, claims = [], []
    for setting, members in grouped.items():
        rows += _setting(setting, members, measured[setting]) + _classes(setting, members)
    for size in dict.fromkeys(size for size, _ in grouped):
        claims += _claims(size, grouped, measured)
    for setting in _shown(list(grouped)):
        rows += _bins(setting, grouped[setting])
    return tabulated(rows + claims)


def name(setting: Setting) -> str:
    return f"batch {setting[0]}, lr {setting[1]:g}"


def _shown(settings: list[Setting]) -> list[Setting]:
    """The extremes, whatever they look like: both rates of the smallest batch, and the last."""
    least = [setting for setting in settings if setting[0] == settings[0][0]]
    return list(dict.fromkeys([least[0], least[-1], settings[-1]]))


def _points(run: Run) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(run.array("influence"), float), np.asarray(run.array("change"), float)


def _correlations(members: dict[int, Run]) -> pd.DataFrame:
    lines = {}
    for seed, run in members.items():
        x, y = (values.ravel() for values in _points(run))
        lines[seed] = {
            "Pearson": stats.pearsonr(x, y).statistic,
            "Spearman": stats.spearmanr(x, y).statistic,
            "same sign": (np.sign(x) == np.sign(y)).mean(),
        }
    return pd.DataFrame.from_dict(lines, orient="index")


def _about(setting: Setting) -> dict[str, Any]:
    return {"batch_size": setting[0], "lr": setting[1]}


def _setting(setting: Setting, members: dict[int, Run], measured: pd.DataFrame) -> list[Row]:
    label, about = name(setting), _about(setting)
    rows = [curve(label, one, "", over_seeds(measured[one]), **about) for one in measured]
    accuracy = over_seeds([100 * run.metrics["accuracy"] for run in members.values()])
    rows.append(curve(label, "accuracy after training", "%", accuracy, **about))
    remainders = np.stack([_remainder(run) for run in members.values()])
    factors = np.asarray(next(iter(members.values())).array("factors"))
    for place, factor in enumerate(factors):
        left = geometric(remainders[:, place])
        more = about | {"step": float(factor * setting[1])}
        rows.append(curve(label, "remainder", "nats", left, **more) | {"kind": "remainder"})
    return rows


def _remainder(run: Run) -> np.ndarray:
    """RMS over queries of change minus first-order term, geometric mean over probed steps."""
    return np.exp(np.log(np.asarray(run.array("remainder"), float)).mean(0))


def _slope(run: Run) -> float:
    factors = np.asarray(run.array("factors"), float)
    return float(np.polyfit(np.log(factors), np.log(_remainder(run)), 1)[0])


def _by_class(run: Run) -> dict[int, float]:
    x, y = _points(run)
    labels = np.asarray(run.array("label"))
    return {
        int(label): float(
            stats.pearsonr(x[:, labels == label].ravel(), y[:, labels == label].ravel()).statistic
        )
        for label in np.unique(labels)
    }


def _classes(setting: Setting, members: dict[int, Run]) -> list[Row]:
    table = pd.DataFrame([_by_class(run) for run in members.values()])
    return [
        curve(
            name(setting),
            f"Pearson, class {label}",
            "",
            over_seeds(table[label].dropna()),
            **_about(setting),
            label=label,
        )
        for label in sorted(table)
    ]


def _claims(size: int, grouped: Grouped, measured: dict[Setting, pd.DataFrame]) -> list[Row]:
    rates = [setting for setting in grouped if setting[0] == size]
    least, most = rates[0], rates[-1]
    falls = difference(measured[least]["Pearson"], measured[most]["Pearson"])
    runs = list(grouped[least].values())
    low = over_seeds([min(_by_class(run).values()) for run in runs])
    pearson, slopes = over_seeds(measured[least]["Pearson"]), over_seeds([_slope(r) for r in runs])
    between = {"at_least": SLOPE[0], "at_most": SLOPE[1]}
    return [
        claim(name(least), "Pearson", "", pearson, at_least=CORRELATED),
        claim(name(least), "Pearson, lowest of the classes", "", low, at_least=IN_CLASS),
        claim(f"{name(least)} − lr {most[1]:g}", "Pearson", "", over_seeds(falls), at_least=0.0),
        claim(name(least), "power of step size in the remainder", "", slopes, **between),
    ]


def _bins(setting: Setting, members: dict[int, Run]) -> list[Row]:
    """The share of points in each occupied square of the plane, all seeds together."""
    pairs = [_points(run) for run in members.values()]
    x, y = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    across, up = (np.clip(values, EDGES[0], EDGES[-1]) for values in (x, y))
    share = np.histogram2d(across, up, bins=[EDGES, EDGES])[0] / len(x)
    rows = []
    for i, j in zip(*np.nonzero(share), strict=True):
        ours = Interval(float(share[i, j]), math.nan, math.nan, len(members))
        row = curve(name(setting), "points", "share", ours, across=int(i), up=int(j))
        rows.append(row | {"kind": "bin"})
    return rows


def findings(table: pd.DataFrame) -> list[str]:
    """How the power of the remainder changes from the shortest steps to the longest."""
    of = table[(table["kind"] == "remainder")]
    said = []
    for size in sorted(of["batch_size"].unique()):
        at = of[of["batch_size"] == size]
        at = at[at["lr"] == at["lr"].min()].sort_values("step")
        powers = np.diff(np.log(at["ours"])) / np.diff(np.log(at["step"]))
        said.append(f"{powers[0]:.2f} to {powers[-1]:.2f} (batch {size:.0f})")
    return [
        "At the smallest learning rate of each batch size, the power of step size in the remainder"
        f" goes from the shortest steps to the longest from {', '.join(said)}. A smooth loss has 2"
        " throughout. ReLU and max pooling are only piecewise smooth: the number of kinks that a"
        " step crosses and what each changes both grow with the step, and add up with random signs,"
        " so that their root mean square grows with the power 1.5: the likely cause of what is"
        " between."
    ]


ARTIFACT = Artifact(
    id="tracin_fig7",
    experiment="mnist_first_order",
    tabulate=tabulate,
    draw=draw,
    rule=RULE,
    findings=findings,
    title="Change in loss at training steps against TracIn influence",
    claim=(
        "The first-order term, which TracIn adds up, follows the change in loss that a training"
        " step makes; the smaller the learning rate, the better."
    ),
    paper="TracIn (arXiv:2002.08484), appendix, Figure 7",
    deviations=(
        "Sec. 4.3, to which the caption refers, is not in the appendix: network, learning rates,"
        " batch sizes and length of training are ours, and are in the runs' configs.",
        "Training is plain gradient descent without momentum, which is what the definition is of.",
        "The figure's axes are linear near 0 and logarithmic from a thousandth of a nat on: on"
        " linear ones all but the largest steps lie on one spot.",
        "The appendix prints no correlation, so none is compared: the bounds of the claims are ours"
        " and were written down before the runs.",
    ),
    tier_notes={
        "smoke": (
            "Smoke tier: the 8 x 8 digits of scikit-learn and a network of 1,448 parameters that"
            " has hardly learned after so few steps."
        ),
        "small": (
            "Small tier: 3,000 of the 60,000 training images, of which 1,000 with batch size 1, and"
            " 3 seeds. Every step is recorded."
        ),
    },
)


if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
