"""How far every experiment has come, from the disk alone: `python -m experiments status`.

A cell is done if its run exists, running if a process gives signs of life for it, dead if a
process began it and gives none, otherwise missing. No run is read: each preset takes two listings
of a folder.
"""

import collections
import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.laboratory import registry, runs, scratch
from experiments.laboratory.errors import Parser, one_line
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
    done = {path.name for path in home.iterdir()} if home.is_dir() else set()
    slots = scratch.slots(home)
    return [
        Cell(i, entry["key"], DONE)
        if entry["key"] in done
        else _unfinished(i, entry["key"], slots.get(entry["key"], []))
        for i, entry in enumerate(entries)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; with a preset, the exit code is 1 while a cell of it has no run."""
    parser = Parser(prog="python -m experiments status", description=__doc__, allow_abbrev=False)
    parser.add_argument("experiment", nargs="?", help="one experiment (default: all)")
    parser.add_argument("preset", nargs="?", help="list its cells without a run")
    return parser.run(argv, lambda given: _main(given.experiment, given.preset))


def _main(name: str | None, preset: str | None) -> int:
    shown = (RUNNING, DEAD, MISSING) if preset else (RUNNING, DEAD) if name else ()
    rows, details = [], []
    for experiment in [registry.named(name)] if name else _importable():
        tiers = {preset: experiment.cells(preset)} if preset else experiment.readable()
        for tier, configs in tiers.items():
            entries = runs.entries(configs)
            states = cells(experiment.name, entries)
            count = collections.Counter(cell.state for cell in states)
            rows.append([experiment.name, tier, str(len(states)), *(str(count[s]) for s in STATES)])
            details += _details(tier, entries, [cell for cell in states if cell.state in shown])
    print(aligned(["experiment", "preset", "cells", *STATES], rows))
    if details:
        header = ["preset", "cell", "key", "state", "last sign", "job", "settings"]
        print("\n" + aligned(header, details))
    unfinished = preset is not None and rows[0][2] != rows[0][3]
    if unfinished:
        print(
            f"\ncompute the missing cells: `slurm/submit {name} {preset}`, or "
            f"`python -m experiments.{name} --preset {preset}`"
        )
    return 1 if unfinished else 0


def _importable() -> list[Experiment]:
    experiments = []
    for name in registry.names():
        try:
            experiments.append(registry.named(name))
        except Exception as error:  # the others have a status all the same
            reason = one_line(error)
            print(f"{name} cannot be imported: {type(error).__name__}: {reason}", file=sys.stderr)
    return experiments


def _unfinished(index: int, key: str, slots: Sequence[Path]) -> Cell:
    by_state: dict[str, Path] = {}
    for slot in slots:
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            by_state[RUNNING if scratch.state(slot) == scratch.LIVING else DEAD] = slot
    for state in (RUNNING, DEAD):
        if state in by_state:
            return Cell(index, key, state, by_state[state])
    return Cell(index, key, MISSING)


def _details(
    preset: str, entries: Sequence[Mapping[str, Any]], shown: Sequence[Cell]
) -> list[list[str]]:
    """A row for each of these cells: its state, last sign of life, job and settings."""
    settings = [flatten(entry["config"]) for entry in entries]
    names = varying(settings)
    rows = []
    for cell in shown:
        sign, job = "", ""
        if cell.slot is not None:
            job, sign = scratch.job(cell.slot), _last_sign(cell.slot)
        varied = ", ".join(f"{name} {settings[cell.index].get(name, '')}" for name in names)
        rows.append([preset, str(cell.index), cell.key, cell.state, sign, job, varied])
    return rows


def _last_sign(slot: Path) -> str:
    try:
        return f"{scratch.silence(slot):.0f} s ago"
    except FileNotFoundError:
        return "now"
