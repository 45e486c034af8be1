"""The cost of a preset: measured on finished runs, otherwise what the experiment declares."""

import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.laboratory import runs
from experiments.laboratory.runs import Run
from experiments.laboratory.table import aligned, counted

JSON_BYTES = 4_096  # the JSON files of one run take about this much


@dataclass(frozen=True)
class Estimate:
    """The work left on some cells: one row per kind of method, and the total seconds."""

    rows: list[list[str]]
    cells: int
    missing: int
    seconds: float
    complete: bool
    """Whether the cost of every missing cell is known."""
    source: str
    """In words: `6 runs measured on cpu (x86_64)`."""

    def hours(self, devices: int = 1) -> str:
        """Hours of work left, as far as known, if each takes this many devices."""
        bound = "" if self.complete else "at least "
        return f"{bound}{self.seconds * devices / 3600:.2f}"


def estimate(
    cells: Sequence[Any], computed: Sequence[Run | None], declared: float | None
) -> Estimate:
    """The cost of the cells without a run: the mean over finished runs of the same kind of method.

    `computed` has the run of each cell, or None; `declared` is the experiment's own seconds per
    cell, used for kinds without a finished run.
    """
    rows, seconds, complete, sources = [], 0.0, True, set()
    for kind in dict.fromkeys(map(_kind, cells)):
        same = [run for cell, run in zip(cells, computed, strict=True) if _kind(cell) == kind]
        measured = _mean_seconds(same)
        each = declared if measured is None else measured
        missing = same.count(None)
        seconds += missing * (each or 0.0)
        complete = complete and (each is not None or not missing)
        source = "measured" if measured is not None else "declared" if each else "unknown"
        sources |= {source} if missing else set()
        shown = ["", ""] if each is None else [f"{each:.3g}", f"{missing * each / 3600:.2f}"]
        rows.append([kind, str(len(same)), str(missing), shown[0], source, shown[1]])
    source = _source(sources, computed)
    return Estimate(rows, len(cells), computed.count(None), seconds, complete, source)


def lines(name: str, preset: str, estimate: Estimate, finished: Sequence[Run]) -> list[str]:
    """The cost card of some cells of a preset: cells, hours and disk."""
    header = ["method", "cells", "missing", "seconds each", "source", "hours left"]
    total = ["all", str(estimate.cells), str(estimate.missing), "", "", estimate.hours()]
    used = _disk_bytes(finished)
    left = f"about {_bytes(used / len(finished) * estimate.missing)}" if finished else "unknown"
    root = next(p for p in (runs.results() / "runs").absolute().parents if p.is_dir())
    return [
        f"{name}, preset {preset}: {counted(estimate.cells, 'cell')}, {estimate.missing} missing",
        "",
        aligned(header, [*estimate.rows, total]),
        "",
        f"disk: {_bytes(used)} now, {left} to come, {_bytes(shutil.disk_usage(root).free)} free",
    ]


def device_hours(name: str, preset: str, estimate: Estimate, per_task: int, unit: str) -> str:
    """A line for the hours of all devices, with `per_task` of a unit (`GPU`, `core`) per task."""
    if not estimate.missing:
        return f"{unit} hours: none to come"
    if not estimate.source:
        first = f"python -m experiments.{name} --preset {preset} --cell 0"
        return f"{unit} hours: unknown, no cell has been measured: `{first}` measures one"
    hours = estimate.hours(per_task)
    return f"{unit} hours: {hours} with {per_task} per task, from {estimate.source}"


def in_words(name: str, cells: Sequence[Any], declared: float | None) -> str:
    """The cost of a whole preset: the declared seconds, or the mean of its runs on this disk."""
    if declared is not None:
        return f"{duration(declared)} measured"
    each = _mean_seconds([runs.find(name, cell) for cell in cells])
    return f"about {duration(each * len(cells))} here" if each else "cost not measured yet"


def duration(seconds: float) -> str:
    """Seconds in a readable unit: `12.3 s`, `5 min`, `2.5 h`."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _kind(cell: Any) -> str:
    return type(getattr(cell, "method", cell)).__name__


def _source(sources: set[str], computed: Sequence[Run | None]) -> str:
    words = []
    if "measured" in sources:
        measured = _measured(computed)
        devices = sorted({str(run.meta["device"]) for run in measured})
        words.append(f"{counted(len(measured), 'run')} measured on {' and '.join(devices)}")
    if "declared" in sources:
        words.append("the seconds declared in its file")
    return " and ".join(words)


def _measured(computed: Sequence[Run | None]) -> list[Run]:
    """Runs whose seconds count: a resumed run only knows the time of its last part."""
    return [run for run in computed if run is not None and not run.meta["resumed"]]


def _mean_seconds(computed: Sequence[Run | None]) -> float | None:
    seconds = [run.meta["seconds"] for run in _measured(computed)]
    return statistics.fmean(seconds) if seconds else None


def _disk_bytes(finished: Sequence[Run]) -> int:
    """Bytes of these runs and of the runs they are made of, as their meta.json says."""
    sizes: dict[tuple[str, str], int] = {}
    known = {(run.name, run.key): run for run in finished}
    waiting = list(known)
    while waiting:
        name, key = waiting.pop()
        path = runs.results() / "runs" / name / key
        if (name, key) in sizes or not ((name, key) in known or path.is_dir()):
            continue
        run = known.get((name, key)) or Run.at(path)
        arrays = run.meta["arrays"].values()
        sizes[name, key] = JSON_BYTES + sum(facts["bytes"] for facts in arrays)
        waiting += [(part["name"], part["key"]) for part in run.meta["parts"]]
    return sum(sizes.values())


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
