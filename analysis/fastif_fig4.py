"""Figure 4 of FastIF: what s_test costs and how wrong it is, over J, B and T."""

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink import style
from analysis.ink.marks import draw_key, mark
from analysis.ink.style import SHADES, Look, draw_curve, fit_values, new_lattice
from analysis.numbers import fastif_points
from analysis.numbers.claims import Claim, Ours, Paper
from analysis.numbers.fastif_points import by_prediction, counted, of_work, over_points, stated
from analysis.numbers.statistics import geometric, single
from analysis.numbers.table import Row, claim, curve, records, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

ERROR, DISTANCE = "error", "distance to the most expensive"
MEASURES = {"error": ERROR, "distance": DISTANCE}  # by array
MIDDLE = 1_000  # J of the panels over B and T, or the middle of a shorter grid
# Looks by T, from 1.
REPEATS = ((style.ORANGE, "o"), (style.GREEN, "s"), (style.BLUE, "D"), (style.GREY, "^"))
SETTINGS = {
    "damping": "damping",
    "scale": "scale",
    "lowest": "lowest eigenvalue",
    "largest": "largest eigenvalue",
    "residual": "relative residual of the solution",
    "num_params": "parameters",
    "diverged": "minibatch sizes that diverged",
}

COST = Claim(
    "the cost grows with B and J",
    Paper(
        "For the two figures on the left, we can observe that the computation cost (measured in"
        " time) grows with both the batch size and number of recursive iterations J.",
        "Sec. 5.2, of Figure 4",
    ),
    "For each damping, the time at the largest B over that at the smallest, and at the largest J"
    " over the smallest; the same of a step over all trained parameters.",
    null=1.0,
    over="repeats",
)
QUALITY = Claim(
    "the error falls with B and J",
    Paper(
        "the error decreases with both the batch size and J in general.", "Sec. 5.2, of Figure 4"
    ),
    "The distance from the most expensive estimate, as in footnote 7: at the largest B over the"
    " smallest (T = 1), and at the largest J over the smallest (smallest B, T = 1), for each"
    " damping. 'In general' is read as from the smallest to the largest, and not at every step"
    " between; it excuses neither B nor J, nor a damping: the sentence names both.",
    null=1.0,
    over="points",
)
REPEATS_HELP = Claim(
    "a larger T makes up for a small B",
    Paper(
        "when the batch size is small (e.g., B=1), we can make up the loss in quality by increasing"
        " T, which is inherently parallelizable",
        "Sec. 5.2, of Figure 4",
    ),
    "The same distance at the largest T over T = 1 (smallest B), for each damping, as the sentence"
    " makes no exception.",
    null=1.0,
    over="points",
)
SOLUTION = Claim(
    "the error from the solution falls with B, J and T",
    Ours("The paper's measure misses errors that all estimates share."),
    "The same ratios of the error from the solution by conjugate gradients.",
    null=1.0,
    over="points",
)
NOTES = (
    f"{fastif_points.POINTS_RULE} Every point has minibatches of its own. Intervals of seconds are"
    " over repeats, or over steps."
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    return tabulated([row for run in runs for row in _rows(run)])


def _rows(run: Run) -> list[Row]:
    """Rows of one damping; arrays are (samples B, depths J, repeats, points)."""
    samples, depths = (np.asarray(run.array(name)) for name in ("samples", "depths"))
    ours = run.config["work"]["damping"] is None
    name = f"damping {float(run.metrics['damping']):.3g}, {'by our rule' if ours else 'released'}"
    seconds = np.asarray(run.array("seconds"))
    errors = {label: np.asarray(run.array(key)) for key, label in MEASURES.items()}
    middle = depths.tolist().index(MIDDLE) if MIDDLE in depths else len(depths) // 2
    rows = []
    for (b, sample), (j, depth) in product(enumerate(samples), enumerate(depths)):
        at = {"B": int(sample), "J": int(depth)}
        rows.append(curve(name, "time", "s", over_points(seconds[b, j]), **at))
        for label, values in errors.items():
            for t in range(seconds.shape[2]) if j == middle else (0,):
                rows.append(curve(name, label, "", over_points(values[b, j, t]), T=t + 1, **at))
        if j == middle:
            for group, mask in list(by_prediction(run).items())[:2]:
                error = over_points(errors[ERROR][b, j, 0, mask])
                rows.append(curve(name, f"error, predicted {group}", "", error, T=1, **at))
    rows += [curve(name, label, "", single(run.metrics[key])) for key, label in SETTINGS.items()]
    if ours:
        rows += _whole(run)
    wide, long = (f"{one} {grid[-1]} ÷ {grid[0]}" for one, grid in (("B", samples), ("J", depths)))
    for what, above, below in ((wide, (-1, middle), (0, middle)), (long, (0, -1), (0, 0))):
        growth = over_points(seconds[above] / seconds[below])
        rows.append(claim(name, f"time, {what}", "x", growth, of=COST, at_least=1.0))
    last = seconds.shape[2] - 1
    for label, values in errors.items():
        ratios = {
            wide: values[-1, middle, 0] / values[0, middle, 0],
            long: values[0, -1, 0] / values[0, 0, 0],
        }
        if last:
            ratios[f"T {last + 1} ÷ 1"] = values[0, middle, last] / values[0, middle, 0]
        for what, ratio in ratios.items():
            of = REPEATS_HELP if what.startswith("T") else QUALITY
            of = of if label == DISTANCE else SOLUTION
            rate = geometric(ratio[np.isfinite(ratio) & (ratio > 0)])
            rows.append(claim(name, f"{label}, {what}", "x", rate, of=of, at_most=1.0))
    return rows


def _whole(run: Run) -> list[Row]:
    """Seconds of a step over all trained parameters, and their growth with B."""
    samples, seconds = run.config["work"]["whole_samples"], np.asarray(run.array("whole_seconds"))
    name, quantity = "all parameters", "time of a step"
    rows = [
        curve(name, quantity, "s", over_points(values), B=sample)
        for sample, values in zip(samples, seconds, strict=True)
    ]
    if len(samples) > 1:
        growth = over_points(seconds[-1] / seconds[0])
        label = f"{quantity}, B {samples[-1]} ÷ {samples[0]}"
        rows.append(claim(name, label, "x", growth, of=COST, at_least=1.0))
    return rows


def draw(table: pd.DataFrame) -> Figure:
    """A line of panels a damping: time and error by J, error by T, all against B."""
    shown = table[(table["kind"] == "curve") & table["J"].notna()]
    names = list(dict.fromkeys(shown["method"]))
    figure, grid = new_lattice(max(1, len(names)), 3, height=0.9 + 2.1 * len(names), share_y=False)
    for (time, by_depth, by_repeats), name in zip(grid, names, strict=True):
        rows = shown[shown["method"] == name]
        depths = sorted(rows["J"].unique())
        some = [depths[at] for at in sorted({0, len(depths) // 2, len(depths) - 1})]
        for depth, shade, marker in zip(some, SHADES, "o^s", strict=False):
            look, at = Look(shade, marker, f"J = {depth:g}"), rows[rows["J"] == depth]
            draw_curve(time, at[(at["quantity"] == "time") & (at["n"] > 0)], "B", look)
            _draw_errors(by_depth, at[at["T"] == 1], look)
        middle = rows[rows["T"] > 1]["J"].max()  # nan where no estimate has repeats
        of_middle = rows[rows["J"] == (depths[0] if pd.isna(middle) else middle)]
        for t in sorted(rows["T"].dropna().unique()):
            look = Look(*REPEATS[(int(t) - 1) % len(REPEATS)], f"T = {t:g}")
            _draw_errors(by_repeats, of_middle[of_middle["T"] == t], look)
        time.set_ylabel(f"{name}\nseconds")
        by_depth.set_ylabel("relative error (T = 1)")
        by_repeats.set_ylabel("relative error" + ("" if pd.isna(middle) else f" (J = {middle:g})"))
        for axes in (time, by_depth, by_repeats):
            _set_scales(axes, sorted(rows["B"].unique()))
    for axes in grid[-1]:
        axes.set_xlabel("B")
    for axes in grid[0][1:]:
        axes.legend(fontsize=6, handlelength=1.5, labelspacing=0.2)
    styles = {"solution": "-", "most expensive estimate (the paper's)": "--"}
    draw_key(figure, {f"from the {what}": mark("", line=line) for what, line in styles.items()})
    return figure


def _draw_errors(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    draw_curve(axes, rows[(rows["quantity"] == ERROR) & (rows["n"] > 0)], "B", look)
    positive = (rows["n"] > 0) & (rows["ours"] > 0)
    other = rows[(rows["quantity"] == DISTANCE) & positive].sort_values("B")
    axes.plot(other["B"], other["ours"], "--", color=look.colour, linewidth=0.8)


def _set_scales(axes: Axes, samples: list[float]) -> None:
    """Make both axes logarithmic, with ticks at the sizes that were run and at 1, 2 and 5."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    values = [y for line in axes.lines for y in np.asarray(line.get_ydata(), dtype=float)]
    fit_values(axes, (y for y in values if y > 0))
    some = samples if len(samples) < 5 else samples[::2]
    axes.set_xticks(some, [f"{int(b)}" for b in some])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) > 6:
        ticks = [tick for tick in ticks if f"{tick:e}".startswith("1")]
    if len(ticks) > 1:
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


def findings(table: pd.DataFrame) -> list[str]:
    """Say what the errors are made of, from the rows."""
    sentences = []
    for name, rows in table.groupby("method", sort=False):
        settings = {row["quantity"]: row["ours"] for row in records(rows)}
        if "damping" not in settings:
            continue
        damping, scale = settings["damping"], settings["scale"]
        depths = sorted(int(j) for j in rows["J"].dropna().unique())
        left = [(1 - damping / scale) ** j for j in (depths[0], depths[-1])]
        error, distance = (_largest(rows, label, depths[-1]) for label in MEASURES.values())
        sentences.append(
            f"With {name}, and scale {scale:.4g}, a direction without curvature lacks"
            f" {100 * left[0]:.2g}% of its length after J = {counted(depths[0])} and"
            f" {100 * left[1]:.2g}% after {counted(depths[-1])}. At the largest B and J with T = 1"
            f" the error from the solution is {stated(error, '.3g')}, the distance from the most"
            f" expensive estimate {stated(distance, '.3g')}: the second misses errors that all"
            " estimates share."
        )
    return sentences


def _largest(rows: pd.DataFrame, quantity: str, depth: int) -> Row | None:
    """The row at the largest B, at one J and T = 1."""
    some = rows[(rows["quantity"] == quantity) & (rows["J"] == depth) & (rows["T"] == 1)]
    return records(some.sort_values("B"))[-1] if len(some) else None


ARTIFACT = Artifact(
    id="fastif_fig4",
    experiment="mnli_speed",
    tabulate=tabulate,
    draw=draw,
    claims=(COST, QUALITY, REPEATS_HELP, SOLUTION),
    notes=NOTES,
    title="Cost and error of inverse-Hessian-vector products over J, B and T",
    claim=(
        "Time grows with the batch size B and the number of iterations J, the error falls with"
        " both, and more repeats T make up for a small B."
    ),
    paper="FastIF (arXiv:2012.15781), Figure 4 and Sec. 5.2",
    deviations=(
        "The paper shows the figure without numbers, so there are none to compare with.",
        "Errors are relative: the length of the difference over the length of the reference. The"
        " paper's reference is its most expensive estimate; ours, shown beside it, is the"
        " solution by conjugate gradients over all training pairs.",
        "The grid is run twice: at the damping of our rule, twice the size of the lowest eigenvalue"
        " of the training loss, with a scale of 1.1 times the largest eigenvalue of minibatches of"
        " the smallest B, the same for all B; and at the released damping 50 and scale 10,000.",
        "J is from 3.5 to 6.5 decay lengths, scale ÷ damping steps each, at any damping: the"
        " paper's 700 to 1,300 steps at the released settings. One path of the recursion gives"
        " every J, and the first T of its repeats every T. Every point has its own paths; seconds"
        " are those of one repeat, the mean over points.",
    ),
    findings=findings,
    tier_notes={
        **fastif_points.TIER_NOTES,
        "small": (
            f"{fastif_points.TIER_NOTES['small']} The grid differentiates pooler and classifier"
            " alone, 148,995 parameters over the first token after the last layer, so that the"
            " solver converges; steps over all trained parameters are timed too."
        ),
    },
    needs=of_work("Inverse"),
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
