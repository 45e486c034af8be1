"""How far every experiment has come, from the disk alone: `python -m experiments status`.

A cell is done if its run is there; running if somebody gives signs of life for it; dead if somebody
began it and gives none; else missing. Nothing of a run is read: two listings of a folder a preset.
"""

import collections
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.laboratory import registry, runs, scratch
from experiments.laboratory.errors import Parser, UserError, nearest
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.table import aligned, flatten, varying

DONE, RUNNING, DEAD, MISSING = STATES = ("done", "running", "dead", "missing")


@dataclass(frozen=True)
class Cell:
    """One cell of a preset; `slot` is where it was last worked on, if it is not done."""

    index: int
    key: str
    state: str
    slot: Path | None = None


def cells(name: str, entries: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """The state of each cell that runs.entries describes."""
    home = runs.results() / "runs" / name
    there = {path.name for path in home.iterdir()} if home.is_dir() else set()
    slots = scratch.slots(home)
    return [
        Cell(i, entry["key"], DONE)
        if entry["key"] in there
        else _begun(i, entry["key"], slots.get(entry["key"], []))
        for i, entry in enumerate(entries)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; with a preset named, 1 while a cell of it is missing."""
    parser = Parser(prog="python -m experiments status", description=__doc__, allow_abbrev=False)
    parser.add_argument("experiment", nargs="?", help="one experiment (default: all)")
    parser.add_argument("preset", nargs="?", help="name its cells without a run; 1 if there are")
    return parser.run(argv, lambda given: _main(given.experiment, given.preset))


def _main(name: str | None, preset: str | None) -> int:
    experiments = [registry.named(name)] if name else _importable()
    rows, named = [], []
    for experiment in experiments:
        if preset is not None and preset not in experiment.presets:
            raise UserError(f"no preset {preset!r}: {nearest(preset, experiment.presets)}")
        for tier in [preset] if preset else experiment.presets:
            listed = runs.entries(experiment.presets[tier])
            found = cells(experiment.name, listed)
            count = collections.Counter(cell.state for cell in found)
            rows.append([experiment.name, tier, str(len(found))] + [str(count[s]) for s in STATES])
            shown = (RUNNING, DEAD, MISSING) if preset else (RUNNING, DEAD) if name else ()
            some = [cell for cell in found if cell.state in shown]
            named += _described(tier, listed, some)
    print(aligned(["experiment", "preset", "cells", *STATES], rows))
    if named:
        print("\n" + aligned(["preset", "cell", "key", "state", "last sign", "job", "what"], named))
    unfinished = preset is not None and rows[0][2] != rows[0][3]
    if unfinished:
        print(
            f"\nwhat is missing: `slurm/submit {name} {preset}`, or "
            f"`python -m experiments.{name} --preset {preset}`"
        )
    return 1 if unfinished else 0


def _importable() -> list[Experiment]:
    found = []
    for name in registry.names():
        try:
            found.append(registry.named(name))
        except Exception as error:  # whatever is wrong with one, the others have a status
            reason = " ".join(str(error).split())
            print(f"{name} cannot be imported: {type(error).__name__}: {reason}", file=sys.stderr)
    return found


def _begun(index: int, key: str, slots: Sequence[Path]) -> Cell:
    found: dict[str, Path] = {}
    for slot in slots:
        try:
            found[RUNNING if scratch.state(slot) == scratch.LIVING else DEAD] = slot
        except FileNotFoundError:  # it ended in this moment
            continue
    for state in (RUNNING, DEAD):
        if state in found:
            return Cell(index, key, state, found[state])
    return Cell(index, key, MISSING)


def _described(
    preset: str, entries: Sequence[Mapping[str, Any]], some: Sequence[Cell]
) -> list[list[str]]:
    settings = [flatten(entry["config"]) for entry in entries]
    names = varying(settings)
    rows = []
    for cell in some:
        sign, job = "", ""
        if cell.slot is not None:
            job = scratch.job(cell.slot)
            sign = _ago(cell.slot)
        what = ", ".join(f"{name} {settings[cell.index].get(name, '')}" for name in names)
        rows.append([preset, str(cell.index), cell.key, cell.state, sign, job, what])
    return rows


def _ago(slot: Path) -> str:
    try:
        return f"{scratch.silence(slot):.0f} s ago"
    except FileNotFoundError:
        return "now"
