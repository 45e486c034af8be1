"""Error correction step by step (FastIF, Figure 7): accuracy, answers by label, and loss."""

from dataclasses import replace
from itertools import product

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.ink.style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILLION, Look, new_lattice
from analysis.numbers.correction import BY_RULE, LOSS, MNLI, PARTS, RELEASED, SIDES

LOOKS = {  # by arm
    "helpful": Look(GREEN, "o", "helpful"),
    "harmful": Look(VERMILLION, "v", "harmful"),
    "random": Look(GREY, "x", "random"),
    "anchors": Look(BLACK, "P", "anchors", ":"),
    "similar": Look(BLUE, "s", "similar gradients (H = I)", "--"),
    "nearest": Look(ORANGE, "^", "nearest", "--"),
}
LOOKS |= {
    f"{side}{RELEASED}": replace(LOOKS[side], name=f"{side}{RELEASED}", line="-.", marker="*")
    for side in ("helpful", "harmful")
}
BANDS = ("helpful", "harmful", "random")  # arms whose intervals are drawn
SPAN = 2.0  # points that an axis shows at least, so that noise does not look like a result
SPAN_LOSS = 0.02  # nats, likewise


def with_rates(table: pd.DataFrame) -> pd.DataFrame:
    """The table with names of rates, also one that was made when they were numbers."""
    if "rate" in table:
        return table
    return table.assign(rate=table["lr"].map(lambda lr: f"lr {lr:g}"))


def draw(table: pd.DataFrame) -> Figure:
    """Accuracy per slice by step, and why: answers by label, and loss; a line per source and rate.

    The panel of answers has the change of accuracy on entailed pairs (solid) and on the others
    (dashed), with helpful and with random pairs.
    """
    table = with_rates(table)
    drawn = ["accuracy", "gain", LOSS, *SIDES.values()]
    shown = table[(table["kind"] == "curve") & table["quantity"].isin(drawn)]
    lines = list(shown.groupby(["rate", "source"], sort=False).groups)
    lines.sort(key=lambda line: (line[0] != BY_RULE, line[0], line[1] != MNLI))
    titles = [*PARTS.values(), "entailed −, others - -", "loss, all three slices"]
    figure, grid = new_lattice(
        len(lines), len(titles), height=0.75 + 1.45 * len(lines), share_x=True, share_y=False
    )
    for (rate, source), panels in zip(lines, grid, strict=True):
        rows = shown[(shown["rate"] == rate) & (shown["source"] == source)]
        for axes, part in zip(panels, PARTS.values(), strict=False):
            _draw_accuracy(axes, rows[rows["part"] == part])
        _draw_answers(panels[-2], rows)
        _draw_loss(panels[-1], rows[rows["quantity"] == LOSS])
        panels[0].set_ylabel(f"{source} pairs, {rate}\naccuracy (%)")
        panels[-2].set_ylabel("gain (points)")
        panels[-1].set_ylabel("change (nats)")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    for axes in grid[-1]:
        axes.set_xlabel("steps")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    named = grid[0][0].get_legend_handles_labels()
    figure.legend(*named, loc="outside upper center", ncols=4)
    return figure


def _draw_accuracy(axes: Axes, rows: pd.DataFrame) -> None:
    """Mean accuracies; bands are of the gain, so initial differences of models are excluded."""
    for arm in LOOKS:
        mine = rows[rows["method"] == arm].sort_values("step")
        accuracy, gain = (mine[mine["quantity"] == name] for name in ("accuracy", "gain"))
        if not accuracy.empty:
            _draw_arm(axes, arm, accuracy, gain, float(accuracy["ours"].iloc[0]))
    values = rows[rows["quantity"] == "accuracy"]["ours"]
    if len(values):
        middle = (values.max() + values.min()) / 2
        room = max(0.65 * (values.max() - values.min()), SPAN / 2)
        axes.set_ylim(middle - room, middle + room)


def _draw_answers(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw how accuracy changes on entailed pairs and on the others, all slices together."""
    for arm, (column, line) in product(
        ("helpful", "random"), (("gain_entailed", "-"), ("gain_other", "--"))
    ):
        mine = rows[(rows["method"] == arm) & (rows["quantity"] == SIDES[column])]
        mine = mine.sort_values("step")
        axes.plot(mine["step"], mine["ours"], line, color=LOOKS[arm].colour, linewidth=1.1)
    axes.axhline(0, color=BLACK, linewidth=0.5, zorder=1)


def _draw_loss(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the mean change of the loss, which influence predicts, on the rest of the slices."""
    for arm in LOOKS:
        mine = rows[rows["method"] == arm].sort_values("step")
        _draw_arm(axes, arm, mine, mine)
    axes.axhline(0, color=BLACK, linewidth=0.5, zorder=1)
    low, high = axes.get_ylim()
    room = max(0.0, SPAN_LOSS - (high - low)) / 2
    axes.set_ylim(low - room, high + room)


def _draw_arm(
    axes: Axes, arm: str, line: pd.DataFrame, band: pd.DataFrame, start: float = 0.0
) -> None:
    """Draw an arm's line, and the intervals of `band` above `start` if it is one of BANDS."""
    look = LOOKS[arm]
    if arm in BANDS and not line.empty:
        low, high = (start + band[side].to_numpy(dtype=float) for side in ("low", "high"))
        at = line["step"].to_numpy(dtype=float)
        axes.fill_between(at, low, high, color=look.colour, alpha=0.13, linewidth=0)
    axes.plot(
        line["step"], line["ours"], look.line, color=look.colour, marker=look.marker,
        markersize=2.8, linewidth=1.1, label=look.name, zorder=3 if arm == "helpful" else 2,
    )  # fmt: skip
