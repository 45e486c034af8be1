"""Several processes that share one computation: torchrun, a Slurm step, or started here.

`run(function, size)` starts the processes on this machine. A program that `torchrun` or `srun`
started several times calls `function(joined())` itself. With a single process, neither starts
anything.
"""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from methods.errors import MethodError

PATIENCE = timedelta(minutes=10)  # until a worker that others wait for counts as dead
GRACE = 10.0  # seconds for a stopped worker to end
PORT = 29_500


@dataclass(frozen=True)
class Group:
    """This process among those that share a computation."""

    rank: int = 0
    size: int = 1

    def share(self, n: int) -> range:
        """The indices, below n, of the work of this process: every size-th from its rank on."""
        return range(self.rank, n, self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place and in every one: an all-reduce."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all(self, flag: bool) -> bool:
        """Whether the flag is true in every process, so that all take the same branch."""
        return float(self.sum(torch.tensor(float(flag)))) == self.size


ALONE = Group()


def here() -> Group:
    """The group this process has joined, by `run` or `joined`; otherwise this process alone."""
    return Group(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE


def run(function: Callable[..., Any], size: int, *arguments: Any) -> Any:
    """Call `function(group, *arguments)` in `size` new processes; return what rank 0 returned.

    Function and arguments must pickle, so the function must belong to a module. If one process
    dies, the others are stopped and its error is raised here. The processes share the CPU's
    threads. Called within a group, it starts nothing: its processes are the workers, and each
    gets its own result.
    """
    if size < 1:
        raise MethodError(f"{size} workers: give 1 or more")
    if (group := here()).size > 1:
        if group.size != size:
            raise MethodError(f"{size} workers in a group of {group.size}: start {size} processes")
        return function(group, *arguments)
    if size == 1:
        return function(ALONE, *arguments)
    import torch.multiprocessing as mp

    threads = max(1, torch.get_num_threads() // size)
    with tempfile.TemporaryDirectory(prefix="retrace-workers-") as name:
        folder = Path(name)
        context = mp.spawn(_work, (size, folder, threads, function, arguments), size, join=False)
        try:
            while not context.join():
                pass
        except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
            reason = _first_failure(context.processes, folder) or str(error)
            raise MethodError(f"{reason}; the rest of {size} workers were stopped") from error
        return torch.load(folder / "result.pt", weights_only=False)


def _work(
    rank: int, size: int, folder: Path, threads: int, function: Callable[..., Any], arguments: Any
) -> None:
    torch.set_num_threads(threads)
    store = f"file://{folder / 'meeting'}"
    dist.init_process_group(
        _device_backend(rank), init_method=store, rank=rank, world_size=size, timeout=PATIENCE
    )
    try:
        result = function(Group(rank, size), *arguments)
        if rank == 0:
            torch.save(result, folder / "result.pt")
        dist.barrier()
    except BaseException as error:
        note = {"rank": rank, "time": time.time(), "what": f"{type(error).__name__}: {error}"}
        (folder / f"error-{rank}.json").write_text(json.dumps(note))
        raise
    finally:
        dist.destroy_process_group()


def _first_failure(processes: Any, folder: Path) -> str | None:
    """The first error of all: workers that wait for the failed one fail after it."""
    for rank, process in enumerate(processes):
        process.join(GRACE)
        code = process.exitcode or 0
        if code < 0 and -code != signal.SIGTERM:
            name = signal.Signals(-code).name
            return f"worker {rank} was killed by {name}: if memory ran out, use fewer workers"
    notes = [json.loads(path.read_text()) for path in folder.glob("error-*.json")]
    if not notes:
        return None
    first = min(notes, key=lambda note: note["time"])
    return f"worker {first['rank']} failed: {first['what']}"


@contextmanager
def joined() -> Any:
    """The group of processes that torchrun or srun started; without either, this one alone."""
    place = _place()
    if place is None:
        yield ALONE
        return
    rank, size, local = place
    dist.init_process_group(_device_backend(local), rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield Group(rank, size)
    finally:
        dist.destroy_process_group()


def _place() -> tuple[int, int, int] | None:
    """Rank, size and rank on this machine, from the environment; None for a single process."""
    env = os.environ
    if int(env.get("WORLD_SIZE", "1")) > 1:
        return int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", "0"))
    if int(env.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in env:
        first = re.sub(r"\[(\d+).*", r"\1", env.get("SLURM_STEP_NODELIST", "localhost"))
        env.setdefault("MASTER_ADDR", first.split(",")[0])
        env.setdefault("MASTER_PORT", str(PORT + int(env.get("SLURM_JOB_ID", "0")) % 10_000))
        return int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"]), int(env["SLURM_LOCALID"])
    return None


def _device_backend(local_rank: int) -> str:
    """Gloo for tensors on the CPU; also NCCL, if each process has a GPU."""
    if torch.cuda.is_available() and torch.cuda.device_count() > local_rank:
        torch.cuda.set_device(local_rank)
        return "cpu:gloo,cuda:nccl"
    return "gloo"
