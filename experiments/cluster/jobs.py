"""The jobs of a preset: which cells form a task, which tasks to submit, and the sbatch options."""

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

MOST_TASKS = 1_000  # unless --tasks says more: Slurm's default limit for an array is 1,001
SCRIPTS = REPOSITORY / "slurm"
COMMENT = re.compile(r"retrace (?P<preset>\S+) tasks=(?P<tasks>\d+) plan=(?P<plan>[0-9a-f]+)")


def divide(
    entries: Sequence[Mapping[str, Any]], shared: str, tasks: int | None = None
) -> list[list[int]]:
    """Indices of the cells of each task, from the entries that runs.plan wrote.

    Cells whose part `shared` is the same form one task. If `tasks` asks for fewer tasks than that,
    whole groups join the task with the fewest cells. If it asks for more, the largest groups are
    halved until every cell is alone, and each half computes the shared part if no run has it.
    """
    groups: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        groups.setdefault(entry["parts"].get(shared, f"cell {index}"), []).append(index)
    divided = list(groups.values())
    wanted = min(len(divided), MOST_TASKS) if tasks is None else min(tasks, len(entries))
    while len(divided) < wanted:
        largest = max(divided, key=len)
        half, place = len(largest) // 2, divided.index(largest)
        divided[place : place + 1] = [largest[:half], largest[half:]]
    if len(divided) > wanted:
        loads: list[list[int]] = [[] for _ in range(wanted)]
        for group in sorted(divided, key=lambda group: -len(group)):
            min(loads, key=len).extend(group)
        divided = [sorted(load) for load in loads]
    return sorted(divided)


def fingerprint(entries: Sequence[Mapping[str, Any]], tasks: Sequence[Sequence[int]]) -> str:
    """A hash of what an array is for: the runs of a preset, their tasks, and the results folder."""
    keys = [entry["key"] for entry in entries]
    content = json.dumps([keys, tasks, str(runs.results().absolute())])
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


@dataclass(frozen=True)
class Resources:
    """The resources a task asks Slurm for; `throttle` is how many tasks may run at once.

    `processes` compute a cell together, each on its own GPU, or on its own core without GPUs.
    """

    gpus: int = 0
    processes: int = 1
    time: str | None = None
    partition: str | None = None
    throttle: int | None = None

    def options(self) -> list[str]:
        """The options of sbatch for the devices of a task."""
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
    """The fingerprint: other tasks, presets or results folders have another one."""

    @property
    def title(self) -> str:
        """Experiment and preset, as the names and comments of its jobs have them."""
        return f"{self.name}/{self.preset}"

    @property
    def comment(self) -> str:
        """The comment by which its tasks are recognised in the queue."""
        return f"retrace {self.title} tasks={len(self.tasks)} plan={self.plan}"

    @property
    def logs(self) -> Path:
        """The folder for the output of its tasks."""
        return runs.results().absolute() / "runs" / self.name / "logs"

    def todo(self, queued: Sequence[slurm.Queued]) -> list[int]:
        """Tasks that have a cell without a run and are not in the queue."""
        home = runs.results() / "runs" / self.name
        done = {path.name for path in home.iterdir()} if home.is_dir() else set()
        waiting = {task.index for task in queued if task.comment == self.comment}
        return [
            index
            for index, cells in enumerate(self.tasks)
            if index not in waiting and any(self.entries[i]["key"] not in done for i in cells)
        ]

    def submission(self, todo: Sequence[int], resources: Resources) -> list[str]:
        """The arguments of sbatch for an array of some of the tasks."""
        throttle = f"%{resources.throttle}" if resources.throttle else ""
        return [
            f"--array={ranges(todo)}{throttle}",
            f"--job-name={self.title}",
            f"--comment={self.comment}",
            f"--output={self.logs}/{self.preset}-%A_%a.log",
            *resources.options(),
            *([f"--time={resources.time}"] if resources.time else []),
            *self._script("array.sbatch", resources),
            f"--shared={self.shared}",
            f"--tasks={len(self.tasks)}",
            f"--plan={self.plan}",
            f"--processes={resources.processes}",
        ]

    def gather_submission(self, after: Sequence[str], resources: Resources) -> list[str]:
        """The arguments of sbatch for the job that gathers when the jobs `after` have ended."""
        return [
            f"--dependency=afterany:{':'.join(dict.fromkeys(after))}",
            f"--job-name=gather-{self.title}",
            f"--comment=gather {self.comment}",
            f"--output={self.logs}/{self.preset}-gather-%j.log",
            *self._script("gather.sbatch", resources),
        ]

    def _script(self, file: str, resources: Resources) -> list[str]:
        partition = [f"--partition={resources.partition}"] if resources.partition else []
        options = ["--export=ALL", f"--chdir={REPOSITORY}", *partition]
        return [*options, str(SCRIPTS / file), sys.executable, self.name, self.preset]


def divided(
    experiment: Experiment, preset: str, tasks: int | None, queued: Sequence[slurm.Queued]
) -> Array:
    """The preset as an array of `tasks`; by default the number its queued jobs use."""
    entries = runs.entries(experiment.presets[preset])
    parts = {name for entry in entries for name in entry["parts"]}
    shared = experiment.shared if experiment.shared in parts else ""

    def array(number: int | None) -> Array:
        cells = divide(entries, shared, number)
        plan = fingerprint(entries, cells)
        return Array(experiment.name, preset, shared, entries, cells, plan)

    wanted = array(tasks)
    for task in queued:
        match = COMMENT.fullmatch(task.comment)
        if match is None or match["preset"] != wanted.title or match["plan"] == wanted.plan:
            continue
        number = int(match["tasks"])
        if array(number).plan != match["plan"]:
            continue  # the queued array is for another results folder or an older preset
        if tasks is None:
            return array(number)
        raise UserError(
            f"job {task.array} has {wanted.title} in {number} tasks: leave out --tasks, or "
            f"`scancel {task.array}` first"
        )
    return wanted
