"""Submit a preset to Slurm: an array of the missing cells, and a job that gathers after it.

    slurm/submit EXPERIMENT PRESET [--tasks N] [--gpus N | --processes N] [--time T] [--dry-run]
The queue says which cells are submitted, the disk which are finished; the same command again
submits the rest. A task runs experiments/cluster/array.py.
"""

import argparse
import collections
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.cluster import slurm
from experiments.cluster.jobs import Array, Resources, divided
from experiments.laboratory import registry, runs
from experiments.laboratory.errors import Parser, UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.table import counted

SHORTEST = 10  # minutes, the least time limit of a task


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of slurm/submit."""
    return _parser().run(argv, _main)


def _main(given: argparse.Namespace) -> int:
    if given.data:
        os.environ["RETRACE_DATA"] = given.data
    for name in ("RETRACE_RESULTS", "RETRACE_DATA"):  # a job starts in the repository
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).absolute())
    experiment = registry.named(given.experiment)
    _check(experiment, given)
    gpus, processes = _devices(experiment, given)
    queued = _queue(given.dry_run)
    array = divided(experiment, given.preset, given.tasks, queued)
    per_task, unit = (gpus, "GPU") if gpus else (processes, "core")
    print(experiment.cost_card(given.preset, experiment.presets[given.preset], per_task, unit))
    resources = Resources(gpus, processes, given.time, given.partition, given.throttle)
    mine = [task for task in queued if task.comment == array.comment]
    if mine:
        states = collections.Counter(task.state.lower() for task in mine)
        in_words = ", ".join(f"{count} {state}" for state, count in states.items())
        print(f"in the queue already: {counted(len(mine), 'task')} ({in_words})")
    todo = array.todo(queued)
    gathering = any(task.comment == f"gather {array.comment}" for task in queued)
    if todo:
        count = sum(len(array.tasks[index]) for index in todo)
        tasks, cells = counted(len(todo), "task"), counted(count, "cell")
        print(f"to submit: {tasks} with {cells}, and a job that gathers")
    elif not mine:
        print(f"nothing to submit: `python -m analysis --preset {array.preset}` draws it")
    elif gathering:
        print("nothing to submit: all missing cells are in the queue")
    if todo or (mine and not gathering):
        earlier = [task.array for task in mine]
        act = _print_commands if given.dry_run else _submit
        act(array, todo, earlier, resources)
    return 0


def _minutes(time: str) -> int:
    """Minutes of a time as sbatch takes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    days, dash, rest = time.rpartition("-")
    parts = rest.split(":")
    if not all(word.isdigit() for word in [*parts, days or "0"]) or len(parts) > 3:
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


def _devices(experiment: Experiment, given: argparse.Namespace) -> tuple[int, int]:
    """GPUs and processes of a task; a UserError if a cell cannot use that many."""
    uses_gpu, most = experiment.uses_gpu(given.preset), experiment.processes
    gpus = int(uses_gpu) if given.gpus is None else given.gpus
    cell = f"a cell of {experiment.name}, preset {given.preset},"
    if gpus and not uses_gpu:
        several = f", or give --processes {most} for as many cores" if most > 1 else ""
        raise UserError(f"{cell} uses no GPU: leave out --gpus{several}")
    if gpus > most:
        raise UserError(
            f"{cell} uses {counted(most, 'GPU')} at most, not {gpus}: give --gpus {most}, and more "
            "--tasks to be done sooner"
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
    return gpus, processes


def _print_commands(
    array: Array, todo: Sequence[int], earlier: Sequence[str], resources: Resources
) -> None:
    if todo:
        print(shlex.join(["sbatch", *array.submission(todo, resources)]))
    after = [*(["ARRAY"] if todo else []), *earlier]
    print(shlex.join(["sbatch", *array.gather_submission(after, resources)]))


def _submit(
    array: Array, todo: Sequence[int], earlier: Sequence[str], resources: Resources
) -> None:
    after = list(earlier)
    if todo:
        runs.plan(array.name, array.preset, registry.named(array.name).presets[array.preset])
        array.logs.mkdir(parents=True, exist_ok=True)
        after.insert(0, slurm.submit(array.submission(todo, resources)))
        print(f"submitted array {after[0]}; logs in {array.logs}")
    gather = slurm.submit(array.gather_submission(after, resources))
    print(f"submitted job {gather}, which gathers")
    print(f"watch: squeue --me; python -m experiments status {array.name}")


def _parser() -> Parser:
    parser = Parser(
        prog="slurm/submit",
        description="Submit the cells of a preset that have no run yet, and a job that gathers.",
        epilog="Other options of sbatch: its environment variables, as SBATCH_ACCOUNT or "
        "SBATCH_MEM_PER_NODE.",
        allow_abbrev=False,
    )
    parser.add_argument("experiment")
    parser.add_argument("preset")
    parser.add_argument(
        "--tasks", type=_number(1), metavar="N", help="array tasks (default: one per trained model)"
    )
    parser.add_argument(
        "--gpus",
        type=_number(0),
        metavar="N",
        help="GPUs per task, one process each (default: 1 if a cell uses one, else 0)",
    )
    parser.add_argument(
        "--processes",
        type=_number(1),
        metavar="N",
        help="processes per task without GPUs, one core each",
    )
    parser.add_argument("--time", help="limit of a task, as 4:00:00, where it is requeued")
    parser.add_argument("--partition")
    parser.add_argument("--throttle", type=_number(1), metavar="K", help="most tasks at once")
    parser.add_argument("--data", metavar="DIR", help="data folder (default: $RETRACE_DATA)")
    parser.add_argument("--dry-run", action="store_true", help="only print cost and commands")
    return parser


def _number(least: int) -> Callable[[str], int]:
    """A parser for argparse of whole numbers from `least` on."""

    def parse(word: str) -> int:
        if not word.isdigit() or int(word) < least:
            raise argparse.ArgumentTypeError(f"{word!r} is not a number from {least} on")
        return int(word)

    return parse
