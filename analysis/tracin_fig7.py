"""TracIn, Figure 7: change in loss at each training step against TracIn influence of that step."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from scipy import stats

from analysis.ink import style
from analysis.numbers.claims import Claim, Ours, Paper
from analysis.numbers.statistics import difference, geometric, over_seeds, single
from analysis.numbers.table import Row, claim, curve, records, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

LINEAR = 1e-3  # nats: below it the axes are linear, above logarithmic
EDGES = LINEAR * np.sinh(np.linspace(-9.6, 9.6, 49))  # bin edges of the 2-D histogram
TICKS = {-1.0: "−1", -0.1: "", -0.01: "−.01", 0.0: "0", 0.01: ".01", 0.1: "", 1.0: "1"}
OPAQUE: dict[str, Any] = {"frameon": True, "framealpha": 0.85, "edgecolor": "none"}  # on intervals
CORRELATED, IN_CLASS = 0.9, 0.8
SLOPE = (1.8, 2.2)
R = "correlation"
UNITS = {"Pearson": R, "Spearman": R, "same sign": "share"}

QUALITY = Claim(
    "the first-order term follows the change in loss",
    Paper(
        "Comparison of change in loss at all training steps and TracIn influences at those steps"
        " for 100 test examples from MNIST dataset. This measures the quality of the first-order"
        " approximation",
        "appendix, Figure 7, caption",
    ),
    "Pearson's correlation of change and influence over all recorded steps and queries, at the"
    f" smallest learning rate of every batch size; good is read as above {CORRELATED:g}.",
    null=0.0,
)
WITHIN = Claim(
    "it follows within every class of query",
    Ours("A correlation over all queries may come from differences between classes."),
    f"The lowest of the correlations within a class, above {IN_CLASS:g}.",
    null=0.0,
)
FALLS = Claim(
    "it follows worse at larger learning rates",
    Ours("What an approximation of first order must do."),
    "The correlation at the smallest learning rate minus that at the largest.",
    null=0.0,
)
ORDER = Claim(
    "what it leaves out is of second order",
    Ours("Of a smooth loss the power is 2; of a first-order term that is wrong it is 1."),
    "The power with which the remainder, change minus first-order term, grows with step size at the"
    f" smallest learning rate, between {SLOPE[0]:g} and {SLOPE[1]:g}.",
    null=1.0,
)


@dataclass(frozen=True, order=True)
class Setting:
    """The settings that runs of several seeds share."""

    batch_size: int
    lr: float

    def __str__(self) -> str:
        return f"batch {self.batch_size}, lr {self.lr:g}"


def tabulate(runs: list[Run]) -> pd.DataFrame:
    groups: dict[Setting, dict[int, Run]] = {}
    for run in runs:
        setting = Setting(int(run.config["batch_size"]), float(run.config["lr"]))
        groups.setdefault(setting, {})[int(run.config["seed"])] = run
    groups = dict(sorted(groups.items()))
    measured = {setting: _correlations(members) for setting, members in groups.items()}
    rows, claims = [], []
    for setting, members in groups.items():
        rows += _setting(setting, members, measured[setting]) + _classes(setting, members)
    for size in dict.fromkeys(setting.batch_size for setting in groups):
        rates = [setting for setting in groups if setting.batch_size == size]
        claims += _claims(rates[0], rates[-1], list(groups[rates[0]].values()), measured)
    for setting in _shown(list(groups)):
        rows += _bins(setting, groups[setting])
    return tabulated(rows + claims)


def _shown(settings: list[Setting]) -> list[Setting]:
    """Both extreme rates of the smallest batch, and the last setting, whatever they look like."""
    least = [one for one in settings if one.batch_size == settings[0].batch_size]
    return list(dict.fromkeys([least[0], least[-1], settings[-1]]))


def _points(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Influence and change; axes of both: (steps, queries)."""
    return run.array("influence").astype(float), run.array("change").astype(float)


def _correlations(members: dict[int, Run]) -> pd.DataFrame:
    """How influence and change agree over all steps and queries, a line per seed."""
    lines = {}
    for seed, run in members.items():
        x, y = (values.ravel() for values in _points(run))
        lines[seed] = {
            "Pearson": stats.pearsonr(x, y).statistic,
            "Spearman": stats.spearmanr(x, y).statistic,
            "same sign": (np.sign(x) == np.sign(y)).mean(),
        }
    return pd.DataFrame.from_dict(lines, orient="index")


def _setting(setting: Setting, members: dict[int, Run], measured: pd.DataFrame) -> list[Row]:
    label, about, runs = str(setting), asdict(setting), list(members.values())
    rows = [curve(label, name, unit, over_seeds(measured[name]), **about)
        for name, unit in UNITS.items()]  # fmt: skip
    accuracy = over_seeds([100 * run.metrics["accuracy"] for run in runs])
    rows.append(curve(label, "accuracy after training", "%", accuracy, **about))
    by_factor = pd.DataFrame(map(_remainder, runs))
    for factor in by_factor:
        more = about | {"kind": "remainder", "step": float(factor * setting.lr)}
        rows.append(curve(label, "remainder", "nats", geometric(by_factor[factor]), **more))
    return rows


def _remainder(run: Run) -> pd.Series:
    """RMS over queries of change minus first-order term, by the fraction of a step taken.

    The geometric mean over probed steps; axes of remainder: (probed steps, factors).
    """
    values = np.exp(np.log(np.asarray(run.array("remainder"), float)).mean(0))
    return pd.Series(values, index=np.asarray(run.array("factors"), float))


def _slope(run: Run) -> float:
    remainder = _remainder(run)
    return float(np.polyfit(np.log(remainder.index.to_numpy()), np.log(remainder), 1)[0])


def _by_class(run: Run) -> dict[int, float]:
    """Pearson's correlation within each class of query."""
    pairs, labels, by_class = _points(run), run.array("label"), {}
    for label in np.unique(labels):
        x, y = (values[:, labels == label].ravel() for values in pairs)
        by_class[int(label)] = float(stats.pearsonr(x, y).statistic)
    return by_class


def _classes(setting: Setting, members: dict[int, Run]) -> list[Row]:
    table, rows = pd.DataFrame([_by_class(run) for run in members.values()]), []
    for label in sorted(table):
        ours, about = over_seeds(table[label].dropna()), asdict(setting) | {"label": label}
        rows.append(curve(str(setting), f"Pearson, class {label}", R, ours, **about))
    return rows


def _claims(
    least: Setting, most: Setting, runs: list[Run], measured: dict[Setting, pd.DataFrame]
) -> list[Row]:
    """The claims of one batch size, `runs` being those of its smallest learning rate."""
    pearson, slopes = measured[least]["Pearson"], over_seeds([_slope(run) for run in runs])
    falls = over_seeds(difference(pearson, measured[most]["Pearson"]))
    low = over_seeds([min(_by_class(run).values()) for run in runs])
    between, name = {"at_least": SLOPE[0], "at_most": SLOPE[1]}, str(least)
    return [
        claim(name, "Pearson", R, over_seeds(pearson), of=QUALITY, at_least=CORRELATED),
        claim(name, "Pearson, lowest of the classes", R, low, of=WITHIN, at_least=IN_CLASS),
        claim(f"{name} − lr {most.lr:g}", "Pearson", "", falls, of=FALLS, at_least=0.0),
        claim(name, "power of step size in the remainder", "", slopes, of=ORDER, **between),
    ]


def _bins(setting: Setting, members: dict[int, Run]) -> list[Row]:
    """The share of points in each occupied square of the plane, all seeds together."""
    pairs = np.stack([[values.ravel() for values in _points(run)] for run in members.values()])
    x, y = np.clip(pairs, EDGES[0], EDGES[-1]).swapaxes(0, 1).reshape(2, -1)
    share, rows = np.histogram2d(x, y, bins=[EDGES, EDGES])[0] / len(x), []
    for i, j in zip(*np.nonzero(share), strict=True):
        ours, about = replace(single(share[i, j]), n=len(members)), {"across": int(i), "up": int(j)}
        rows.append(curve(str(setting), "points", "share", ours, kind="bin", **about))
    return rows


def draw(table: pd.DataFrame) -> Figure:
    figure = style.new_figure(style.PAGE, height=4.6)
    halves = figure.add_gridspec(2, 1, height_ratios=[1.15, 1])
    top, bottom = (figure.add_subfigure(halves[place]) for place in range(2))
    shown = list(dict.fromkeys(table.loc[table["kind"] == "bin", "method"]))
    panels = list(top.subplots(1, len(shown), squeeze=False, sharey=True)[0])
    norm = LogNorm(*table.loc[table["kind"] == "bin", "ours"].agg(["min", "max"]))
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
    ramp = LinearSegmentedColormap.from_list("blues", ["#E3F0FA", *style.SHADES])
    mesh = axes.pcolormesh(EDGES, EDGES, share, cmap=ramp, norm=norm, rasterized=True)
    ends = EDGES[[0, -1]]
    axes.set_xscale("asinh", linear_width=LINEAR)
    axes.set_yscale("asinh", linear_width=LINEAR)
    axes.plot(ends, ends, color=style.VERMILLION, linewidth=0.7, linestyle="--")
    axes.set_xticks(list(TICKS), list(TICKS.values()))
    axes.set_yticks(list(TICKS), list(TICKS.values()))
    axes.minorticks_off()
    axes.set(xlim=ends, ylim=ends, xlabel="TracIn influence (nats)", title=label)
    measured = table[(table["kind"] == "curve") & (table["method"] == label)]
    ours = measured.set_index("quantity")["ours"]
    text = "\n".join(f"{one} {ours[one]:.3f}" for one in ("Pearson", "Spearman"))
    axes.text(0.05, 0.95, text, transform=axes.transAxes, va="top", fontsize=6.5)
    return mesh


def _looks(table: pd.DataFrame) -> dict[int, style.Look]:
    sizes = sorted(table["batch_size"].dropna().unique())
    return {
        int(size): style.Look(*style.UNNAMED[place % len(style.UNNAMED)], f"batch {int(size)}")
        for place, size in enumerate(sizes)
    }


def _draw_rates(axes: Axes, table: pd.DataFrame) -> None:
    rows = table[(table["kind"] == "curve") & table["quantity"].isin(["Pearson", "Spearman"])]
    for size, look in _looks(table).items():
        mine = rows[rows["batch_size"] == size]
        style.draw_curve(axes, mine[mine["quantity"] == "Pearson"], "lr", look)
        ranked = mine[mine["quantity"] == "Spearman"]
        axes.plot(ranked["lr"], ranked["ours"], color=look.colour, linestyle=":", linewidth=1)
    axes.plot([], [], color=style.GREY, linestyle=":", linewidth=1, label="Spearman")
    axes.set(xscale="log", xlabel="Learning rate", ylabel="Correlation")
    _fit_correlations(axes, rows)
    axes.legend(loc="lower left", **OPAQUE)


def _fit_correlations(axes: Axes, rows: pd.DataFrame) -> None:
    """Fit the y axis to the correlations, with room for a legend below them."""
    span = 1 - rows["ours"].min()
    axes.set_ylim(1 - 1.9 * span, 1 + 0.08 * span)


def _draw_classes(axes: Axes, table: pd.DataFrame, shown: list[str]) -> None:
    by_class = table["quantity"].str.startswith("Pearson, class")
    rows = table[by_class & table["method"].isin(shown)]
    for place, label in enumerate(shown):
        colour, marker = style.UNNAMED[place]
        some = records(rows[rows["method"] == label])
        at = [int(row["label"]) + 0.2 * (place - 1) for row in some]
        axes.vlines(at, [r["low"] for r in some], [r["high"] for r in some], colors=colour, lw=0.8)
        ours = [row["ours"] for row in some]
        axes.plot(at, ours, marker, color=colour, markersize=3.5, label=label)
    _fit_correlations(axes, rows)
    axes.set_xticks(range(10))
    axes.grid(False, axis="x")
    axes.set(xlabel="Class of the query", ylabel="Pearson's correlation")
    axes.legend(loc="lower left", handletextpad=0.1, **OPAQUE)


def _draw_remainders(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the remainder at fractions of the step of the smallest learning rates."""
    rows = table[table["kind"] == "remainder"]
    shown = rows[rows["lr"] == rows.groupby("batch_size")["lr"].transform("min")]
    for size, look in _looks(table).items():
        style.draw_curve(axes, shown[shown["batch_size"] == size], "step", look)
    steps = np.array([shown["step"].min(), shown["step"].max()])
    guide = 0.3 * shown["ours"].min() * (steps / steps[0]) ** 2
    axes.plot(steps, guide, "--", color=style.GREY, label="slope 2")
    axes.set(xscale="log", yscale="log", xlabel="Learning rate of the step")
    axes.set_ylabel("Change − influence\n(nats, RMS)")
    style.fit_values(axes, [*shown["ours"], guide[0]])
    axes.legend(loc="lower right")


def findings(table: pd.DataFrame) -> list[str]:
    """How the power of the remainder changes from the shortest steps to the longest."""
    remainders, powers = table[table["kind"] == "remainder"], []
    for size, rows in remainders.groupby("batch_size"):
        line = rows[rows["lr"] == rows["lr"].min()].sort_values("step")
        slopes = np.diff(np.log(line["ours"])) / np.diff(np.log(line["step"]))
        powers.append(f"{slopes[0]:.2f} to {slopes[-1]:.2f} (batch {size:.0f})")
    return [
        "At the smallest learning rate of each batch size, the power of step size in the remainder"
        f" goes from the shortest steps to the longest from {', '.join(powers)}. A smooth loss has"
        " 2 throughout. ReLU and max pooling are only piecewise smooth: the number of kinks that a"
        " step crosses and what each changes both grow with the step, and add up with random signs,"
        " so that their root mean square grows with the power 1.5, which is the likely cause of"
        " powers between 1.5 and 2."
    ]


ARTIFACT = Artifact(
    id="tracin_fig7",
    experiment="mnist_first_order",
    tabulate=tabulate,
    draw=draw,
    claims=(QUALITY, WITHIN, FALLS, ORDER),
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
        "Training is plain gradient descent without momentum, for which TracIn is defined.",
        "The figure's axes are linear near 0 and logarithmic above a thousandth of a nat: on linear"
        " ones all but the largest steps would lie on one spot.",
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
    raise SystemExit(ARTIFACT.main())
