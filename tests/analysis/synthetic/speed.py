"""Made-up runs of experiments/speed.py: three costs within their bounds and one gain beyond."""

from dataclasses import dataclass, replace

from tests.analysis.synthetic.shapes import write_made_up


@dataclass(frozen=True)
class Config:
    work: str
    ratio: float
    bound: float
    is_speedup: bool
    again: int = 0


WORKS = [
    Config("self-influence, all layers", 1.2, 1.5, False),
    Config("6,000 x 100 influence matrix", 2.0, 2.2, False),
    Config("Hessian product, fresh batch", 2.8, 3.0, False),
    Config("scores on 100 directions, against JVPs", 40.0, 20.0, True),
]


def result(config: Config, preset: str) -> dict:
    judged = {"bound": config.bound, "within": True, "is_speedup": config.is_speedup}
    peaks = {"peak_bytes": 200_000_000, "peak_bytes_x4": 260_000_000}
    return {
        "work": config.work,
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
    write_made_up("speed", preset, cells, lambda config: result(config, preset))
