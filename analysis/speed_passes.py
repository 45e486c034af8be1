"""Cost of the methods in passes over the data, and its distance from the least possible cost."""

import math
from collections.abc import Iterable

import pandas as pd
from matplotlib.figure import Figure

from analysis.ink.marks import draw_key, draw_value, mark, name_lines, printed_mark
from analysis.ink.style import BLUE, GREEN, PAGE, new_panels
from analysis.numbers.claims import Claim, Ours
from analysis.numbers.statistics import Interval, geometric, over_seeds
from analysis.numbers.table import Row, claim, curve, records, tabulated, written
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

MEMORY = 1_500.0  # MB
COST, GAIN = "passes", "times faster"
TICKS = (5, 8, 10, 20, 50, 100)
LIMIT = "time over that of the operations at that rate"
MEASURED = (
    ("seconds", "time", "s", 1.0),
    ("flops", "operations it must cost", "Gop", 1e-9),
    ("bytes", "bytes it must move", "MB", 1e-6),
    ("gemm_gflops", "rate of this machine's matrix product", "Gop/s", 1.0),
    ("over_limit", LIMIT, "x", 1.0),
)

GOAL = Ours("No paper: bounds of our own, in the experiment.")
COSTS = Claim(
    "works cost few passes", GOAL,
    "The median over repeats of a work's time over that of a pass, timed in turns in one process. A"
    " pass for each of a hundred directions or queries would be 100.",
    null=100.0,
)  # fmt: skip
GAINS = Claim(
    "works are many times faster than the plain way", GOAL,
    "The plain way's time over the work's, likewise.",
    null=1.0,
)  # fmt: skip
SMALL = Claim(
    "works take little memory", GOAL,
    f"The peak memory, also for four times the candidates, below {MEMORY:,.0f} MB; the gradients of"
    " 6,000 examples, stored, are 20,000.",
    null=20_000.0,
)  # fmt: skip
NOTES = "Means are over runs; those of ratios are geometric."


def tabulate(runs: list[Run]) -> pd.DataFrame:
    works: dict[str, list[Run]] = {}
    for run in runs:
        works.setdefault(str(run.metrics["work"]), []).append(run)
    return tabulated([row for work, members in works.items() for row in _rows(work, members)])


def _rows(work: str, runs: list[Run]) -> Iterable[Row]:
    def mean(name: str, scale: float = 1.0) -> Interval:
        return geometric([scale * float(run.metrics[name]) for run in runs])

    first = runs[0].metrics
    if "bound" not in first:  # a size that only checks shapes
        yield curve(work, "ratio", "", mean("ratio"))
    else:
        gains = bool(first["is_speedup"])
        at, unit, of = ("at_least", GAIN, GAINS) if gains else ("at_most", COST, COSTS)
        yield claim(work, "ratio", unit, mean("ratio"), of=of, **{at: first["bound"]})
    for name, label, unit, scale in MEASURED:
        if name in first:
            yield curve(work, label, unit, mean(name, scale))
    for name, label in [("peak_bytes", "n"), ("peak_bytes_x4", "4 n")]:
        if name in first:
            peak = over_seeds([1e-6 * run.metrics[name] for run in runs])
            about = work, f"peak memory, {label} examples", "MB", peak
            batch = "Hessian" in work and label != "n"  # a larger batch, not more candidates
            yield curve(*about) if batch else claim(*about, of=SMALL, at_most=MEMORY)


def draw(table: pd.DataFrame) -> Figure:
    ratios = [row for row in records(table) if row["quantity"] == "ratio"]
    gains = [row for row in ratios if row["unit"] == GAIN]
    costs = [row for row in ratios if row["unit"] != GAIN]
    labels = ["Passes: forward and backward", "Times faster (log)"]
    lines = max(len(costs), len(gains))
    figure, panels = new_panels(labels, width=PAGE, height=1.0 + 0.33 * lines)
    for axes, rows, colour in zip(panels, (costs, gains), (BLUE, GREEN), strict=True):
        for place, row in enumerate(rows):
            bound = row["at_most"] if math.isnan(row["at_least"]) else row["at_least"]
            draw_value(axes, row | {"paper": bound}, place, colour)
        name_lines(axes, [_label(row["method"]) for row in rows])
        axes.set_ylim(lines - 0.5, -0.5)
    panels[0].set_xlim(left=0)
    if gains:
        panels[1].set_xscale("log")
        limits = panels[1].get_xlim()
        panels[1].set_xticks(TICKS, [str(tick) for tick in TICKS])
        panels[1].minorticks_off()
        panels[1].set_xlim(limits)
    draw_key(figure, {"ours": mark("o", BLUE, "-"), "bound": printed_mark()})
    return figure


def _label(work: str) -> str:
    return work.replace(", against ", ",\nagainst ").replace(" on ", "\non ", 1)


def page(table: pd.DataFrame) -> pd.DataFrame:
    """One line per work: its ratio, the bound, the distance from the arithmetic, the memory."""
    lines = []
    for work, rows in table.groupby("method", sort=False):
        by = {row["quantity"]: row for row in records(rows)}
        ratio, bounds = by["ratio"], {"≥": by["ratio"]["at_least"], "≤": by["ratio"]["at_most"]}
        known = [f"{sign} {bound:g}" for sign, bound in bounds.items() if not math.isnan(bound)]
        line = {
            "work": work,
            "ratio": f"{written(ratio, '.2f')} {ratio['unit']}".strip(),
            "bound": "".join(known),
        }
        for quantity, heading in [
            ("operations it must cost", "Gop"),
            ("bytes it must move", "MB moved"),
            (LIMIT, "over the limit"),
            ("peak memory, n examples", "peak MB"),
            ("peak memory, 4 n examples", "peak MB, 4 n"),
        ]:
            line[heading] = f"{by[quantity]['ours']:.3g}" if quantity in by else ""
        lines.append(line)
    return pd.DataFrame(lines)


ARTIFACT = Artifact(
    id="speed_passes",
    experiment="speed",
    tabulate=tabulate,
    draw=draw,
    claims=(COSTS, GAINS, SMALL),
    notes=NOTES,
    title="Cost of the methods in passes over the data",
    claim=(
        "Exact per-example gradient algebra costs little more than the forward and backward pass"
        " it starts from."
    ),
    paper="no paper: bounds of our own",
    deviations=(
        "Data are random and shaped like MNIST; the networks are those of mnist_mislabel.",
        "Seconds are of one machine, and only ratios of one run are compared. How far a work is"
        " from the limit is measured against this machine's own float32 matrix product.",
        "The committed times of 'Hessian product, fresh batch' were measured when this product was"
        " computed forward over reverse (JVP of the gradient). The present code computes it by"
        " double backward; it has not been timed again at this tier.",
    ),
    remarks=(
        "Where a pass runs as near the processor's peak rate as a Hessian product does, the"
        " product must cost two passes if its gradient is stored and three if not: six and nine"
        " matrix products a layer, against three. The time over that of the operations shows how"
        " near the peak both run: a cost under 1.4 passes, or clearly under 3, is possible only"
        " where the pass itself is slow.",
        "Scores on 100 directions are matrix products that run near their limit; the factor over"
        " JVP passes depends on how far those are from their limit.",
        "The exact Hessian is far from its limit: by the profiler, 39% of its time is backward"
        " convolutions over 8 channels, 19% copies between layouts of memory, 14% forward"
        " convolutions, 12% sums; with so few channels none runs near the rate of a large product.",
    ),
    needs=lambda config: config["work"]["type"] != "Peer",
    page=page,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
