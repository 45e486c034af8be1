"""Made-up runs of mnli_simulator; what repeats is the point: `seeds` of either kind."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.analysis.synthetic.shapes import write_made_up

CLASSES = np.array(["entailment", "neutral", "contradiction"])
SYSTEMS = ("FastIF", "H = I", "features")
TYPES = [f"{one}, {end}" for one in SYSTEMS for end in ("helpful", "harmful")]
TYPES += [f"random, {name}" for name in CLASSES]
SIGNS = {"helpful": -1.0, "harmful": 1.0}  # of the change where the prediction is right
EXAMPLES, LRS = 4, np.geomspace(1e-5, 10**-2.5, 7)


@dataclass(frozen=True)
class Model:
    seed: int


@dataclass(frozen=True)
class Config:
    model: Model
    points: int


def write(preset: str, seeds: int, *, effect: float = 40.0) -> None:
    """Write a preset in which steps on influential pairs change the loss by `effect` times lr."""
    cells = [Config(Model(0), 2 * seeds)]
    write_made_up("mnli_simulator", preset, cells, lambda _: result(seeds, effect))


def result(each: int, effect: float) -> dict[str, Any]:
    draw = np.random.default_rng([each, 5])
    right = np.arange(2 * each) < each
    predicted = draw.integers(3, size=2 * each)
    label = np.where(right, predicted, (predicted + 1) % 3)
    ends = np.array(
        [-1.0 if "helpful" in one else 1.0 if "harmful" in one else 0.0 for one in TYPES]
    )
    sign = ends * np.where(right, 1.0, -1.0)[:, None]
    size = effect * (1 + 0.1 * draw.random((2 * each, len(TYPES), EXAMPLES)))
    before = 0.5 + draw.random(2 * each)
    noise = 0.01 * draw.normal(size=(2 * each, len(TYPES), EXAMPLES))
    slope = sign[:, :, None] * size + noise
    helped = np.where(sign[:, :, None] < 0, predicted[:, None, None], label[:, None, None])
    return {
        "accuracy": 0.6,
        "accuracy_simulator": 0.58,
        "agreement": 0.8,
        "loss": before[:, None, None, None] + slope[..., None] * LRS,
        "before": before,
        "lrs": LRS,
        "right": right,
        "predicted": predicted,
        "label": label,
        "types": np.array(TYPES),
        "classes": CLASSES,
        "example_label": np.broadcast_to(helped, slope.shape),
    }
