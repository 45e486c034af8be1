"""A preset divided into tasks, and what is left of them: the same for Slurm and for one machine.

    results/runs/NAME/tasks/PRESET-ID.json     the plan, which every task reads
The plan's id is a hash of what it divides and how, so that a task of another plan is recognised.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.laboratory import runs
from experiments.laboratory.errors import UserError


@dataclass(frozen=True)
class Target:
    """A run to make: a cell, or a part of one, which is made by beginning the cell."""

    address: str
    cell: int
    whole: bool


@dataclass(frozen=True)
class Task:
    """Runs that are made one after another, when the tasks it `needs` have ended.

    memory, gpu_memory  bytes that it takes at most, on the machine and on the GPU
    cores               that keep it busy
    """

    runs: tuple[Target, ...]
    stage: int
    gpu: bool
    needs: tuple[int, ...] = ()
    memory: int = 0
    gpu_memory: int = 0
    cores: int = 1

    @property
    def cells(self) -> list[int]:
        """The cells that it computes whole."""
        return [target.cell for target in self.runs if target.whole]


@dataclass(frozen=True)
class Plan:
    """The tasks of a preset, stage by stage; those of a bundle share a GPU at the same time."""

    name: str
    preset: str
    keys: tuple[str, ...]
    tasks: tuple[Task, ...]
    bundles: tuple[tuple[int, ...], ...]

    @property
    def title(self) -> str:
        """Experiment and preset, as the names and comments of its jobs have them."""
        return f"{self.name}/{self.preset}"

    @cached_property
    def id(self) -> str:
        """A hash of what is to be made, how it is divided, and the results folder."""
        tasks = [
            [[t.address for t in task.runs], task.gpu, task.stage, task.needs]
            for task in self.tasks
        ]
        content = [self.title, self.keys, tasks, self.bundles, str(runs.results().absolute())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    @property
    def logs(self) -> Path:
        """The folder for the output of its tasks."""
        return runs.results().absolute() / "runs" / self.name / "logs"

    def log(self, task: int) -> Path:
        """The log of a task that shares its job, or its machine, with others."""
        return self.logs / f"{self.preset}-{self.id}-task-{task}.log"

    def has(self, address: str) -> bool:
        """Whether a run, NAME/KEY, exists."""
        return runs.present(address)

    def missing(self, task: int) -> list[Target]:
        """The runs of a task that do not exist."""
        return [target for target in self.tasks[task].runs if not runs.present(target.address)]

    def todo(self) -> list[int]:
        """Tasks with a run that is missing and wanted: a cell, or what a task to do needs."""
        present, needed, found = _Present(), set[int](), []
        for index in reversed(range(len(self.tasks))):
            task = self.tasks[index]
            left = [target for target in task.runs if target.address not in present]
            if left and (index in needed or any(target.whole for target in left)):
                found.append(index)
                needed.update(task.needs)
        return found[::-1]

    def blocked(self, task: int) -> str:
        """What other tasks should have made for a task and did not, in one line; "" if all is."""
        for needed in self.tasks[task].needs:
            for target in self.missing(needed):
                return f"task {task} needs {target.address}, which task {needed} did not make"
        return ""

    def save(self) -> None:
        """Write it where its tasks find it."""
        path = _path(self.name, self.preset, self.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        runs.write_file(path, json.dumps(asdict(self)).encode())


def load(name: str, preset: str, id: str) -> Plan | None:
    """The plan with that id; None if it is not there, or is for other results."""
    try:
        content = json.loads(_path(name, preset, id).read_bytes())
        plan = _read(content)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return plan if plan.id == id else None


def loaded(name: str, preset: str, id: str) -> Plan:
    """The plan with that id; a UserError if there is none."""
    plan = load(name, preset, id)
    if plan is None:
        raise changed(name, preset)
    return plan


def changed(name: str, preset: str) -> UserError:
    """For a task whose plan does not fit any more."""
    return UserError(
        f"the cells of {name}, preset {preset}, are no longer those that were submitted: "
        f"`slurm/submit {name} {preset}` submits what is missing now"
    )


def bundled(tasks: Sequence[Task], pack: int) -> tuple[tuple[int, ...], ...]:
    """Tasks on one GPU at the same time: up to `pack` of a stage, in order; others are alone."""
    bundles: list[list[int]] = []
    for index, task in enumerate(tasks):
        last = bundles[-1] if bundles else []
        before = tasks[last[0]] if last else None
        alike = before is not None and before.gpu and before.stage == task.stage
        if alike and task.gpu and len(last) < pack:
            last.append(index)
        else:
            bundles.append([index])
    return tuple(map(tuple, bundles))


def _path(name: str, preset: str, id: str) -> Path:
    return runs.results() / "runs" / name / "tasks" / f"{preset}-{id}.json"


def _read(content: Mapping[str, Any]) -> Plan:
    def task(one: Mapping[str, Any]) -> Task:
        targets = tuple(Target(**target) for target in one["runs"])
        return Task(**{**one, "runs": targets, "needs": tuple(one["needs"])})

    return Plan(
        content["name"],
        content["preset"],
        tuple(content["keys"]),
        tuple(map(task, content["tasks"])),
        tuple(map(tuple, content["bundles"])),
    )


class _Present:
    """The runs that exist, by one listing of each experiment's folder."""

    def __init__(self) -> None:
        self.listed: dict[str, set[str]] = {}

    def __contains__(self, address: str) -> bool:
        name, _, key = address.partition("/")
        if name not in self.listed:
            home = runs.results() / "runs" / name
            self.listed[name] = {p.name for p in home.iterdir()} if home.is_dir() else set()
        return key in self.listed[name]


def done(name: str, keys: Iterable[str]) -> int:
    """How many of these runs of an experiment exist."""
    present = _Present()
    return sum(f"{name}/{key}" in present for key in keys)
