"""What a preset costs: measured on finished runs, else what the experiment declares."""

import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.laboratory import runs
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.runs import Run
from experiments.laboratory.table import aligned, counted

TEXTS = 4_096  # bytes of the JSON files of a run, about


@dataclass(frozen=True)
class Estimate:
    """What is left of some cells: a row a kind of method, seconds, and where they come from."""

    rows: list[list[str]]
    missing: int
    seconds: float
    whole: bool
    """Whether the cost of every missing cell is known."""
    source: str
    """In words: `6 runs measured on cpu (x86_64)`."""

    @property
    def hours(self) -> str:
        """Hours of work left, as far as known."""
        return f"{'' if self.whole else 'at least '}{self.seconds / 3600:.2f}"


def estimate(
    experiment: Experiment, preset: str, cells: Sequence[Any], found: Sequence[Run | None]
) -> Estimate:
    """What the cells without a run will take, by the mean of finished ones of their kind."""
    declared = _declared(experiment, preset)
    rows, left, whole, told_by = [], 0.0, True, set()
    for kind in dict.fromkeys(map(_kind, cells)):
        of_kind = [run for cell, run in zip(cells, found, strict=True) if _kind(cell) == kind]
        measured = _measured(of_kind)
        each = declared if measured is None else measured
        missing = of_kind.count(None)
        left += missing * (each or 0.0)
        whole = whole and (each is not None or not missing)
        source = "measured" if measured is not None else "declared" if each else "unknown"
        told_by |= {source} if missing else set()
        seconds = "" if each is None else f"{each:.3g}"
        hours = "" if each is None else f"{missing * each / 3600:.2f}"
        rows.append([kind, str(len(of_kind)), str(missing), seconds, source, hours])
    return Estimate(rows, found.count(None), left, whole, _source(told_by, found))


def card(
    experiment: Experiment, preset: str, cells: Sequence[Any], each: int = 0, unit: str = "GPU"
) -> str:
    """Cells, what is missing, measured seconds, hours left and disk, by kind of method.

    With `each` of a unit (`GPU`, `core`) a task, also what that makes in hours of it.
    """
    found = [runs.find(experiment.name, cell) for cell in cells]
    about = estimate(experiment, preset, cells, found)
    header = ["method", "cells", "missing", "seconds each", "source", "hours left"]
    total = ["all", str(len(cells)), str(about.missing), "", "", about.hours]
    taken, present = _disk([run for run in found if run]), len(cells) - about.missing
    to_come = f"about {_bytes(taken / present * about.missing)}" if present else "unknown"
    root = next(p for p in (runs.results() / "runs").absolute().parents if p.is_dir())
    return "\n".join(
        [
            f"{experiment.name}, preset {preset}: {counted(len(cells), 'cell')}, "
            f"{about.missing} missing",
            "",
            aligned(header, [*about.rows, total]),
            "",
            f"disk: {_bytes(taken)} now, {to_come} to come, "
            f"{_bytes(shutil.disk_usage(root).free)} free",
            *([experiment.forecast([r for r in found if r])] if experiment.forecast else []),
            *([_hours(experiment, preset, about, each, unit)] if each else []),
        ]
    )


def told(experiment: Experiment, preset: str) -> str:
    """The cost of a whole preset in a few words: as declared, else as measured here."""
    if preset in experiment.seconds:
        return f"{span(experiment.seconds[preset])} measured"
    cells = experiment.presets[preset]
    each = _measured([runs.find(experiment.name, cell) for cell in cells])
    return f"about {span(each * len(cells))} here" if each else "cost not measured yet"


def span(seconds: float) -> str:
    """A length of time as a person says it."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _hours(experiment: Experiment, preset: str, about: Estimate, each: int, unit: str) -> str:
    if not about.missing:
        return f"{unit} hours: none to come"
    if not about.source:
        first = f"python -m experiments.{experiment.name} --preset {preset} --cell 0"
        return f"{unit} hours: unknown, no cell was ever measured: `{first}` measures one"
    hours = f"{'' if about.whole else 'at least '}{about.seconds * each / 3600:.2f}"
    return f"{unit} hours: {hours} with {each} a task, by {about.source}"


def _kind(cell: Any) -> str:
    return type(getattr(cell, "method", cell)).__name__


def _declared(experiment: Experiment, preset: str) -> float | None:
    total, cells = experiment.seconds.get(preset), experiment.presets.get(preset)
    return total / len(cells) if total is not None and cells else None


def _source(told_by: set[str], found: Sequence[Run | None]) -> str:
    words = []
    if "measured" in told_by:
        there = [run for run in found if run is not None and not run.meta["resumed"]]
        devices = sorted({str(run.meta["device"]) for run in there})
        words.append(f"{counted(len(there), 'run')} measured on {' and '.join(devices)}")
    if "declared" in told_by:
        words.append("the seconds its file declares")
    return " and ".join(words)


def _measured(found: Sequence[Run | None]) -> float | None:
    """Mean seconds of a run; one that was killed and restarted tells only of its last part."""
    whole = [r.meta["seconds"] for r in found if r is not None and not r.meta["resumed"]]
    return statistics.fmean(whole) if whole else None


def _disk(found: Sequence[Run]) -> int:
    """Bytes of these runs and of those they are made of, by what they say: no file is looked at."""
    sizes: dict[tuple[str, str], int] = {}
    waiting = [(run.name, run.key) for run in found]
    known = {(run.name, run.key): run for run in found}
    while waiting:
        name, key = waiting.pop()
        path = runs.results() / "runs" / name / key
        if (name, key) in sizes or not ((name, key) in known or path.is_dir()):
            continue
        run = known.get((name, key)) or Run.at(path)
        sizes[name, key] = TEXTS + sum(facts["bytes"] for facts in run.meta["arrays"].values())
        waiting += [(part["name"], part["key"]) for part in run.meta["parts"]]
    return sum(sizes.values())


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
