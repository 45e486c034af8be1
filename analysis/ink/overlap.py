"""The panels of Subsets on subset ensembles: IOU of influential pairs against the threshold."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.ink import style
from analysis.ink.style import BLACK, BLUE, COLUMN, GREEN, ORANGE, PAGE, PURPLE, SKY, new_panels
from analysis.numbers.overlap import IOU, ensembles

COLOURS = (SKY, BLUE, GREEN, ORANGE, style.VERMILLION, PURPLE, BLACK)  # by the number of models
LINES = {"probabilities": "-", "right or wrong": "--"}


def draw_ensemble(axes: Axes, table: pd.DataFrame, name: str, lines: Mapping[str, str]) -> None:
    """Draw an ensemble's curves, one colour per size; `lines` are the line styles of the series."""
    rows = table[(table["kind"] == IOU) & (table["method"] == name)]
    for series, line in lines.items():
        of_series = rows[rows["series"] == series]
        for (size, part), colour in zip(of_series.groupby("models"), COLOURS, strict=False):
            part = part.sort_values("threshold")
            label = f"{size:g}" if line == "-" else None
            axes.plot(part["threshold"], part["ours"], line, color=colour, label=label)
            if line == "-":
                low, high = (part[side].clip(0, 1) for side in ("low", "high"))
                axes.fill_between(part["threshold"], low, high, color=colour, alpha=0.15, lw=0)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(name)


def draw(table: pd.DataFrame) -> Figure:
    """Draw one panel per ensemble: curves of probabilities and, dashed, of right answers."""
    shown = ensembles(table)
    labels, width = ["influence threshold"] * len(shown), PAGE if len(shown) > 1 else COLUMN
    figure, axes = new_panels(labels, "IOU", width=width, height=2.6, share_y=True)
    for each, name in zip(axes, shown, strict=True):
        draw_ensemble(each, table, name, LINES)
    name_sizes(figure, axes[0], "models (dashed: right or wrong):")
    return figure


def name_sizes(figure: Figure, axes: Axes, title: str) -> None:
    """Name the lines of a panel above all of them, in one row behind a title."""
    handles, labels = axes.get_legend_handles_labels()
    heading = Line2D([], [], linestyle="none")
    figure.legend(
        [heading, *handles], [title, *labels], loc="outside upper center", ncols=len(labels) + 1
    )
