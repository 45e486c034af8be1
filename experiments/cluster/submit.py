"""Submit a preset to Slurm: arrays of what is missing, stage by stage, and a job that gathers.

    slurm/submit EXPERIMENT PRESET [--tasks N] [--gpus G | --processes N] [--time T] [-- OPTIONS]
The queue says which tasks are submitted, the disk which runs are finished; the same command again
submits the rest. A task runs experiments/cluster/array.py. What follows `--` is sbatch's.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.cluster import jobs, slurm, stages
from experiments.cluster.batch import Batch
from experiments.cluster.jobs import Gpus, Resources
from experiments.cluster.plan import Plan, loaded
from experiments.laboratory import registry, runs
from experiments.laboratory.errors import Parser, UserError, number
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.options import device_options, hand_down
from experiments.laboratory.table import counted

SHORTEST = 10  # minutes, the least time limit of a task


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of slurm/submit."""
    words = list(sys.argv[1:] if argv is None else argv)
    place = words.index("--") if "--" in words else len(words)
    own, extra = words[:place], words[place + 1 :]
    return _parser().run(own, lambda given: _main(given, own, extra))


def _main(given: argparse.Namespace, words: Sequence[str], extra: Sequence[str]) -> int:
    if given.data:
        os.environ["RETRACE_DATA"] = given.data
    hand_down(given)
    for name in ("RETRACE_RESULTS", "RETRACE_DATA"):  # a job starts in the repository
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())
    experiment = registry.named(given.experiment)
    _check(experiment, given)
    resources = _resources(experiment, given, extra)
    queued = _queue(given.dry_run)
    if given.of:
        plan = loaded(experiment.name, given.preset, given.of)
    else:
        asked = given.tasks is not None or given.pack > 1
        plan = stages.staged(experiment, given.preset, given.tasks, given.pack)
        plan = jobs.queued_plan(plan, queued, asked)
    if not given.of:
        _print_cost(experiment, plan, resources)
    whole = [*words, "--", *extra] if extra else words
    batch = Batch(plan, resources, queued, given.start, whole)
    batch.describe()
    if batch.is_empty:
        return 0
    return batch.print_commands() if given.dry_run else batch.submit(experiment)


def _print_cost(experiment: Experiment, plan: Plan, resources: Resources) -> None:
    cells, gpus = experiment.cells(plan.preset), resources.gpus.processes * resources.nodes
    cores = max((task.cores for task in plan.tasks), default=1)
    per_task, unit = (gpus, "GPU") if gpus else (max(cores, resources.processes), "core")
    print(experiment.cost_card(plan.preset, cells, per_task, unit))
    print(f"\n{stages.described(experiment, plan)}\n")


def _minutes(time: str) -> int:
    """Minutes of a time as sbatch takes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    days, dash, rest = time.rpartition("-")
    parts = rest.split(":")
    words = [*parts, days or "0"]
    if not all(re.fullmatch("[0-9]+", word) for word in words) or len(parts) > 3:
        raise UserError(f"--time {time} cannot be read: give minutes, as 240, or 4:00:00, or 1-12")
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes, _ = [*numbers, 0, 0][:3]
        return int(days or 0) * 1440 + hours * 60 + minutes
    return numbers[0] * 60 + numbers[1] if len(numbers) == 3 else numbers[0]


def _queue(dry_run: bool) -> list[slurm.Queued]:
    try:
        return slurm.queue()
    except UserError:
        if not dry_run:
            raise
        reason = "Slurm does not answer" if slurm.present() else "there is no Slurm here"
        print(f"{reason}: the queue is taken to be empty")
        return []


def _check(experiment: Experiment, given: argparse.Namespace) -> None:
    experiment.cells(given.preset)
    runs.check_place(experiment.name)
    if "\\" in str(runs.results()):
        raise UserError(
            f"the results folder {runs.quoted(runs.results())} has a backslash, which Slurm takes "
            "for an escape in the names of logs: set RETRACE_RESULTS to a folder without one"
        )
    if given.time is not None and _minutes(given.time) < SHORTEST:
        raise UserError(
            f"--time {given.time} is less than {SHORTEST} minutes, and a task needs the last two "
            f"to stop: give --time {SHORTEST} or more; a task continues after its limit"
        )
    if not given.dry_run and not slurm.present():
        raise UserError(
            "sbatch is not on the PATH: run this on a login node of the cluster, add --dry-run, or "
            f"compute here with `python -m experiments.{experiment.name} --preset {given.preset}`"
        )


def _devices(experiment: Experiment, given: argparse.Namespace) -> tuple[Gpus, int]:
    """GPUs and processes of a task; a UserError if a cell cannot use that many."""
    most, word = experiment.processes, os.environ.get("RETRACE_DEVICE") or "auto"
    on_cpu = word == "cpu"
    uses_gpu = experiment.uses_gpu(given.preset) and not on_cpu
    asked = Gpus(int(uses_gpu)) if given.gpus is None else Gpus.of(given.gpus)
    gpus = asked.processes
    cell = f"a cell of {experiment.name}, preset {given.preset},"
    if gpus and not uses_gpu:
        several = f", or give --processes {most} for as many cores" if most > 1 else ""
        why = " with --device cpu" if on_cpu else ""
        raise UserError(f"{cell} uses no GPU{why}: leave out --gpus{several}")
    if gpus > most:
        raise UserError(
            f"{cell} uses {counted(most, 'GPU')} at most, not {gpus}: give --gpus {most}, and more "
            "--tasks to be done sooner"
        )
    kind, _, index = word.partition(":")
    if uses_gpu and word != "auto" and (kind != "cuda" or int(index or 0) >= gpus):
        raise UserError(
            f"a task with {counted(gpus, 'GPU')} has no {word}: leave out --device, and each takes "
            "what Slurm gives it"
        )
    processes = max(1, gpus) if given.processes is None else given.processes
    if processes > most:
        raise UserError(
            f"{cell} runs in {counted(most, 'process', 'processes')} at most, not {processes}: "
            f"give --processes {most}, and more --tasks to be done sooner"
        )
    if gpus and processes != gpus:
        raise UserError(
            f"--processes {processes} with {counted(gpus, 'GPU')}: each process has a GPU of its "
            f"own, so give --gpus {processes}, or --gpus 0 for cores alone"
        )
    return asked, processes


def _resources(
    experiment: Experiment, given: argparse.Namespace, extra: Sequence[str]
) -> Resources:
    """What a task asks for; a UserError if a cell cannot use it."""
    gpus, processes = _devices(experiment, given)
    if given.nodes > 1:
        most = experiment.processes
        if most == 1:
            raise UserError(
                f"a cell of {experiment.name} runs in 1 process, on one node: leave out --nodes"
            )
        if given.nodes * processes > most:
            raise UserError(
                f"{given.nodes} nodes of {counted(processes, 'process', 'processes')} are more "
                f"than the {most} that a cell of {experiment.name} runs in: lower --nodes or --gpus"
            )
    if given.pack > 1 and (not gpus.count or processes > 1 or given.nodes > 1):
        raise UserError("--pack puts several tasks on one GPU: give it with one GPU on one node")
    return Resources(
        gpus,
        processes,
        given.nodes,
        given.pack,
        given.time,
        given.partition,
        given.gather_partition,
        given.throttle,
        tuple(extra),
    )


def _parser() -> Parser:
    parser = Parser(
        prog="slurm/submit",
        description="Submit the cells of a preset that have no run yet, and a job that gathers.",
        epilog="What follows -- goes to sbatch as it is: -- --account=lab --mail-type=END",
        allow_abbrev=False,
    )
    parser.add_argument("experiment")
    parser.add_argument("preset")
    parser.add_argument(
        "--tasks", type=number(1), metavar="N", help="tasks a stage (default: one a trained model)"
    )
    parser.add_argument(
        "--gpus",
        metavar="[TYPE:]N",
        help="GPUs a task and node, one process each, as 2, a100:2, 1g.10gb:1 (MIG) or shard:4 "
        "(default: 1 if a cell uses one, else 0)",
    )
    parser.add_argument(
        "--processes",
        type=number(1),
        metavar="N",
        help="processes per task without GPUs, one core each",
    )
    parser.add_argument(
        "--nodes", type=number(1), default=1, metavar="N", help="nodes a cell, joined by torchrun"
    )
    parser.add_argument(
        "--pack", type=number(1), default=1, metavar="K", help="tasks on one GPU at the same time"
    )
    parser.add_argument("--time", help="limit of a task, as 4:00:00, where it is requeued")
    parser.add_argument("--partition")
    parser.add_argument("--gather-partition", help="of jobs that need no GPU")
    parser.add_argument(
        "--of", help=argparse.SUPPRESS
    )  # the plan that a chain of jobs goes on with
    parser.add_argument("--start", type=number(0), default=0, help=argparse.SUPPRESS)
    parser.add_argument("--throttle", type=number(1), metavar="K", help="most tasks at once")
    parser.add_argument("--data", metavar="DIR", help="data folder (default: $RETRACE_DATA)")
    device_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="only print cost and commands")
    return parser
