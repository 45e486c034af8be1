"""What attempts at runs left on disk, who owns it, and removing what nobody does.

An attempt's folder holds its checkpoints, which the next attempt goes on from, and for a moment its
half-written result. It is dead if its owner ended it or is known to have ended: by this machine, or
by Slurm together with its silence. Silence alone, of another machine, proves nothing.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments import runs, scratch, slurm
from experiments.problems import UserError
from experiments.table import aligned


@dataclass(frozen=True)
class Draft:
    """One attempt: `state` is one of scratch's."""

    slot: Path
    name: str
    key: str
    state: str
    silence: float
    """Seconds since the last sign of life."""

    @property
    def address(self) -> str:
        """How a person names it: EXPERIMENT/KEY/FOLDER."""
        return f"{self.name}/{self.key}/{self.slot.name}"


def found(names: Sequence[str]) -> list[Draft]:
    """Every attempt at the runs of these experiments."""
    drafts = list(_all(names))
    if any(each.state == scratch.SILENT and scratch.job(each.slot) for each in drafts):
        queued = {task.job for task in slurm.queue(mine=False)} if slurm.present() else None
        drafts = [_asked(each, queued) for each in drafts]
    return drafts


def table(drafts: Sequence[Draft]) -> str:
    """The attempts as a table: state, last sign of life, size, job and whether the run is there."""
    rows = []
    for each in drafts:
        there = "done" if (each.slot.parents[2] / each.key).is_dir() else "resumes"
        sign = f"{each.silence:.0f} s ago"
        size = f"{_size(each.slot):,}"
        rows.append([each.state, sign, size, scratch.job(each.slot), there, each.address])
    return aligned(["state", "last sign", "bytes", "job", "next", "attempt"], rows)


def clean(drafts: Sequence[Draft], addresses: Sequence[str]) -> list[Draft]:
    """Remove the dead ones, or those that are named if they are not living; return them."""
    known = {each.address: each for each in drafts}
    for address in addresses:
        if address not in known:
            raise UserError(f"no attempt {address}: `python -m experiments.runs drafts` lists them")
        if known[address].state == scratch.LIVING:
            raise UserError(f"{address} is being worked on: end that process first, then clean")
    dead = [each for each in drafts if each.state == scratch.DEAD]
    removed = []
    for each in [known[address] for address in addresses] or dead:
        if scratch.remove(each.slot):
            removed.append(each)
            with contextlib.suppress(OSError):  # not empty: there are others
                each.slot.parent.rmdir()
                each.slot.parent.parent.rmdir()
    return removed


def _all(names: Sequence[str]) -> Iterator[Draft]:
    home = runs.results() / "runs"
    for name in names:
        for key, slots in scratch.slots(home / name).items():
            for slot in slots:
                try:
                    yield Draft(slot, name, key, scratch.state(slot), scratch.silence(slot))
                except FileNotFoundError:  # ended in this moment
                    continue


def _asked(draft: Draft, queued: set[str] | None) -> Draft:
    job = scratch.job(draft.slot)
    if queued is None or draft.state != scratch.SILENT or not job or job in queued:
        return draft
    return replace(draft, state=scratch.DEAD)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
