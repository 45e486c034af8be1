"""The panels of Subsets on nondeterminism: agreement of classifiers, examples by share right."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.marks import draw_value, name_lines
from analysis.ink.style import BLACK, BLUE, GREY, PAGE, UNNAMED, new_panels
from analysis.numbers.agreement import BIN, BY_CLASS, CHANCE
from analysis.numbers.table import records

Looks = Mapping[str, tuple[str, str]]  # colour and marker by series
CHANCE_MARKS = {BY_CLASS: ("x", GREY), CHANCE: ("+", GREY)}


def draw_series(table: pd.DataFrame, series: Mapping[str, object]) -> Figure:
    """Draw agreement and accuracy side by side, both with a dot for each of the series."""
    looks = dict(zip(series, UNNAMED, strict=False))
    return draw(table, {"agreement": looks, "accuracy": looks})


def draw(table: pd.DataFrame, panels: Mapping[str, Looks]) -> Figure:
    """Draw classifiers below each other: one panel per quantity, one dot per series.

    `panels` are the quantities, with colour and marker by the values of the column `series`.
    """
    names = list(dict.fromkeys(table[table["kind"] == "number"]["method"]))
    most = max(map(len, panels.values()))
    height = 1.0 + 0.16 * -(-most // 2) + len(names) * (0.12 + 0.13 * most)
    figure, axes = new_panels(list(panels), width=PAGE, height=height, share_y=True)
    for panel, (quantity, looks) in zip(axes, panels.items(), strict=True):
        shown = table[(table["quantity"] == quantity) & (table["n"] > 0)]
        for place, (series, (colour, marker)) in enumerate(looks.items()):
            shift = 0.8 * ((place + 0.5) / len(looks) - 0.5)
            for row in records(shown[shown["series"] == series]):
                draw_value(panel, row, names.index(row["method"]) + shift, colour, marker)
            panel.plot([], [], marker, color=colour, label=series)
        if shown["paper"].notna().any():
            panel.plot([], [], "|", color=BLACK, markersize=9, label="printed")
        for between in range(1, len(names)):
            panel.axhline(between - 0.5, color=GREY, linewidth=0.4)
        panel.grid(axis="y", visible=False)
        panel.tick_params(axis="y", length=0)
        columns = 2 if len(looks) > 3 else len(looks) + 1
        panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, fontsize=6.5)
    name_lines(axes[0], [name.replace(", ", ",\n") for name in names])
    return figure


def draw_histogram(axes: Axes, rows: pd.DataFrame, looks: Mapping[str, str]) -> None:
    """Draw how many examples have each p as steps, one colour per series."""
    for series, colour in looks.items():
        part = rows[rows["series"] == series].sort_values("p")
        if part.empty:
            continue
        width = float(part["width"].iat[0])
        edges = np.append(part["p"] - width / 2, part["p"].iat[-1] + width / 2)
        heights = part["ours"].to_numpy(dtype=float)
        axes.stairs(heights, edges, color=colour, fill=True, alpha=0.25, lw=0)
        axes.stairs(heights, edges, color=colour, lw=1.1, label=series)
        axes.vlines(part["p"], part["low"], part["high"], color=colour, lw=0.7, alpha=0.8)
    axes.set_ylabel("share of examples")
    axes.set_ylim(bottom=0)
    axes.grid(axis="x", visible=False)


def draw_majority(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the histogram of one classifier; say "not run" where no network was trained."""
    rows = table[table["kind"] == BIN]
    axes.set_xlim(-0.03, 1.03)
    if rows.empty:
        axes.text(0.5, 0.5, "not run", ha="center", va="center", transform=axes.transAxes)
        axes.set_ylabel("share of examples")
        return
    draw_histogram(axes, rows, {"plain": BLUE})
    first = records(rows)[0]
    beyond = "" if first["of_tier"] == first["tier"] else f", {first['of_tier']} tier"
    axes.set_title(f"{first['method']},\n{first['n']} seed{'s' * (first['n'] > 1)}{beyond}")
