"""The panels of Arnoldi's Table 1: every method's AUC, AP and time, with the printed numbers."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.marks import draw_key, draw_value, mark, name_lines, printed_mark, stretch_percent
from analysis.ink.style import GREY, look, new_panels
from analysis.numbers.table import Row, records

LABELS = {"AUC": "AUC ×100", "AP": "AP ×100", "T": "T ÷ TracIn[1]'s"}


def draw(table: pd.DataFrame) -> Figure:
    """Draw one line per method and one panel per quantity."""
    shown = table[(table["kind"] != "claim") & ~table["method"].str.contains(" [−÷] ")]
    rows = [row for row in records(shown) if row["quantity"] in LABELS]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    height = 0.9 + 0.2 * len(methods)
    figure, panels = new_panels(list(LABELS.values()), height=height, share_y=True)
    for axes, quantity in zip(panels, LABELS, strict=True):
        if quantity == "T":
            axes.set_xscale("log")
        else:  # nearly all methods are at the upper end
            stretch_percent(axes, end=101)
            axes.set_xlim(15, 100.2)
            axes.set_xticks([20, 80, 95, 99])
        for row in (row for row in rows if row["quantity"] == quantity):
            draw_row(axes, row, methods.index(row["method"]))
        axes.minorticks_off()
    panels[2].margins(x=0.08)
    panels[2].axvline(1, color=GREY, linewidth=0.7, linestyle=":")
    panels[2].set_xticks([1e-2, 1, 1e2, 1e4], ["0.01", "1", "100", r"$10^4$"])
    name_lines(panels[0], methods, margin=0.4)
    draw_key(figure, {"ours, 95% over seeds": mark(line="-"), "printed": printed_mark()})
    return figure


def draw_blocks(
    table: pd.DataFrame, labels: Mapping[str, str], below: str, line: float
) -> tuple[Figure, list[tuple[Axes, list[Row]]], dict[str, float]]:
    """Draw one line per method and one panel per quantity; names that end with `below` come last.

    `labels` are those of the panels, by quantity; `line` is in inches. Returns the figure, its
    panels with their rows, and the methods' heights.
    """
    shown = table[(table["kind"] != "claim") & ~table["method"].str.contains(" [−÷] ")]
    rows = [row for row in records(shown) if row["quantity"] in labels]
    names = sorted(dict.fromkeys(row["method"] for row in rows), key=lambda n: n.endswith(below))
    places = {name: at + 0.7 * name.endswith(below) for at, name in enumerate(names)}
    figure, axes = new_panels(list(labels.values()), height=1 + line * len(names), share_y=True)
    panels = [
        (one, [row for row in rows if row["quantity"] == quantity])
        for one, quantity in zip(axes, labels, strict=True)
    ]
    for one, mine in panels:
        for row in mine:
            draw_row(one, row, places[row["method"]])
    axes[0].set_yticks(list(places.values()), [name.removesuffix(below) for name in places])
    axes[0].set_ylim(max(places.values()) + 0.6, -0.6)
    return figure, panels, places


def draw_row(axes: Axes, row: Row, place: float) -> None:
    """Draw a method's row at a height: interval, printed value, ours."""
    style = look(row["method"])
    draw_value(axes, row, place, style.colour, style.marker)
    axes.tick_params(axis="y", length=0)
