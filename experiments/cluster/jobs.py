"""The jobs of a plan: which bundles of tasks form an array, and the arguments of sbatch."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.cluster import slurm
from experiments.cluster.limits import Limits
from experiments.cluster.plan import Plan, load
from experiments.laboratory import process
from experiments.laboratory.errors import UserError
from experiments.laboratory.provenance import REPOSITORY

SCRIPTS = REPOSITORY / "slurm"
ALWAYS = ("--export=ALL", f"--chdir={REPOSITORY}")
COMMENT = re.compile(r"retrace (?P<title>\S+) plan=(?P<plan>[0-9a-f]+) first=(?P<first>\d+)")
CORES_OF_GPU = 4  # that keep a GPU fed
# What jobs ask for on account of: these options go to the job that gathers as well.
WHOSE = (
    "--account", "-A", "--qos", "-q", "--mail-type", "--mail-user", "--wckey", "--reservation",
    "--clusters", "-M", "--container", "--container-image", "--container-mounts", "--nice",
)  # fmt: skip
OURS = (
    "--array", "-a", "--comment", "--output", "-o", "--chdir", "-D", "--wrap", "--dependency", "-d",
    "--parsable", "--job-name", "-J",
)  # fmt: skip


@dataclass(frozen=True)
class Gpus:
    """Devices of a task as Slurm counts them: whole GPUs, parts of one by MIG, or its shards."""

    count: int = 0
    type: str = ""
    shards: bool = False

    @classmethod
    def of(cls, word: str) -> "Gpus":
        """2, a100:2, 1g.10gb:1 or shard:4; a type alone is one of it."""
        match = re.fullmatch(r"(?:([\w.-]*[A-Za-z_.-][\w.-]*)(?::|$))?(\d*)", word, re.A)
        if not match or not word or word.endswith(":"):
            raise UserError(
                f"--gpus {word} cannot be read: give a number, as 2, or a type with a number, as "
                "a100:2, 1g.10gb:1 (MIG) or shard:4"
            )
        kind, count = match[1] or "", int(match[2] or 1)
        return cls(count, "", True) if kind == "shard" else cls(count, kind)

    @property
    def processes(self) -> int:
        """How many processes have one of their own; shards are one GPU's."""
        return min(self.count, 1) if self.shards else self.count

    @property
    def gres(self) -> str:
        kind = "shard" if self.shards else f"gpu:{self.type}" if self.type else "gpu"
        return f"{kind}:{self.count}"


@dataclass(frozen=True)
class Resources:
    """What tasks ask Slurm for, besides what their cells take.

    `processes` compute a cell together on each of `nodes`, each on its own GPU, or on its own core
    without GPUs. `throttle` is how many tasks may run at once. `extra` are words for sbatch.
    """

    gpus: Gpus = Gpus()
    processes: int = 1
    nodes: int = 1
    pack: int = 1
    time: str | None = None
    partition: str | None = None
    gather_partition: str | None = None
    throttle: int | None = None
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for word in self.extra:
            if _option(word) in OURS:
                raise UserError(
                    f"{_option(word)} is set by slurm/submit, which follows its jobs by it: leave "
                    "it out after --"
                )

    @property
    def of_whose(self) -> list[str]:
        """The extra words that say for whom a job is, and not where it runs."""
        kept, keep = [], False
        for word in self.extra:
            if word.startswith("-"):
                keep = _option(word) in WHOSE
            kept += [word] if keep else []
        return kept

    def sets(self, *options: str) -> bool:
        """Whether the extra words, or sbatch's own variables, set one of these."""
        given = {_option(word) for word in self.extra}
        names = [f"SBATCH_{name.strip('-').upper().replace('-', '_')}" for name in options]
        return bool(given & set(options)) or any(os.environ.get(name) for name in names)


def _option(word: str) -> str:
    """The option that a word gives, without its value: --mem=4G, -Aname."""
    return word.partition("=")[0] if word.startswith("--") else word[:2]


@dataclass(frozen=True)
class Array:
    """Bundles of one stage and one kind of device, as one array; index 0 is bundle `first`."""

    plan: Plan
    bundles: tuple[int, ...]
    first: int = 0

    @property
    def tasks(self) -> list[int]:
        """The tasks of all its bundles."""
        return [task for bundle in self.bundles for task in self.plan.bundles[bundle]]

    @property
    def gpu(self) -> bool:
        return self.plan.tasks[self.tasks[0]].gpu

    @property
    def comment(self) -> str:
        """The comment by which its tasks are recognised in the queue."""
        return f"retrace {self.plan.title} plan={self.plan.id} first={self.first}"

    def needs(self) -> set[int]:
        """The bundles that must end before it."""
        place = bundle_of(self.plan)
        return {place[one] for task in self.tasks for one in self.plan.tasks[task].needs}

    def devices(self, resources: Resources) -> list[str]:
        """The options of sbatch for devices, cores and memory of a task."""
        some = [self.plan.tasks[task] for task in self.tasks]
        together = max(len(self.plan.bundles[bundle]) for bundle in self.bundles)
        processes = self.processes(resources)
        cores = max(task.cores for task in some)
        if processes > 1 and not self.gpu:
            cores = 1  # each process has one of its own
        memory = max(task.memory for task in some) * processes * together
        on_gpu = self.gpu and resources.gpus.count
        words = [f"--gres={resources.gpus.gres}"] if on_gpu else []
        if on_gpu:
            cores = max(cores, CORES_OF_GPU)
        if not resources.sets("--cpus-per-task", "-c", "--cpus-per-gpu"):
            words.append(f"--cpus-per-task={cores * processes * together}")
        if not resources.sets("--mem", "--mem-per-cpu", "--mem-per-gpu", "--mem-per-node"):
            words.append(f"--mem={memory // 10**9}G")
        if self.nodes(resources) > 1:
            words += [f"--nodes={resources.nodes}", f"--ntasks={resources.nodes}"]
            words.append("--ntasks-per-node=1")
        return words

    def processes(self, resources: Resources) -> int:
        """Processes of a cell on a node; cells that only compare runs have one."""
        return resources.processes if self.gpu or not resources.gpus.count else 1

    def nodes(self, resources: Resources) -> int:
        return resources.nodes if self.gpu or not resources.gpus.count else 1

    def _partition(self, resources: Resources) -> list[str]:
        """That of GPUs, or for tasks without one that of the job that gathers."""
        spared = resources.gather_partition if resources.gpus.count and not self.gpu else None
        name = spared or resources.partition
        return [f"--partition={name}"] if name else []

    def submission(self, resources: Resources, after: Sequence[str] = ()) -> list[str]:
        """The arguments of sbatch, to start when the jobs `after` have ended."""
        throttle = f"%{resources.throttle}" if resources.throttle else ""
        indices = ranges([bundle - self.first for bundle in self.bundles])
        return [
            *ALWAYS,
            f"--array={indices}{throttle}",
            f"--job-name={self.plan.title}",
            f"--comment={self.comment}",
            f"--output={_log(self.plan, '%A_%a')}",
            *_dependency(after),
            *self.devices(resources),
            *([f"--time={resources.time}"] if resources.time else []),
            *self._partition(resources),
            *resources.extra,
            *_script("array.sbatch", self.plan),
            f"--plan={self.plan.id}",
            f"--first={self.first}",
            f"--processes={self.processes(resources)}",
            f"--nodes={self.nodes(resources)}",
            *_device_words(),
        ]


def bundle_of(plan: Plan) -> dict[int, int]:
    """By task, its bundle."""
    return {task: number for number, some in enumerate(plan.bundles) for task in some}


def arrays(plan: Plan, bundles: Sequence[int], limits: Limits) -> list[Array]:
    """Bundles as arrays, stage by stage, none larger than Slurm takes."""
    kinds: dict[tuple[int, bool], list[int]] = {}
    for bundle in sorted(bundles):
        task = plan.tasks[plan.bundles[bundle][0]]
        kinds.setdefault((task.stage, task.gpu), []).append(bundle)
    made = []
    for some in kinds.values():
        while some:
            first = 0 if some[-1] < limits.array else some[0]
            fitting = [one for one in some if one - first < limits.array][: limits.tasks]
            made.append(Array(plan, tuple(fitting), first))
            some = some[len(fitting) :]
    return made


def gather_submission(
    plan: Plan, after: Sequence[str], resources: Resources, rest: Sequence[str] = ()
) -> list[str]:
    """The arguments of sbatch for the job that gathers when the jobs `after` have ended.

    `rest` are words of slurm/submit for a job that submits what is left instead.
    """
    partition = resources.gather_partition or resources.partition
    return [
        *ALWAYS,
        *_dependency(after),
        f"--job-name={'submit' if rest else 'gather'}-{plan.title}",
        f"--comment={gather_comment(plan)}",
        f"--output={_log(plan, 'gather-%j')}",
        "--mem=4G",
        *([f"--partition={partition}"] if partition else []),
        *resources.of_whose,
        *_script("gather.sbatch", plan),
        *rest,
    ]


def gather_comment(plan: Plan) -> str:
    """The comment by which the job that gathers is recognised in the queue."""
    return f"gather retrace {plan.title} plan={plan.id}"


def ranges(indices: Sequence[int]) -> str:
    """Increasing numbers as Slurm writes them: 0-3,7,9-10."""
    spans: list[list[int]] = []
    for index in indices:
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def queued_bundles(plan: Plan, queued: Sequence[slurm.Queued]) -> dict[int, slurm.Queued]:
    """By number, the bundles of a plan that are in the queue."""
    found = {}
    for task in queued:
        match = COMMENT.fullmatch(task.comment)
        if match and match["plan"] == plan.id and task.index is not None:
            found[int(match["first"]) + task.index] = task
    return found


def queued_plan(plan: Plan, queued: Sequence[slurm.Queued], asked: bool) -> Plan:
    """The plan whose tasks are in the queue, if it is of the same cells; else the one given.

    If the other was `asked` for, by a number of tasks, a UserError.
    """
    others: Mapping[str, str] = {
        match["plan"]: task.array
        for task in queued
        if (match := COMMENT.fullmatch(task.comment)) and match["title"] == plan.title
    }
    if plan.id in others:
        return plan
    for other, job in others.items():
        found = load(plan.name, plan.preset, other)
        if found is None or found.keys != plan.keys:
            continue  # it is for another results folder or an older preset
        if asked:
            raise UserError(
                f"job {job} has {plan.title} in {len(found.tasks)} tasks: leave out --tasks and "
                f"--pack, or `scancel {job}` first"
            )
        return found
    return plan


def _dependency(after: Sequence[str]) -> list[str]:
    return [f"--dependency=afterany:{':'.join(dict.fromkeys(after))}"] if after else []


def _log(plan: Plan, pattern: str) -> str:
    """The name of a log as sbatch takes it: its own % mean numbers, those of the path none."""
    return f"{str(plan.logs).replace('%', '%%')}/{plan.preset}-{pattern}.log"


def _script(file: str, plan: Plan) -> list[str]:
    return [str(SCRIPTS / file), sys.executable, plan.name, plan.preset]


def _device_words() -> list[str]:
    """The options that this process was given about its device, for the tasks to have them too."""
    device = os.environ.get("RETRACE_DEVICE")
    words = [f"--device={device}"] if device else []
    return words + (["--deterministic"] if process.deterministic() else [])
