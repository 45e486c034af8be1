"""The maps of Figure 10: points packed into cells of the CSV, and drawn at their proportions."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.pixels import packed, unpacked
from analysis.statistics import Interval
from analysis.style import BLACK, BLUE, FOOT, GREY, PAGE, VERMILLION
from analysis.table import Row, curve

STEP = 0.01  # degrees: what the census rounds places to
EVERYWHERE = "#F0E442"  # the yellow of Okabe and Ito's palette: the paper's colour for all data
INSET_DEGREES = 0.55  # half the height of the map's detail, around the queries
SHOWN = {
    "training and test": ("all block groups", EVERYWHERE, "o", 1.5),
    "proponents": ("proponents", BLUE, "^", 9.0),
    "opponents": ("opponents", VERMILLION, "v", 9.0),
    "queries": ("queries", BLACK, "x", 11.0),
    "high": ("highest 3%", VERMILLION, "o", 3.0),
    "low": ("lowest 3%", BLUE, "o", 3.0),
}


def points(name: str, place: np.ndarray) -> Row:
    """The row that keeps places (n, 2), degrees north and east, each of them once."""
    once = np.unique(np.rint(place / STEP).astype("<i2"), axis=0)
    there = Interval(len(place), math.nan, math.nan, 1)
    row = curve(name, "points", "", there, points=packed(once))
    return row | {"kind": "points"}


def places(table: pd.DataFrame, name: str) -> np.ndarray:
    """The places of a row that `points` wrote, (n, 2)."""
    cells = table.loc[(table["kind"] == "points") & (table["method"] == name), "points"]
    if cells.empty:
        return np.empty((0, 2))
    return np.frombuffer(unpacked(str(cells.iat[0])), "<i2").reshape(-1, 2) * STEP


def draw(table: pd.DataFrame) -> Figure:
    """Two maps side by side; the first has a detail around the queries."""
    height = 4.5
    figure = Figure(figsize=(PAGE, height))
    figure.subplots_adjust(
        left=0.065, right=0.995, bottom=(FOOT + 0.62) / height, top=0.945, wspace=0.12
    )
    left, right = figure.subplots(1, 2)
    influential = ("training and test", "opponents", "proponents", "queries")
    _map(left, table, influential, "(a) Influential for 11 queries in Palo Alto")
    _map(right, table, ("training and test", "low", "high"), "(b) Self-influence")
    right.set_ylabel("")
    queries = places(table, "queries")
    if len(queries):
        _detail(left, table, influential, queries.mean(0))
    for axes, names in ((left, influential[::-1]), (right, ("high", "low", "training and test"))):
        axes.legend(
            handles=[_handle(name) for name in names],
            loc="upper center",
            bbox_to_anchor=(0.5, -0.115),
            ncols=2,
            columnspacing=1.0,
            handletextpad=0.3,
        )
    return figure


def _map(axes: Axes, table: pd.DataFrame, names: tuple[str, ...], title: str) -> None:
    for name in names:
        place = places(table, name)
        label, colour, marker, size = SHOWN[name]
        edge = 0.9 if marker == "x" else 0.0
        north, east = place.T
        axes.scatter(east, north, size, colour, marker=marker, linewidths=edge, label=label)
    everywhere = places(table, "training and test")
    axes.set_aspect(1 / math.cos(math.radians(everywhere[:, 0].mean())))
    axes.set_title(title, loc="left")
    axes.set_xlabel("Longitude (degrees east)")
    axes.set_ylabel("Latitude (degrees north)")


def _detail(axes: Axes, table: pd.DataFrame, names: tuple[str, ...], centre: np.ndarray) -> None:
    """Enlarge what is around the queries, in the corner where there is no land to hide."""
    wide = INSET_DEGREES / math.cos(math.radians(centre[0]))
    inset = axes.inset_axes((0.545, 0.545, 0.455, 0.455))
    _map(inset, table, names, "")
    inset.set_xlim(centre[1] - wide, centre[1] + wide)
    inset.set_ylim(centre[0] - INSET_DEGREES, centre[0] + INSET_DEGREES)
    inset.set(xticks=[], yticks=[], xlabel="", ylabel="")
    for spine in inset.spines.values():
        spine.set_visible(True)
        spine.set_color(GREY)
    axes.indicate_inset_zoom(inset, edgecolor=GREY, alpha=1.0)


def _handle(name: str) -> Line2D:
    label, colour, marker, _ = SHOWN[name]
    return Line2D([], [], color=colour, marker=marker, linestyle="", markersize=4, label=label)
