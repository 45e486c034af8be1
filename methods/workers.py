"""Several processes that share one computation: torchrun, a Slurm step, or started here.

`run(function, size)` starts them on this machine. A program already started several times, by
`torchrun` or `srun`, calls `function(joined())` itself. Where there is one process, both cost
nothing and start nothing.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from methods.task import MethodError

PATIENCE = timedelta(minutes=10)  # until a worker that others wait for is taken for dead
PORT = 29_500


@dataclass(frozen=True)
class Group:
    """This process among those that share a computation."""

    rank: int = 0
    size: int = 1

    def share(self, n: int) -> range:
        """Which of n pieces of work are this process's: every size-th from its rank on."""
        return range(self.rank, n, self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place and in every one: an all-reduce."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor


ALONE = Group()


def run(function: Callable[..., Any], size: int, *arguments: Any) -> Any:
    """Call `function(group, *arguments)` in `size` new processes; return what rank 0 returned.

    Function and arguments must pickle, so the function belongs to a module. If one process dies,
    the others are stopped and its error is raised here. Each has its share of the CPU's threads.
    """
    if size < 1:
        raise MethodError(f"{size} workers: give one at least")
    if size == 1:
        return function(ALONE, *arguments)
    import torch.multiprocessing as mp

    threads = max(1, torch.get_num_threads() // size)
    with tempfile.TemporaryDirectory(prefix="retrace-workers-") as folder:
        passed = (size, Path(folder), threads, function, arguments)
        try:
            mp.spawn(_work, passed, nprocs=size)
        except mp.ProcessRaisedException as error:
            where, what = _last_line(str(error))
            raise MethodError(
                f"worker {where} of {size} failed, the others stopped: {what}"
            ) from error
        except mp.ProcessExitedException as error:
            raise MethodError(
                f"worker {error.error_index} of {size} was killed ({error}), the others stopped: "
                "if memory ran out, use fewer workers"
            ) from error
        return torch.load(Path(folder) / "result.pt", weights_only=False)


def _work(
    rank: int, size: int, folder: Path, threads: int, function: Callable[..., Any], arguments: Any
) -> None:
    torch.set_num_threads(threads)
    backend = _device_backend(rank)
    store = f"file://{folder / 'meeting'}"
    dist.init_process_group(
        backend, init_method=store, rank=rank, world_size=size, timeout=PATIENCE
    )
    try:
        result = function(Group(rank, size), *arguments)
        if rank == 0:
            torch.save(result, folder / "result.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


@contextmanager
def joined() -> Any:
    """The group of processes that torchrun or srun started, this one alone where neither did."""
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
    """NCCL with a GPU for each process on this machine; else gloo."""
    if torch.cuda.is_available() and torch.cuda.device_count() > local_rank:
        torch.cuda.set_device(local_rank)
        return "nccl"
    return "gloo"


def _last_line(text: str) -> tuple[str, str]:
    """Which process failed, and the last line of its traceback."""
    found = re.search(r"Process (\d+) terminated", text)
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return found.group(1) if found else "?", lines[-1] if lines else "no message"
