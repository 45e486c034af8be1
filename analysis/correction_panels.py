"""The panels of Figure 7 of FastIF: accuracy along the steps, and the table of gains."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.correction import ARMS, PAPER_LR, PARTS, SOURCES
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


def draw(table: pd.DataFrame) -> Figure:
    shown = table[(table["kind"] == "curve") & table["quantity"].isin(["accuracy", "gain"])]
    lines = list(shown.groupby(["lr", "source"], sort=False).groups)
    lines.sort(
        key=lambda line: (line[0] != PAPER_LR, line[0], line[1] != next(iter(SOURCES.values())))
    )
    height = 0.75 + 1.45 * len(lines)
    figure = Figure(figsize=(PAGE, height), layout="constrained")
    figure.set_layout_engine("constrained", rect=(0, FOOT / height, 1, 1 - FOOT / height))
    grid = figure.subplots(len(lines), len(PARTS), sharex=True, squeeze=False)
    for (lr, source), panels in zip(lines, grid, strict=True):
        of = shown[(shown["lr"] == lr) & (shown["source"] == source)]
        for axes, part in zip(panels, PARTS.values(), strict=True):
            _panel(axes, of[of["part"] == part])
        panels[0].set_ylabel(f"{source} pairs, lr {lr:g}\naccuracy (%)")
    for axes, part in zip(grid[0], PARTS.values(), strict=True):
        axes.set_title(f"HANS: {part}")
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
        axes.plot(
            at, accuracy["ours"], look.line, color=look.colour, marker=look.marker,
            markersize=2.8, linewidth=1.1, label=look.name, zorder=3 if arm == "helpful" else 2,
        )  # fmt: skip
        values += list(accuracy["ours"])
    if values:
        middle, room = (max(values) + min(values)) / 2, 0.65 * (max(values) - min(values))
        axes.set_ylim(middle - max(room, SPAN / 2), middle + max(room, SPAN / 2))


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
