"""Tasks of a plan: compute those of their runs that do not exist, one after another.

slurm/array.sbatch starts it, and so do the workers of one machine. The exit code is 0 if every run
is there, 2 if one failed by a mistake of the user, 1 if by another error (what does not need it is
computed all the same), 130 if the task was asked to stop.
"""

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence

from experiments.cluster import together
from experiments.cluster.devices import gpus
from experiments.cluster.plan import Plan, Target, changed, loaded
from experiments.cluster.pool import Pool
from experiments.laboratory import process, registry, runs
from experiments.laboratory.errors import USER_MISTAKE, Parser, UserError, number
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.options import device_options, hand_down
from experiments.laboratory.process import INTERRUPTED

CRASHED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """The command line that array.sbatch uses."""
    try:
        with process.stoppable():
            return _parser().run(argv, _main)
    except process.Stopped:
        return INTERRUPTED


def _main(given: argparse.Namespace) -> int:
    if given.with_parent:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    hand_down(given)
    plan = loaded(given.experiment, given.preset, given.plan)
    if given.task is not None:
        return _compute(plan, given.task, given.processes, given.nodes)
    bundle = None if given.index is None else given.first + given.index
    if bundle is None or bundle >= len(plan.bundles):
        raise UserError(
            f"index {given.index} of {len(plan.bundles)} bundles: give --index 0 to "
            f"{len(plan.bundles) - 1}, or let `slurm/submit {plan.name} {plan.preset}` start all "
            "that are missing"
        )
    tasks = plan.bundles[bundle]
    if len(tasks) == 1:
        return _compute(plan, tasks[0], given.processes, given.nodes)
    return _share(plan, tasks)


def _compute(plan: Plan, number: int, processes: int, nodes: int) -> int:
    """Make the missing runs of one task."""
    left = plan.missing(number)
    what = f"{len(left)} of {len(plan.tasks[number].runs)} runs to make"
    print(f"task {number}: {what}", flush=True)
    if not left:
        return 0  # before PyTorch is imported
    if blocked := plan.blocked(number):
        print(f"error: {blocked}: see that task's log", file=sys.stderr)
        return CRASHED
    experiment = registry.named(plan.name)
    cells = experiment.cells(plan.preset) if plan.preset in experiment.tiers() else []
    if tuple(entry["key"] for entry in runs.entries(cells)) != plan.keys:
        raise changed(plan.name, plan.preset)
    several = min(nodes * processes, experiment.processes) > 1
    code = 0
    for target in left:
        process.stop_if_requested()
        if runs.present(target.address):
            continue
        words = _words(plan.preset, target)
        if several:
            ended = together.compute(plan.name, words, processes, nodes)
        else:
            ended = _alone(experiment, words)
        if ended == INTERRUPTED:
            return ended
        code = ended if code in (0, USER_MISTAKE) and ended else code
    return code


def _alone(experiment: Experiment, words: Sequence[str]) -> int:
    """Make one run in this process; an error that is no mistake of the user is CRASHED."""
    try:
        return experiment.main(words)
    except Exception:
        traceback.print_exc()
        return CRASHED


def _share(plan: Plan, tasks: Sequence[int]) -> int:
    """Compute several tasks on this job's GPU at the same time, each with a log of its own."""
    shared = [] if os.environ.get("RETRACE_DEVICE") == "cpu" else gpus("all")
    pool = Pool(plan, tasks, shared, len(tasks), process.cores(), _say)
    for cell in pool.finished():
        _say(f"cell {cell} is there")
    return pool.code


def _say(line: str) -> None:
    print(line, flush=True)


def _words(preset: str, target: Target) -> list[str]:
    only = [] if target.whole else ["--only", target.address]
    return ["--preset", preset, "--cell", str(target.cell), *only]


def _end_with_parent() -> None:
    """Ask this process to stop when the one that started it has ended, however it ended."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _parser() -> Parser:
    parser = Parser(prog="python -m experiments array", description=__doc__)
    parser.add_argument("experiment")
    parser.add_argument("preset")
    parser.add_argument("--plan", required=True, help="its id")
    parser.add_argument("--task", type=number(0), help="one task (default: those of the bundle)")
    parser.add_argument("--first", type=number(0), default=0, help="the bundle of index 0")
    parser.add_argument(
        "--index",
        type=number(0),
        default=os.environ.get("SLURM_ARRAY_TASK_ID"),
        help="of the bundle, from the first (default: $SLURM_ARRAY_TASK_ID)",
    )
    parser.add_argument("--processes", type=number(1), default=1)
    parser.add_argument("--nodes", type=number(1), default=1)
    parser.add_argument(
        "--with-parent", action="store_true", help="stop when standard input is closed"
    )
    device_options(parser)
    return parser
