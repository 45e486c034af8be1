"""Made-up runs of the experiment on housing."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.analysis.synthetic.shapes import write_made_up

N, QUERIES, IN_THE_CITY, TOP = 400, 50, 11, 4


@dataclass(frozen=True)
class Network:
    hidden: tuple[int, ...] = (64, 64)


@dataclass(frozen=True)
class Model:
    seed: int
    coordinates: bool = True
    network: Network = Network()


@dataclass(frozen=True)
class TracIn:
    pass


@dataclass(frozen=True)
class NearestInputs:
    pass


@dataclass(frozen=True)
class Config:
    model: Model
    method: TracIn | NearestInputs = TracIn()


def cells(seeds: int) -> list[Config]:
    made = []
    for seed in range(seeds):
        made += [Config(Model(seed)), Config(Model(seed, False))]
        made += [Config(Model(seed), NearestInputs())]
        made += [Config(Model(seed, network=Network((512, 512))))]
    return made


def write(
    preset: str, seeds: int, *, dense: float = 0.5, near: float = 0.2, away: float = 0.5
) -> None:
    """Write a preset whose proponents are `near` times as far as the rest, whose self-influence
    grows with density, where `dense` is positive, and whose proponents have more rows before them
    where few live, where `away` is."""
    write_made_up("housing", preset, cells(seeds), lambda cell: result(cell, dense, near, away))


def result(cell: Config, dense: float, near: float, away: float) -> dict[str, Any]:
    draw = np.random.default_rng([cell.model.seed, cell.model.coordinates])
    place = np.stack([draw.uniform(33, 41, N), draw.uniform(-124, -115, N)], axis=1)
    made: dict[str, Any] = {"r2_test": 0.8 + 0.01 * draw.random()}
    made["r2_train"] = made["r2_test"] + 0.05
    made |= {"train_place": place, "test_place": place[::3] + 0.02}
    known = cell.model.coordinates and isinstance(cell.method, TracIn)
    for which, n in (("query", QUERIES), ("city", IN_THE_CITY)):
        density = draw.integers(1, 500, n)
        for kind in ("proponent", "opponent"):
            km = 300 * (near if known else 1.0) * np.exp(0.2 * draw.normal(size=n))
            made[f"{which}_{kind}_km"] = km / np.sqrt(density / 100)
            made[f"{which}_{kind}_nearer"] = draw.random(n) + away * (1 - density / 500)
            made[f"{which}_{kind}s"] = draw.integers(N, size=(n, TOP))
        made[f"{which}_random_km"] = 300.0 * np.exp(0.01 * draw.normal(size=n))
        made[f"{which}_density"] = density
        made[f"{which}_place"] = np.array([[37.44, -122.14]]) + 0.01 * draw.normal(size=(n, 2))
    if isinstance(cell.method, TracIn):
        density, loss = draw.integers(0, 500, N), draw.random(N)
        made |= {"train_density": density, "train_loss": loss}
        made["train_neighbour_km"] = 30 / (1 + density) + 0.1 * draw.random(N)
        made["self_influence"] = loss + dense * density / 250 + 0.1 * draw.random(N)
    return made
