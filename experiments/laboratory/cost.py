"""The cost of a preset: counted from its configs, over a device's rate, corrected by runs."""

import os
import shutil
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import Run
from experiments.laboratory.table import aligned, counted, duration
from experiments.laboratory.work import RATES, Rate, Work

MEASURED, CORRECTED, DECLARED, COUNTED = "measured", "corrected", "declared", "counted"
SOURCES = {  # what the seconds of a piece of work come from, the best first
    MEASURED: "by finished runs of it in this results folder",
    CORRECTED: "counted, and scaled as finished runs of the same kind were",
    DECLARED: "written in its file, of a run of the whole preset on two cores",
    COUNTED: "operations over the rate of a device",
}
PROGRAM_BYTES = 5e8  # the program alone, torch included
SOURCE = 5  # the column of a row
JSON_BYTES = 4_096  # the JSON files of one run take about this much


@dataclass(frozen=True)
class Item:
    """A run to be: its work, its seconds if nothing is measured, and the finished run or None.

    `missing` says that it is still to be computed.
    """

    work: Work
    seconds: float | None
    run: Run | None
    missing: bool

    @property
    def measured(self) -> float | None:
        """Own seconds of a finished run; of a resumed one only its last part's are known."""
        if self.run is None or self.run.meta["resumed"]:
            return None
        meta = self.run.meta
        alone = meta["seconds"] if not meta["parts"] else None  # runs before own_seconds was noted
        seconds: float | None = meta.get("own_seconds", alone)
        return seconds


@dataclass(frozen=True)
class Estimate:
    """The work left on some cells and the runs they need: rows by kind of work, and totals.

    `source` says in words what the seconds come from: `6 runs measured on cpu (x86_64)`. Bytes of
    `disk` are still to be written, those of `scratch` needed at once; `memory` is the peak.
    """

    rows: list[list[str]]
    cells: int
    missing: int
    seconds: float
    complete: bool
    """Whether the cost of everything that is missing is known."""
    source: str
    memory: float = 0
    disk: float = 0
    scratch: float = 0
    items: Sequence[Item] = ()
    factors: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    """By kind and label of work: measured over counted seconds, and what stands for none."""

    def seconds_of(self, work: Work, rate: Rate) -> float | None:
        """Seconds of one piece of work without its parts, as the rows have them."""
        if (work.kind, work.label) not in self.factors:
            return None
        factor, uncounted = self.factors[work.kind, work.label]
        return factor * (work.seconds(rate) or uncounted)

    def hours(self, devices: int = 1) -> str:
        """Hours of work left, as far as known, if each takes this many devices."""
        bound = "" if self.complete else "at least "
        return f"{bound}{hours(self.seconds * devices)}"


def estimate(cells: Sequence[Work], rate: Rate, declared: float | None = None) -> Estimate:
    """The cost of the cells without a run, and of the runs without which they cannot be made.

    `declared` are the measured seconds of all these cells on cores like those here: until there are
    finished runs, counted seconds are scaled to them. Finished runs of the same label correct the
    others of it, and those of the same kind, training or scoring, what has none.
    """
    items = _items(cells, rate)
    known = [item for item in items if _tells(item, rate)]
    whole = sum(item.seconds or 0.0 for item in items)
    scale = declared / whole if declared and whole and rate is RATES["cpu"] else None
    rows, seconds, complete, sources = [], 0.0, True, list[str]()
    factors: dict[tuple[str, str], tuple[float, float]] = {}
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        groups.setdefault((item.work.kind, item.work.label), []).append(item)
    for (kind, label), members in groups.items():
        alike = [item for item in known if item in members]
        others = [i for i in known if i.work.kind == kind and i.seconds is not None]
        counts = all(item.seconds is not None for item in members)
        factor, source = 1.0, COUNTED if counts and members[0].work.steps else DECLARED
        if alike:
            factor, source = _factor(alike), MEASURED
        elif counts and scale is not None:
            factor, source = scale, DECLARED
        elif counts and others:
            factor, source = _factor(others), CORRECTED
        elif not counts:
            source = "unknown"
        elif not any(item.seconds for item in members):
            source = ""  # all its work is that of its parts
        missing = [item for item in members if item.missing]
        uncounted = float(bool(alike))
        if source != "unknown":
            factors[kind, label] = factor, uncounted
        left = sum(factor * (item.seconds or uncounted) for item in missing)
        seconds += left
        complete = complete and (source != "unknown" or not missing)
        sources += [source] if missing else []
        operations = sum(item.work.operations for item in missing)
        rows.append(
            [
                f"training {label}" if kind == "training" else label,
                str(len(members)),
                str(len(missing)),
                f"{operations:.2g}" if operations else "",
                f"{left / len(missing):.3g}" if missing and source != "unknown" else "",
                source if missing else "",
                "" if missing and source == "unknown" else hours(left),
            ]
        )
    todo = [item.work for item in items if item.missing]
    return Estimate(
        rows,
        len(cells),
        sum(runs.find(cell.name, cell.config) is None for cell in cells),
        seconds,
        complete,
        _source(sources, known, rate),
        max((work.memory for work in todo), default=0.0),
        sum(JSON_BYTES * (work.config is not None) + work.disk for work in todo),
        max((work.scratch for work in todo), default=0.0),
        items,
        factors,
    )


def _items(cells: Sequence[Work], rate: Rate) -> list[Item]:
    """Every run of the cells once, parts first; missing are those that a missing cell needs."""
    items: dict[Any, Item] = {}

    def visit(work: Work, needed: bool, within: Any) -> None:
        place = (*within, len(items)) if work.config is None else (work.name, work.config)
        known = items.get(place)
        if known is not None and (known.missing or known.run or not needed):
            return
        run = None if work.config is None else runs.find(work.name, work.config)
        missing = needed and run is None
        for part in work.parts:
            visit(part, missing, place)
        items[place] = Item(work, work.seconds(rate), run, missing)

    for cell in cells:
        visit(cell, True, ())
    return list(items.values())


def _tells(item: Item, rate: Rate) -> bool:
    return item.measured is not None and rate.measured(str(item.run and item.run.meta["device"]))


def _factor(items: Sequence[Item]) -> float:
    """Measured over counted seconds; where none are counted, the mean of the measured ones."""
    measured = sum(item.measured or 0.0 for item in items)
    return measured / sum(item.seconds or 1.0 for item in items)


def lines(
    name: str,
    preset: str,
    estimate: Estimate,
    finished: Sequence[Run],
    rate: Rate,
    elsewhere: str = "",
    price: float | None = None,
) -> list[str]:
    """The cost card of some cells of a preset: cells, hours, memory, disk, and what they cost.

    `price` is that of an hour of the device.
    """
    header = ["work", "runs", "missing", "operations", "seconds each", "source", "hours left"]
    total = ["all", "", "", "", "", "", estimate.hours()]
    root = next(p for p in (runs.results() / "runs").absolute().parents if p.is_dir())
    used, free = _disk_bytes(finished), shutil.disk_usage(root).free
    meanwhile = f", {_bytes(estimate.scratch)} more meanwhile" if estimate.scratch else ""
    made = [
        f"{name}, preset {preset}: {counted(estimate.cells, 'cell')}, {estimate.missing} missing",
        "",
        aligned(header, [*estimate.rows, total]),
        "",
        f"hours are those of one device: {_described(rate)}",
    ]
    shown = [word for word in SOURCES if any(row[SOURCE] == word for row in estimate.rows)]
    made += [f"{word}: {SOURCES[word]}" for word in shown]
    made += [f"elsewhere, by operations alone: {elsewhere}"] if elsewhere else []
    made += [
        f"memory: about {_bytes(PROGRAM_BYTES + estimate.memory)} at most",
        f"disk: {_bytes(used)} now, about {_bytes(estimate.disk)} to come{meanwhile}, "
        f"{_bytes(free)} free",
    ]
    if price is not None:
        bound = "" if estimate.complete else "at least "
        money = estimate.seconds / 3600 * price
        made.append(f"price: {bound}{money:,.2f}, at {price:g} an hour")
    return made


def _described(rate: Rate) -> str:
    speeds = dict.fromkeys((rate.float32, rate.tf32, rate.bf16))
    shown = " / ".join(f"{speed:.3g}" for speed in speeds)
    of = "" if len(speeds) == 1 else " in float32, TF32 and bfloat16"
    return f"{rate.name}, {shown} operations a second{of} (--rate, RETRACE_RATE)"


def elsewhere(cells: Sequence[Work]) -> str:
    """Hours of what is missing by operations alone, on every device that has a declared rate."""
    missing = [item.work for item in _items(cells, RATES["cpu"]) if item.missing]
    seconds = {
        rate.name: sum(work.seconds(rate) or 0.0 for work in missing) for rate in RATES.values()
    }
    return ", ".join(f"{name} {hours(each)}" for name, each in seconds.items() if each)


def asked(given: str | None, variable: str) -> str | None:
    """What was given on the command line, or in the environment."""
    return given if given is not None else os.environ.get(variable) or None


def priced(words: str | None) -> float | None:
    """The price of an hour as a number."""
    if words is None:
        return None
    try:
        price = float(words)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise UserError(f"a price of {words!r}: give what an hour of a device costs, as 2.5")
    return price


def device_hours(name: str, preset: str, estimate: Estimate, per_task: int, unit: str) -> str:
    """A line for the hours of all devices, with `per_task` of a unit (`GPU`, `core`) per task."""
    if not estimate.missing:
        return f"{unit} hours: none to come"
    if not estimate.source:
        first = f"python -m experiments.{name} --preset {preset} --cell 0"
        return f"{unit} hours: unknown, no cell has been measured: `{first}` measures one"
    left = estimate.hours(per_task)
    return f"{unit} hours: {left} with {per_task} per task, from {estimate.source}"


def in_words(name: str, cells: Sequence[Any], declared: float | None) -> str:
    """The cost of a whole preset: the declared seconds, or the mean of its runs on this disk."""
    if declared is not None:
        return f"{duration(declared)} {DECLARED}"
    each = _mean_seconds([runs.find(name, cell) for cell in cells])
    return f"about {duration(each * len(cells))} {MEASURED} here" if each else "cost unknown"


def kind(cell: Any) -> str:
    """The label of a cell whose work is not counted: the class of its method."""
    return type(getattr(cell, "method", cell)).__name__


def hours(seconds: float) -> str:
    """Hours, in two digits if they are few."""
    hours = seconds / 3600
    return f"{hours:.2g}" if 5e-4 <= hours < 0.1 else f"{hours:,.2f}"


def _source(sources: Sequence[str], known: Sequence[Item], rate: Rate) -> str:
    words = []
    if {MEASURED, CORRECTED} & set(sources):
        devices = sorted({str(item.run.meta["device"]) for item in known if item.run})
        words.append(f"{counted(len(known), 'run')} measured on {' and '.join(devices)}")
    if DECLARED in sources:
        words.append("the seconds declared in its file")
    if {COUNTED, CORRECTED} & set(sources):
        words.append(f"operations counted, at the rate of {rate.name}")
    return " and ".join(words)


def _mean_seconds(computed: Iterable[Run | None]) -> float | None:
    seconds = [run.meta["seconds"] for run in computed if run is not None]
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
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
