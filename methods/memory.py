"""Free memory, so that what would not fit is refused before it starts."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from methods.examples import Examples, count, take
from methods.losses.failures import FAILURES, explained, is_out_of_memory
from methods.losses.objective import Objective, PerExample
from methods.task import Task

CGROUP = Path("/sys/fs/cgroup")
SHARE = 8  # what is free is shared by this many things in memory at once


def available(device: torch.device) -> int:
    """Bytes still free on a device; on the CPU, within the process's control group.

    On a GPU, within torch's per_process_memory_fraction, by which processes share it.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        used = torch.cuda.memory_allocated(device)
        cached = torch.cuda.memory_reserved(device) - used
        share = total * torch.cuda.get_per_process_memory_fraction(device)
        return max(0, int(min(free + cached, share - used)))
    limits = [_machine(), _group()]
    return min(limit for limit in limits if limit is not None)


def temporary(device: torch.device, cached: int) -> int:
    """Bytes that temporaries may take: `cached` on the CPU, a share of what is free elsewhere.

    A processor is fastest where they stay in its cache, whatever memory there is; an accelerator
    where they are large. Ask once a pass: the answer costs a call of the driver.
    """
    return cached if device.type == "cpu" else available(device) // SHARE


def held(device: torch.device, least: int) -> int:
    """Bytes that something kept for a whole pass may take: a share of what is free, or `least`."""
    return max(least, available(device) // SHARE)


def place(device: torch.device, nbytes: int) -> torch.device:
    """Where to collect results: on the device if they fit its share, else in the CPU's memory."""
    return device if nbytes <= held(device, 0) else torch.device("cpu")


def examples_at_once(
    task: Task, function: PerExample, examples: Examples, cached: int, copies: int, each: int = 0
) -> int:
    """How many examples to differentiate at a time: `cached` on the CPU, elsewhere what fits.

    copies  of the graph of a forward pass that are held together; the graph is measured on two
    each    further bytes an example
    """
    if task.device.type == "cpu":
        return cached
    few = task.move(take(examples, slice(0, 2)))
    with explained(task, function, few, examples):
        each += copies * _graph_bytes(task, function, few) // count(few)
    return max(1, temporary(task.device, 0) // max(1, each))


class _Enough(Exception):
    """A graph has as many bytes as were asked about."""


def activation_bytes(task: Task, function: PerExample, examples: Examples, most: int) -> int | None:
    """Bytes an example of what a forward pass computes for a backward pass, on the CPU.

    As though every parameter were differentiated: what is computed below them passes through memory
    as well. The pass ends where they are more than `most`, so that it takes no more itself. None
    elsewhere, or where the model allows no such pass.
    """
    if task.device.type != "cpu":
        return None
    if isinstance(function, Objective):
        own = {n for n, v in function.model.named_parameters() if v.is_floating_point()}
        every = {n: v for n, v in task.all_params.items() if n in own}
        rest = {n: v for n, v in task.all_params.items() if n not in own}
        task = replace(task, params=every, frozen=rest or None)
    few = take(examples, slice(0, 2))
    try:
        return _graph_bytes(task, function, few, most * count(few)) // count(few)
    except _Enough:
        return most
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        return None


def _graph_bytes(
    task: Task, function: PerExample, examples: Examples, most: float = math.inf
) -> int:
    """Bytes that autograd keeps of a forward pass, without the parameters themselves."""
    seen = {value.untyped_storage().data_ptr() for value in task.all_params.values()}
    total = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
            if total > most:
                raise _Enough
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with task.leaves(function) as (_, call), hooks:
        values = call(examples)
    del values  # until here the graph keeps every storage, so that no address is used twice
    return total


def on_disk(folder: str) -> int:
    """Bytes free on the disk of a folder."""
    return shutil.disk_usage(folder).free


def gigabytes(count: float) -> str:
    """A number of bytes as text: `1.5 GB`."""
    return f"{count / 1e9:.3g} GB"


def _machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _group() -> int | None:
    """Bytes left below the limit of the process's control group, if any; page cache excluded."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        facts = (CGROUP / "memory.stat").read_text().splitlines()
        files = next(int(line.split()[1]) for line in facts if line.startswith("inactive_file "))
    except (OSError, StopIteration, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used + files)
