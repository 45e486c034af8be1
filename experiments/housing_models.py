"""Price regressions: what the experiment on housing trains, and what it is trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from experiments import runs
from experiments.data import housing, labels, towns
from experiments.data.housing import Houses
from experiments.flat import checkpoints
from experiments.models.housing_mlp import HousingMLP
from experiments.problems import UserError
from experiments.training import Fit, fit
from methods.task import Task

GENERATED_SEED = 0  # of the country; the model's seed divides it into training and test


@dataclass(frozen=True)
class Data:
    """All rows of a source, divided at random into training and test."""

    source: Literal["california", "generated"] = "california"
    n_test: int = 4_128
    n_generated: int = 900


@dataclass(frozen=True)
class Model:
    """A trained network; the seed draws the division, initial parameters and order."""

    network: HousingMLP = HousingMLP()
    data: Data = Data()
    fit: Fit = Fit(epochs=60, batch_size=64, lr=0.02, momentum=0.9, weight_decay=1e-5, every=6)
    coordinates: bool = True
    """Whether latitude and longitude are inputs; without them a model cannot know the place."""
    seed: int = 0


@dataclass(frozen=True)
class Part:
    """Some of the rows, as a network takes them, and where they are.

    examples has `input` (n, 8 or 6) and `target` (n,), both standardised by training rows: counts
    and value by their logarithms. place (n, 2) is in degrees; features (n, 6) are the inputs
    without the place; index (n,) says which rows these are.
    """

    examples: dict[str, Tensor]
    place: np.ndarray
    features: np.ndarray
    index: np.ndarray


@dataclass(frozen=True)
class Trained:
    """A trained regression with its data."""

    task: Task
    train: Part
    test: Part
    metrics: dict[str, Any]


def squared_error(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Squared error of the standardised logarithm of the value, (b,)."""
    return (model(batch["input"]) - batch["target"]).square()


def load_data(data: Data, seed: int, coordinates: bool) -> tuple[Part, Part]:
    """The training and the test rows."""
    whole = (
        housing.load()
        if data.source == "california"
        else towns.generate(data.n_generated, GENERATED_SEED)
    )
    n = len(whole.value)
    if not 0 < data.n_test < n:
        raise UserError(f"data.n_test is {data.n_test}: give a number from 1 to {n - 1}")
    train, test = labels.split(n, [n - data.n_test, data.n_test], seed)
    place = np.stack([whole.latitude, whole.longitude], axis=1)
    features = _standardised(_logarithms(whole), train)
    inputs = np.concatenate([_standardised(place, train), features], axis=1)
    target = _standardised(np.log(whole.value)[:, None], train)[:, 0]
    chosen = inputs if coordinates else features
    made = [
        Part(
            {
                "input": torch.from_numpy(chosen[index]).float(),
                "target": torch.from_numpy(target[index]).float(),
            },
            place[index],
            features[index],
            index,
        )
        for index in (train, test)
    ]
    return made[0], made[1]


def _logarithms(whole: Houses) -> np.ndarray:
    """The inputs with every count, and income, as its logarithm; the age as it is."""
    age, rest = whole.inputs[:, :1], whole.inputs[:, 1:]
    return np.concatenate([age, np.log(rest)], axis=1)


def _standardised(columns: np.ndarray, train: np.ndarray) -> np.ndarray:
    known = columns[train]
    return (columns - known.mean(0)) / known.std(0)


def trained(model: Model) -> Trained:
    """The trained model, training it if no run has it yet."""
    train, test = load_data(model.data, model.seed, model.coordinates)
    run = runs.once("housing_model", model, lambda scratch: _train(model, scratch))
    module = model.network.build(train.examples["input"].shape[1], model.seed)
    module.double()  # in single precision, a residual near zero is mostly rounding
    kept = checkpoints(module, run)
    module.requires_grad_(False)
    decay = model.fit.weight_decay
    task = Task.of(module, squared_error, weight_decay=decay, checkpoints=kept)
    return Trained(task, train, test, run.metrics)


def _train(model: Model, scratch: Path) -> dict[str, Any]:
    train, test = load_data(model.data, model.seed, model.coordinates)  # again: the run notes it
    module = model.network.build(train.examples["input"].shape[1], model.seed)
    outcome = fit(module, squared_error, train.examples, model.fit, model.seed, scratch)
    explained = {}
    for name, part in (("train", train), ("test", test)):
        with torch.no_grad():
            error = squared_error(module, part.examples).mean()
        explained[f"r2_{name}"] = 1 - float(error / part.examples["target"].var(correction=0))
    return {**outcome, **explained, "num_params": outcome["params"].shape[1]}
