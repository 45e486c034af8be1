"""Influence on the map: where the training examples are that a price regression learned from.

Reproduces Figure 10 of TracIn's appendix (Pruthi et al., 2020), which shows 11 queries of Palo
Alto and no number, and measures its two statements on many: distances of proponents from random
test queries, and self-influence against how many examples are nearby. Deviations: the paper
describes neither network nor training; ours are in the configs.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import geography
from experiments.experiment import Experiment
from experiments.housing_models import Data, Model, Part, Trained, trained
from experiments.models.housing_mlp import HousingMLP
from experiments.problems import UserError
from experiments.training import Fit
from methods.randomness import numpy_generator
from methods.task import Task, take
from methods.tracin import TracIn

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
    city = geography.distances(np.array([CENTRE]), test.place)[0].argsort(kind="stable")
    some = numpy_generator(config.model.seed, "queries").permutation(n)[: config.n_queries]
    found: dict[str, Any] = {}
    for name, which in (("city", city[:IN_THE_CITY]), ("query", some)):
        scores = _scores(config.method, there, which)
        found |= {f"{name}_{k}": v for k, v in _where(scores, config.top, test, train, which)}
    if isinstance(config.method, TracIn):
        found |= _of_itself(config.method, there)
    return {
        **{name: there.metrics[name] for name in ("r2_train", "r2_test", "num_params")},
        "city_radius_km": float(geography.distances(np.array([CENTRE]), found["city_place"]).max()),
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
    km = geography.distances(place, train.place)
    rank = km.argsort(1, kind="stable").argsort(1) / km.shape[1]
    found = [("place", place), ("random_km", np.median(km, axis=1))]
    found += [("density", geography.within(place, train.place, NEARBY_KM))]
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
        "train_density": geography.within(train.place, train.place, NEARBY_KM) - 1,
        # The row itself is its own nearest.
        "train_neighbour_km": geography.to_nearest(train.place, train.place, NEIGHBOURS + 1),
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
