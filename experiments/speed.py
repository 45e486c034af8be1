"""How fast the methods are, in passes: one batched forward and backward over the same examples.

Every cell times its work and the unit in turns within one process and reports the median of their
ratios, the operations that the work requires, and its distance from this machine's matrix-multiply
rate. Data are random and shaped like MNIST: only shapes matter here.
"""

import multiprocessing
import resource
import statistics
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from experiments.laboratory import clock
from experiments.laboratory.device import device
from experiments.laboratory.experiment import Experiment, sweep
from experiments.laboratory.process import keep_freed
from experiments.laboratory.runs import Run
from experiments.timing.peers import cells
from experiments.timing.peers.cells import Peer
from experiments.timing.projected import PROJECTED, Projected
from experiments.timing.work import (
    BeyondMemory,
    ExactHessian,
    FreshProduct,
    LastLayer,
    Matrix,
    Proponents,
    ReusedProduct,
    ScoreDirections,
    SelfInfluence,
)

Work = (
    SelfInfluence
    | Matrix
    | Proponents
    | FreshProduct
    | ReusedProduct
    | ScoreDirections
    | ExactHessian
    | LastLayer
    | BeyondMemory
    | Projected
    | Peer
)

GEMM = 1_536  # rows and columns of the matrices whose product is timed


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
    with clock.threads(config.threads):
        if isinstance(config.work, Peer):
            return {**config.work.measured(config.repeats), "threads": config.threads}
        timed = config.work.build()
        now = partial(clock.wall, device().type)
        seconds_of = clock.in_turns({"work": timed.work, "unit": timed.unit}, config.repeats, now)
        a, b = torch.randn(2, GEMM, GEMM).to(device())
        product = partial(torch.matmul, a, b)
        best = min(clock.in_turns({"product": product}, 5, now)["product"])
        gemm = 2 * GEMM**3 / best  # operations a second of this device's float32 product
    work, unit = seconds_of["work"], seconds_of["unit"]
    ratios = sorted(a / b * timed.factor for a, b in zip(work, unit, strict=True))
    speedup = timed.speedup
    if speedup:
        ratios = sorted(1 / ratio for ratio in ratios)
    ratio, seconds = statistics.median(ratios), statistics.median(work)
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
    if config.judged and timed.memory:
        metrics |= peak_memory(config.work, config.threads)
    return metrics


def peak_memory(work: Any, threads: int) -> dict[str, int]:
    """Peak bytes that the work adds, for n and for 4 n examples.

    They are those of a GPU's memory, or the resident ones of a fresh process.
    """
    context = multiprocessing.get_context("spawn")
    peaks = []
    for size in (work.n, 4 * work.n):
        with context.Pool(1) as pool:
            peaks.append(pool.apply(_peak, (replace(work, n=size), threads)))
    return {"peak_bytes": peaks[0], "peak_bytes_x4": peaks[1]}


def _peak(work: Any, threads: int) -> int:
    keep_freed()
    torch.set_num_threads(threads)
    timed = work.build()
    if device().type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        timed.work()
        return torch.cuda.max_memory_allocated() - before
    before = _resident("VmRSS")
    timed.work()
    return max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    """Bytes of memory that this process has now (VmRSS) or had at most (VmHWM).

    Only Linux reports both. Elsewhere getrusage's peak replaces them; child processes inherit it.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)
    line = next(one for one in status.read_text().splitlines() if one.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def table(runs: list[Run]) -> tuple[list[str], list[list[str]]]:
    beside = [one.metrics for one in runs if "library" in one.metrics]
    return peers_table(beside) if len(beside) == len(runs) else passes_table(runs)


def passes_table(runs: list[Run]) -> tuple[list[str], list[list[str]]]:
    """A line for each work of ours, beside its bound."""
    header = ["work", "ratio (range)", "bound", "met", "Gop", "over the limit", "peak MB"]
    rows = []
    for m in (one.metrics for one in runs):
        if "library" in m:
            continue
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


def peers_table(found: list[Any]) -> tuple[list[str], list[list[str]]]:
    """A line for each task and library: milliseconds of both, and how many times ours is faster."""
    header = ["task", "library", "theirs ms", "ours ms", "a", "theirs ÷ ours (range)", "settings"]
    rows = []
    for m in found:
        name = f"{m['library']} {m.get('version', '')}".strip()
        if not m["installed"]:
            rows.append([str(m["task"]), name, "", "", "", "", f"not installed: {m['remedy']}"])
            continue
        rows.append(
            [
                str(m["work"]),
                name,
                f"{m['theirs_ms']:.3g}",
                f"{m['ours_ms']:.3g}",
                str(m["unit"]),
                f"{m['ratio']:.2f} ({m['ratio_low']:.2f} to {m['ratio_high']:.2f})",
                str(m["settings"]),
            ]
        )
    return header, rows


SCORING = (LastLayer, BeyondMemory)
FULL: list[Work] = [kind() for kind in get_args(Work) if kind not in (*SCORING, Projected, Peer)]
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
    "smoke": [Config(work, 1, judged=False) for work in [*TINY, *cells.TINY]],
    "small": sweep(Config(repeats=3), again=range(3), work=FULL),
    "scoring": sweep(Config(repeats=3), again=range(3), work=[kind() for kind in SCORING]),
    "projections": sweep(Config(repeats=3), again=range(3), work=PROJECTED),
    "peers": [Config(peer, cells.TASKS[peer.task].repeats, threads=1) for peer in cells.PEERS],
}

EXPERIMENT = Experiment(
    "speed",
    run,
    PRESETS,
    summary="cost of each method in forward-backward passes, and beside other libraries",
    table=table,
    seconds={"small": 360},
    gpu=True,
)


if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
