"""Rows, claims and panels of what random projections cost, against their dimension."""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from analysis.statistics import geometric, over_seeds
from analysis.style import BLUE, GREEN, ORANGE, Look, fit_values
from analysis.table import Row, claim, curve
from experiments.runs import Run

LOOKS = {
    "Gaussian": Look(BLUE, "o", "Gaussian"),
    "Rademacher": Look(ORANGE, "^", "Rademacher"),
    "TwoSided": Look(GREEN, "s", "factorised"),
}
SLOPES = {"TwoSided": (0.35, 0.65), "Gaussian": (0.85, 1.15)}
Groups = dict[tuple[str, int], list[Run]]  # by method and dimension


def costs(groups: Groups) -> Iterable[Row]:
    """Yield what was measured, and for dense maps too large for it, what follows from it."""
    dims = sorted({dim for method, dim in groups if method == "TwoSided"})
    for (method, dim), members in groups.items():
        for name, label, unit, by in [
            ("seconds", "processor time", "s", "measured"),
            ("peak_bytes", "peak memory", "bytes", "measured"),
            ("map_bytes", "size of the map", "bytes", "computed"),
        ]:
            ours = geometric([float(run.metrics[name]) for run in members])
            yield curve(method, label, unit, ours, dim=dim, by=by)
    dense = max((dim for method, dim in groups if method == "Gaussian"), default=0)
    for dim in [dim for dim in dims if 0 < dense < dim]:
        members = groups["Gaussian", dense]
        scaled = [run.metrics["seconds"] * dim / dense for run in members]
        more = {"dim": dim, "by": "extrapolated"}
        yield curve("Gaussian", "processor time", "s", geometric(scaled), **more)
        size = over_seeds([float(run.metrics["gradient_bytes"]) * dim for run in members])
        yield curve("Gaussian", "size of the map", "bytes", size, dim=dim, by="computed")
    for (_, dim), members in groups.items():
        for name in ("sketch", "gradient", "factors"):
            size = over_seeds([float(run.metrics[f"{name}_bytes"]) for run in members])
            yield curve(f"one {name}", "size", "bytes", size, dim=dim, by="computed")


def methods(groups: Groups) -> dict[str, list[int]]:
    """The dimensions of each method."""
    return {m: sorted(d for n, d in groups if n == m) for m in dict.fromkeys(m for m, _ in groups)}


def slopes(groups: Groups) -> Iterable[Row]:
    """Yield the claims on log-log slopes, fitted seed by seed."""
    for method, dims in methods(groups).items():
        low, high = SLOPES[method]
        names = {"seconds": "time"}
        if method == "TwoSided":  # a dense map is drawn in slices of limited size
            names["peak_bytes"] = "peak memory"
        for name, label in names.items():
            series: dict[int, list[float]] = {}
            for dim in dims:
                for run in groups[method, dim]:
                    series.setdefault(run.config["seed"], []).append(math.log(run.metrics[name]))
            whole = [values for values in series.values() if len(values) == len(dims)]
            fitted = [float(np.polyfit(np.log(dims), values, 1)[0]) for values in whole]
            about = {"at_least": low, "at_most": high}
            yield claim(method, f"slope of {label} in d", "", over_seeds(fitted), **about)


def draw_costs(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw rows against d, hollow where nothing was measured."""
    for method, style in LOOKS.items():
        mine = rows[rows["method"] == method].sort_values("dim")
        axes.plot(mine["dim"], mine["ours"], color=style.colour, linewidth=0.9)
        for fill, some in [
            (style.colour, mine[mine["by"] == "measured"]),
            ("white", mine[mine["by"] != "measured"]),
        ]:
            x, y, colour = some["dim"], some["ours"], style.colour
            axes.plot(x, y, style.marker, color=colour, markerfacecolor=fill)
    log_axes(axes, rows)


def log_axes(axes: Axes, rows: pd.DataFrame) -> None:
    """Make both axes logarithmic and fit them to the rows, if there are any."""
    if not (rows["ours"] > 0).any():
        return
    axes.set_xscale("log")
    axes.set_yscale("log")
    fit_values(axes, rows["ours"])
    axes.margins(x=0.1)
    axes.xaxis.set_major_locator(LogLocator(numticks=4))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
