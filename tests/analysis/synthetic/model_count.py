"""Small runs of experiments/model_count.py, counted and simulated as the real ones are."""

from dataclasses import replace

from experiments.laboratory import runs
from experiments.model_count import (
    EXPERIMENT,
    Budget,
    Coins,
    Config,
    Ensembles,
    Grid,
    Line,
    Pair,
    Threshold,
)

COINS = Coins((0.2, 0.5, 0.9), n_draws=20_000)
ENSEMBLES = Ensembles((25, 50), n_train=20, n_query=100)


def cells(seeds: int) -> list[Config]:
    return [
        Pair(),
        Pair(delta=0.02),
        Budget(50),
        Budget(100, p=0.9),
        Threshold(0.4),
        Grid(0.2),
        Line(0.9, step=0.1),
        Line(1.0, step=0.1),
        *(replace(COINS, seed=seed) for seed in range(seeds)),
        *(replace(ENSEMBLES, seed=seed) for seed in range(seeds)),
    ]


def write(preset: str, seeds: int) -> None:
    """Write a preset's plan and its runs."""
    runs.plan("model_count", preset, cells(seeds))
    for cell in cells(seeds):
        EXPERIMENT.once(cell)
