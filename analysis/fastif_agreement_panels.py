"""The panels of FastIF's Table 3: correlations at two dampings, with the printed numbers."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.style import BLACK, BLUE, GREY, ORANGE, PAGE, new_panels
from analysis.table import records

MEASURES = ("Pearson", "Spearman", "Kendall")
COLOURS, MARKERS, APART = (BLUE, ORANGE), "os", 0.16
TICKS = (0, 50, 80, 90, 95, 98, 99, 99.9)


def draw(table: pd.DataFrame) -> Figure:
    """A panel a measure and a line a comparison, a colour a damping."""
    shown = table[table["quantity"].isin(MEASURES) & (table["kind"] != "claim")]
    rows = [row for row in records(shown) if row["n"] > 0]
    labels = list(dict.fromkeys(row["method"].partition("; ")[0] for row in rows))
    names = list(dict.fromkeys(row["method"].partition("; ")[2] for row in rows))
    height = 1.1 + 0.27 * len(labels)
    titles = [f"{name} (%)" for name in MEASURES]
    figure, panels = new_panels(titles, width=PAGE, height=height, share_y=True)
    for axes, measure in zip(panels, MEASURES, strict=True):
        mine = [row for row in rows if row["quantity"] == measure]
        _stretch(axes, min((row["ours"] for row in mine), default=0.0))
        for row in mine:
            label, _, name = row["method"].partition("; ")
            at = names.index(name)
            y = labels.index(label) + APART * (2 * at - 1 if len(names) > 1 else 0)
            axes.plot([row["low"], row["high"]], [y] * 2, color=COLOURS[at % 2], alpha=0.5, lw=2)
            axes.plot(row["ours"], y, MARKERS[at % 2], color=COLOURS[at % 2])
            axes.plot(row["paper"], y, "|", color=BLACK, markersize=9, markeredgewidth=1.2)
        axes.tick_params(axis="y", length=0)
        axes.minorticks_off()
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    handles = [
        panels[0].plot([], [], MARKERS[at % 2] + "-", color=COLOURS[at % 2])[0]
        for at in range(len(names))
    ]
    handles.append(panels[0].plot([], [], "|", color=BLACK, markersize=9)[0])
    figure.legend(handles, [*names, "printed"], loc="outside upper center", ncols=3)
    panels[0].axhline(-10, color=GREY)
    return figure


def _stretch(axes: Axes, lowest: float) -> None:
    """Stretch the upper end of a percentage, where nearly all correlations are."""
    axes.set_xscale(
        "function",
        functions=(
            lambda x: -np.log10(100.2 - np.clip(x, -100, 100.1)),
            lambda y: 100.2 - 10.0 ** -np.asarray(y),
        ),
    )
    low = max(-100.0, lowest - 0.3 * (100 - lowest) - 1)
    axes.set_xlim(low, 100.1)
    ticks = [tick for tick in TICKS if tick >= low]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=6)
