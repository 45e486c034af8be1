"""What a preset costs: measured on finished runs, else what the experiment declares."""

import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import runs
from experiments.experiment import Experiment
from experiments.runs import Run
from experiments.table import aligned


def card(experiment: Experiment, preset: str, cells: Sequence[Any]) -> str:
    """Cells, what is missing, measured seconds, hours left and disk, by kind of method."""
    found = [runs.find(experiment.name, cell) for cell in cells]
    declared = _declared(experiment, preset, cells)
    rows, left = [], 0.0
    unknown = ""
    for kind in dict.fromkeys(map(_kind, cells)):
        of_kind = [run for cell, run in zip(cells, found, strict=True) if _kind(cell) == kind]
        measured = _measured(of_kind)
        each = declared if measured is None else measured
        missing = of_kind.count(None)
        left += missing * (each or 0.0)
        unknown = "at least " if each is None and missing else unknown
        source = "measured" if measured is not None else "declared" if each else "unknown"
        seconds = "" if each is None else f"{each:.3g}"
        hours = "" if each is None else f"{missing * each / 3600:.2f}"
        rows.append([kind, str(len(of_kind)), str(missing), seconds, source, hours])
    missing = found.count(None)
    rows.append(["all", str(len(cells)), str(missing), "", "", f"{unknown}{left / 3600:.2f}"])
    header = ["method", "cells", "missing", "seconds each", "source", "hours left"]
    sizes = [_size(run.path) for run in found if run is not None]
    to_come = f"about {_bytes(statistics.fmean(sizes) * missing)}" if sizes else "unknown"
    root = next(p for p in (runs.results() / "runs").absolute().parents if p.is_dir())
    return "\n".join(
        [
            f"{experiment.name}, preset {preset}: {len(cells)} cells, {missing} missing",
            "",
            aligned(header, rows),
            "",
            f"disk: {_bytes(sum(sizes))} now, {to_come} to come, "
            f"{_bytes(shutil.disk_usage(root).free)} free",
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


def _kind(cell: Any) -> str:
    return type(getattr(cell, "method", cell)).__name__


def _declared(experiment: Experiment, preset: str, cells: Sequence[Any]) -> float | None:
    total = experiment.seconds.get(preset)
    return total / len(cells) if total is not None and cells else None


def _measured(found: Sequence[Run | None]) -> float | None:
    """Mean seconds of a run; one that was killed and restarted tells only of its last part."""
    whole = [r.meta["seconds"] for r in found if r is not None and not r.meta["resumed"]]
    return statistics.fmean(whole) if whole else None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
