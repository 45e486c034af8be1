"""Made-up runs of mnist_first_order and mnist_checkpoints, for the artifacts of them."""

from dataclasses import dataclass

import numpy as np

from experiments.mnist_checkpoints import (
    All,
    Choice,
    Converged,
    Early,
    Even,
    Last,
    Proposed,
    Random,
    Steady,
    Unconverged,
)
from tests.analysis.synthetic.shapes import write_made_up

FACTORS = np.array([0.25, 0.5, 1.0])
N_STEPS, N_QUERY, N_CHECKPOINTS = 40, 30, 20
SETTLED, CONVERGED = 5, 15


@dataclass(frozen=True)
class Steps:
    batch_size: int
    lr: float
    seed: int


@dataclass(frozen=True)
class Data:
    n_train: int = 100


@dataclass(frozen=True)
class Fit:
    batch_size: int = 10


@dataclass(frozen=True)
class Model:
    seed: int
    data: Data = Data()
    fit: Fit = Fit()


@dataclass(frozen=True)
class Dense:
    model: Model


@dataclass(frozen=True)
class Traced:
    dense: Dense
    choice: Choice
    name: str
    draw: int = 0


AP = {  # what Sec. D says, with the positions each choice takes
    "all": (0.95, range(N_CHECKPOINTS)),
    "last": (0.85, [N_CHECKPOINTS - 1]),
    "early": (0.5, range(SETTLED)),
    "steady decrease": (0.955, range(SETTLED, CONVERGED)),
    "after convergence": (0.88, range(CONVERGED, N_CHECKPOINTS)),
    "all before convergence": (0.948, range(CONVERGED)),
    "proposed 3": (0.95, (6, 8, 11)),
    "even 3": (0.93, (6, 12, 19)),
    "random 3": (0.9, (2, 9, 17)),
}
CHOICES: dict[str, Choice] = {
    "all": All(), "last": Last(), "early": Early(), "steady decrease": Steady(),
    "after convergence": Converged(), "all before convergence": Unconverged(),
    "proposed 3": Proposed(3), "even 3": Even(3), "random 3": Random(3),
}  # fmt: skip


def write(preset: str, seeds: int) -> None:
    """Write a preset of both experiments with results as the paper claims them."""
    write_steps(preset, seeds)
    write_checkpoints(preset, seeds)


def write_steps(preset: str, seeds: int, power: float = 2.0) -> None:
    """Steps whose remainder grows with `power` of the learning rate."""
    cells = [
        Steps(size, lr, seed)
        for size, rates in {1: (0.001, 0.03), 10: (0.01, 0.1)}.items()
        for lr in rates
        for seed in range(seeds)
    ]
    write_made_up("mnist_first_order", preset, cells, lambda cell: steps_result(cell, power))


def steps_result(cell: Steps, power: float) -> dict:
    draw = np.random.default_rng([cell.seed, cell.batch_size, int(1e4 * cell.lr)])
    influence = cell.lr * draw.standard_t(3, size=(N_STEPS, N_QUERY))
    left = 2 * cell.lr**power * draw.normal(size=influence.shape) / 0.03
    size = 0.1 * (FACTORS * cell.lr) ** power
    return {
        "change": influence + left,
        "influence": influence,
        "label": np.arange(N_QUERY) % 10,
        "factors": FACTORS,
        "remainder": size * np.exp(0.1 * draw.normal(size=(4, 1))),
        "accuracy": 0.9 + 0.01 * draw.random(),
    }


def write_checkpoints(preset: str, seeds: int, ap: dict[str, float] | None = None) -> None:
    """Every choice on every seed; `ap` changes what some of them find."""
    cells = [
        Traced(Dense(Model(seed)), Random(3, draw) if draw else CHOICES[name], name, draw)
        for seed in range(seeds)
        for name in AP
        for draw in range(2 if name.startswith("random") else 1)
    ]
    write_made_up("mnist_checkpoints", preset, cells, lambda c: checkpoints_result(c, ap or {}))


def checkpoints_result(cell: Traced, ap: dict[str, float]) -> dict:
    name, seed = cell.name, cell.dense.model.seed
    value, positions = AP[name]
    draw = np.random.default_rng([seed, cell.draw, *name.encode()])
    precision = min(1.0, ap.get(name, value) + 0.0005 * draw.normal())
    steps = np.arange(1, N_CHECKPOINTS + 1) * 5
    return {
        "method": name,
        "auc": 0.5 + 0.5 * precision,
        "ap": precision,
        "loss_auc": 0.9,
        "loss_ap": precision - 0.1,
        "n_checkpoints": len(positions),
        "settled": SETTLED,
        "converged": CONVERGED,
        "chance_ap": 0.2,
        "accuracy_true": 0.9,
        "positions": np.array(positions),
        "train_loss": 2 * np.exp(-steps / 30),
        "steps": steps,
        "self_influence_mean": np.where(np.arange(N_CHECKPOINTS) < CONVERGED, 1.0, 0.01),
        "ap_each": np.linspace(0.3, 0.9, N_CHECKPOINTS),
    }
