"""A preset on one machine: `python -m experiments.NAME --preset P --workers N [--gpus all|0,1]`.

The division into tasks and stages is that of Slurm, and so is a task; only who starts it differs.
The same command again computes what is missing.
"""

import os
import sys

from experiments.cluster import stages
from experiments.cluster.devices import gpus
from experiments.cluster.plan import Plan
from experiments.cluster.pool import Failure, Pool
from experiments.laboratory import process, progress, runs
from experiments.laboratory.errors import UserError, quoted
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.table import counted

MOST_SHOWN = 10  # failures


def compute(experiment: Experiment, preset: str, workers: int, asked: str | None) -> int:
    """Make the missing runs of a preset by so many processes; return the exit code.

    `asked` are the GPUs they share: `all`, or numbers.
    """
    word = os.environ.get("RETRACE_DEVICE") or "auto"
    if word not in ("auto", "cpu", "cuda"):
        raise UserError(f"--workers with device {word}: choose GPUs by --gpus, as --gpus 0,1")
    uses = experiment.uses_gpu(preset) and word != "cpu"
    if asked and not uses:
        raise UserError(f"{experiment.name}, preset {preset}, uses no GPU: leave out --gpus")
    runs.plan(experiment.name, preset, experiment.cells(preset))
    plan = stages.staged(experiment, preset, workers)
    todo = plan.todo()
    if not todo:
        return 0
    plan.save()
    shared = gpus(asked or "all") if uses else []
    if asked and not shared:
        raise UserError(f"--gpus {asked}, and there is no GPU here: leave it out for the CPU")
    pool = Pool(plan, todo, shared, workers, process.cores())
    _say(plan, todo, workers, len(shared))
    cells = sum(target.whole for task in todo for target in plan.missing(task))
    with progress.show() as display:
        for _ in display.track(pool.finished(), f"{experiment.name} {preset}", cells):
            pass
    _tell_failures(plan, pool.failures, cells)
    return pool.code


def _say(plan: Plan, todo: list[int], workers: int, shared: int) -> None:
    count = len({plan.tasks[task].stage for task in todo})
    where = f" on {counted(shared, 'GPU')}" if shared else ""
    print(
        f"{counted(len(todo), 'task')} in {counted(count, 'stage')}, by "
        f"{counted(min(workers, len(todo)), 'process', 'processes')}{where}; "
        f"logs: {quoted(plan.logs)}/{plan.preset}-{plan.id}-task-*.log",
        file=sys.stderr,
        flush=True,
    )


def _tell_failures(plan: Plan, failures: list[Failure], cells: int) -> None:
    """Say which cells have no run, why, and where to read more."""
    if not failures:
        return
    left = sum(not plan.has(f"{plan.name}/{key}") for key in plan.keys)
    print(f"\n{left} of {counted(len(plan.keys), 'cell')} without a run:", file=sys.stderr)
    for failure in sorted(failures, key=lambda one: one.task)[:MOST_SHOWN]:
        some = sorted({target.cell for target in plan.missing(failure.task)})
        shown = ", ".join(map(str, some[:5])) + (" ..." if len(some) > 5 else "")
        whose = "cell" if len(some) == 1 else "cells"
        print(f"  {whose} {shown}: {failure.reason}", file=sys.stderr)
        print(f"    log: {quoted(failure.log)}", file=sys.stderr)
    if len(failures) > MOST_SHOWN:
        print(f"  and {len(failures) - MOST_SHOWN} more tasks", file=sys.stderr)
    print("the same command computes them again, and nothing else", file=sys.stderr)
