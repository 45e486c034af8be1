"""Made-up runs of experiments/nondeterminism.py: networks that agree about as the paper prints."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from tests.analysis.synthetic.shapes import write_made_up

N = 400
GROUPS = {  # agreement and accuracy
    ("original", "SmallInception"): (0.947, 0.942),
    ("original", "SmallImageResNet18"): (0.959, 0.952),
    ("cifar100", "SmallInception"): (0.754, 0.742),
    ("cifar100", "SmallImageResNet18"): (0.818, 0.778),
}
GAIN = (0.02, 0.01)


@dataclass(frozen=True)
class SmallInception:
    pass


@dataclass(frozen=True)
class SmallImageResNet18:
    pass


@dataclass(frozen=True)
class Data:
    source: str


@dataclass(frozen=True)
class Recipe:
    network: SmallInception | SmallImageResNet18
    data: Data


@dataclass(frozen=True)
class Networks:
    recipe: Recipe


@dataclass(frozen=True)
class Compared:
    recipe: Recipe
    vary: str
    n_seeds: int


NETWORKS = {"SmallInception": SmallInception(), "SmallImageResNet18": SmallImageResNet18()}


def pairs(level: float, k: int, draw: np.random.Generator) -> np.ndarray:
    """Symmetric, 1 on the diagonal, with seeds that agree more or less than others."""
    seeds, each = 0.001 * draw.normal(size=k), 0.001 * draw.normal(size=(k, k))
    matrix = level + seeds + seeds[:, None] + (each + each.T) / 2
    np.fill_diagonal(matrix, 1.0)
    return matrix


def result(config: Compared, closer: float, gain: tuple[float, float]) -> dict:
    source, network = config.recipe.data.source, type(config.recipe.network).__name__
    agreement, accuracy = GROUPS[source, network]
    agreement += closer if config.vary == "init" else 0.0
    draw = np.random.default_rng([config.n_seeds, len(network), len(source), len(config.vary)])
    k, made = config.n_seeds, {}
    p = draw.beta(0.8 * accuracy, 0.8 * (1 - accuracy), N)
    right = draw.random((k, N)) < p
    for suffix, more, better in (("", 0.0, 0.0), ("_views", *gain)):
        made |= {
            f"agreement{suffix}": pairs(agreement + more, k, draw),
            f"chance{suffix}": pairs(0.1, k, draw),
            f"by_class{suffix}": pairs(accuracy**2, k, draw),
            f"accuracy{suffix}": accuracy + better + 0.001 * draw.normal(size=k),
            f"right{suffix}": right | (draw.random((k, N)) < better),
        }
    return {"lr": 0.1, "weight_decay": 5e-4, **made}


def write(
    preset: str, seeds: int, *, closer: float = 0.0, gain: tuple[float, float] = GAIN
) -> None:
    """Write a preset; where only initial parameters differ, networks agree by `closer` more."""
    recipes = [Recipe(NETWORKS[network], Data(source)) for source, network in GROUPS]
    cells = [
        *map(Networks, recipes),
        *(Compared(*each, seeds) for each in product(recipes, ("both", "init", "order"))),
    ]

    def made(cell: Networks | Compared) -> dict:
        return {"accuracy": 0.8} if isinstance(cell, Networks) else result(cell, closer, gain)

    write_made_up("nondeterminism", preset, cells, made)
