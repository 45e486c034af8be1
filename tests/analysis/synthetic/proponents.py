"""Made-up runs of the experiments on proponents, in the shape of the real ones."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tests.analysis.synthetic.shapes import write_made_up

METHODS = {  # shares of the top that are of the query's class, and of the confusable one
    "TracIn": (0.95, 0.7),
    "Influence functions": (0.7, 0.4),
    "Representer point": (0.8, 0.5),
    "TracIn, last layer": (0.9, 0.6),
}
QUERIES, RANDOM, TOP, TRAIN = 60, 40, 5, 200


@dataclass(frozen=True)
class Model:
    seed: int


@dataclass(frozen=True)
class Method:
    name: str


@dataclass(frozen=True)
class Config:
    model: Model
    method: Method


def write(preset: str, seeds: int) -> None:
    """Write the runs that Figure 9 is made of."""
    write_proponents("mnist_proponents", preset, range(seeds))


def write_proponents(
    experiment: str,
    preset: str,
    seeds: Iterable[int],
    shape: tuple[int, ...] = (12, 12),
    shares: dict[str, tuple[float, float]] = METHODS,
    displays: int = 2,
) -> None:
    """Write a preset of an experiment: a run a method and seed; `shape` is that of an image.

    Displays are in turn of a correctly classified query and of a misclassified one.
    """
    cells = [Config(Model(seed), Method(name)) for seed in seeds for name in shares]

    def made(cell: Config) -> dict:
        return result(cell, shape, shares[cell.method.name], displays)

    write_made_up(experiment, preset, cells, made)


def result(
    cell: Config, shape: tuple[int, ...], shares: tuple[float, float], displays: int
) -> dict:
    """A made-up result of experiments.images.proponents.measure, with the given shares."""
    model = np.random.default_rng([cell.model.seed, 3])
    draw = np.random.default_rng([cell.model.seed, *cell.method.name.encode()])
    label = model.integers(10, size=QUERIES)
    wrong = np.arange(QUERIES) % 3 == 1
    predicted = np.where(wrong, (label + model.integers(1, 10, size=QUERIES)) % 10, label)
    runner_up = np.where(wrong, label, (label + model.integers(1, 10, size=QUERIES)) % 10)
    queried = predicted if cell.method.name == "Representer point" else label
    rival = np.where(label != queried, label, np.where(wrong, predicted, runner_up))
    shown = np.arange(displays)
    made: dict = {}
    for role, wanted, share in zip(
        ("proponent", "opponent"), (queried, rival), shares, strict=True
    ):
        hit = draw.random((QUERIES, TOP)) < share
        labels = np.where(hit, wanted[:, None], (wanted[:, None] + 5) % 10)
        made |= {
            f"{role}_index": draw.integers(TRAIN, size=(QUERIES, TOP)),
            f"{role}_score": -np.sort(-draw.random((QUERIES, TOP))) * (-1) ** (role != "proponent"),
            f"{role}_label": labels,
            f"{role}_predicted": labels,
            f"{role}_images": draw.integers(256, size=(displays, TOP, *shape)).astype(np.uint8),
        }
    found = np.unique([made["proponent_index"], made["opponent_index"]])
    return {
        "method": cell.method.name,
        **made,
        "all_query_images": model.integers(256, size=(QUERIES, *shape)).astype(np.uint8),
        "found": found,
        "found_images": draw.integers(256, size=(len(found), *shape)).astype(np.uint8),
        "query_index": np.arange(QUERIES),
        "query_images": model.integers(256, size=(displays, *shape)).astype(np.uint8),
        "random": np.arange(QUERIES) < RANDOM,
        "shown": shown,
        "label": label,
        "predicted": predicted,
        "runner_up": runner_up,
        "asked": queried,
        "rival": rival,
        "class_share": np.full(10, 0.1),
        "accuracy": 0.9,
    }
