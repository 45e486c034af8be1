"""One task of an array: computes those of its cells that have no run, one after another.

slurm/array.sbatch starts it. The exit code is 0 if every cell has its run, 2 if a cell failed by a
mistake of the user (the others are computed all the same), 130 if the task was asked to stop.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.cluster import jobs
from experiments.laboratory import process, registry, runs
from experiments.laboratory.errors import USER_MISTAKE, Parser, UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.process import INTERRUPTED


def main(argv: Sequence[str] | None = None) -> int:
    """The command line that array.sbatch uses."""
    try:
        with process.stoppable():
            return _parser().run(argv, _main)
    except process.Stopped:
        return INTERRUPTED


def _main(given: argparse.Namespace) -> int:
    listed = runs.planned(given.experiment, given.preset)
    tasks = jobs.divide(listed, given.shared, given.tasks)
    if jobs.fingerprint(listed, tasks) != given.plan:
        raise _changed(given)
    mine = tasks[given.task]
    cells = _without_run(given.experiment, listed, mine)
    print(f"task {given.task}: {len(cells)} of {len(mine)} cells to compute", flush=True)
    if not cells:
        return 0  # before PyTorch is imported
    experiment = registry.named(given.experiment)
    presets = experiment.presets.get(given.preset, [])
    if [entry["key"] for entry in runs.entries(presets)] != [entry["key"] for entry in listed]:
        raise _changed(given)
    processes = min(given.processes, experiment.processes)
    code = 0
    while cells:
        process.stop_if_requested()
        if processes > 1:
            ended = _together(experiment, given.preset, cells, processes)
        else:
            ended = experiment.main(_words(given.preset, cells))
        if ended not in (0, USER_MISTAKE):
            return ended
        code = max(code, ended)
        # A mistake stops at the first cell without a run: continue with the next one.
        failed = _without_run(given.experiment, listed, cells)[:1]
        cells = [i for i in cells if failed and i > failed[0]]
    return code


def _without_run(name: str, listed: Sequence[Mapping[str, Any]], cells: Sequence[int]) -> list[int]:
    home = runs.results() / "runs" / name
    return [i for i in cells if not (home / listed[i]["key"]).is_dir()]


def _together(experiment: Experiment, preset: str, cells: Sequence[int], processes: int) -> int:
    """Run each cell under a torchrun of its own, so that all processes start in the same state.

    The processes compute the run together; the first to finish writes it.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    _share_cores(processes)
    options = ["--standalone", f"--nproc-per-node={processes}"]
    for cell in cells:
        words = _words(preset, [cell])
        try:
            run(parse_args([*options, "-m", f"experiments.{experiment.name}", *words]))
        except ChildFailedError as error:
            codes = {failure.exitcode for failure in error.failures.values()}
            return USER_MISTAKE if codes == {USER_MISTAKE} else 1
        except SignalException:
            return INTERRUPTED
    return 0


def _share_cores(processes: int) -> None:
    """Divide the cores among the processes, if array.sbatch gave all of them to one."""
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    if cores and cores == os.environ.get("OMP_NUM_THREADS"):
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(cores) // processes))


def _words(preset: str, cells: Sequence[int]) -> list[str]:
    return ["--preset", preset, *(word for cell in cells for word in ("--cell", str(cell)))]


def _changed(given: argparse.Namespace) -> UserError:
    return UserError(
        f"the cells of {given.experiment}, preset {given.preset}, are no longer those that were "
        f"submitted: `slurm/submit {given.experiment} {given.preset}` submits what is missing now"
    )


def _parser() -> Parser:
    parser = Parser(prog="python -m experiments array", description=__doc__)
    parser.add_argument("experiment")
    parser.add_argument("preset")
    parser.add_argument("--shared", default="")
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--plan", required=True)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--task", type=int, default=os.environ.get("SLURM_ARRAY_TASK_ID"), help="its number"
    )
    return parser
