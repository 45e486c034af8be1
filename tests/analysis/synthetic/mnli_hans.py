"""Made-up runs of error correction on HANS, in the shape of the real ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.analysis.synthetic.shapes import write_made_up

PARTS = ("lexical_overlap", "subsequence", "constituent")
STEPS = 10
PACE = {  # points a step at the rate by rule
    "helpful": 0.9, "harmful": -0.4, "Random": 0.2, "Anchors": 0.5, "Similar": 0.8, "Nearest": 0.3
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    seed: int


@dataclass(frozen=True)
class Sample:
    which: str


@dataclass(frozen=True)
class Influential:
    pool: Sample
    side: str


@dataclass(frozen=True)
class Random:
    pool: Sample


@dataclass(frozen=True)
class Similar:
    pool: Sample


@dataclass(frozen=True)
class Nearest:
    pool: Sample


@dataclass(frozen=True)
class Anchors:
    pass


@dataclass(frozen=True)
class Fixed:
    lr: float = 1e-4


@dataclass(frozen=True)
class Predicted:
    share: float = 0.05


@dataclass(frozen=True)
class Plan:
    damping: float | None = None


@dataclass(frozen=True)
class Config:
    model: Model
    arm: Influential | Random | Similar | Nearest | Anchors
    part: str
    rate: Fixed | Predicted
    repeat: int
    plan: Plan = Plan()


def arms() -> list[Any]:
    made: list[Any] = [Anchors()]
    for pool in (Sample("mnli train"), Sample("hans train")):
        made += [Influential(pool, "helpful"), Influential(pool, "harmful")]
        made += [Random(pool), Similar(pool), Nearest(pool)]
    return made


def cells(seeds: int) -> list[Config]:
    damped = [Influential(Sample("mnli train"), side) for side in ("helpful", "harmful")]
    settings = [(arm, Plan()) for arm in arms()] + [(arm, Plan(5e3)) for arm in damped]
    return [
        Config(Model(seed), arm, part, rate, repeat, plan)
        for seed in range(seeds)
        for rate, repeats in ((Predicted(), 2), (Fixed(), 1))
        for repeat in range(repeats)
        for part in PARTS
        for arm, plan in settings
    ]


def write(preset: str, seeds: int, *, at_our_rate: float = 1.0) -> None:
    """Write a preset; arms move as fast at the rate by rule times a factor as at the paper's."""

    def made(cell: Config) -> dict[str, Any]:
        return result(cell, at_our_rate if isinstance(cell.rate, Predicted) else 1.0)

    write_made_up("mnli_hans", preset, cells(seeds), made)


def result(cell: Config, factor: float) -> dict[str, Any]:
    side = getattr(cell.arm, "side", None)
    name = side or type(cell.arm).__name__
    draw = np.random.default_rng([cell.model.seed, cell.repeat, PARTS.index(cell.part)])
    start = 0.4 + 0.1 * PARTS.index(cell.part) + 0.05 * draw.normal()
    noise = np.random.default_rng([cell.model.seed, cell.repeat, *name.encode()])
    steps = np.arange(STEPS + 1)
    path = 0.01 * factor * PACE[name] * steps
    path[1:] += 0.002 * factor * noise.normal(size=STEPS)
    loss = 1.2 - 3 * path
    made = {
        "accuracy_start": start,
        "gain": float(path[-1]),
        "own_slice": 0.4,
        "entailed": 0.2,
        "lr": 1e-4,
        "accuracy": start + path,
        "accuracy_entailed": 0.9 - path,
        "accuracy_other": 0.2 + 3 * path,
        "auc": 0.6 + path,
        "loss": loss,
        "anchor_loss": loss - 0.1 * path,
        "chosen": np.zeros((STEPS, 10), dtype=np.int64),
        "cosine": np.full(STEPS, 0.9 if side else 1.0),
    }
    return made | ({"damping": 8.0, "depth": 190, "scale": 540.0} if side else {})
