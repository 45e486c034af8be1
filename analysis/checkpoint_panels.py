"""The panels of tracin_checkpoints: the training with its phases, and what each choice finds."""

import re

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.style import (
    BLUE,
    FOOT,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    VERMILLION,
    Look,
    draw_curve,
    fit_values,
)
from analysis.table import records


def draw(table: pd.DataFrame) -> Figure:
    height = 3.3
    figure = Figure(figsize=(PAGE, height), layout="constrained")
    figure.set_layout_engine("constrained", rect=(0, FOOT / height, 1, 1 - FOOT / height))
    grid = figure.add_gridspec(2, 2, width_ratios=[1.15, 1])
    top = figure.add_subplot(grid[0, 0])
    bottom = figure.add_subplot(grid[1, 0], sharex=top)
    moments = table[table["kind"] == "moment"]
    for axes, quantity, colour in ((top, "loss", BLUE), (bottom, "AP alone", VERMILLION)):
        rows = moments[moments["quantity"] == quantity]
        draw_curve(axes, rows, "epoch", Look(colour, ".", quantity))
        fit_values(axes, rows["ours"])
        _draw_phases(axes, table)
    if len(moments):
        top.set_xscale("log")
    top.set_ylabel("Training loss (nats)")
    top.tick_params(labelbottom=False)
    bottom.set_ylabel("AP of one\ncheckpoint (×100)")
    bottom.set_xlabel("Epochs of training")
    _name_phases(top, table)
    top.plot([], [], "|", color=GREEN, markeredgewidth=1.8, label="proposed, on one seed")
    top.legend(loc="lower left", bbox_to_anchor=(0, 0.08), handletextpad=0.1)
    _draw_choices(figure.add_subplot(grid[:, 1]), table)
    return figure


def _boundaries(table: pd.DataFrame) -> list[float]:
    """Where the loss has settled and converged, in epochs; nothing if no run says."""
    rows = table[table["method"] == "training"].set_index("quantity")["ours"]
    return [float(rows[name]) for name in ("settled", "converged") if name in rows]


def _draw_phases(axes: Axes, table: pd.DataFrame) -> None:
    for at in _boundaries(table):
        axes.axvline(at, color=GREY, linewidth=0.8, linestyle=":")
    proposed = table[table["kind"] == "proposal"]
    if proposed.empty:
        return
    for row in records(proposed[proposed["seed"] == proposed["seed"].min()]):
        axes.axvline(row["ours"], ymax=0.08, color=GREEN, linewidth=1.8)


def _name_phases(axes: Axes, table: pd.DataFrame) -> None:
    boundaries = _boundaries(table)
    if not boundaries:
        return
    epochs = table.loc[table["kind"] == "moment", "epoch"]
    edges = [epochs.min(), *boundaries, epochs.max()]
    for name, low, high in zip(("early", "steady", "converged"), edges, edges[1:], strict=False):
        middle = float(np.sqrt(low * high))
        axes.annotate(
            name, (middle, 1.02), xycoords=("data", "axes fraction"), ha="center", fontsize=6.5
        )


def _draw_choices(axes: Axes, table: pd.DataFrame) -> None:
    wide = {
        quantity: table[(table["quantity"] == quantity) & (table["kind"] == "curve")]
        for quantity in ("AP", "AP of the loss", "checkpoints")
    }
    shown = [row for row in records(wide["AP"]) if row["n"] and row["method"] != "chance"]
    counts = wide["checkpoints"].set_index("method")["ours"]
    losses = wide["AP of the loss"].set_index("method")["ours"]
    at = np.arange(len(shown))[::-1]
    axes.hlines(at, [r["low"] for r in shown], [r["high"] for r in shown], colors=BLUE, lw=1.6)
    axes.plot([row["ours"] for row in shown], at, "o", color=BLUE, label="TracIn's self-influence")
    if not shown:
        return
    control = [losses[row["method"]] for row in shown]
    label = "training loss"
    axes.plot(control, at, "D", color=ORANGE, markersize=3.5, mfc="none", label=label)
    names = [re.sub(r" \d+$", "", row["method"]) for row in shown]
    said = [f"{n} ({counts[r['method']]:.3g})" for n, r in zip(names, shown, strict=True)]
    axes.set_yticks(at, said)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    values = [*(row["ours"] for row in shown), *control]
    axes.set_xlim(min(values) - 0.15 * (100 - min(values)), 100)
    axes.set_xlabel("AP (×100); in brackets: checkpoints used")
    axes.legend(loc="lower center", bbox_to_anchor=(0.35, 1.0), ncols=2, columnspacing=1)
