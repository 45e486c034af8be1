"""Time of other libraries over ours, on each task of the speed experiment's preset `peers`."""

import math
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.ink.style import BLUE, GREY, PAGE, VERMILLION, new_panels
from analysis.numbers.claims import Claim, Ours
from analysis.numbers.statistics import NONE, Interval, geometric
from analysis.numbers.table import Row, claim, curve, records, tabulated, written
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

RATIO, OURS, THEIRS = "theirs ÷ ours", "ours", "theirs"
MISSING = "not installed"
TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)

FASTEST = Claim(
    "ours is the fastest on every task",
    Ours("No paper: a goal of our own."),
    "The time of the fastest other library over ours, on each task.",
    null=1.0,
)
NOTES = (
    "Both are timed in turns in one process, by its CPU time on one thread, after their results"
    " were compared. Means over runs are geometric; bars in the figure are 95% intervals over the"
    " repeats of both."
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    """Rows of each task: the ratio to every library, the slowest last, and the times of both."""
    tasks: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        of_task = tasks.setdefault(str(run.metrics["task"]), {})
        of_task.setdefault(str(run.metrics["library"]), []).append(run)
    rows: list[Row] = []
    for libraries in tasks.values():
        done = [some for some in libraries.values() if some[0].metrics["installed"]]
        absent = [some[0] for some in libraries.values() if not some[0].metrics["installed"]]
        done.sort(key=lambda some: _mean(some, "theirs_ms").mean)
        name = str((done[0] if done else absent)[0].metrics["work" if done else "task"])
        for place, some in enumerate(done):
            rows += _measured(name, some, fastest=place == 0)
        rows += [_absent(name, run) for run in absent]
    return tabulated(rows)


def _mean(runs: list[Run], metric: str) -> Interval:
    return geometric([float(run.metrics[metric]) for run in runs])


def _measured(name: str, runs: list[Run], fastest: bool) -> list[Row]:
    """A row of the ratio, with its intervals over runs and over repeats in them; two of times."""
    m = runs[0].metrics
    repeats = geometric([ratio for run in runs for ratio in run.array("ratios")])
    about: dict[str, Any] = {
        "library": m["library"],
        "version": m["version"],
        "fastest": int(fastest),
        "settings": m["settings"],
        "machine": m["machine"],
        "apart": float(m["difference"]),
    }
    unit = f"ms a {m['unit']}".replace("ms a example", "ms an example")
    of_ratio = {"what": RATIO, "repeats_low": repeats.low, "repeats_high": repeats.high, **about}
    quantity, ratio = _quantity(runs[0]), _mean(runs, "ratio")
    ours, theirs = (_mean(runs, side) for side in ("ours_ms", "theirs_ms"))
    return [
        claim(name, quantity, "x", ratio, of=FASTEST, at_least=1.0, **of_ratio)
        if fastest
        else curve(name, quantity, "x", ratio, **of_ratio),
        curve(name, f"ours, beside {m['library']}", unit, ours, what=OURS, **about),
        curve(name, str(m["library"]), unit, theirs, what=THEIRS, **about),
    ]


def _quantity(run: Run) -> str:
    return f"time of {run.metrics['library']} over ours"


def _absent(name: str, run: Run) -> Row:
    about = {"library": run.metrics["library"], "version": "", "fastest": 0, "settings": MISSING}
    return curve(name, _quantity(run), "x", NONE, what=RATIO, **about, machine="")


def draw(table: pd.DataFrame) -> Figure:
    rows = [row for row in records(table) if row["what"] == RATIO]
    height = 0.8 + 0.19 * len(rows)
    figure, (axes,) = new_panels(["Their time over ours (log)"], width=PAGE, height=height)
    labels, before = [], ""
    for place, row in enumerate(rows):
        name = row["method"] if row["method"] != before else ""
        before = row["method"]
        labels.append(f"{name}   {row['library']}" if name else row["library"])
        if row["n"] == 0:
            axes.annotate(MISSING, (1.05, place), va="center", fontsize=7, color=GREY)
            continue
        colour = GREY if not row["fastest"] else BLUE if row["ours"] >= 1 else VERMILLION
        axes.barh(place, row["ours"] - 1, 0.66, left=1.0, color=colour, alpha=0.75)
        ends = row["repeats_low"], row["repeats_high"]
        axes.plot(ends, [place] * 2, color="black", linewidth=0.9)
        right = max(1.0, row["ours"], 0.0 if math.isnan(ends[1]) else ends[1])
        axes.annotate(f"  {row['ours']:.3g}", (right, place), va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.axvline(1.0, color="black", linewidth=0.8)
    known = [row for row in rows if row["n"]]
    low = min([row["ours"] for row in known], default=1.0)
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.set_xlim(min(0.5, 0.8 * low), 3 * max([row["ours"] for row in known], default=1.0))
    return figure


def page(table: pd.DataFrame) -> pd.DataFrame:
    """A line for each task and library, the fastest first."""
    lines, times = [], {}
    for row in records(table):
        if row["what"] != RATIO:
            times[row["method"], row["library"], row["what"]] = row
    for row in records(table):
        if row["what"] != RATIO:
            continue
        ours, theirs = (times.get((row["method"], row["library"], one)) for one in (OURS, THEIRS))
        line = {"task": row["method"], "library": f"{row['library']} {row['version']}".strip()}
        line["ours"] = f"{ours['ours']:.3g} {ours['unit']}" if ours else ""
        line["theirs"] = f"{theirs['ours']:.3g}" if theirs else ""
        over = {"low": row["repeats_low"], "high": row["repeats_high"]}
        line[f"{RATIO} [95% of repeats]"] = written(row | over, ".2f")
        line["fastest"] = "fastest other" if row["fastest"] else ""
        lines.append(line | {"their settings": row["settings"]})
    return pd.DataFrame(lines)


def findings(table: pd.DataFrame) -> list[str]:
    """Where the fastest other library is ahead of ours, and where it is not clear who is."""
    fastest = [r for r in records(table) if r["what"] == RATIO and r["fastest"]]
    ahead = [r for r in fastest if r["repeats_high"] < 1]
    level = [r for r in fastest if r["repeats_low"] <= 1 <= r["repeats_high"]]
    said = [f"Ours is ahead on {len(fastest) - len(ahead) - len(level)} of {len(fastest)} tasks."]
    if ahead:
        said.append(f"Ahead of ours: {_listed(ahead)}.")
    if level:
        said.append(f"Level with ours, 1 within the interval: {_listed(level)}.")
    return said


def _listed(rows: list[Row]) -> str:
    return "; ".join(f"{row['library']} on {row['method']} ({row['ours']:.2f})" for row in rows)


ARTIFACT = Artifact(
    id="speed_peers",
    experiment="speed",
    tabulate=tabulate,
    draw=draw,
    claims=(FASTEST,),
    notes=NOTES,
    title="Other attribution libraries beside ours",
    claim="Ours is ahead of the fastest other library on each task.",
    paper="no paper: a goal of our own",
    deviations=(
        "Data and weights are random: only shapes matter here.",
        "Each library has settings of its own, stated, the fastest of those tried that give the"
        " same numbers. Projections draw maps of their own: the lengths of rows are compared.",
        "An interval over repeats of one process is narrower than one over processes.",
    ),
    needs=lambda config: config["work"]["type"] == "Peer",
    findings=findings,
    presets={"small": "peers"},
    page=page,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
