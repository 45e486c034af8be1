"""Clocks of the speed experiments, calls timed in turns, and a number of threads."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def now(device: torch.device | str) -> float:
    """Seconds: of this process's CPU time, so that other processes count little, or of the GPU."""
    return time.process_time() if torch.device(device).type == "cpu" else wall(device)


def wall(device: torch.device | str) -> float:
    """Seconds of a clock on the wall, once the device has done what it was given."""
    synchronise(device)
    return time.perf_counter()


def synchronise(device: torch.device | str) -> None:
    """Wait until the device has done what it was given: calls return before their work is done."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()


def in_turns(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float],
    warm: bool = False,
) -> dict[str, list[float]]:
    """Seconds of each call, one after another in every round.

    Unless they are `warm`, one call of each comes before, to warm up.
    """
    for call in () if warm else calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = clock()
            call()
            seconds[name].append(clock() - began)
    return seconds


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(work: Callable[[], Any], device: torch.device | str) -> float:
    """Seconds of one call, by the clock of a kind of device."""
    began = now(device)
    work()
    return now(device) - began


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Processor seconds of one call, of all its threads; they exclude other programs."""
    return seconds(work, "cpu")


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most bytes of tensors that `work` has at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    allocated = most = 0
    for _, change in sorted(changes, key=lambda one: one[0]):
        allocated += change
        most = max(most, allocated)
    return most
