"""The panels of Figure 7 of FastIF: accuracy and loss along the steps, and the table of gains."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.correction import ARMS, LOSS, PAPER_LR, PARTS, SOURCES
from analysis.style import BLACK, BLUE, FOOT, GREEN, GREY, ORANGE, PAGE, VERMILLION, Look
from analysis.table import records, written

LOOKS = {
    "helpful": Look(GREEN, "o", "helpful"),
    "harmful": Look(VERMILLION, "v", "harmful"),
    "random": Look(GREY, "x", "random"),
    "anchors": Look(BLACK, "P", "anchors", ":"),
    "similar": Look(BLUE, "s", "similar gradients (H = I)", "--"),
    "nearest": Look(ORANGE, "^", "nearest", "--"),
}
SPAN = 2.0  # points that an axis shows at least, lest noise look like a result
SPAN_LOSS = 0.02  # nats, likewise


def draw(table: pd.DataFrame) -> Figure:
    shown = table[(table["kind"] == "curve") & table["quantity"].isin(["accuracy", "gain", LOSS])]
    lines = list(shown.groupby(["lr", "source"], sort=False).groups)
    lines.sort(
        key=lambda line: (line[0] != PAPER_LR, line[0], line[1] != next(iter(SOURCES.values())))
    )
    height = 0.75 + 1.45 * len(lines)
    figure = Figure(figsize=(PAGE, height), layout="constrained")
    figure.set_layout_engine("constrained", rect=(0, FOOT / height, 1, 1 - FOOT / height))
    grid = figure.subplots(len(lines), len(PARTS) + 1, sharex=True, squeeze=False)
    for (lr, source), panels in zip(lines, grid, strict=True):
        of = shown[(shown["lr"] == lr) & (shown["source"] == source)]
        for axes, part in zip(panels, PARTS.values(), strict=False):
            _panel(axes, of[of["part"] == part])
        _losses(panels[-1], of[of["quantity"] == LOSS])
        panels[0].set_ylabel(f"{source} pairs, lr {lr:g}\naccuracy (%)")
        panels[-1].set_ylabel("change (nats)")
    for axes, title in zip(grid[0], [*PARTS.values(), "loss, all three slices"], strict=True):
        axes.set_title(title)
    for axes in grid[-1]:
        axes.set_xlabel("steps")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(ARMS))
    return figure


def _panel(axes: Axes, rows: pd.DataFrame) -> None:
    """Mean accuracies; bands are intervals of the gain, which the spread of models is not in."""
    values = []
    for arm in ARMS:
        mine = rows[rows["method"] == arm].sort_values("step")
        accuracy, gain = (mine[mine["quantity"] == name] for name in ("accuracy", "gain"))
        if accuracy.empty:
            continue
        look, at = LOOKS[arm], accuracy["step"].to_numpy(dtype=float)
        start = float(accuracy["ours"].iloc[0])
        if arm in ("helpful", "harmful", "random"):
            low, high = (start + gain[side].to_numpy(dtype=float) for side in ("low", "high"))
            axes.fill_between(at, low, high, color=look.colour, alpha=0.13, linewidth=0)
        _line(axes, arm, at, accuracy["ours"])
        values += list(accuracy["ours"])
    if values:
        middle, room = (max(values) + min(values)) / 2, 0.65 * (max(values) - min(values))
        axes.set_ylim(middle - max(room, SPAN / 2), middle + max(room, SPAN / 2))


def _losses(axes: Axes, rows: pd.DataFrame) -> None:
    """What influence is of: the mean change of loss on the rest of the slices since the start."""
    for arm in ARMS:
        mine = rows[rows["method"] == arm].sort_values("step")
        if arm in ("helpful", "harmful", "random") and not mine.empty:
            low, high = (mine[side].to_numpy(dtype=float) for side in ("low", "high"))
            axes.fill_between(
                mine["step"], low, high, color=LOOKS[arm].colour, alpha=0.13, linewidth=0
            )
        _line(axes, arm, mine["step"], mine["ours"])
    axes.axhline(0, color=BLACK, linewidth=0.5, zorder=1)
    low, high = axes.get_ylim()
    room = max(0.0, SPAN_LOSS - (high - low)) / 2
    axes.set_ylim(low - room, high + room)


def _line(axes: Axes, arm: str, steps: Any, values: Any) -> None:
    look = LOOKS[arm]
    axes.plot(
        steps, values, look.line, color=look.colour, marker=look.marker,
        markersize=2.8, linewidth=1.1, label=look.name, zorder=3 if arm == "helpful" else 2,
    )  # fmt: skip


def page(table: pd.DataFrame) -> pd.DataFrame:
    """A line an arm, source and learning rate: gains in points on each slice and over all."""
    curves = table[table["kind"] == "curve"]
    lines = []
    for (lr, source, arm), rows in curves[curves["method"].isin(ARMS)].groupby(
        ["lr", "source", "method"], sort=False
    ):
        gains = rows[rows["quantity"] == "gain"]
        line = {"pairs of": source, "lr": f"{lr:g}", "steps on": LOOKS[arm].name}
        for part in PARTS.values():
            mine = records(gains[gains["part"] == part].sort_values("step"))
            line[part] = written(mine[-1], "+.2f") if mine else ""
        (whole,) = records(rows[rows["quantity"] == "gain over all slices"])
        lines.append({**line, "all slices": written(whole, "+.2f")})
    return pd.DataFrame(lines)
