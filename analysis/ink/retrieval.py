"""The panels of Table 1 of 003: every method's AUC, AP and time, with the printed numbers."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.style import BLACK, GREY, look, new_panels
from analysis.numbers.table import Row, records


def draw(table: pd.DataFrame) -> Figure:
    labels = {"AUC": "AUC ×100", "AP": "AP ×100", "T": "T / T of TracIn[1]"}
    shown = table[(table["kind"] != "claim") & ~table["method"].str.contains(" − ")]
    rows = [row for row in records(shown) if row["quantity"] in labels]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    height = 0.9 + 0.2 * len(methods)
    figure, panels = new_panels(list(labels.values()), height=height, share_y=True)
    for axes, quantity in zip(panels, labels, strict=True):
        _stretch(axes) if quantity != "T" else axes.set_xscale("log")
        for row in (row for row in rows if row["quantity"] == quantity):
            draw_row(axes, row, methods.index(row["method"]))
        axes.minorticks_off()
    panels[2].margins(x=0.08)
    panels[2].axvline(1, color=GREY, linewidth=0.7, linestyle=":")
    panels[2].set_xticks([1e-2, 1, 1e2, 1e4], ["0.01", "1", "100", r"$10^4$"])
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].set_ylim(len(methods) - 0.4, -0.6)
    ours = panels[0].plot([], [], "o-", color=GREY)[0]
    paper = panels[0].plot([], [], "|", color=BLACK, markersize=9, markeredgewidth=1.2)[0]
    figure.legend(
        [ours, paper], ["ours, 95% over seeds", "printed"], loc="outside upper center", ncols=2
    )
    return figure


def draw_row(axes: Axes, row: Row, place: float) -> None:
    """Draw a row of a table at a height: interval, printed value, ours."""
    style = look(row["method"])
    axes.plot([row["low"], row["high"]], [place] * 2, color=style.colour, linewidth=2, alpha=0.5)
    axes.plot(row["paper"], place, "|", color=BLACK, markersize=9, markeredgewidth=1.2)
    axes.plot(row["ours"], place, style.marker, color=style.colour)
    axes.tick_params(axis="y", length=0)


def _stretch(axes: Axes) -> None:
    """Stretch the upper end of a percentage, where nearly all methods are."""
    axes.set_xscale(
        "function",
        functions=(
            lambda x: -np.log10(101 - np.clip(x, -100, 100.5)),
            lambda y: 101 - 10.0 ** -np.asarray(y),
        ),
    )
    axes.set_xlim(15, 100.2)
    axes.set_xticks([20, 80, 95, 99])
