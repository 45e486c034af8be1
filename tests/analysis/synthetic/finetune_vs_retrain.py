"""Made-up runs of experiments/finetune_vs_retrain.py, about as the paper prints them."""

from dataclasses import dataclass

import numpy as np

from tests.analysis.synthetic.nondeterminism import NETWORKS, Data, Recipe, pairs
from tests.analysis.synthetic.shapes import write_made_up

N_DROPPED = 4
GROUPS = {"SmallInception": (0.756, 0.740, 0.742), "SmallImageResNet18": (0.820, 0.777, 0.778)}


@dataclass(frozen=True)
class Full:
    recipe: Recipe


@dataclass(frozen=True)
class Compared:
    recipe: Recipe
    n_seeds: int


def result(config: Compared, better: float) -> dict:
    agreement, retrained, tuned = GROUPS[type(config.recipe.network).__name__]
    s, draw = config.n_seeds, np.random.default_rng(config.n_seeds)

    def near(level: float, *shape: int) -> np.ndarray:
        return level + 0.001 * draw.normal(size=shape)

    return {
        "dropped": np.arange(N_DROPPED),
        "tuned_retrained": near(agreement, s, N_DROPPED),
        "tuned_others": near(agreement - better, s, s),
        "tuned_full": near(0.98, s, N_DROPPED),
        "retrained_full": near(agreement, s, N_DROPPED),
        "between_full": pairs(agreement - better, s, draw),
        "between_retrained": pairs(agreement - better, s, draw),
        "accuracy_full": near(retrained, s),
        "accuracy_retrained": near(retrained, s, N_DROPPED),
        "accuracy_tuned": near(tuned, s, N_DROPPED),
    }


def write(preset: str, seeds: int, *, better: float = 0.0) -> None:
    """Write a preset; fine-tuned networks agree with retrained ones by `better` more than seeds."""
    recipes = [Recipe(NETWORKS[name], Data("cifar100")) for name in GROUPS]
    cells = [*map(Full, recipes), *(Compared(recipe, seeds) for recipe in recipes)]

    def made(cell: Full | Compared) -> dict:
        return {"accuracy": 0.8} if isinstance(cell, Full) else result(cell, better)

    write_made_up("finetune_vs_retrain", preset, cells, made)
