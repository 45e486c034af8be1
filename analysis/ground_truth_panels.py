"""LDS against trainings, and what else scores are worth, a line a data set."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.style import BLACK, FOOT, GREY, PAGE, look
from analysis.table import Row, records

ENSEMBLE = "Ensemble"
LDS, AUC, OWN = 0, 1, 2
TITLES = (
    "LDS against networks trained",
    "AUC of influential pairs",
    "self-influence against\nmemorization, Spearman",
)


def draw(table: pd.DataFrame) -> Figure:
    names = list(dict.fromkeys(table["data"]))
    height = 0.75 + 2.35 * len(names)
    figure = Figure(figsize=(PAGE, height), layout="constrained")
    figure.set_layout_engine("constrained", rect=(0, FOOT / height, 1, 1 - FOOT / height))
    grid = figure.subplots(len(names), 3, squeeze=False, width_ratios=(1.5, 1, 1))
    for line, name in zip(grid, names, strict=True):
        rows = table[(table["data"] == name) & (table["kind"] == "curve")]
        _curves(line[LDS], rows, name)
        methods = list(dict.fromkeys(rows[rows["measure"] == "lds"]["method"]))
        _dots(line[AUC], rows, methods, "area", 0.5)
        _dots(line[OWN], rows, methods, "own", 0.0)
        line[OWN].set_yticklabels([])
    for axes, title in zip(grid[0], TITLES, strict=True):
        axes.set_title(title)
    grid[-1][LDS].set_xlabel("networks trained")
    grid[-1][AUC].set_xlabel("open: fewest networks trained")
    grid[-1][OWN].set_xlabel("filled: most")
    return figure


def _curves(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    lds = rows[rows["measure"] == "lds"]
    # Inverses by themselves, such as "Influence, CG", are of one network: in the table.
    methods = [method for method in dict.fromkeys(lds["method"]) if ", " not in method]
    for place, method in enumerate(methods):
        style, line = look(method), lds[lds["method"] == method].sort_values("trainings")
        aside = 1 + 0.03 * (place - len(methods) // 2)  # intervals beside each other
        x = line["trainings"].to_numpy(dtype=float) * aside
        axes.vlines(x, line["low"], line["high"], color=style.colour, alpha=0.4, linewidth=1.4)
        axes.plot(x, line["ours"], color=style.colour, marker=style.marker, linewidth=1)
    for row in records(rows[rows["measure"] == "ceiling"]):
        axes.axhline(row["ours"], color=GREY, linewidth=0.8, linestyle=":")
        axes.annotate(
            "ceiling by noise", (0.99, row["ours"]), xycoords=("axes fraction", "data"),
            ha="right", va="bottom", color=GREY, fontsize=6.5,
        )  # fmt: skip
    axes.axhline(0, color=BLACK, linewidth=0.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel(f"{name}\nLDS")


def _dots(axes: Axes, rows: pd.DataFrame, methods: list[str], measure: str, chance: float) -> None:
    axes.axvline(chance, color=GREY, linewidth=0.8, linestyle=":")
    for place, method in enumerate(methods):
        line = rows[(rows["method"] == method) & (rows["measure"] == measure)]
        ordered = records(line.sort_values("trainings"))
        for row in dict.fromkeys((0, len(ordered) - 1)) if ordered else ():
            _dot(axes, ordered[row], method, place, first=row == 0 and len(ordered) > 1)
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def _dot(axes: Axes, row: Row, method: str, place: int, *, first: bool) -> None:
    style = look(method)
    y = place + (0.14 if first else -0.14)
    if not math.isnan(row["low"]):
        axes.plot([row["low"], row["high"]], [y, y], color=style.colour, linewidth=1.6, alpha=0.5)
    fill = "none" if first else "full"
    axes.plot(row["ours"], y, style.marker, color=style.colour, fillstyle=fill)
