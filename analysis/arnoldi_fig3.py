"""Arnoldi, Figure 3: run time against parameters, and what a smaller basis costs."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from analysis.ink import style
from analysis.numbers.claims import Claim, Ours, Paper
from analysis.numbers.frame import grouped
from analysis.numbers.statistics import LEVEL, NONE, Interval, exact, geometric, over_seeds
from analysis.numbers.table import Row, aside, claim, curve, records, tabulated, written
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

TOTAL, SLOPE = "run time", "p, exponent in the run time"
ERRORS = "relative error of eigenvalues"
FORWARD = "p, exponent of forward operations in the run time"
COLOURS = {"bfloat16": style.ORANGE, "on disk": style.GREEN, "another start and draws": style.GREY}
PAPER_HOURS = {"ViT-L/32": 15.0}  # Sec. 5.3, on one TPUv2 of 4 cores
LINEAR = (0.8, 1.2)  # bounds of the exponent of p
LEADING = 10  # eigenvalues on which a smaller basis is judged
CLOSE, ADDS = 0.01, 0.25  # relative error of eigenvalues; of the sum of parts against the whole
WAYS = {"bfloat16": "bfloat16", "disk": "on disk", "another_start": "another start and draws"}

TREND = Claim(
    "the run time is linear in the size of the model",
    Paper("As expected, we observe a linear trend in terms of model size", "Sec. 5.3, of Figure 3"),
    "The power of the number of parameters p that the run time of n = 200 iterations grows with:"
    " the slope of a line through the logarithms, with the interval of that regression, n being"
    f" networks; of all architectures and of vision Transformers. Linear is between {LINEAR[0]:g}"
    f" and {LINEAR[1]:g}.",
    null=0.0,
)
SMALLER = Claim(
    "a smaller basis keeps the leading eigenvalues",
    Ours("A basis of a large network does not fit on the device in float32."),
    f"The mean relative error of the {LEADING} leading eigenvalues with the basis in bfloat16,"
    f" below {CLOSE:.0%} and below that of another start and other draws; on disk, none.",
    null=1.0,
)
SUMS = Claim(
    "the sum of parts is the whole",
    Ours("Times of large networks are sums of parts."),
    f"The distance of the sum from an iteration that was run whole, below {ADDS:.0%} of it.",
    null=1.0,
)
NOTES = "The printed 15 hours are of another machine and decide nothing."


def tabulate(runs: list[Run]) -> pd.DataFrame:
    timed = [run for run in runs if run.metrics["work"] == "Timing"]
    if not timed:
        return tabulated([])
    networks = grouped(timed, lambda run: str(run.metrics["label"]))
    fitted = {n: group for n, group in networks.items() if "whole_seconds" not in group[0].metrics}
    fitted = fitted if len(fitted) > 2 else networks  # the paper tier runs all of them whole
    rows: list[Row] = []
    for label, group in sorted(networks.items(), key=lambda one: one[1][0].metrics["num_params"]):
        rows += _network(label, group, label in fitted)
    rows += _slopes(fitted)
    rows += _precision([run for run in runs if run.metrics["work"] == "Precision"])
    return tabulated([*rows, _whole(timed)])


def _network(label: str, group: list[Run], fitted: bool) -> list[Row]:
    metrics, storage = [run.metrics for run in group], group[0].config["work"]["storage"]["type"]
    size = int(metrics[0]["num_params"])
    smallest = float(group[0].array("product_seconds")[0])  # axis: (batches,), smallest first
    done = "whole_seconds" in metrics[0] and metrics[0]["wanted_seconds"] == smallest
    about: dict[str, Any] = {"p": size, "operations": float(metrics[0]["operations"])}
    about |= {"fitted": int(fitted), "extrapolated": int(not done)}
    hours = [float(m["whole_seconds" if done else "total_seconds"]) / 3600 for m in metrics]
    printed = PAPER_HOURS.get(label, math.nan)
    quantities = (
        ("a Hessian product", "s", _seconds(metrics, "wanted_seconds")),
        ("orthogonalisation, all", "s", _seconds(metrics, "orthogonal_seconds")),
        ("memory a vector, float32", "MB", exact(4e-6 * size)),
        ("memory of 200 vectors, float32", "GB", exact(800e-9 * size)),
        ("memory of 200 vectors, bfloat16", "GB", exact(400e-9 * size)),
    )
    about["storage"] = str(storage)
    rows = [aside(label, TOTAL, "h", geometric(hours), printed, **about)]
    return rows + [curve(label, name, unit, ours, **about) for name, unit, ours in quantities]


def _seconds(metrics: list[dict[str, Any]], name: str) -> Interval:
    return geometric([max(float(m[name]), 1e-12) for m in metrics])


def _slopes(networks: dict[str, list[Run]]) -> list[Row]:
    bounds = {"at_least": LINEAR[0], "at_most": LINEAR[1]}
    vision = {label: group for label, group in networks.items() if label.startswith("ViT")}
    rows = []
    for name, some in (("all architectures", networks), ("vision Transformers", vision)):
        slope, start = _line(some, "num_params")
        rows.append(claim(name, SLOPE, "", slope, of=TREND, **bounds, intercept=start))
        by_run = [
            _line({label: [own[i]] for label, own in some.items() if i < len(own)}, "num_params")
            for i in range(max(map(len, some.values()), default=0))
        ]
        ours = over_seeds([slope.mean for slope, _ in by_run if slope.n])
        rows.append(curve(name, "exponent of p by run, without the spread of networks", "", ours))
    slope, start = _line(networks, "operations")
    rows.append(curve("all architectures", FORWARD, "", slope, intercept=start))
    return rows


def _line(networks: dict[str, list[Run]], size: str) -> tuple[Interval, float]:
    """The slope of log time on the log of a size over networks, and the intercept, in hours."""
    x = [math.log(group[0].metrics[size]) for group in networks.values()]
    hours = [[run.metrics["total_seconds"] / 3600 for run in own] for own in networks.values()]
    if len(set(x)) < 3:
        return NONE, math.nan
    line = stats.linregress(x, [math.log(geometric(each).mean) for each in hours])
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(x) - 2) * line.stderr)
    slope = float(line.slope)
    return Interval(slope, slope - half, slope + half, len(x)), float(line.intercept)


def _precision(runs: list[Run]) -> list[Row]:
    rows: list[Row] = []
    leading: dict[str, list[float]] = {}
    for way, name in WAYS.items():
        each = [_errors(run, way) for run in runs]
        for rank in range(min(map(len, each), default=0)):
            rows.append(curve(name, ERRORS, "", over_seeds([e[rank] for e in each]), rank=rank + 1))
        leading[way] = [float(errors[:LEADING].mean()) for errors in each]
        off = over_seeds([float(run.metrics[f"{way}_loss"]) for run in runs])
        rows.append(curve(name, "largest inner product off orthonormal", "", off))
    what = f"relative error of {LEADING} eigenvalues"
    half, disk, chance = (over_seeds(leading[way]) for way in WAYS)
    pairs = zip(leading["bfloat16"], leading["another_start"], strict=True)
    ratio = over_seeds([one / max(other, 1e-300) for one, other in pairs])
    return [
        *rows,
        claim("bfloat16", what, "", half, of=SMALLER, at_most=CLOSE),
        curve("another start and draws", what, "", chance),
        claim("bfloat16 ÷ another start", what, "x", ratio, of=SMALLER, at_most=1.0),
        claim("on disk", what, "", disk, of=SMALLER, at_most=1e-12),
    ]


def _errors(run: Run, way: str) -> np.ndarray:
    """The relative error of each eigenvalue, by rank; axis of the arrays: (ranks,)."""
    native = run.array("native")
    return np.abs(run.array(way) - native) / np.abs(native)


def _whole(timed: list[Run]) -> Row:
    whole = [run.metrics for run in timed if "whole_seconds" in run.metrics]
    off = over_seeds([abs(m["smallest_seconds"] / m["whole_seconds"] - 1) for m in whole])
    label = "distance of the sum of parts from the whole"
    return claim("an iteration run whole", label, "", off, of=SUMS, at_most=ADDS)


def draw(table: pd.DataFrame) -> Figure:
    labels = ["parameters p", "rank of the eigenvalue"]
    figure, (left, right) = style.new_panels(
        labels, "hours, n = 200, b = 512", width=style.PAGE, height=3.0
    )
    _draw_times(left, table)
    _draw_errors(right, table)
    return figure


def _draw_times(axes: Axes, table: pd.DataFrame) -> None:
    rows = records(table[(table["quantity"] == TOTAL) & (table["fitted"] == 1)])
    axes.set(xscale="log", yscale="log")
    for row in rows:
        vision = row["method"].startswith("ViT")
        colour = style.BLUE if vision else style.VERMILLION
        fill = "none" if row["extrapolated"] else "full"
        axes.plot([row["p"]] * 2, [row["low"], row["high"]], color=colour, linewidth=2, alpha=0.4)
        axes.plot(row["p"], row["ours"], "o" if vision else "s", color=colour, fillstyle=fill)
        at, off = (row["p"], row["ours"]), "offset points"
        axes.annotate(row["method"], at, (5, -8), textcoords=off, fontsize=6.5, color=colour)
    sizes = np.array([row["p"] for row in rows] or [1.0, 10.0])
    for name, dashes, colour in (
        ("all architectures", "-", style.BLACK),
        ("vision Transformers", "--", style.BLUE),
    ):
        for row in records(table[(table["method"] == name) & (table["quantity"] == SLOPE)]):
            if row["n"] > 0 and not math.isnan(row["ours"]):
                x = np.geomspace(sizes.min() / 1.3, sizes.max() * 1.3, 50)
                y = np.exp(row["intercept"]) * x ** row["ours"]
                label = f"{name}: $p^{{{row['ours']:.2f}}}$"
                axes.plot(x, y, dashes, color=colour, lw=0.9, label=label)
    axes.margins(x=0.25, y=0.15)
    axes.legend(loc="lower right", fontsize=6.5)
    if any(row["extrapolated"] for row in rows):
        axes.set_title("hollow: a sum of parts, extrapolated", color=style.GREY, fontsize=7)


def _draw_errors(axes: Axes, table: pd.DataFrame) -> None:
    rows = table[table["quantity"] == ERRORS]
    for name, line in rows.groupby("method", sort=False):
        line, colour = line.sort_values("rank"), COLOURS[str(name)]
        if (line["ours"] == 0).all():
            axes.plot([], [], color=colour, label=f"{name}: none")
            continue
        axes.plot(line["rank"], line["ours"], color=colour, label=str(name))
        low = line["low"].clip(lower=line["ours"] / 10)
        axes.fill_between(line["rank"], low, line["high"], color=colour, alpha=0.2, linewidth=0)
    axes.set(yscale="log", ylabel="relative error of the eigenvalue")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(title="against float32 in memory", title_fontsize=6.5, fontsize=6.5)


def page(table: pd.DataFrame) -> pd.DataFrame:
    """Time and memory by network, then the claims."""
    wide: dict[str, Row] = {}
    rest: list[Row] = []
    for row in records(table):
        if row["kind"] != "claim" and pd.notna(row["p"]):
            about = {"network": row["method"], "p": f"{row['p']:,.0f}"}
            line = wide.setdefault(row["method"], about)
            line[f"{row['quantity']}, {row['unit']}"] = written(row, ".3g")
        elif pd.isna(row["rank"]):
            about = {"network": row["method"], "quantity": row["quantity"]}
            rest.append(about | {"value": written(row, ".3g")})
    return pd.DataFrame([*wide.values(), *rest]).fillna("")


def findings(table: pd.DataFrame) -> list[str]:
    """State what the run time grows with, and how much it differs between networks of a size."""
    rows = {(r["method"], r["quantity"]): r for r in records(table)}
    by_p, by_work = (rows.get(("all architectures", name)) for name in (SLOPE, FORWARD))
    sentences = []
    if by_p and by_work and by_p["n"] > 0 and by_work["n"] > 0:
        sentences.append(
            f"The run time grows as p to the power {written(by_p, '.2f')}, over {by_p['n']}"
            " networks, and as the operations of a forward pass to the power"
            f" {written(by_work, '.2f')}."
        )
    times = [r for r in rows.values() if r["quantity"] == TOTAL and r["fitted"] == 1]
    if times:
        each = {r["method"]: 3600e6 * r["ours"] / r["p"] for r in times}
        low, high = min(each, key=lambda n: each[n]), max(each, key=lambda n: each[n])
        sentences.append(
            f"Seconds a million parameters: {each[low]:.3g} ({low}) to {each[high]:.3g} ({high})."
        )
    return sentences


ARTIFACT = Artifact(
    id="arnoldi_fig3",
    experiment="hessian_scaling",
    tabulate=tabulate,
    draw=draw,
    claims=(TREND, SMALLER, SUMS),
    notes=NOTES,
    title="Run time of Arnoldi against the number of parameters",
    claim="The run time of Arnoldi with 200 iterations is linear in the number of parameters.",
    paper="Arnoldi (arXiv:2112.03052), Figure 3",
    deviations=(
        "Weights and examples are random: images of 224 pixels and 1,000 classes, sentences of 32"
        " word pieces, which the paper does not state. The machine is not the paper's.",
        "Half of ViT-L/32 is whole layers from the output down, as many as bring their share"
        " nearest to 50%.",
        "ResNet50 uses each weight at many positions: it needs as many operations as ViT-B/32 with"
        " a third of its parameters. A line in p is expected within a family, not across them.",
    ),
    findings=findings,
    page=page,
    tier_notes={
        "smoke": (
            "Smoke tier: networks of 8,000 to 105,000 parameters, 20 iterations. They only show"
            " that everything is timed and summed: overhead dominates at this size, so the"
            " exponent says nothing."
        ),
        "small": (
            "Small tier: processor seconds of one thread of a CPU, no ViT-L/32, which needs more"
            " than 6 GB; ViT-Ti/32, S/32 and B/32 instead. Products with 1 and 4 images are timed"
            " and extrapolated to 512 in chunks of 64; orthogonalisation to 2 vectors is timed and"
            " extrapolated to 200. It can show the exponent among sizes up to 90 million"
            " parameters, and what a smaller basis costs on a network of 308,000; it cannot show"
            " memory traffic at 512 images nor how a GPU or TPU fares. One network small enough is"
            " run whole to check the sum."
        ),
        "paper": (
            "One GPU; the basis in bfloat16, on the device or, where it does not fit there, in the"
            " host's memory. What a smaller basis costs is measured on the small tier's ViT, where"
            " float32 is affordable."
        ),
    },
)


if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
