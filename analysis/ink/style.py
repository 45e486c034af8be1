"""One colour, one marker and one name per method; figures at a paper's column width, no pyplot."""

import io
import math
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

# Okabe & Ito's palette, distinguishable with every common kind of colour blindness.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#6B6B6B"
# Colour and marker of what is not a method, in order.
UNNAMED = tuple(zip((BLUE, ORANGE, GREEN, VERMILLION, PURPLE, GREY), "o^sDvx", strict=True))
SHADES = (SKY, BLUE, "#1B2A41")  # ordered: early, middle and late of one method

COLUMN, PAGE = 3.5, 7.0  # inches: one column and two
DPI = 220
FOOT = 0.2  # inches under the axes, free for what `stamp` writes

SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same ink on every machine
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "errorbar.capsize": 0,
    "pdf.fonttype": 42,
    "savefig.dpi": DPI,
    "figure.dpi": DPI,
}


@dataclass(frozen=True)
class Look:
    """How a family of methods is drawn."""

    colour: str
    marker: str
    name: str
    line: str = "-"


LOOKS = {
    "TracIn": Look(BLUE, "s", "TracIn", "--"),
    "RandProj": Look(ORANGE, "^", "RandProj"),
    "RandSelect": Look(PURPLE, "v", "RandSelect"),
    "Arnoldi": Look(GREEN, "o", "Arnoldi"),
    "LiSSA": Look(VERMILLION, "D", "LiSSA", "-."),
    "Exact": Look(BLACK, "P", "Exact Hessian", ":"),
    "GHG^T": Look(ORANGE, "<", "RandProj (GHGᵀ)"),
    "CG": Look(GREY, "X", "CG", ":"),
    "Sketch": Look(SKY, "h", "Sketch"),
    "Loss": Look(GREY, "*", "Loss", "-"),
    "Influence": Look(VERMILLION, "P", "Influence functions"),
    "Gradients": Look(BLUE, "X", "Gradient product"),
    "Cosine": Look(SKY, "X", "Gradient cosine"),
    "Representer": Look(PURPLE, "p", "Representer"),
    "Features": Look(GREY, "d", "Feature cosine"),
    "Random": Look(GREY, ".", "Random"),
    "Ensemble": Look(BLACK, "o", "Ensemble"),
}


def family(method: str) -> str:
    """The family of a method's display name: `RandProj 100` -> `RandProj`."""
    match = re.match(r"[A-Za-z^]+", method)
    return match.group() if match else method


def look(method: str) -> Look:
    """How a method is drawn; one without a style is grey under its own name."""
    return LOOKS.get(family(method), Look(GREY, "x", method))


def new_axes(xlabel: str, ylabel: str, height: float = 2.5) -> tuple[Figure, Axes]:
    """A figure of one column's width and its axes."""
    figure, (axes,) = new_panels([xlabel], ylabel, height=height)
    return figure, axes


def new_panels(
    xlabels: Sequence[str],
    ylabel: str = "",
    *,
    width: float = COLUMN,
    height: float = 2.5,
    share_y: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side; `ylabel` is the first panel's."""
    shape: dict[str, Any] = {"width": width, "height": height, "share_y": share_y}
    figure, (panels,) = new_lattice(1, len(xlabels), share_x=False, **shape)
    for axes, xlabel in zip(panels, xlabels, strict=True):
        axes.set_xlabel(xlabel)
    panels[0].set_ylabel(ylabel)
    return figure, panels


def new_figure(width: float, height: float) -> Figure:
    """An empty figure whose panels are laid out above the room that `stamp` needs."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.set_layout_engine("constrained", rect=(0, FOOT / height, 1, 1 - FOOT / height))
    return figure


def new_lattice(
    lines: int,
    columns: int,
    *,
    width: float = PAGE,
    height: float,
    share_x: bool | Literal["col"] = "col",
    share_y: bool = True,
    widths: Sequence[float] | None = None,
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with lines of panels, which share their x axes down each column.

    `widths` are those of the columns, relative to each other.
    """
    figure = new_figure(width, height)
    grid = figure.subplots(
        lines, columns, squeeze=False, sharex=share_x, sharey=share_y, width_ratios=widths
    )
    return figure, [list(line) for line in grid]


def new_grid(lines: int, columns: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of invisible axes, for pictures."""
    figure = Figure(figsize=(width, height))
    bottom, top = (FOOT + 0.2) / height, 1 - 0.35 / height
    figure.subplots_adjust(0.01, bottom, 0.99, top, wspace=0.08, hspace=0.3)
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    return figure, grid


def stamp(figure: Figure, tier: str, missing: int) -> None:
    """Say on the figure which tier it is and whether runs are missing."""
    foot = 0.05 / figure.get_figheight()
    if tier != "paper":
        figure.text(0.99, foot, f"{tier} tier", ha="right", va="bottom", fontsize=6, color=GREY)
    if missing:
        note = f"PARTIAL: {missing} run{'s' * (missing > 1)} missing"
        figure.text(0.01, foot, note, va="bottom", fontsize=6.5, color=VERMILLION, weight="bold")


def settings() -> AbstractContextManager[None]:
    """The context in which every figure is drawn and saved."""
    return rc_context(SETTINGS)


def ink(figure: Figure) -> dict[str, bytes]:
    """The figure as `png` and `pdf`, the same bytes on every call."""
    undated: dict[str, dict[str, None]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    }
    files = {}
    for kind, metadata in undated.items():
        file = io.BytesIO()
        figure.savefig(file, format=kind, metadata=metadata)
        figure.set_layout_engine("none")  # layout is computed once, so both look the same
        files[kind] = file.getvalue()
    return files


def draw_curve(
    axes: Axes, rows: pd.DataFrame, x: str, style: Look, mark_every: float | None = None
) -> None:
    """Draw rows of a table as one method's curve of `ours` against column x, with its interval."""
    if rows.empty:
        return
    rows = rows.sort_values(x)
    at, low, high = (rows[name].to_numpy(dtype=float) for name in (x, "low", "high"))
    axes.fill_between(at, low, high, color=style.colour, alpha=0.2, linewidth=0)
    if len(at) == 1:  # a band over one point has no width
        axes.vlines(at, low, high, color=style.colour, alpha=0.5, linewidth=2)
    look: dict[str, Any] = {"color": style.colour, "marker": style.marker, "label": style.name}
    axes.plot(at, rows["ours"], markevery=mark_every, **look)


def fit_values(axes: Axes, values: Iterable[float], *, top: float = math.inf) -> None:
    """Fit the y axis to values, not to their intervals, which are wide where there are two seeds.

    `top` is the largest possible value. A logarithmic axis gets a factor of two as room. Without a
    finite value the axis stays unchanged.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return
    low, high = min(finite), max(finite)
    if axes.get_yscale() == "log":
        axes.set_ylim(low / 2, high * 2)
    else:
        room = max(0.2 * (high - low), 0.02 * abs(high))
        axes.set_ylim(low - room, min(high + room, top))


def tick_values(axes: Axes, values: Iterable[float], at_most: int = 8) -> None:
    """Mark the grid that was run on the x axis: all of it, or its round numbers if it is long."""
    grid = sorted({int(value) for value in values if value == value})
    if len(grid) > at_most:
        grid = [value for value in grid if f"{value}".rstrip("0") in ("1", "5")] or grid[::2]
    axes.set_xticks(grid, [str(value) for value in grid])
    axes.xaxis.set_minor_locator(NullLocator())
