"""Made-up runs of experiments/speed_ensembles.py: stacks that gain, an estimate near its limit."""

from dataclasses import dataclass
from itertools import product

from tests.analysis.synthetic.shapes import write_made_up

GAINS = {"DigitsMLP": 0.5, "StridedCNN": 0.15}
WAYS = (("Autocast", 1), ("Stacked", 4), ("Stacked", 16))


@dataclass(frozen=True)
class Config:
    work: str
    way: str = ""
    size: int = 1
    device: str = "cpu"
    again: int = 0


def result(config: Config) -> dict:
    slow = 1 + 0.02 * config.again
    if config.work == "Estimate":
        return {
            "work": config.work,
            "seconds": 1.5 * slow,
            "errors_seconds": 1.2,
            "product_seconds": 1.0,
            "over_limit": 1.5 * slow,
            "product_gops": 400.0,
        }
    ratio = slow * config.size ** GAINS[config.work]
    return {
        "work": config.work,
        "way": config.way,
        "size": config.size,
        "ratio": ratio,
        "models_per_hour": 5_000 * ratio,
        "models_per_hour_alone": 5_000.0,
    }


def write(preset: str, seeds: int) -> None:
    """Write the runs of a preset, `seeds` of each."""
    kinds = [Config(work, *way) for work, way in product(GAINS, WAYS)]
    cells = [
        Config(one.work, one.way, one.size, again=again)
        for again in range(seeds)
        for one in [*kinds, Config("Estimate")]
    ]
    write_made_up("speed_ensembles", preset, cells, result)
