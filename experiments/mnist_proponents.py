"""Proponents and opponents of digits by TracIn, influence functions and representer points.

Reproduces Figure 9 of TracIn's appendix (Pruthi et al., 2020) and counts which classes are
retrieved for random test queries. The network is mnist_mislabel's, trained on correct labels.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.digits import models
from experiments.digits.models import LARGE, SMOKE, Data, Model, trained
from experiments.images import proponents
from experiments.images.proponents import COLUMNS, Method, Queries, draw, influence, measure, pool
from experiments.laboratory.device import on_device
from experiments.laboratory.experiment import Experiment, sweep
from experiments.laboratory.work import Work
from methods.ihvp.arnoldi import Krylov
from methods.representer import Representer
from methods.tracin import TracIn

LAST = ("9.*",)  # the last Linear layer of either network


@dataclass(frozen=True)
class Config:
    model: Model = replace(LARGE, data=Data("mnist", 60_000, 0, noise=0.0))
    method: Method = TracIn()
    queries: Queries = Queries()


def run(config: Config, scratch: Path) -> dict[str, Any]:
    learned = trained(config.model)
    train = pool(learned.module, on_device(learned.train.examples))
    evaluation = pool(learned.module, on_device(learned.evaluation.examples))
    drawn = draw(evaluation, config.queries, config.model.seed)
    top = config.queries.top
    measures = measure(config.model, config.method, learned.task, train, drawn, top)
    return {**learned.metrics, **measures}


def work(config: Config) -> Work:
    """What a cell takes, with the network's training."""
    model = config.model
    of, trained, n = models.unit(model), models.work(model), model.data.n_train
    return proponents.work(model, config.method, config.queries, of, n, model.fit, trained)


def methods(num_eigen: int, basis: Krylov) -> list[Method]:
    return [TracIn(), *influence(num_eigen, basis), Representer(), TracIn(layers=LAST)]


FEWER = replace(LARGE, data=Data("mnist", 6_000, 0, noise=0.0))
BUNDLED = replace(SMOKE, data=replace(SMOKE.data, noise=0.0))
PRESETS: dict[str, list[Config]] = {
    "smoke": sweep(
        Config(BUNDLED, queries=Queries(60, 20)),
        model__seed=range(3),
        method=methods(10, Krylov(30, 200, 0, 10)),
    ),
    "small": sweep(
        Config(FEWER), model__seed=range(3), method=methods(50, Krylov(200, 256, 0, 50))
    ),
    "paper": sweep(Config(), model__seed=range(5), method=methods(50, Krylov(200, 512, 0, 50))),
}

EXPERIMENT = Experiment(
    "mnist_proponents",
    run,
    PRESETS,
    summary="digits that speak for a prediction and against it: classes of the top 5, by method",
    columns=COLUMNS,
    seconds={"smoke": 14, "small": 600},
    gpu=True,
    work=work,
)

if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
