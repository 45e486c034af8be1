"""Made-up runs of experiments/speed.py: three costs within their bounds and one gain beyond.

And libraries beside ours: one slower, one faster, one that is not installed.
"""

from dataclasses import dataclass, replace

import numpy as np

from tests.analysis.synthetic.shapes import write_made_up


@dataclass(frozen=True)
class Peer:
    task: str
    library: str
    ratio: float


@dataclass(frozen=True)
class Named:
    name: str


@dataclass(frozen=True)
class Config:
    work: Named | Peer
    ratio: float
    bound: float
    is_speedup: bool
    again: int = 0


WORKS = [
    Config(Named("self-influence, all layers"), 1.2, 1.5, False),
    Config(Named("6,000 x 100 influence matrix"), 2.0, 2.2, False),
    Config(Named("Hessian product, fresh batch"), 2.8, 3.0, False),
    Config(Named("scores on 100 directions, against JVPs"), 40.0, 20.0, True),
]
PEERS = [
    Peer("self-influence", "captum", 2.5),
    Peer("self-influence", "opacus", 1.1),
    Peer("self-influence", "dattri", 0.0),
    Peer("subset estimate", "numpy", 0.8),
]


def beside(peer: Peer, again: int) -> dict:
    about = {"task": peer.task, "library": peer.library, "work": f"{peer.task}, 64", "threads": 2}
    if not peer.ratio:
        return {**about, "installed": False, "remedy": "`pip install`"}
    return {
        **about,
        "installed": True,
        "unit": "example",
        "version": "1.0",
        "machine": "a processor",
        "settings": "64 examples at a time",
        "difference": 1e-6,
        "ours_ms": 0.5,
        "theirs_ms": 0.5 * peer.ratio,
        "ratio": peer.ratio * (1 + 0.01 * again),
        "ratio_low": 0.9 * peer.ratio,
        "ratio_high": 1.1 * peer.ratio,
        "ratios": peer.ratio * np.array([0.9, 1.0, 1.1]),
    }


def result(config: Config, preset: str) -> dict:
    if isinstance(config.work, Peer):
        return beside(config.work, config.again)
    judged = {"bound": config.bound, "within": True, "is_speedup": config.is_speedup}
    peaks = {"peak_bytes": 200_000_000, "peak_bytes_x4": 260_000_000}
    return {
        "work": config.work.name,
        "seconds": 0.5,
        "unit_seconds": 0.5 / config.ratio,
        "ratio": config.ratio * (1 + 0.01 * config.again),
        "ratio_low": 0.95 * config.ratio,
        "ratio_high": 1.03 * config.ratio,
        "gemm_gflops": 150.0,
        "threads": 2,
        "flops": 2.5e10,
        "gflops": 50.0,
        "over_limit": 3.0,
        "bytes": 6.4e6,
        **({} if preset == "smoke" else judged | peaks),
    }


def write(preset: str, seeds: int) -> None:
    """Write the runs of a preset, `seeds` of each work."""
    cells = [replace(work, again=again) for again in range(seeds) for work in WORKS]
    cells += [Config(one, 1.0, 1.0, True, again) for again in range(seeds) for one in PEERS]
    for name in (preset, "peers") if preset == "small" else (preset,):
        write_made_up("speed", name, cells, lambda config: result(config, preset))
