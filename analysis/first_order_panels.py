"""The panels of TracIn's Figure 7: change in loss against influence, and what it depends on."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from analysis.style import (
    FOOT,
    GREY,
    PAGE,
    SHADES,
    UNNAMED,
    VERMILLION,
    Look,
    draw_curve,
    fit_values,
)
from analysis.table import records

LINEAR = 1e-3  # nats: below it the axes are linear, above logarithmic
EDGES = LINEAR * np.sinh(np.linspace(-9.6, 9.6, 49))  # of the squares points are counted in
TICKS = {-1.0: "−1", -0.1: "", -0.01: "−.01", 0.0: "0", 0.01: ".01", 0.1: "", 1.0: "1"}

OPAQUE: dict[str, Any] = {"frameon": True, "framealpha": 0.85, "edgecolor": "none"}  # on intervals


def draw(table: pd.DataFrame) -> Figure:
    height = 4.6
    figure = Figure(figsize=(PAGE, height), layout="constrained")
    figure.set_layout_engine("constrained", rect=(0, FOOT / height, 1, 1 - FOOT / height))
    halves = figure.add_gridspec(2, 1, height_ratios=[1.15, 1])
    top, bottom = (figure.add_subfigure(halves[place]) for place in range(2))
    shown = list(dict.fromkeys(table.loc[table["kind"] == "bin", "method"]))
    panels = list(top.subplots(1, len(shown), squeeze=False, sharey=True)[0])
    whole = table[table["kind"] == "bin"]
    norm = LogNorm(whole["ours"].min(), whole["ours"].max())
    for axes, label in zip(panels, shown, strict=True):
        mesh = _draw_points(axes, table, label, norm)
    panels[0].set_ylabel("Change in loss (nats)")
    top.colorbar(mesh, ax=panels, label="Share of points", pad=0.01, aspect=15)
    left, middle, right = bottom.subplots(1, 3)
    _draw_rates(left, table)
    _draw_classes(middle, table, shown)
    _draw_remainders(right, table)
    return figure


def _draw_points(axes: Axes, table: pd.DataFrame, label: str, norm: LogNorm) -> QuadMesh:
    rows = table[(table["kind"] == "bin") & (table["method"] == label)]
    share = np.full((len(EDGES) - 1, len(EDGES) - 1), np.nan)
    share[rows["up"].astype(int), rows["across"].astype(int)] = rows["ours"]
    ramp = LinearSegmentedColormap.from_list("blues", ["#E3F0FA", *SHADES])
    mesh = axes.pcolormesh(EDGES, EDGES, share, cmap=ramp, norm=norm, rasterized=True)
    for set_scale in (axes.set_xscale, axes.set_yscale):
        set_scale("asinh", linear_width=LINEAR)
    axes.plot(EDGES[[0, -1]], EDGES[[0, -1]], color=VERMILLION, linewidth=0.7, linestyle="--")
    axes.set_xticks(list(TICKS), list(TICKS.values()))
    axes.set_yticks(list(TICKS), list(TICKS.values()))
    axes.minorticks_off()
    axes.set_xlim(EDGES[0], EDGES[-1])
    axes.set_ylim(EDGES[0], EDGES[-1])
    axes.set_xlabel("TracIn influence (nats)")
    axes.set_title(label)
    found = table[(table["kind"] == "curve") & (table["method"] == label)].set_index("quantity")
    said = "\n".join(f"{one} {found.loc[one, 'ours']:.3f}" for one in ("Pearson", "Spearman"))
    axes.text(0.05, 0.95, said, transform=axes.transAxes, va="top", fontsize=6.5)
    return mesh


def _looks(table: pd.DataFrame) -> dict[int, Look]:
    sizes = sorted(table["batch_size"].dropna().unique())
    return {
        int(size): Look(*UNNAMED[place % len(UNNAMED)], f"batch {int(size)}")
        for place, size in enumerate(sizes)
    }


def _draw_rates(axes: Axes, table: pd.DataFrame) -> None:
    rows = table[(table["kind"] == "curve") & table["quantity"].isin(["Pearson", "Spearman"])]
    for size, look in _looks(table).items():
        for quantity, line in (("Pearson", "-"), ("Spearman", ":")):
            one = rows[(rows["batch_size"] == size) & (rows["quantity"] == quantity)]
            if quantity == "Pearson":
                draw_curve(axes, one, "lr", look)
            else:
                axes.plot(one["lr"], one["ours"], color=look.colour, linestyle=line, linewidth=1)
    axes.plot([], [], color=GREY, linestyle=":", linewidth=1, label="Spearman")
    axes.set_xscale("log")
    _fit_correlations(axes, rows)
    axes.set(xlabel="Learning rate", ylabel="Correlation")
    axes.legend(loc="lower left", **OPAQUE)


def _fit_correlations(axes: Axes, rows: pd.DataFrame) -> None:
    """Fit the y axis to the correlations, with room for a legend below them."""
    span = 1 - rows["ours"].min()
    axes.set_ylim(1 - 1.9 * span, 1 + 0.08 * span)


def _draw_classes(axes: Axes, table: pd.DataFrame, shown: list[str]) -> None:
    by_class = table["quantity"].str.startswith("Pearson, class")
    rows = table[by_class & table["method"].isin(shown)]
    for place, label in enumerate(shown):
        colour, marker = UNNAMED[place]
        some = records(rows[rows["method"] == label])
        at = [int(row["label"]) + 0.2 * (place - 1) for row in some]
        axes.vlines(at, [r["low"] for r in some], [r["high"] for r in some], colors=colour, lw=0.8)
        values = [row["ours"] for row in some]
        axes.plot(at, values, marker, color=colour, markersize=3.5, label=label)
    _fit_correlations(axes, rows)
    axes.set_xticks(range(10))
    axes.grid(False, axis="x")
    axes.set(xlabel="Class of the query", ylabel="Pearson's correlation")
    axes.legend(loc="lower left", handletextpad=0.1, **OPAQUE)


def _draw_remainders(axes: Axes, table: pd.DataFrame) -> None:
    """What the first order leaves, at fractions of the step of the smallest rates."""
    rows = table[table["kind"] == "remainder"]
    shown = rows[rows["lr"] == rows.groupby("batch_size")["lr"].transform("min")]
    for size, look in _looks(table).items():
        draw_curve(axes, shown[shown["batch_size"] == size], "step", look)
    steps = np.array([shown["step"].min(), shown["step"].max()])
    guide = 0.3 * shown["ours"].min() * (steps / steps[0]) ** 2
    axes.plot(steps, guide, "--", color=GREY, label="slope 2")
    axes.set(xscale="log", yscale="log", xlabel="Learning rate of the step")
    axes.set_ylabel("Change − influence\n(nats, RMS)")
    fit_values(axes, [*shown["ours"], guide[0]])
    axes.legend(loc="lower right")
