"""The panels of Figure 3 of 003: run time against parameters, and the error of a smaller basis."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.style import BLACK, BLUE, GREEN, GREY, ORANGE, PAGE, VERMILLION, new_panels
from analysis.table import records

TOTAL, SLOPE = "run time", "p, exponent in the run time"
ERRORS = "relative error of eigenvalues"
COLOURS = {"bfloat16": ORANGE, "on disk": GREEN, "another start and draws": GREY}


def draw(table: pd.DataFrame) -> Figure:
    labels = ["parameters p", "rank of the eigenvalue"]
    figure, (left, right) = new_panels(labels, "hours, n = 200, b = 512", width=PAGE, height=3.0)
    _draw_times(left, table)
    _draw_errors(right, table)
    return figure


def _draw_times(axes: Axes, table: pd.DataFrame) -> None:
    rows = records(table[(table["quantity"] == TOTAL) & (table["fitted"] == 1)])
    axes.set_xscale("log")
    axes.set_yscale("log")
    for row in rows:
        vision = row["method"].startswith("ViT")
        colour = BLUE if vision else VERMILLION
        fill = "none" if row["extrapolated"] else "full"
        axes.plot([row["p"]] * 2, [row["low"], row["high"]], color=colour, linewidth=2, alpha=0.4)
        axes.plot(row["p"], row["ours"], "o" if vision else "s", color=colour, fillstyle=fill)
        at = (row["p"], row["ours"])
        axes.annotate(
            row["method"], at, (5, -8), textcoords="offset points", fontsize=6.5, color=colour
        )
    sizes = np.array([row["p"] for row in rows] or [1.0, 10.0])
    for name, style in (("all architectures", "-"), ("vision Transformers", "--")):
        for row in records(table[(table["method"] == name) & (table["quantity"] == SLOPE)]):
            if row["n"] > 0 and not math.isnan(row["ours"]):
                x = np.geomspace(sizes.min() / 1.3, sizes.max() * 1.3, 50)
                y = np.exp(row["intercept"]) * x ** row["ours"]
                told = f"{name}: $p^{{{row['ours']:.2f}}}$"
                axes.plot(x, y, style, color=BLACK if style == "-" else BLUE, lw=0.9, label=told)
    axes.margins(x=0.25, y=0.15)
    axes.legend(loc="lower right", fontsize=6.5)
    if any(row["extrapolated"] for row in rows):
        axes.set_title("hollow: a sum of parts, extrapolated", color=GREY, fontsize=7)


def _draw_errors(axes: Axes, table: pd.DataFrame) -> None:
    rows = table[table["quantity"] == ERRORS]
    for name, line in rows.groupby("method", sort=False):
        line = line.sort_values("rank")
        colour = COLOURS[str(name)]
        if (line["ours"] == 0).all():
            axes.plot([], [], color=colour, label=f"{name}: none")
            continue
        axes.plot(line["rank"], line["ours"], color=colour, label=str(name))
        low = line["low"].clip(lower=line["ours"] / 10)
        axes.fill_between(line["rank"], low, line["high"], color=colour, alpha=0.2, linewidth=0)
    axes.set_yscale("log")
    axes.set_ylabel("relative error of the eigenvalue")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(title="against float32 in memory", title_fontsize=6.5, fontsize=6.5)
