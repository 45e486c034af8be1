"""How often each example is classified right over seeds: its distribution over examples."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.ink.agreement import INCEPTION, named, of, subject
from analysis.ink.style import BLUE
from analysis.numbers.statistics import NONE, Interval, resampled
from analysis.numbers.table import Row, claim, curve
from experiments.laboratory.runs import Run

EXPERIMENT = "nondeterminism"
BIN = "bin"
MOST, LOW, HIGH, TAIL = 0.5, 0.1, 0.9, 0.1


def outcomes(run: Run, suffix: str = "") -> np.ndarray:
    """Who is right, (n_seeds, n_examples)."""
    return np.asarray(run.array(f"right{suffix}"), dtype=float)


def share(right: np.ndarray, low: float, high: float) -> Interval:
    """The share of examples whose p, the share of seeds right, is in [low, high]."""

    def among(sample: np.ndarray) -> float:
        p = sample.mean(0)
        return float(((p >= low - 1e-9) & (p <= high + 1e-9)).mean())

    return resampled(right, among)


def bins(run: Run, suffix: str, series: str) -> list[Row]:
    """A row for each p there can be, with the share of examples that have it."""
    right = outcomes(run, suffix)
    k = len(right)
    rows = []
    for count in range(k + 1):
        ours = share(right, count / k, count / k)
        about = {"series": series, "p": count / k, "width": 1 / k}
        rows.append(curve(named(run), "p, share of examples", "", ours, **about) | {"kind": BIN})
    return rows


def draw(axes: Axes, rows: pd.DataFrame, looks: Mapping[str, str]) -> None:
    """Draw the distribution as steps, a colour a series."""
    for series, colour in looks.items():
        part = rows[rows["series"] == series].sort_values("p")
        if part.empty:
            continue
        width = float(part["width"].iat[0])
        edges = np.append(part["p"] - width / 2, part["p"].iat[-1] + width / 2)
        heights = part["ours"].to_numpy(dtype=float)
        axes.stairs(heights, edges, color=colour, fill=True, alpha=0.25, lw=0)
        axes.stairs(heights, edges, color=colour, lw=1.1, label=series)
        axes.vlines(part["p"], part["low"], part["high"], color=colour, lw=0.7, alpha=0.8)
    axes.set_ylabel("share of examples")
    axes.set_ylim(bottom=0)
    axes.grid(axis="x", visible=False)


def majority(found: list[Run]) -> list[Row]:
    """The claims that most examples have p close to 1 and a tail has not, and all bins.

    For an artifact of another experiment: rows say in `experiment` whose runs they are made of.
    """
    by_name = of(found)
    name = subject(by_name, INCEPTION)
    right = None if name is None else outcomes(by_name[name])
    most = NONE if right is None else share(right, HIGH, 1.0)
    tail = NONE if right is None else share(right, LOW, HIGH - 1e-6)
    method = name or INCEPTION[0]
    rows = [
        claim(method, f"p, share of examples from {HIGH:g}", "", most, at_least=MOST),
        claim(method, f"p, share of examples from {LOW:g} to {HIGH:g}", "", tail, at_least=TAIL),
    ]
    if name is not None:
        rows += bins(by_name[name], "", "plain")
    return [row | {"experiment": EXPERIMENT} for row in rows]


def draw_one(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the distribution of one classifier; says so where no network was trained."""
    rows = table[table["kind"] == BIN]
    axes.set_xlim(-0.03, 1.03)
    if rows.empty:
        axes.text(0.5, 0.5, "not run", ha="center", va="center", transform=axes.transAxes)
        axes.set_ylabel("share of examples")
        return
    draw(axes, rows, {"plain": BLUE})
    tier = str(rows["of_tier"].iat[0])
    beyond = "" if tier == str(rows["tier"].iat[0]) else f", {tier} tier"
    seeds = int(rows["n"].iat[0])
    axes.set_title(f"{rows['method'].iat[0]},\n{seeds} seed{'s' * (seeds > 1)}{beyond}")
