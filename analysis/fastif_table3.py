"""Table 3 of 002: correlations of fast with full influence, and with plain gradients."""

import math
import sys

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from analysis.ink.style import BLACK, BLUE, GREY, ORANGE, PAGE, new_panels
from analysis.numbers.fastif_points import POINTS_RULE, TIER_NOTES, counted, on, plain, told
from analysis.numbers.statistics import NONE, Interval, over_seeds
from analysis.numbers.table import Row, claim, curve, number, records, tabulated
from analysis.numbers.verdict import TOLERANCE_RULE
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

# The panels of FastIF's Table 3: correlations at two dampings, with the printed numbers.


MEASURES = ("Pearson", "Spearman", "Kendall")
COLOURS, MARKERS, APART = (BLUE, ORANGE), "os", 0.16
TICKS = (0, 50, 80, 90, 95, 98, 99, 99.9)


def draw(table: pd.DataFrame) -> Figure:
    """A panel a measure and a line a comparison, a colour a damping."""
    shown = table[table["quantity"].isin(MEASURES) & (table["kind"] != "claim")]
    rows = [row for row in records(shown) if row["n"] > 0]
    labels = list(dict.fromkeys(row["method"].partition("; ")[0] for row in rows))
    names = list(dict.fromkeys(row["method"].partition("; ")[2] for row in rows))
    height = 1.1 + 0.27 * len(labels)
    titles = [f"{name} (%)" for name in MEASURES]
    figure, panels = new_panels(titles, width=PAGE, height=height, share_y=True)
    for axes, measure in zip(panels, MEASURES, strict=True):
        mine = [row for row in rows if row["quantity"] == measure]
        _stretch(axes, min((row["ours"] for row in mine), default=0.0))
        for row in mine:
            label, _, name = row["method"].partition("; ")
            at = names.index(name)
            y = labels.index(label) + APART * (2 * at - 1 if len(names) > 1 else 0)
            axes.plot([row["low"], row["high"]], [y] * 2, color=COLOURS[at % 2], alpha=0.5, lw=2)
            axes.plot(row["ours"], y, MARKERS[at % 2], color=COLOURS[at % 2])
            axes.plot(row["paper"], y, "|", color=BLACK, markersize=9, markeredgewidth=1.2)
        axes.tick_params(axis="y", length=0)
        axes.minorticks_off()
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    handles = [
        panels[0].plot([], [], MARKERS[at % 2] + "-", color=COLOURS[at % 2])[0]
        for at in range(len(names))
    ]
    handles.append(panels[0].plot([], [], "|", color=BLACK, markersize=9)[0])
    figure.legend(handles, [*names, "printed"], loc="outside upper center", ncols=3)
    panels[0].axhline(-10, color=GREY)
    return figure


def _stretch(axes: Axes, lowest: float) -> None:
    """Stretch the upper end of a percentage, where nearly all correlations are."""
    axes.set_xscale(
        "function",
        functions=(
            lambda x: -np.log10(100.2 - np.clip(x, -100, 100.1)),
            lambda y: 100.2 - 10.0 ** -np.asarray(y),
        ),
    )
    low = max(-100.0, lowest - 0.3 * (100 - lowest) - 1)
    axes.set_xlim(low, 100.1)
    ticks = [tick for tick in TICKS if tick >= low]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=6)


MEASURES = ("Pearson", "Spearman", "Kendall")
PAPER = {  # mean and standard deviation over 6 points, in percent
    "Fast (k = 1,000) vs Full": ((99.9, 0.05), (99.8, 0.39), (97.4, 1.69)),
    "Fast (k = 10,000) vs Full": ((99.9, 0.04), (99.9, 0.09), (98.0, 0.77)),
    "Fast (k = 1,000) vs Fast (k = 10,000)": ((99.9, 0.08), (99.8, 0.35), (97.3, 1.66)),
}
TOLERANCE = (1.0, 1.0, 3.0)  # points
HIGH = (99.0, 99.0, 97.0)  # what "very high" is, from the smallest of each column
SAME = 99.0  # from this rank correlation on, plain gradients rank as the full influence does

RULE = (
    "Claims, at the released damping: each of the three comparisons of the paper has a mean"
    f" correlation over points above {HIGH[0]:g} (Pearson), {HIGH[1]:g} (Spearman), {HIGH[2]:g}"
    f" (Kendall) percent. Tolerance: {TOLERANCE[0]:g}, {TOLERANCE[1]:g} and {TOLERANCE[2]:g}"
    " points. The same at the damping of our rule, and all rows of H = I, are shown and decide"
    f" nothing. {TOLERANCE_RULE} {POINTS_RULE}"
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    return tabulated([row for run in found for row in _rows(run)])


def _rows(run: Run) -> list[Row]:
    work = run.config["work"]
    ks, released = work["ks"], work["full"]["damping"] is not None
    small, large = min(ks), max(ks)
    fast = {k: (f"Fast (k = {counted(k)})", f"fast_{k}") for k in ks}
    pairs = [(*fast[k], "Full", "full", k) for k in ks]
    pairs += [(*fast[small], *fast[large], small)] if small < large else []
    pairs += [("H = I", "gradients", "Full", "full", k) for k in (*ks, None)]
    pairs += [("Few steps", "few", "Full", "full", k) for k in (small, None) if work["few"]]
    name = f"damping {float(run.metrics['full_damping']):.3g}, " + (
        "released" if released else "by our rule"
    )
    rows = []
    for one, first, other, second, k in pairs:
        label = f"{one} vs {other}"
        if not one.startswith("Fast"):
            label += ", all pairs" if k is None else f", k = {counted(k)}"
        rows += _compared(run, f"{label}; {name}", (first, second), k, label, released)
    return rows + _settings(run, name)


def _compared(
    run: Run, method: str, systems: tuple[str, str], k: int | None, label: str, released: bool
) -> list[Row]:
    """Correlations over shared candidates, a row a measure, with the spread over points."""
    values = _correlations(run, systems, k)
    printed = PAPER.get(label, ((math.nan, math.nan),) * 3)
    rows = []
    for place, measure in enumerate(MEASURES):
        ours, (paper, spread) = _within(over_seeds(values[:, place])), printed[place]
        if released and label.startswith("Fast"):
            rows.append(number(method, measure, "%", ours, paper, TOLERANCE[place]))
            rows.append(claim(method, measure, "%", ours, at_least=HIGH[place], paper=paper))
        else:
            rows.append(curve(method, measure, "%", ours))
        std = plain(values[:, place].std(ddof=1)) if len(values) > 1 else NONE
        row = curve(method, f"{measure}, std over points", "points", std)
        rows.append(row | ({"paper": spread} if released else {}))
    return rows


def _correlations(run: Run, systems: tuple[str, str], k: int | None) -> np.ndarray:
    """Percent, (n_points, measures), over the k nearest candidates, or all pairs."""
    one, other = (np.asarray(run.array(f"scores_{name}"), dtype=float) for name in systems)
    if k is not None:
        near = np.asarray(run.array("neighbours"))[:, :k]
        one, other = (np.take_along_axis(scores, near, 1) for scores in (one, other))
    measures = (stats.pearsonr, stats.spearmanr, stats.kendalltau)
    return np.array(
        [[100 * of(a, b).statistic for of in measures] for a, b in zip(one, other, strict=True)]
    )


def _within(ours: Interval) -> Interval:
    """The same interval, ended where a correlation ends."""
    return Interval(ours.mean, max(ours.low, -100.0), min(ours.high, 100.0), ours.n)


def _settings(run: Run, name: str) -> list[Row]:
    """What each system's recursion was, and how far its repeats are apart."""
    rows = []
    for key in (one for one in run.metrics if one.endswith("_depth")):
        system = key.removesuffix("_depth")
        for setting in ("depth", "sample", "repeats", "damping", "scale"):
            value = plain(float(run.metrics[f"{system}_{setting}"]))
            rows.append(curve(f"{system}; {name}", setting, "", value))
        error = 100 * np.asarray(run.array(f"error_{system}"), dtype=float)
        if np.isfinite(error).any():
            label = "relative error of s_test by its repeats"
            rows.append(curve(f"{system}; {name}", label, "%", over_seeds(error)))
    return rows


def findings(table: pd.DataFrame) -> list[str]:
    """Say whether the Hessian does anything, at each damping, from the rows."""
    rows = {(r["method"], r["quantity"]): r for r in records(table) if r["kind"] == "curve"}
    said = []
    for (method, quantity), row in rows.items():
        if not method.startswith("H = I vs Full, all pairs") or quantity != "Spearman":
            continue
        name = method.partition("; ")[2]
        pearson = told(rows[method, "Pearson"])
        nothing = row["ours"] >= SAME
        said.append(
            f"Does the Hessian do anything? With {name}, inner products of plain gradients (H = I)"
            f" and full influence over all pairs correlate {pearson}% (Pearson) and {told(row)}%"
            f" (Spearman): {'it changes next to nothing' if nothing else 'it changes the ranking'}."
        )
    return said + _fixed_point(rows)


def _fixed_point(rows: dict[tuple[str, str], Row]) -> list[str]:
    """What the released recursion tends to, and in how few steps one can be there."""
    for (method, quantity), few in rows.items():
        if not method.startswith("few; ") or quantity != "depth":
            continue
        name = method.partition("; ")[2]
        full = {one: rows[f"full; {name}", one]["ours"] for one in ("depth", "scale", "damping")}
        damping, left = full["damping"], 1 - full["damping"] / full["scale"]
        agree = rows[f"Few steps vs Full, all pairs; {name}", "Pearson"]
        return [
            f"The released recursion, scale {full['scale']:g} and damp"
            f" {damping / full['scale']:g}, tends to (H + {damping:g} I)⁻¹ g: an effective damping"
            f" of {damping:g}; {100 * left ** full['depth']:.1g}% of the way is left after its"
            f" {counted(full['depth'])} steps. With scale {rows[method, 'scale']['ours']:.3g},"
            f" {counted(few['ours'])} steps give scores that correlate {told(agree, '.2f')}%"
            " (Pearson) with it over all pairs."
        ]
    return []


ARTIFACT = Artifact(
    id="fastif_table3",
    experiment="mnli_speed",
    tabulate=tabulate,
    draw=draw,
    rule=RULE,
    title="Correlation of fast with full influence functions, and with plain gradients",
    claim="Influence by kNN and a fast s_test correlates highly with full influence functions.",
    paper="FastIF (arXiv:2012.15781), Table 3 and Sec. 5.3",
    deviations=(
        "Full: no kNN, B = 32. Fast: B = 1, estimated anew for each k. The paper does not print the"
        " B of either. J, B, T, damping and scale of each system are in the numbers.",
        "The paper does not print a damping either. The released settings, scale 10,000, damp 0.005"
        " and J = 1,000, amount to 50 on the Hessian's diagonal, and are taken as they are. Our"
        " rule is twice the size of the lowest eigenvalue of the training loss, found on training"
        " pairs alone, a scale of 1.1 times the largest one of minibatches of B, and so many steps"
        " that 5% are left of the slowest direction.",
        "Plain gradients (H = I) are ours, as a control; so are a few steps of a smaller scale to"
        " the damping of the released settings.",
        "The paper's ± is the standard deviation over points, which has rows of its own; intervals"
        " are of the mean.",
    ),
    findings=findings,
    tier_notes=TIER_NOTES,
    needs=on("Agreement"),
)


if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
