"""The panels of FastIF's Figure 8: change of the loss against the number of pairs left out."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.style import (
    BLACK,
    BLUE,
    COLUMN,
    FOOT,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    Look,
    fit_values,
)

ENDS, GROUPS = ("helpful", "harmful"), ("right", "wrong")
MATCHED = "random, matched label"  # the own label as helpful, others as harmful
LOOKS = {
    "Full": Look(BLACK, "D", "Full"),
    "H = I": Look(ORANGE, "^", "H = I"),
    "features": Look(GREEN, "v", "features"),
    "random": Look(GREY, "x", "random"),
    MATCHED: Look(PURPLE, "+", MATCHED),
}
FAST = ((BLUE, "o"), (SKY, "s"))


def draw(table: pd.DataFrame) -> Figure:
    height = 4.2
    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    figure.set_layout_engine("constrained", rect=(0, FOOT / height, 1, 1 - FOOT / height))
    grid = figure.subplots(2, 2, sharex=True)
    rows = table[(table["kind"] == "curve") & (table["end"] != "")]
    for line, end in enumerate(ENDS):
        for column, group in enumerate(GROUPS):
            own = rows[(rows["end"] == end) & (rows["group"] == group)]
            spread = table[table["quantity"] == f"sd over seeds, {group}"]["ours"].iat[0]
            _draw_panel(grid[line, column], own, float(spread))
            grid[line, column].set_title(f"{end} left out, {group}", fontsize=7)
        grid[line, 0].set_ylabel("Change in loss (nats)")
    for axes in grid[1]:
        axes.set_xlabel("Pairs left out")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=3, fontsize=6.5, columnspacing=1.0
    )
    return figure


def _draw_panel(axes: Axes, rows: pd.DataFrame, spread: float) -> None:
    """Systems side by side at each number of pairs; grey: another seed's deviation either way."""
    numbers = sorted(rows["removed"].unique())
    names = list(dict.fromkeys(rows["method"]))
    axes.axhspan(-spread, spread, color=GREY, alpha=0.12, linewidth=0, label="seeds (1 sd)")
    axes.axhline(0, color=BLACK, linewidth=0.6)
    shown: list[float] = []
    for place, name in enumerate(names):
        own = rows[rows["method"] == name].sort_values("removed")
        style = LOOKS.get(name) or Look(*FAST[place % len(FAST)], name)
        at = np.array([numbers.index(m) for m in own["removed"]]) + 0.11 * (
            place - (len(names) - 1) / 2
        )
        axes.vlines(at, own["low"], own["high"], colors=style.colour, linewidth=0.7, alpha=0.6)
        axes.plot(
            at, own["ours"], style.marker, color=style.colour, markersize=3.2, label=style.name
        )
        shown += own["ours"].tolist()
    fit_values(axes, [*shown, 0.0])
    axes.set_xticks(range(len(numbers)), [f"{int(m)}" for m in numbers])
    axes.tick_params(labelsize=6)
    axes.grid(False, axis="x")
