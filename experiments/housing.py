"""Influence on the map: where the training examples are that a price regression learned from.

Reproduces Figure 10 of TracIn's appendix (Pruthi et al., 2020), which shows 11 queries of Palo
Alto and no number, and measures its two statements on many: distances of proponents from random
test queries, and self-influence against how many examples are nearby. Deviations: the paper
describes neither network nor training; ours are in the configs.
"""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from torch import Tensor, nn

from experiments.data import generated_housing, housing, labels
from experiments.data.housing import Houses
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.models.housing_mlp import HousingMLP
from experiments.training import models as training
from experiments.training.loop import fit
from experiments.training.plans import Fit
from methods.randomness import numpy_generator
from methods.task import Task, take
from methods.tracin import TracIn

# Price regressions: what the experiment on housing trains, and what it is trained on.


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
class Trained(training.Trained[nn.Module]):
    """A trained regression with its data."""

    train: Part
    test: Part


def squared_error(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Squared error of the standardised logarithm of the value, (b,)."""
    return (model(batch["input"]) - batch["target"]).square()


def load_data(data: Data, seed: int, coordinates: bool) -> tuple[Part, Part]:
    """The training and the test rows."""
    whole = (
        housing.load()
        if data.source == "california"
        else generated_housing.generate(data.n_generated, GENERATED_SEED)
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
    there = training.train_once(
        "housing_model",
        model,
        partial(model.network.build, train.examples["input"].shape[1], model.seed),
        squared_error,
        partial(_train, model),
        weight_decay=model.fit.weight_decay,
        dtype=torch.float64,  # in single precision, a residual near zero is mostly rounding
    )
    return Trained(**vars(there), train=train, test=test)


def _train(model: Model, module: nn.Module, scratch: Path) -> dict[str, Any]:
    train, test = load_data(model.data, model.seed, model.coordinates)  # noted as this run's data
    outcome = fit(module, squared_error, train.examples, model.fit, model.seed, scratch)
    explained = {}
    for name, part in (("train", train), ("test", test)):
        with torch.no_grad():
            error = squared_error(module, part.examples).mean()
        explained[f"r2_{name}"] = 1 - float(error / part.examples["target"].var(correction=0))
    return {**outcome, **explained}


# Distances on the earth, and how many others live nearby.


EARTH_KM = 6371.0088  # mean radius


def great_circle(
    latitude: ArrayLike, longitude: ArrayLike, other_latitude: ArrayLike, other_longitude: ArrayLike
) -> np.ndarray:
    """Kilometres between points given in degrees on a sphere, by the haversine; broadcasts."""
    phi, psi = np.radians(latitude), np.radians(other_latitude)
    across = np.radians(np.asarray(other_longitude) - np.asarray(longitude))
    half = np.sin((psi - phi) / 2) ** 2 + np.cos(phi) * np.cos(psi) * np.sin(across / 2) ** 2
    return 2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1)))


def distances(point: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Kilometres from each of `point` (n, 2) to each of `others` (m, 2), degrees, (n, m)."""
    return great_circle(point[:, :1], point[:, 1:], others[None, :, 0], others[None, :, 1])


def within(point: np.ndarray, others: np.ndarray, km: float) -> np.ndarray:
    """How many of `others` (m, 2) lie within `km` of each of `point` (n, 2), (n,)."""
    chord = 2 * np.sin(km / (2 * EARTH_KM))
    tree = cKDTree(_on_sphere(others))
    return np.asarray(tree.query_ball_point(_on_sphere(point), chord, return_length=True))


def to_nearest(point: np.ndarray, others: np.ndarray, k: int) -> np.ndarray:
    """Kilometres from each of `point` (n, 2) to its k-th nearest of `others` (m, 2), (n,)."""
    chord, _ = cKDTree(_on_sphere(others)).query(_on_sphere(point), [k])
    return 2 * EARTH_KM * np.arcsin(np.clip(chord[:, 0] / 2, 0, 1))


def _on_sphere(point: np.ndarray) -> np.ndarray:
    phi, lam = np.radians(point).T
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=1)


CENTRE = (37.4419, -122.1430)  # of Palo Alto, degrees north and east
IN_THE_CITY = 11  # queries, as in the paper: the test rows nearest to the centre
NEARBY_KM = 10.0
NEIGHBOURS = 10


@dataclass(frozen=True)
class NearestInputs:
    """The control: training rows whose inputs other than the place are nearest, standardised."""


Method = TracIn | NearestInputs


@dataclass(frozen=True)
class Config:
    """`n_queries` random test rows; `top` proponents, and as many opponents, of each."""

    model: Model = Model()
    method: Method = TracIn()
    n_queries: int = 400
    top: int = 10


def run(config: Config, scratch: Path) -> dict[str, Any]:
    there = trained(config.model)
    train, test = there.train, there.test
    n = len(test.index)
    if config.n_queries > n or config.top > len(train.index):
        raise UserError(
            f"{config.n_queries} queries of {n} test rows, top {config.top} of "
            f"{len(train.index)} training rows: lower n_queries or top"
        )
    city = distances(np.array([CENTRE]), test.place)[0].argsort(kind="stable")
    some = numpy_generator(config.model.seed, "queries").permutation(n)[: config.n_queries]
    found: dict[str, Any] = {}
    for name, which in (("city", city[:IN_THE_CITY]), ("query", some)):
        scores = _scores(config.method, there, which)
        found |= {f"{name}_{k}": v for k, v in _where(scores, config.top, test, train, which)}
    if isinstance(config.method, TracIn):
        found |= _of_itself(config.method, there)
    return {
        **{name: there.metrics[name] for name in ("r2_train", "r2_test", "num_params")},
        "city_radius_km": float(distances(np.array([CENTRE]), found["city_place"]).max()),
        "median_km": float(np.median(found["query_proponent_km"])),
        "median_random_km": float(np.median(found["query_random_km"])),
        "train_place": train.place,
        "test_place": test.place,
        **found,
    }


def _scores(method: Method, there: Trained, which: np.ndarray) -> Tensor:
    """Scores of all training rows for some test rows, (n, n_train); positive = proponent."""
    if isinstance(method, TracIn):
        train = there.train.examples
        query = take(there.test.examples, torch.from_numpy(which))
        return method.scores(there.task, train, query)
    features = torch.from_numpy(there.train.features)
    return -torch.cdist(torch.from_numpy(there.test.features[which]), features)


def _where(
    scores: Tensor, top: int, test: Part, train: Part, which: np.ndarray
) -> list[tuple[str, np.ndarray]]:
    """Where proponents and opponents are, a value (or `top` of them) for each query.

    `*_km` is the median distance over them, of `random` over all training rows; `*_nearer` is the
    median share of training rows that are nearer to the query than they are.
    """
    place = test.place[which]
    km = distances(place, train.place)
    rank = km.argsort(1, kind="stable").argsort(1) / km.shape[1]
    found = [("place", place), ("random_km", np.median(km, axis=1))]
    found += [("density", within(place, train.place, NEARBY_KM))]
    for name, largest in (("proponent", True), ("opponent", False)):
        index = scores.topk(top, largest=largest).indices.numpy()
        found += [(f"{name}s", index)]
        for kind, values in (("km", km), ("nearer", rank)):
            of_top = np.take_along_axis(values, index, axis=1)
            found += [(f"{name}_{kind}", np.median(of_top, axis=1))]
    return found


def _of_itself(method: TracIn, there: Trained) -> dict[str, Any]:
    """Self-influence of the training rows, and what may explain it, (n_train,) each."""
    train = there.train
    fitted = method.fit(there.task, train.examples)
    return {
        "self_influence": fitted.self_influence(train.examples).numpy(),
        "train_loss": _losses(there.task, train).numpy(),
        "train_density": within(train.place, train.place, NEARBY_KM) - 1,
        # The row itself is its own nearest.
        "train_neighbour_km": to_nearest(train.place, train.place, NEIGHBOURS + 1),
    }


@torch.no_grad()
def _losses(task: Task, train: Part) -> Tensor:
    """The training loss of each row, averaged over the checkpoints."""
    examples = task.move(train.examples)
    losses = [task.loss(c.params, examples) for c in task.checkpoints]
    return torch.stack(losses).mean(0)


def cells(model: Model, seeds: int, n_queries: int) -> list[Config]:
    made = []
    for seed in range(seeds):
        at = Config(replace(model, seed=seed), n_queries=n_queries)
        blind = replace(at, model=replace(at.model, coordinates=False))
        made += [at, blind, replace(at, method=NearestInputs())]
    return made


SMOKE = Model(
    network=HousingMLP((16, 16)),
    data=Data("generated", n_test=200),
    fit=Fit(epochs=20, batch_size=25, lr=0.02, momentum=0.9, weight_decay=1e-4, every=5),
)
PRESETS: dict[str, list[Config]] = {
    "smoke": cells(SMOKE, 3, 60),
    "small": cells(Model(), 5, 400),
    "paper": cells(Model(), 10, 1_000),
}

EXPERIMENT = Experiment(
    "housing",
    run,
    PRESETS,
    summary="housing prices: where proponents are, and self-influence against density",
    columns=("r2_test", "median_km", "median_random_km"),
    seconds={"smoke": 12, "small": 490},
)


if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
