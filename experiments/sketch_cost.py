"""What one projected gradient of a fully-connected layer costs: seconds, bytes, numbers drawn."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from methods.parts import Dense, Outer, Part
from methods.projections import Gaussian, TwoSided
from methods.randomness import torch_generator
from methods.rows import Rows
from methods.task import Task


@dataclass(frozen=True)
class Cost:
    """A projection of one example's gradient at an m x n layer with a bias, drawn and applied."""

    projection: Gaussian | TwoSided
    m: int = 4_096
    n: int = 4_096
    bias: bool = True
    repeats: int = 1


def measure(cost: Cost, seed: int) -> dict[str, Any]:
    """Seconds of one processor, the least of the repeats: other work on it only adds to them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        layer = nn.utils.skip_init(nn.Linear, cost.n, cost.m, bias=cost.bias)
        task = Task.of(layer.eval(), lambda model, batch: model(batch["image"]).sum(1))
        generator = torch_generator(seed, "layer")
        left, right = (torch.randn(1, 1, size, generator=generator) for size in (cost.m, cost.n))
        parts: dict[str, list[Part]] = {"weight": [Outer(left, right, cost.m, (cost.n,))]}
        if cost.bias:
            parts["bias"] = [Dense(left[:, 0])]
        rows = Rows(parts, 1)

        def both() -> None:
            cost.projection.draw(task).apply(rows)

        peak = peak_bytes(both)
        seconds = [_seconds(both) for _ in range(cost.repeats)]
    finally:
        torch.set_num_threads(before)
    return {
        "seconds": min(seconds),
        "seconds_median": statistics.median(seconds),
        "peak_bytes": peak,
        "map_bytes": 4 * numbers(cost),
        "sketch_bytes": 4 * cost.projection.dim,
        "gradient_bytes": 4 * cost.m * (cost.n + cost.bias),
        "factors_bytes": 4 * (cost.m + cost.n),
    }


def numbers(cost: Cost) -> int:
    """How many random numbers the map has; as many multiplications apply it to one gradient.

    (Of TwoSided, but for the sketch itself, an outer product of its two sides.)
    """
    if isinstance(cost.projection, TwoSided):
        sides = cost.m + cost.n + cost.bias * (cost.m + 1)  # the bias is an m x 1 matrix
        return sides * isqrt(cost.projection.dim)
    return cost.m * (cost.n + cost.bias) * cost.projection.dim


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most bytes of tensors that `work` holds at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    held = most = 0
    for _, change in sorted(changes, key=lambda one: one[0]):
        held += change
        most = max(most, held)
    return most


def _seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
