"""Figure 4 of 002: what s_test costs and how wrong it is, over J, B and T."""

import sys
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SHADES,
    Look,
    draw_curve,
    fit_values,
    new_lattice,
)
from analysis.numbers.fastif_points import (
    POINTS_RULE,
    TIER_NOTES,
    counted,
    masks,
    on,
    over_points,
    plain,
    told,
)
from analysis.numbers.statistics import Interval
from analysis.numbers.table import Row, claim, curve, records, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

# The panels of FastIF's Figure 4: a line of time and errors for each damping.


ERROR, DISTANCE = "error", "distance to the most expensive"
TIMES = (ORANGE, GREEN, BLUE, GREY)


def draw(table: pd.DataFrame) -> Figure:
    """A line of panels a damping: time and error by J, error by T, all against B."""
    shown = table[(table["kind"] == "curve") & table["J"].notna()]
    names = list(dict.fromkeys(shown["method"]))
    figure, grid = new_lattice(max(1, len(names)), 3, height=0.9 + 2.1 * len(names), share_y=False)
    for line, name in zip(grid, names, strict=True):
        rows = shown[shown["method"] == name]
        depths = sorted(rows["J"].unique())
        some = [depths[at] for at in sorted({0, len(depths) // 2, len(depths) - 1})]
        looks = {j: Look(SHADES[at], "o^s"[at], f"J = {j:g}") for at, j in enumerate(some)}
        for depth, look in looks.items():
            at = rows[rows["J"] == depth]
            draw_curve(line[0], at[(at["quantity"] == "time") & (at["n"] > 0)], "B", look)
            _draw_errors(line[1], at[at["T"] == 1], look)
        middle = rows[rows["T"] > 1]["J"].max()
        for t in sorted(rows["T"].dropna().unique()):
            look = Look(TIMES[(int(t) - 1) % 4], "osD^"[(int(t) - 1) % 4], f"T = {t:g}")
            at = rows[(rows["T"] == t) & (rows["J"] == (depths[0] if middle != middle else middle))]
            _draw_errors(line[2], at, look)
        line[0].set_ylabel(f"{name}\nseconds for all points")
        line[1].set_ylabel("relative error (T = 1)")
        line[2].set_ylabel("relative error" + ("" if middle != middle else f" (J = {middle:g})"))
        for axes in line:
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            shown_here = [y for one in axes.lines for y in np.asarray(one.get_ydata(), dtype=float)]
            fit_values(axes, (y for y in shown_here if y > 0))
            _decimal(axes, sorted(rows["B"].unique()))
    for axes in grid[-1]:
        axes.set_xlabel("B")
    for axes in grid[0][1:]:
        axes.legend(fontsize=6, handlelength=1.5, labelspacing=0.2)
    handles = [grid[0][0].plot([], [], style, color=GREY)[0] for style in ("-", "--")]
    labels = ["from the solution", "from the most expensive estimate (the paper's)"]
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


def _draw_errors(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    draw_curve(axes, rows[(rows["quantity"] == ERROR) & (rows["n"] > 0)], "B", look)
    other = rows[(rows["quantity"] == DISTANCE) & (rows["n"] > 0) & (rows["ours"] > 0)]
    other = other.sort_values("B")
    axes.plot(other["B"], other["ours"], "--", color=look.colour, linewidth=0.8)


def _decimal(axes: Axes, samples: list[float]) -> None:
    some = samples if len(samples) < 5 else samples[::2]
    axes.set_xticks(some, [f"{int(b)}" for b in some])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    ticks = [
        float(f"{digit}e{power}")
        for power in range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        for digit in (1, 2, 5)
    ]
    ticks = [tick for tick in ticks if low <= tick <= high]
    ticks = [tick for tick in ticks if f"{tick:e}".startswith("1")] if len(ticks) > 6 else ticks
    if len(ticks) > 1:
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


MEASURES = {"error": "error", "distance": "distance to the most expensive"}
MIDDLE = 1_000  # J of the panels over B and T, or the middle of a shorter grid

RULE = (
    "Claims, for each damping: time of the largest B over that of the smallest, and of the largest"
    " J over the smallest, is above 1, as is that of a step over all trained parameters; the error"
    " of the largest B over that of the smallest (T = 1), of the largest J over the smallest (B"
    " least, T = 1), and of the largest T over T = 1 (B least) is below 1, for the error from the"
    " solution and for the distance from the most expensive estimate, which is the paper's."
    f" {POINTS_RULE}"
    " Those of seconds are over repeats, or steps."
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    return tabulated([row for run in found for row in _rows(run)])


def _rows(run: Run) -> list[Row]:
    """Rows of one damping; arrays are (samples, depths, repeats, n_points)."""
    samples, depths = (np.asarray(run.array(name)) for name in ("samples", "depths"))
    ours = run.config["work"]["damping"] is None
    name = f"damping {float(run.metrics['damping']):.3g}, {'by our rule' if ours else 'released'}"
    seconds = np.asarray(run.array("seconds"))
    repeats, middle = seconds.shape[2], _middle(depths)
    rows = []
    for (b, sample), (j, depth) in product(enumerate(samples), enumerate(depths)):
        at = {"B": int(sample), "J": int(depth)}
        rows.append(curve(name, "time", "s", over_points(seconds[b, j]), **at))
        for key, label in MEASURES.items():
            for t in range(repeats) if j == middle else (0,):
                error = over_points(np.asarray(run.array(key))[b, j, t])
                rows.append(curve(name, label, "", error, T=t + 1, **at))
        if j == middle:
            for group, mask in list(masks(run).items())[:2]:
                error = over_points(np.asarray(run.array("error"))[b, j, 0, mask])
                rows.append(curve(name, f"error, predicted {group}", "", error, T=1, **at))
    rows += _settings(run, name)
    rows += _whole(run) if ours else []
    return rows + _claims(run, name, seconds, middle)


def _middle(depths: np.ndarray) -> int:
    return int(np.argmin(np.abs(depths - MIDDLE))) if MIDDLE in depths else len(depths) // 2


def _settings(run: Run, name: str) -> list[Row]:
    known = {
        "damping": "damping",
        "scale": "scale",
        "lowest": "lowest eigenvalue",
        "largest": "largest eigenvalue",
        "residual": "relative residual of the solution",
        "num_params": "parameters",
        "diverged": "minibatch sizes that diverged",
    }
    return [curve(name, label, "", plain(float(run.metrics[key]))) for key, label in known.items()]


def _whole(run: Run) -> list[Row]:
    """Seconds of a step over all trained parameters, and their growth with B."""
    samples, seconds = run.config["work"]["whole_samples"], np.asarray(run.array("whole_seconds"))
    rows = [
        curve("all parameters", "time of a step", "s", over_points(row), B=sample)
        for sample, row in zip(samples, seconds, strict=True)
    ]
    if len(samples) > 1:
        growth = over_points(seconds[-1] / seconds[0])
        label = f"time of a step, B {samples[-1]} ÷ {samples[0]}"
        rows.append(claim("all parameters", label, "x", growth, at_least=1.0))
    return rows


def _claims(run: Run, name: str, seconds: np.ndarray, middle: int) -> list[Row]:
    samples, depths = (run.array(one) for one in ("samples", "depths"))
    last = seconds.shape[2] - 1
    wide = f"B {samples[-1]} ÷ {samples[0]}"
    long = f"J {depths[-1]} ÷ {depths[0]}"

    def grown(ours: Interval, label: str) -> Row:
        return claim(name, f"time, {label}", "x", ours, at_least=1.0)

    rows = [
        grown(over_points(seconds[-1, middle] / seconds[0, middle]), wide),
        grown(over_points(seconds[0, -1] / seconds[0, 0]), long),
    ]
    for key, label in MEASURES.items():
        values = np.asarray(run.array(key))
        pairs = {
            wide: (values[-1, middle, 0], values[0, middle, 0]),
            long: (values[0, -1, 0], values[0, 0, 0]),
        }
        if last:
            pairs[f"T {last + 1} ÷ 1"] = (values[0, middle, last], values[0, middle, 0])
        for what, (one, other) in pairs.items():
            ours = over_points(one / other)
            rows.append(claim(name, f"{label}, {what}", "x", ours, at_most=1.0))
    return rows


def findings(table: pd.DataFrame) -> list[str]:
    """Say what the errors are made of, from the rows."""
    said = []
    for name, rows in table.groupby("method", sort=False):
        by = {row["quantity"]: row for row in records(rows)}
        if "damping" not in by:
            continue
        damping, scale = by["damping"]["ours"], by["scale"]["ours"]
        depths = sorted(int(j) for j in rows["J"].dropna().unique())
        left = [(1 - damping / scale) ** j for j in (depths[0], depths[-1])]
        large = {key: _grid(rows, label, depths[-1]) for key, label in MEASURES.items()}
        said.append(
            f"With {name}, and scale {scale:.4g}, a direction without curvature has"
            f" {100 * left[0]:.2g}% of its length still to come after J = {counted(depths[0])} and"
            f" {100 * left[1]:.2g}% after {counted(depths[-1])}. At the largest B and J with T = 1"
            f" the error from the solution is {told(large['error'], '.3g')}, the distance from the"
            f" most expensive estimate {told(large['distance'], '.3g')}: the second does not see"
            " what all estimates have in common."
        )
    return said


def _grid(rows: pd.DataFrame, quantity: str, depth: int) -> Row | None:
    some = rows[(rows["quantity"] == quantity) & (rows["J"] == depth) & (rows["T"] == 1)]
    return records(some.sort_values("B"))[-1] if len(some) else None


ARTIFACT = Artifact(
    id="fastif_fig4",
    experiment="mnli_speed",
    tabulate=tabulate,
    draw=draw,
    rule=RULE,
    title="Cost and error of inverse-Hessian-vector products over J, B and T",
    claim=(
        "Time grows with the batch size B and the number of iterations J, the error falls with"
        " both, and more repeats T make up for a small B."
    ),
    paper="FastIF (arXiv:2012.15781), Figure 4 and Sec. 5.2",
    deviations=(
        "The figure is only a picture in the paper: there are no printed numbers to compare with.",
        "Errors are relative: the length of the difference over that of what it is taken from. The"
        " paper's is the length of the difference from its most expensive estimate; ours from the"
        " solution by conjugate gradients over all training pairs is beside it.",
        "The grid is run twice: at the damping of our rule, twice the size of the lowest eigenvalue"
        " of the training loss, with a scale of 1.1 times the largest eigenvalue of minibatches of"
        " the smallest B, the same for all B; and at the released damping 50 and scale 10,000.",
        "One path of the recursion gives every J, and the first T of its repeats every T; seconds"
        " are of one repeat for all points at once, since they share the minibatches.",
    ),
    findings=findings,
    tier_notes={
        **TIER_NOTES,
        "small": (
            f"{TIER_NOTES['small']} The grid differentiates pooler and classifier alone, 148,995"
            " parameters over the first token after the last layer, so that a converged solution"
            " is possible; steps over all trained parameters are timed beside it."
        ),
    },
    needs=on("Inverse"),
)


if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
