"""Made-up runs of the experiment on labels of one's own."""

from dataclasses import dataclass

import numpy as np

from tests.analysis.synthetic.shapes import write_made_up

N, CLASSES, SHOWN = 400, 3, 60
SCORES = {"held_out": 1.5, "tracin": 1.0, "influence": 0.8, "loss": 1.1}


@dataclass(frozen=True)
class Config:
    seed: int


def write(preset: str, seeds: int, *, better: float = 1.0) -> None:
    """Write a preset whose held-out loss finds wrong labels as others do, times `better`."""
    cells = [Config(seed) for seed in range(seeds)]
    write_made_up("own_labels", preset, cells, lambda cell: result(cell, better))


def result(cell: Config, better: float) -> dict:
    draw = np.random.default_rng([cell.seed, 5])
    true = draw.integers(CLASSES, size=N)
    wrong = draw.random(N) < 0.2
    given = np.where(wrong, (true + 1) % CLASSES, true)
    made: dict = {"data": "made up", "network": "CNN", "n_classes": CLASSES, "agreement": 0.7}
    for name, strength in SCORES.items():
        higher = strength * (better if name == "held_out" else 1.0)
        scores = draw.gamma(2.0, size=N) + higher * 2 * wrong
        quality = higher / 2
        first = wrong[np.argsort(-scores)[: wrong.sum()]]
        made |= {name: scores, f"{name}_auc": min(0.6 + quality / 5, 1.0)}
        made |= {f"{name}_ap": min(quality, 1.0), f"{name}_precision": float(first.mean())}
    order = np.argsort(-made["held_out"])
    return {
        **made,
        "order": order,
        "given": given,
        "suggested": true,
        "probability": draw.uniform(0.4, 1, N),
        "classes": np.array(["cat", "dog", "cow"]),
        "names": np.array([str(row) for row in range(N)]),
        "shown_pixels": draw.integers(0, 255, (SHOWN, 6, 6, 1)).astype(np.uint8),
        "shown_text": np.array([""] * SHOWN),
        "true": true,
        "wrong": wrong,
        "n_wrong": int(wrong.sum()),
    }
