"""Made-up runs of mnli_retraining: `seeds` points, rightly and wrongly predicted in turn."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.analysis.synthetic.shapes import write_made_up

SYSTEMS = ("Fast, k = 300", "Fast, k = 1,500", "Full", "H = I", "features")
CLASSES = ("entailment", "neutral", "contradiction")
REMOVE, SEEDS, OTHERS = (1, 5, 25), (0, 1), (2, 3, 4)


@dataclass(frozen=True)
class Model:
    seed: int


@dataclass(frozen=True)
class Config:
    model: Model
    point: int
    remove: tuple[int, ...] = REMOVE


def write(preset: str, seeds: int, *, fast: float = 1.0) -> None:
    """Write a preset in which Fast has `fast` times the effect of Full."""
    cells = [Config(Model(0), point) for point in range(seeds)]
    write_made_up("mnli_retraining", preset, cells, lambda cell: result(cell.point, fast))


def result(point: int, fast: float) -> dict[str, Any]:
    draw = np.random.default_rng([point, 3])
    rows = [(name, end) for name in SYSTEMS for end in ("helpful", "harmful")]
    rows += [("random", name) for name in CLASSES]
    sign = [{"helpful": 1.0, "harmful": -1.0}.get(end, 0.0) for _, end in rows]
    size = [fast if name.startswith("Fast") else 1.0 for name, _ in rows]
    whole = 0.9 + 0.1 * draw.normal(size=len(SEEDS) + len(OTHERS))
    slope = np.array(sign) * size * 0.01 * (1 + 0.1 * draw.random())
    change = slope[:, None, None] * np.array(REMOVE)[:, None] * np.ones(len(SEEDS))
    change += 1e-4 * draw.normal(size=change.shape)
    return {
        "accuracy": 0.55,
        "right": float(point % 2 == 0),
        "label": CLASSES[point % 3],
        "before": float(whole[0]),
        "loss": whole[: len(SEEDS)] + change,
        "whole": whole,
        "systems": np.array([name for name, _ in rows]),
        "directions": np.array([end for _, end in rows]),
        "removed": np.stack([draw.permutation(40)[: max(REMOVE)] for _ in rows]),
    }
