"""Unfinished attempts at runs: which there are, whose owner still works at them, and their end."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.cluster import slurm
from experiments.laboratory import runs, scratch
from experiments.laboratory.errors import UserError
from experiments.laboratory.table import aligned


@dataclass(frozen=True)
class Attempt:
    """The files of one attempt at a run: checkpoints and, while it is being written, the result.

    `state` is one of scratch's. An attempt is dead if its owner ended it, or is known to have
    ended: this machine says so, or Slurm reports that the job ended and it has been silent. The
    silence of another machine alone proves nothing.
    """

    slot: Path
    name: str
    key: str
    state: str
    silence: float
    """Seconds since the last sign of life."""

    @property
    def address(self) -> str:
        """Its name on the command line: EXPERIMENT/KEY/FOLDER."""
        return f"{self.name}/{self.key}/{self.slot.name}"


def attempts(names: Sequence[str]) -> list[Attempt]:
    """Every attempt at the runs of these experiments."""
    listed = list(_attempts_on_disk(names))
    silent = [each for each in listed if each.state == scratch.SILENT and scratch.job(each.slot)]
    if silent and slurm.present():
        queued = {task.job for task in slurm.queue(mine=False)}
        for each in silent:
            if scratch.job(each.slot) not in queued:
                listed[listed.index(each)] = replace(each, state=scratch.DEAD)
    return listed


def _attempts_on_disk(names: Sequence[str]) -> Iterator[Attempt]:
    for name in names:
        for key, slots in scratch.slots(runs.results() / "runs" / name).items():
            for slot in slots:
                with contextlib.suppress(FileNotFoundError):  # it has just ended
                    yield Attempt(slot, name, key, scratch.state(slot), scratch.silence(slot))


def table(listed: Sequence[Attempt]) -> str:
    """The attempts as a table: state, last sign of life, size, job and whether the run exists."""
    rows = []
    for each in listed:
        size = sum(path.stat().st_size for path in each.slot.rglob("*") if path.is_file())
        next_step = "done" if (each.slot.parents[2] / each.key).is_dir() else "resumes"
        sign, job = f"{each.silence:.0f} s ago", scratch.job(each.slot)
        rows.append([each.state, sign, f"{size:,}", job, next_step, each.address])
    return aligned(["state", "last sign", "bytes", "job", "next", "attempt"], rows)


def clean(listed: Sequence[Attempt], addresses: Sequence[str]) -> list[Attempt]:
    """Remove the dead ones, or those named unless they are living; return what was removed.

    NAME/KEY names all attempts at a run.
    """
    chosen: list[Attempt] = []
    for address in addresses:
        named = [one for one in listed if f"{one.address}/".startswith(f"{address}/")]
        if not named or "/" not in address:
            raise UserError(f"no attempt {address}: `python -m experiments runs attempts` has all")
        chosen += [each for each in named if each not in chosen]
    if living := [each for each in chosen if each.state == scratch.LIVING]:
        raise UserError(
            f"{living[0].address} is being worked on: end that process first, then clean"
        )
    dead = [each for each in listed if each.state == scratch.DEAD]
    removed = []
    for each in chosen if addresses else dead:
        if scratch.remove(each.slot):
            removed.append(each)
            with contextlib.suppress(OSError):  # not empty: there are others
                each.slot.parent.rmdir()
                each.slot.parent.parent.rmdir()
    return removed
