"""How fast the methods are, in passes: one batched forward and backward over the same examples.

Every cell times its work and the unit in turns within one process and reports the median of
their ratios, with the operations the work must cost and how far it is from this machine's own
matrix-multiply rate. Data are random and shaped like MNIST: only shapes matter here.
"""

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.laboratory.experiment import Experiment, sweep
from experiments.laboratory.process import keep_freed
from experiments.laboratory.runs import Run
from experiments.timing.peers import PEERS, Peer
from experiments.timing.work import (
    ExactHessian,
    FreshProduct,
    Matrix,
    Proponents,
    ReusedProduct,
    ScoreDirections,
    SelfInfluence,
)

# The most memory a piece of work takes, measured in a process of its own.


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


Work = (
    SelfInfluence
    | Matrix
    | Proponents
    | FreshProduct
    | ReusedProduct
    | ScoreDirections
    | ExactHessian
    | Peer
)


@dataclass(frozen=True)
class Config:
    work: Work = SelfInfluence()
    repeats: int = 7
    threads: int = 2
    judged: bool = True
    """Whether the bound and the peak memory apply; sizes of seconds only check shapes."""
    again: int = 0
    """Which of several runs of the same: intervals are over them."""


def run(config: Config, scratch: Path) -> dict[str, Any]:
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        timed = config.work.build()
        ours, unit = _alternate(timed.work, timed.unit, config.repeats)
        gemm = _gemm_rate()
    finally:
        torch.set_num_threads(before)
    ratios = sorted(a / b * timed.factor for a, b in zip(ours, unit, strict=True))
    speedup = timed.speedup
    if speedup:
        ratios = sorted(1 / ratio for ratio in ratios)
    ratio, seconds = statistics.median(ratios), statistics.median(ours)
    metrics: dict[str, Any] = {
        "work": timed.name,
        "seconds": seconds,
        "unit_seconds": statistics.median(unit),
        "ratio": ratio,
        "ratio_low": ratios[len(ratios) // 8],
        "ratio_high": ratios[-1 - len(ratios) // 8],
        "gemm_gflops": gemm / 1e9,
        "threads": config.threads,
    }
    if config.judged and timed.bound is not None:
        met = ratio >= timed.bound if speedup else ratio <= timed.bound
        metrics |= {"bound": timed.bound, "within": met, "is_speedup": speedup}
    if timed.flops:
        metrics |= {"flops": timed.flops, "gflops": timed.flops / seconds / 1e9}
        metrics |= {"over_limit": seconds * gemm / timed.flops, "bytes": timed.bytes}
    if config.judged and not isinstance(config.work, Peer):
        metrics |= peak_memory(config.work, config.threads)
    return metrics


def _alternate(
    work: Callable[[], Any], unit: Callable[[], Any], repeats: int
) -> tuple[list[float], list[float]]:
    work(), unit()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for call, into in zip((work, unit), times, strict=True):
            started = time.perf_counter()
            call()
            into.append(time.perf_counter() - started)
    return times


def _gemm_rate(size: int = 1_536) -> float:
    """Operations a second of this machine's float32 matrix product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds, _ = _alternate(partial(torch.matmul, a, b), lambda: None, 5)
    return 2 * size**3 / min(seconds)


def table(runs: list[Run]) -> tuple[list[str], list[list[str]]]:
    header = ["work", "ratio (range)", "bound", "met", "Gop", "over the limit", "peak MB"]
    rows = []
    for run_ in runs:
        m = run_.metrics
        sign = "≥" if m.get("is_speedup") else "≤"
        rows.append(
            [
                str(m["work"]),
                f"{m['ratio']:.2f} ({m['ratio_low']:.2f} to {m['ratio_high']:.2f})",
                f"{sign} {m['bound']:g}" if "bound" in m else "",
                {True: "yes", False: "no", None: ""}[m.get("within")],
                f"{m['flops'] / 1e9:.1f}" if "flops" in m else "",
                f"{m['over_limit']:.1f} x" if "over_limit" in m else "",
                f"{m['peak_bytes'] / 1e6:.0f}, x4: {m['peak_bytes_x4'] / 1e6:.0f}"
                if "peak_bytes" in m
                else "",
            ]
        )
    return header, rows


FULL: list[Work] = [
    SelfInfluence(),
    Matrix(),
    Proponents(),
    FreshProduct(),
    ReusedProduct(),
    ScoreDirections(),
    ExactHessian(),
]
TINY: list[Work] = [
    SelfInfluence(n=32),
    Matrix(n=32, queries=4),
    Proponents(n=16, queries=8),
    FreshProduct(n=16),
    ReusedProduct(n=16),
    ScoreDirections(n=8, directions=4, passes=1),
    ExactHessian(n=1, theirs=1),
]
PRESETS: dict[str, list[Config]] = {
    "smoke": [Config(work, 1, judged=False) for work in TINY],
    "small": sweep(Config(repeats=3), again=range(3), work=FULL),
    "peers": sweep(Config(SelfInfluence(n=256), 5), work=PEERS),
}

EXPERIMENT = Experiment(
    "speed",
    run,
    PRESETS,
    summary="cost of each method in forward-backward passes, and beside other libraries",
    table=table,
    seconds={"small": 360},
)


if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
