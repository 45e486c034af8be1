"""Made-up runs of tracin_sketch, in the shape of the real ones: as theory says, with noise."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tests.analysis.synthetic.shapes import write_made_up

DIMS = (1_024, 16_384)
KINDS = ("aligned", "orthogonal", "proponents", "proponents", "random gradients")
EXACT = np.array([1.0, 0.0, 0.4, 0.5, 0.02])


@dataclass(frozen=True)
class Drawn:
    name: str
    dim: int


@dataclass(frozen=True)
class Simulated:
    projection: Drawn


@dataclass(frozen=True)
class Library:
    projection: Drawn


@dataclass(frozen=True)
class Cost:
    projection: Drawn


@dataclass(frozen=True)
class Config:
    work: Simulated | Library | Cost
    seed: int


def write(preset: str, seeds: int) -> None:
    """Write the runs of three maps and their costs."""
    write_made_up("tracin_sketch", preset, sketch_cells(range(seeds)), result)


def sketch_cells(seeds: Iterable[int]) -> list[Config]:
    works: list[Simulated | Library | Cost] = []
    for name in ("Gaussian", "Rademacher", "TwoSided"):
        works += [Simulated(Drawn(name, dim)) for dim in DIMS]
        works.append(Library(Drawn(name, DIMS[0])))
    works += [Cost(Drawn("TwoSided", dim)) for dim in DIMS]
    works += [Cost(Drawn("Gaussian", dim)) for dim in (4, 16)]
    return [Config(work, seed) for seed in seeds for work in works]


def result(cell: Config, excess: float = 1.0, biased: float = 0.0) -> dict:
    """The result of a cell; `excess` multiplies the factorised variance, `biased` shifts it.

    Of aligned vectors, that is; of orthogonal ones in the other direction, so that a mean over
    pairs would notice neither.
    """
    drawn = cell.work.projection
    about = {"method": drawn.name, "dim": drawn.dim}
    if isinstance(cell.work, Cost):
        return about | cost(drawn, cell.seed)
    wrong = drawn.name == "TwoSided"
    return about | moments(cell, excess if wrong else 1.0, biased if wrong else 0.0)


def variance(drawn: Drawn) -> np.ndarray:
    if drawn.name != "TwoSided":
        return (1 + EXACT**2) / drawn.dim
    one = (1 + EXACT) / drawn.dim**0.5  # both factors with a cosine of sqrt(EXACT)
    return (EXACT + one) ** 2 - EXACT**2


def moments(cell: Config, excess: float, biased: float) -> dict:
    drawn = cell.work.projection
    draw = np.random.default_rng([cell.seed, drawn.dim, *drawn.name.encode()])
    theory = variance(drawn)
    sign = np.array([1, -1, 0, 0, 0])
    spread = theory * excess**sign * (1 + 0.01 * draw.normal(size=len(EXACT)))
    noise = np.sqrt(theory / 4_000) * draw.normal(size=len(EXACT))
    mean = EXACT + biased * sign + noise
    return {
        "pairs": ",".join(KINDS),
        "exact": EXACT,
        "mean": mean,
        "variance": spread,
        "theory": theory,
        "bias": float((mean - EXACT).mean()),
        "variance_ratio": float((spread / theory).mean()),
        "draws": 4_000,
    }


def cost(drawn: Drawn, seed: int) -> dict:
    noise = 1 + 0.01 * np.random.default_rng([seed, drawn.dim]).normal()
    sides = 8_192 * drawn.dim**0.5 if drawn.name == "TwoSided" else 4_096**2 * drawn.dim
    size = int(4 * sides)
    return {
        "seconds": 1e-9 * size * noise,
        "seconds_median": 1.1e-9 * size * noise,
        "peak_bytes": size + 1_000,
        "map_bytes": size,
        "sketch_bytes": 4 * drawn.dim,
        "gradient_bytes": 4 * 4_096**2,
        "factors_bytes": 4 * 8_192,
    }
