"""Made-up runs of experiments/lds_published.py: ours as published, with noise."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.analysis.synthetic.shapes import write_made_up

LINEAR = {"Explicit": (0.8, 0.87), "CG": (0.8, 0.88)} | {
    "TracIn": (0.33, 0.28),
    "TRAK-50": (0.68, 0.78),
}
DEEP = {"CG": (0.26, 0.02), "TracIn": (0.15, 0.0), "TRAK-50": (0.45, 0.02), "New": (0.5, 0.0)}
LEVELS = {(): LINEAR, (128, 64): DEEP}  # LDS and LOO


@dataclass(frozen=True)
class Network:
    hidden: tuple[int, ...] = ()


@dataclass(frozen=True)
class Setting:
    network: Network = Network()


@dataclass(frozen=True)
class Plan:
    setting: Setting = Setting()
    n_query: int = 20


@dataclass(frozen=True)
class Train:
    first: int = 0


@dataclass(frozen=True)
class Row:
    name: str
    plan: Plan


def row(cell: Row, noise: float) -> dict[str, Any]:
    draw = np.random.default_rng([len(cell.name), len(cell.plan.setting.network.hidden)])
    levels = LEVELS[cell.plan.setting.network.hidden][cell.name]
    made: dict[str, Any] = {
        "accuracy_query": 0.9,
        "seconds": 2.5,
        "trainings": 51,
        "setting_lds": "regularisation 0.01",
        "setting_loo": "regularisation 0.01",
        "setting_apart": "regularisation 0.1",
        "refused": "regularisation 1e-05" if cell.name == "CG" else "",
        "queries_counted": 20 - (cell.name == "TracIn"),
        "tried": np.full((2, 3), levels[0]),
    }
    for level, name in zip(levels, ("lds", "loo"), strict=True):
        made[name] = level - 0.01 * np.arange(2)[:, None] + noise * draw.normal(size=(2, 20))
        made[f"{name}_draws"] = level + noise * draw.normal(size=(2, 200))
    return made


def write(preset: str, seeds: int, *, noise: float = 0.01) -> None:
    cells = [Train()] + [
        Row(name, Plan(Setting(Network(hidden))))
        for hidden, some in LEVELS.items()
        for name in some
    ]
    write_made_up(
        "lds_published",
        preset,
        cells,
        lambda cell: row(cell, noise) if isinstance(cell, Row) else {"accuracy_query": 0.9},
    )
