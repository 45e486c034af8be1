"""The panels of FastIF's Figures 5 and 9: a simulator's loss against the learning rate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.ink.style import BLACK, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, new_lattice
from analysis.numbers.cells import unlisted
from analysis.numbers.simulator import CONTROLS
from analysis.numbers.table import records

RANDOM = {"entailment": SKY, "neutral": GREY, "contradiction": PURPLE}
COLOURS = {"helpful": GREEN, "harmful": VERMILLION}
LINES = {"FastIF": ("-", 3), "H = I": (":", 4), "features": ("-.", 4)}  # style, and what is above


def draw(table: pd.DataFrame, columns: int, width: float, controls: Sequence[str]) -> Figure:
    """A panel a point, right ones above, `columns` in a line; `controls` have lines too."""
    rows = table[table["kind"] == "line"]
    by_group = rows.groupby("group", sort=False)
    groups = [[point for _, point in group.groupby("point")] for _, group in by_group]
    columns = min(columns, max(map(len, groups)))
    lines = [-(-len(points) // columns) for points in groups]
    height = (0.95 if controls else 0.6) + 1.1 * sum(lines)
    shape: dict[str, Any] = {"width": width, "height": height, "share_x": False, "share_y": False}
    figure, grid = new_lattice(sum(lines), columns, **shape)
    lrs = unlisted(table.loc[table["kind"] == "grid", "mean"].iat[0])
    for axes in (axes for line in grid for axes in line):
        axes.set_axis_off()
    for points, top in zip(groups, np.cumsum([0, *lines[:-1]]), strict=True):
        for place, point in enumerate(points):
            axes = grid[top + place // columns][place % columns]
            axes.set_axis_on()
            _draw_point(axes, point, lrs, controls)
            if points is groups[-1] and place + columns >= len(points):
                axes.set_xlabel("Learning rate")
            else:
                axes.set_xticklabels([])
    figure.supylabel("Simulator loss (nats)", fontsize=7.5)
    named = grid[0][0].get_legend_handles_labels()
    small: dict[str, Any] = {"fontsize": 6, "handlelength": 1.6, "columnspacing": 0.9}
    figure.legend(*named, loc="outside upper center", ncols=3 if controls else 6, **small)
    return figure


def _draw_point(axes: Axes, rows: pd.DataFrame, lrs: np.ndarray, controls: Sequence[str]) -> None:
    first = records(rows)[0]
    for row in records(rows):
        # "system, kind", also in tables that are drawn without their runs
        system, kind = row["method"].split(", ")
        if system in CONTROLS and system not in controls:
            continue
        colour = RANDOM.get(kind, ORANGE) if system == "random" else COLOURS[kind]
        mean, least, most = (unlisted(row[name]) for name in ("mean", "least", "most"))
        label = kind if system == "FastIF" else f"{kind}, {system}"
        if system not in CONTROLS:
            axes.fill_between(lrs, least, most, color=colour, alpha=0.13, linewidth=0)
        line, above = LINES.get(system, ("-", 2))
        axes.plot(lrs, mean, color=colour, ls=line, lw=1.0, zorder=above, label=label)
    axes.axhline(first["before"], color=BLACK, linestyle="--", linewidth=0.7, label="before")
    axes.set_xscale("log")
    axes.set_xlim(lrs[0], lrs[-1])
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=6, pad=1)
    axes.set_title(f"{first['group']} {int(first['point'])}: {first['guess']}", fontsize=6, pad=2)
