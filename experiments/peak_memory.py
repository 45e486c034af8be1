"""The most memory a piece of work takes, measured in a process of its own."""

import multiprocessing
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.memory import keep_freed


def peak_memory(work: Any, threads: int) -> dict[str, int]:
    """Peak resident bytes a fresh process gains by the work, for n and for 4 n examples."""
    context = multiprocessing.get_context("spawn")
    found = []
    for size in (work.n, 4 * work.n):
        with context.Pool(1) as pool:
            found.append(pool.apply(_peak, (replace(work, n=size), threads)))
    return {"peak_bytes": found[0], "peak_bytes_x4": found[1]}


def _peak(work: Any, threads: int) -> int:
    keep_freed()
    torch.set_num_threads(threads)
    timed = work.build()
    before = _resident("VmRSS")
    timed.work()
    return max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    """Bytes this process holds now (VmRSS) or held at most (VmHWM).

    Linux tells of this program alone; elsewhere getrusage's peak, which a child inherits from a
    parent that held more, stands in for both.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)
    line = next(one for one in status.read_text().splitlines() if one.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
