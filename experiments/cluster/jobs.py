"""The jobs of a preset: its division into tasks, what of it is queued, sbatch's words for it."""

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.cluster import slurm
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.provenance import REPOSITORY

# Which cells of a preset are one task of an array: those made from one trained model, together.


MOST = 1_000  # tasks, unless a number is asked for: Slurm's own limit of an array is 1,001


def divide(
    entries: Sequence[Mapping[str, Any]], shared: str, tasks: int | None = None
) -> list[list[int]]:
    """Indices of the cells of each task, from what runs.plan wrote down.

    Cells whose part `shared` is the same are one task. `tasks` asks for a number of them: fewer,
    and the least loaded task takes whole groups more; more, and the largest groups are halved,
    each half making the shared part if it is not there, until every cell is alone.
    """
    groups: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        groups.setdefault(entry["parts"].get(shared, f"cell {index}"), []).append(index)
    found = list(groups.values())
    wanted = min(len(found), MOST) if tasks is None else min(tasks, len(entries))
    while len(found) < wanted:
        largest = max(found, key=len)
        half = len(largest) // 2
        at = found.index(largest)
        found[at : at + 1] = [largest[:half], largest[half:]]
    if len(found) > wanted:
        loads: list[list[int]] = [[] for _ in range(wanted)]
        for group in sorted(found, key=lambda group: -len(group)):
            min(loads, key=len).extend(group)
        found = [sorted(load) for load in loads]
    return sorted(found)


def fingerprint(entries: Sequence[Mapping[str, Any]], division: Sequence[Sequence[int]]) -> str:
    """Tells apart what an array is for: the runs of a preset, their tasks, and the store."""
    keys = [entry["key"] for entry in entries]
    content = json.dumps([keys, division, str(runs.results().absolute())])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def ranges(indices: Sequence[int]) -> str:
    """Increasing numbers as Slurm writes them: 0-3,7,9-10."""
    spans: list[list[int]] = []
    for index in indices:
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


SCRIPTS = REPOSITORY / "slurm"
COMMENT = re.compile(r"retrace (?P<of>\S+) tasks=(?P<tasks>\d+) plan=(?P<plan>[0-9a-f]+)")


@dataclass(frozen=True)
class Resources:
    """What a task asks Slurm for; `throttle` is how many may run at once.

    `processes` compute a cell together: each has a GPU of its own, or a core where there are none.
    """

    gpus: int = 0
    processes: int = 1
    time: str | None = None
    partition: str | None = None
    throttle: int | None = None

    def words(self) -> list[str]:
        """sbatch's words for the devices of a task."""
        if self.gpus:
            return [f"--gres=gpu:{self.gpus}"]
        return [f"--cpus-per-task={self.processes}"] if self.processes > 1 else []


@dataclass(frozen=True)
class Array:
    """A preset divided into tasks, each a list of its cells."""

    name: str
    preset: str
    shared: str
    entries: Sequence[Mapping[str, Any]]
    tasks: list[list[int]]
    plan: str
    """What tells its jobs from those of another division, preset or store."""

    @property
    def of(self) -> str:
        """What the comments of its jobs say they are of."""
        return f"{self.name}/{self.preset}"

    @property
    def comment(self) -> str:
        """What its tasks are found by in the queue."""
        return f"retrace {self.of} tasks={len(self.tasks)} plan={self.plan}"

    @property
    def logs(self) -> Path:
        """Where its tasks write what they print."""
        return runs.results().absolute() / "runs" / self.name / "logs"

    def todo(self, queued: Sequence[slurm.Queued]) -> list[int]:
        """Tasks that have a cell without a run and are not in the queue."""
        home = runs.results() / "runs" / self.name
        there = {path.name for path in home.iterdir()} if home.is_dir() else set()
        held = {task.index for task in queued if task.comment == self.comment}
        return [
            index
            for index, cells in enumerate(self.tasks)
            if index not in held and any(self.entries[i]["key"] not in there for i in cells)
        ]

    def words(self, todo: Sequence[int], resources: Resources) -> list[str]:
        """sbatch's words for an array of some of the tasks."""
        throttle = f"%{resources.throttle}" if resources.throttle else ""
        return [
            f"--array={ranges(todo)}{throttle}",
            f"--job-name={self.of}",
            f"--comment={self.comment}",
            f"--output={self.logs}/{self.preset}-%A_%a.log",
            *resources.words(),
            *([f"--time={resources.time}"] if resources.time else []),
            *self._script("array.sbatch", resources),
            f"--shared={self.shared}",
            f"--tasks={len(self.tasks)}",
            f"--plan={self.plan}",
            f"--processes={resources.processes}",
        ]

    def gather_words(self, after: Sequence[str], resources: Resources) -> list[str]:
        """sbatch's words for the job that gathers when the jobs `after` have ended."""
        return [
            f"--dependency=afterany:{':'.join(dict.fromkeys(after))}",
            f"--job-name=gather-{self.of}",
            f"--comment=gather {self.comment}",
            f"--output={self.logs}/{self.preset}-gather-%j.log",
            *self._script("gather.sbatch", resources),
        ]

    def _script(self, file: str, resources: Resources) -> list[str]:
        place = [f"--partition={resources.partition}"] if resources.partition else []
        options = ["--export=ALL", f"--chdir={REPOSITORY}", *place]
        return [*options, str(SCRIPTS / file), sys.executable, self.name, self.preset]


def divided(
    experiment: Experiment, preset: str, tasks: int | None, queued: Sequence[slurm.Queued]
) -> Array:
    """The preset as tasks: as many as asked for, else as its jobs in the queue have."""
    entries = runs.entries(experiment.presets[preset])
    parts = {name for entry in entries for name in entry["parts"]}
    shared = experiment.shared if experiment.shared in parts else ""

    def array(number: int | None) -> Array:
        cells = divide(entries, shared, number)
        plan = fingerprint(entries, cells)
        return Array(experiment.name, preset, shared, entries, cells, plan)

    wanted = array(tasks)
    for task in queued:
        told = COMMENT.fullmatch(task.comment)
        if told is None or told["of"] != wanted.of or told["plan"] == wanted.plan:
            continue
        number = int(told["tasks"])
        if array(number).plan != told["plan"]:
            continue  # of another store, or of a preset that was changed since
        if tasks is None:
            return array(number)
        raise UserError(
            f"job {task.array} has {wanted.of} in {number} tasks: leave out --tasks, or "
            f"`scancel {task.array}` first"
        )
    return wanted
