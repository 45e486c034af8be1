"""The panels of FastIF's Figure 4: a line of time and errors for each damping."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.style import (
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
