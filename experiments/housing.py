"""Influence on the map: where the proponents of housing prices are.

Reproduces Figure 10 of TracIn's appendix (Pruthi et al., 2020), which shows 11 queries in Palo Alto
without numbers, and measures its two statements on many queries: the distances of proponents from
random test queries, and self-influence against the number of examples nearby. Deviations: the paper
describes neither network nor training; ours are in the configs.
"""

from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from torch import Tensor, nn

from experiments.data import generated_housing, housing, labels
from experiments.laboratory import counting
from experiments.laboratory.device import device, on_device
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.work import Unit, Work
from experiments.models.housing_mlp import HousingMLP
from experiments.training import models as training
from experiments.training.loop import fit
from experiments.training.plans import Fit
from methods.examples import take
from methods.randomness import numpy_generator
from methods.tracin import TracIn

GENERATED_SEED = 0  # of the country; the model's seed splits it into training and test
CENTRE = (37.4419, -122.1430)  # of Palo Alto, degrees north and east
IN_THE_CITY = 11  # queries, as in the paper: the test rows nearest to the centre
ROWS = 20_640  # of the data set
NEARBY_KM = 10.0
NEIGHBOURS = 10
EARTH_KM = 6371.0088  # mean radius


@dataclass(frozen=True)
class Data:
    """All rows of a source, split at random into training and test."""

    source: Literal["california", "generated"] = "california"
    n_test: int = 4_128
    n_generated: int = 900


@dataclass(frozen=True)
class Model:
    """A trained network; the seed draws the split, initial parameters and order."""

    network: HousingMLP = HousingMLP()
    data: Data = Data()
    fit: Fit = Fit(epochs=60, batch_size=64, lr=0.02, momentum=0.9, weight_decay=1e-5, every=6)
    coordinates: bool = True
    """Whether latitude and longitude are inputs: without them a model cannot know the place."""
    seed: int = 0


@dataclass(frozen=True)
class Part:
    """Some of the rows as inputs of a network, and where they are.

    examples has `input` (n, 8 or 6) and `target` (n,), standardised by the mean and deviation of
    training rows; counts and values are logarithms. place (n, 2) is in degrees; features (n, 6) are
    the inputs without the place; index (n,) are the positions of the rows.
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
    counts_and_income = np.log(whole.inputs[:, 1:])  # the age stays as it is
    features = _standardised(np.hstack([whole.inputs[:, :1], counts_and_income]), train)
    inputs = np.concatenate([_standardised(place, train), features], axis=1)
    target = _standardised(np.log(whole.value)[:, None], train)[:, 0]
    inputs = inputs if coordinates else features

    def part(index: np.ndarray) -> Part:
        columns = {"input": inputs[index], "target": target[index]}
        examples = {name: torch.from_numpy(values).float() for name, values in columns.items()}
        return Part(examples, place[index], features[index], index)

    return part(train), part(test)


def _standardised(columns: np.ndarray, train: np.ndarray) -> np.ndarray:
    known = columns[train]
    return (columns - known.mean(0)) / known.std(0)


def trained(model: Model) -> Trained:
    """The trained model, training it if no run has it yet."""
    train, test = load_data(model.data, model.seed, model.coordinates)
    regression = training.train_once(
        "housing_model",
        model,
        partial(model.network.build, train.examples["input"].shape[1], model.seed),
        squared_error,
        partial(_train, model),
        weight_decay=model.fit.weight_decay,
        dtype=torch.float64,  # in single precision, a residual near zero is mostly rounding
    )
    return Trained(**vars(regression), train=train, test=test)


def _train(model: Model, module: nn.Module, scratch: Path) -> dict[str, Any]:
    train, test = load_data(model.data, model.seed, model.coordinates)  # noted as this run's data
    results = fit(module, squared_error, train.examples, model.fit, model.seed, scratch)
    explained = {}
    for name, part in (("train", train), ("test", test)):
        with torch.no_grad():
            error = squared_error(module, on_device(part.examples)).mean()
        explained[f"r2_{name}"] = 1 - float(error / part.examples["target"].var(correction=0))
    return {**results, **explained}


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


@dataclass(frozen=True)
class NearestInputs:
    """The control: training rows whose standardised inputs, place excluded, are nearest."""


Method = TracIn | NearestInputs


@dataclass(frozen=True)
class Config:
    """`n_queries` random test rows; `top` proponents, and as many opponents, of each."""

    model: Model = Model()
    method: Method = TracIn()
    n_queries: int = 400
    top: int = 10


def run(config: Config, scratch: Path) -> dict[str, Any]:
    regression = trained(config.model)
    train, test = regression.train, regression.test
    n = len(test.index)
    if config.n_queries > n or config.top > len(train.index):
        raise UserError(
            f"{config.n_queries} queries of {n} test rows, top {config.top} of "
            f"{len(train.index)} training rows: lower n_queries or top"
        )
    city = distances(np.array([CENTRE]), test.place)[0].argsort(kind="stable")
    queries = numpy_generator(config.model.seed, "queries").permutation(n)[: config.n_queries]
    results: dict[str, Any] = {}
    for name, index in (("city", city[:IN_THE_CITY]), ("query", queries)):
        scores = _scores(config.method, regression, index)
        places = _places(scores, config.top, test.place[index], train.place)
        results |= {f"{name}_{key}": values for key, values in places.items()}
    if isinstance(config.method, TracIn):
        results |= _self_influence(config.method, regression)
    return {
        **{name: regression.metrics[name] for name in ("r2_train", "r2_test", "num_params")},
        "city_radius_km": float(distances(np.array([CENTRE]), results["city_place"]).max()),
        "median_km": float(np.median(results["query_proponent_km"])),
        "median_random_km": float(np.median(results["query_random_km"])),
        "train_place": train.place,
        "test_place": test.place,
        **results,
    }


def _scores(method: Method, regression: Trained, index: np.ndarray) -> Tensor:
    """Scores of all training rows for the test rows at `index`; positive = proponent."""
    train, test = regression.train, regression.test
    if isinstance(method, TracIn):
        query = take(test.examples, torch.from_numpy(index))
        return method.scores(regression.task, train.examples, query)
    from_queries, from_rows = (
        torch.from_numpy(x).to(device()) for x in (test.features[index], train.features)
    )
    return -torch.cdist(from_queries, from_rows).cpu()


def _places(
    scores: Tensor, top: int, place: np.ndarray, train_place: np.ndarray
) -> dict[str, np.ndarray]:
    """Where the `top` proponents and opponents of each query are.

    `*_km` is their median distance, of `random` that of all training rows; `*_nearer` is the median
    share of training rows that are nearer to the query than they are.
    """
    km = distances(place, train_place)
    rank = km.argsort(1, kind="stable").argsort(1) / km.shape[1]
    results = {
        "place": place,
        "random_km": np.median(km, axis=1),
        "density": within(place, train_place, NEARBY_KM),
    }
    for name, largest in (("proponent", True), ("opponent", False)):
        index = scores.topk(top, largest=largest).indices.numpy()
        results[f"{name}s"] = index
        for kind, values in (("km", km), ("nearer", rank)):
            results[f"{name}_{kind}"] = np.median(np.take_along_axis(values, index, 1), axis=1)
    return results


def _self_influence(method: TracIn, regression: Trained) -> dict[str, Any]:
    """Self-influence of the training rows, and what may explain it, (n_train,) each."""
    train = regression.train
    task, fitted = regression.task, method.fit(regression.task, train.examples)
    examples = task.move(train.examples)
    with torch.no_grad():
        losses = [task.loss(c.params, examples) for c in task.checkpoints]
    return {
        "self_influence": fitted.self_influence(train.examples).numpy(),
        "train_loss": torch.stack(losses).mean(0).cpu().numpy(),  # averaged over the checkpoints
        "train_density": within(train.place, train.place, NEARBY_KM) - 1,
        # The row itself is its own nearest.
        "train_neighbour_km": to_nearest(train.place, train.place, NEIGHBOURS + 1),
    }


def work(config: Config) -> Work:
    """What a cell takes, with the network's training."""
    model, data, plan = config.model, config.model.data, config.model.fit
    of = _unit(model.network, 8 if model.coordinates else 6)
    n = (ROWS if data.source == "california" else data.n_generated) - data.n_test
    learned = training.training_work(
        "housing_model", model, of, n, plan, "HousingMLP", scored=n + data.n_test
    )
    checkpoints = -(-plan.epochs // plan.every)
    queries = config.n_queries + IN_THE_CITY
    return counting.attributed(config.method, of, n, (learned,), queries, checkpoints)


@cache
def _unit(network: HousingMLP, inputs: int) -> Unit:
    columns = {"input": ((inputs,), torch.float32), "target": ((), torch.float32)}
    return counting.unit(lambda: network.build(inputs, 0), squared_error, columns)


def cells(
    model: Model, seeds: int, n_queries: int, memorizing: Model | None = None
) -> list[Config]:
    configs = []
    for seed in range(seeds):
        config = Config(replace(model, seed=seed), n_queries=n_queries)
        without_place = replace(config, model=replace(config.model, coordinates=False))
        configs += [config, without_place, replace(config, method=NearestInputs())]
        if memorizing is not None:
            configs.append(replace(config, model=replace(memorizing, seed=seed)))
    return configs


SMOKE = Model(
    network=HousingMLP((16, 16)),
    data=Data("generated", n_test=200),
    fit=Fit(epochs=20, batch_size=25, lr=0.02, momentum=0.9, weight_decay=1e-4, every=5),
)
# The paper's figure is of what a model memorizes: a wider one beside it, trained for longer.
MEMORIZING = Model(
    network=HousingMLP((512, 512)),
    fit=Fit(epochs=300, batch_size=64, lr=0.02, momentum=0.9, every=30),
)
PRESETS: dict[str, list[Config]] = {
    "smoke": cells(SMOKE, 3, 60),
    "small": cells(Model(), 5, 400, MEMORIZING),
    "paper": cells(Model(), 10, 1_000, MEMORIZING),
}

EXPERIMENT = Experiment(
    "housing",
    run,
    PRESETS,
    summary="housing prices: where proponents are, and self-influence against density",
    columns=("r2_test", "median_km", "median_random_km"),
    seconds={"smoke": 12},
    gpu=True,
    work=work,
)


if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
