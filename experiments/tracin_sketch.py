"""Random projections of gradients: their bias, their variance against theory, and their cost.

Reproduces Sec. E and F of TracIn's appendix (Pruthi et al., 2020), which show no experiment: dense
maps (Gaussian, Rademacher) and the factorised one (TwoSided), on gradients of a fully-connected
layer, whose inner products are known exactly.
"""

import statistics
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from experiments.digits import models
from experiments.digits.models import LARGE, Model
from experiments.digits.sketch_moments import (
    Generated,
    Pairs,
    Source,
    drawn_by_library,
    pairs,
    simulate,
    variance,
)
from experiments.laboratory import work as laboratory
from experiments.laboratory.clock import cpu_seconds, peak_bytes, threads
from experiments.laboratory.experiment import Experiment
from methods.randomness import torch_generator
from methods.rows.factored import Rows
from methods.rows.parts import Dense, Outer, Part
from methods.rows.projections import Gaussian, Rademacher, TwoSided
from methods.task import Task

Projection = Gaussian | Rademacher | TwoSided


@dataclass(frozen=True)
class Cost:
    """Drawing a projection and applying it to one gradient at an m x n layer, with a bias if so."""

    projection: Gaussian | TwoSided
    m: int = 4_096
    n: int = 4_096
    bias: bool = True
    repeats: int = 1


@dataclass(frozen=True)
class Simulated:
    """Simulated draws: Gaussian and TwoSided in the span of the vectors, Rademacher by entries."""

    projection: Projection
    draws: int
    source: Source = Source(LARGE)


@dataclass(frozen=True)
class Library:
    """Draws by methods.rows.projections itself."""

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
        return about | measure(work, config.seed)
    these = pairs(replace(work.source, seed=config.seed))
    draw = simulate if isinstance(work, Simulated) else drawn_by_library
    products = draw(work.projection, these, work.draws, config.seed).numpy()
    return about | moments(products, these, work.projection)


def moments(products: np.ndarray, these: Pairs, projection: Projection) -> dict[str, Any]:
    """Mean and variance over draws (draws, pairs), with the exact products and the theory."""
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


def measure(cost: Cost, seed: int) -> dict[str, Any]:
    """The least processor seconds of the repeats, to which other programs only add, and bytes."""
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

    with threads(1):
        peak = peak_bytes(both)
        seconds = [cpu_seconds(both) for _ in range(cost.repeats)]
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
    """The number of random numbers in the map, and of multiplications to apply it to a gradient.

    (For TwoSided, without the outer product of its two sides.)
    """
    if isinstance(cost.projection, TwoSided):
        sides = cost.m + cost.n + cost.bias * (cost.m + 1)  # the bias is an m x 1 matrix
        return sides * isqrt(cost.projection.dim)
    return cost.m * (cost.n + cost.bias) * cost.projection.dim


def work(config: Config) -> laboratory.Work:
    """What a cell takes: mostly random numbers, each as much as DRAWN operations."""
    asked, dim = config.work, config.work.projection.dim
    label = f"{type(asked).__name__}, {type(asked.projection).__name__}"
    if isinstance(asked, Cost):
        drawn = numbers(asked) * (2 + asked.repeats)
        return laboratory.Work(label, (laboratory.Step(DRAWN * drawn),), memory=4 * numbers(asked))
    source = replace(asked.source, seed=config.seed)
    network, learned = source.network, tuple[laboratory.Work, ...]()
    size, vectors = (LAST, 2 * 5)
    if isinstance(network, Model):
        learned = (models.work(network),)
    parts = (laboratory.Work("gradients", (), learned, "sketch_gradients", source, given=1.0),)
    whole = isinstance(asked, Library) or isinstance(asked.projection, Rademacher)
    each = dim * (size if whole else vectors)
    if isinstance(asked.projection, TwoSided):
        each = isqrt(dim) * (isqrt(size) if whole else vectors) * 2
    steps = laboratory.Step(DRAWN * each, 20, asked.draws)
    return laboratory.Work(label, (steps,), parts, memory=4 * each)


DRAWN = 300  # operations' time of a random number: it takes some nanoseconds
LAST = 2_560  # weights of the last layer
DIMS = (64, 256, 1_024, 4_096, 16_384)
SIGNS = 1 << 21  # most directions of Rademacher that a cell draws


def cells(
    source: Source,
    seeds: int,
    draws: int,
    dims: tuple[int, ...],
    library: dict[int, int],
    signs: int = SIGNS,
) -> list[Config]:
    """Simulations, and the library's own draws: `library` has their number for dense maps by dim.

    The library's factorised map is cheap, so it is drawn once per simulation.
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
    """Costs at a layer of size x size; dense maps only at dimensions that take seconds."""
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
    gpu=True,
    work=work,
)


if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
