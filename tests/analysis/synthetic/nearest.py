"""Made-up runs of tracin_nearest, in the shape of the real ones."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tests.analysis.synthetic.shapes import write_made_up

QUERIES, SIZES = 200, (600, 6_000)
EFFORTS = {"Exact": (), "HNSW": (10, 40, 160), "IVF": (1, 4, 16)}


@dataclass(frozen=True)
class Model:
    seed: int


@dataclass(frozen=True)
class Gaussian:
    dim: int


@dataclass(frozen=True)
class TwoSided:
    dim: int


@dataclass(frozen=True)
class Stored:
    model: Model
    projection: Gaussian | TwoSided | None


@dataclass(frozen=True)
class Method:
    name: str


@dataclass(frozen=True)
class Config:
    stored: Stored
    method: Method
    n: int
    efforts: tuple[int, ...]


def write(preset: str, seeds: int) -> None:
    """Write the runs of exact and approximate indexes."""
    write_made_up("tracin_nearest", preset, nearest_cells(range(seeds)), result)


def nearest_cells(seeds: Iterable[int]) -> list[Config]:
    cells = []
    for seed in seeds:
        for projection in (None, Gaussian(64), TwoSided(64), TwoSided(256)):
            stored = Stored(Model(seed), projection)
            cells.append(Config(stored, Method("Exact"), SIZES[0], ()))
        stored = Stored(Model(seed), Gaussian(256))
        cells += [
            Config(stored, Method(name), n, efforts)
            for n in SIZES
            for name, efforts in EFFORTS.items()
        ]
    return cells


def result(cell: Config, slow: float = 1.0, other: int = 0, best: float = 0.98) -> dict:
    """The result of a cell: `slow` multiplies latencies, `best` is the recall at most effort.

    `other` ids of one query are not TracInCP's.
    """
    name, projection = cell.method.name, cell.stored.projection
    draw = np.random.default_rng([cell.stored.model.seed, cell.n, *name.encode()])
    dim = 7_848 if projection is None else 3 * projection.dim
    steps = max(1, len(cell.efforts))
    exact = name == "Exact"
    share = np.ones(1) if exact else best - 0.2 * np.linspace(1, 0, steps) ** 2
    hits = draw.binomial(10, share[:, None], size=(steps, QUERIES))
    ratio = np.ones((1, 2)) if exact else slow * np.geomspace(0.05, 0.6, steps)[:, None] * [1, 3]
    ratio = ratio * (1 + 0.02 * draw.normal(size=ratio.shape))
    made = {
        "method": name,
        "n": cell.n,
        "dim": dim,
        "rows_seconds": 1e-3 * cell.n,
        "query_ms": 2.0,
        "build_seconds": 0.1 + 1e-4 * cell.n * (not exact),
        "load_seconds": 0.2,
        "bytes": 4 * dim * cell.n,
        "hits": hits,
        "ms": ratio * 1e-3 * cell.n,
        "ratio": ratio,
        "recall": float(hits[-1].mean() / 10),
    }
    recall = 1.0 if projection is None else 0.9 - 3 / projection.dim**0.5
    made |= {
        "hits_tracin": draw.binomial(10, recall, size=(steps, QUERIES)),
        "recall_tracin": recall + 0.01 * float(draw.normal()),
        "truth_seconds": 3.0,
    }
    if exact:
        made |= {"other_ids": other * (np.arange(QUERIES) == 3), "score_gap": 1e-6}
    return made
