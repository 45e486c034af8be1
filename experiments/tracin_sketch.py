"""Random projections of gradients: unbiased, as noisy as theory says, and what they cost.

Reproduces Sec. E and F of TracIn's appendix (Pruthi et al., 2020), which show no experiment: dense
maps (Gaussian, Rademacher) and the factorised one (TwoSided) on gradients of a fully-connected
layer, whose inner products are known exactly.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments import sketch_cost
from experiments.digit_models import LARGE
from experiments.experiment import Experiment
from experiments.sketch_cost import Cost
from experiments.sketch_moments import (
    Generated,
    Pairs,
    Source,
    drawn_by_library,
    pairs,
    simulate,
    variance,
)
from methods.projections import Gaussian, Rademacher, TwoSided

Projection = Gaussian | Rademacher | TwoSided


@dataclass(frozen=True)
class Simulated:
    """Many draws: Gaussian and TwoSided in the span of the vectors, Rademacher by entries."""

    projection: Projection
    draws: int
    source: Source = Source(LARGE)


@dataclass(frozen=True)
class Library:
    """Draws by methods.projections itself."""

    projection: Projection
    draws: int
    source: Source = Source(LARGE)


@dataclass(frozen=True)
class Config:
    work: Simulated | Library | Cost
    seed: int = 0


def run(config: Config, scratch: Path) -> dict[str, Any]:
    work = config.work
    about = {"method": type(work.projection).__name__, "dim": work.projection.dim}
    if isinstance(work, Cost):
        return about | sketch_cost.measure(work, config.seed)
    these = pairs(replace(work.source, seed=config.seed))
    draw = simulate if isinstance(work, Simulated) else drawn_by_library
    products = draw(work.projection, these, work.draws, config.seed).numpy()
    return about | moments(products, these, work.projection)


def moments(products: np.ndarray, these: Pairs, projection: Projection) -> dict[str, Any]:
    """Mean and variance over draws (draws, pairs), beside the exact product and theory."""
    exact, theory = these.exact().numpy(), variance(projection, these).numpy()
    mean, spread = products.mean(0), products.var(0, ddof=1)
    return {
        "pairs": ",".join(these.kinds),
        "exact": exact,
        "mean": mean,
        "variance": spread,
        "theory": theory,
        "bias": _furthest(mean - exact, 0.0),
        "variance_ratio": _furthest(spread / theory, 1.0),
        "draws": len(products),
    }


def _furthest(values: np.ndarray, centre: float) -> float:
    return float(values[np.abs(values - centre).argmax()])


DIMS = (64, 256, 1_024, 4_096, 16_384)
SIGNS = 1 << 21  # directions of Rademacher that a cell draws at most


def cells(
    source: Source,
    seeds: int,
    draws: int,
    dims: tuple[int, ...],
    library: dict[int, int],
    signs: int = SIGNS,
) -> list[Config]:
    """Simulations and the library's own draws: of dense maps as many as `library` says at a dim.

    The library's factorised map is cheap, and drawn as often as it is simulated.
    """
    made: list[Simulated | Library] = []
    for kind in (Gaussian, Rademacher, TwoSided):
        for dim in dims:
            count = min(draws, signs // dim) if kind is Rademacher else draws
            made.append(Simulated(kind(dim), count, source))
        own = dict.fromkeys(dims, draws) if kind is TwoSided else library
        made += [Library(kind(dim), count, source) for dim, count in own.items()]
    return [Config(work, seed) for seed in range(seeds) for work in made]


def costs(
    factorised: tuple[int, ...], dense: tuple[int, ...], seeds: int, size: int
) -> list[Config]:
    """Costs at a layer of size x size; dense maps are measured only where that takes seconds."""
    made = [Cost(TwoSided(dim), size, size, repeats=30) for dim in factorised]
    made += [Cost(Gaussian(dim), size, size, repeats=2) for dim in dense]
    return [Config(work, seed) for seed in range(seeds) for work in made]


PRESETS: dict[str, list[Config]] = {
    "smoke": [
        *cells(Source(Generated()), 2, 8_000, (64, 256, 1_024), {64: 200}, 1 << 18),
        *costs((256, 1_024, 4_096), (4, 8, 16), 2, 2_048),
    ],
    "small": [
        *cells(Source(LARGE), 4, 4_000, DIMS, {64: 100, 1_024: 100, 16_384: 20}),
        *costs(DIMS, (4, 16, 64), 3, 4_096),
    ],
    "paper": [
        *cells(Source(LARGE), 20, 20_000, DIMS, {64: 400, 1_024: 400, 16_384: 20}, 4 * SIGNS),
        *costs(DIMS, (4, 16, 64), 5, 4_096),
    ],
}

EXPERIMENT = Experiment(
    "tracin_sketch",
    run,
    PRESETS,
    summary="inner products of projected gradients: bias and variance against theory, cost",
    columns=("dim", "bias", "variance_ratio", "seconds", "peak_bytes"),
    seconds={"smoke": 16, "small": 700},
)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
