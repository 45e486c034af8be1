"""Proponents and opponents of CIFAR-10 images by TracIn, influence functions, representer points.

Reproduces Figures 5 and 6 of TracIn's appendix (Pruthi et al., 2020) and counts which classes are
retrieved for random queries from the test split. Measures the cost of TracIn's scores in passes; a
pass is one batched forward and backward over the same queries and candidates, per checkpoint.
Deviation: the recipe of the paper's Sec. 4.1 is outside the appendix; He et al.'s is used.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.images import cifar_models, proponents
from experiments.images.cifar_models import PAPER, SMALL, SMOKE, Model, Trained, trained
from experiments.images.proponents import (
    COLUMNS,
    Drawn,
    Method,
    Queries,
    Shown,
    draw,
    influence,
    measure,
    pool,
)
from experiments.laboratory import clock
from experiments.laboratory.device import device
from experiments.laboratory.experiment import Experiment, sweep
from experiments.laboratory.work import Work
from experiments.timing.work import one_pass
from methods.examples import take
from methods.ihvp.arnoldi import Krylov
from methods.representer import Representer
from methods.tracin import TracIn

AUTOMOBILE, CAT = 1, 3
SHOWN = (Shown(True, CAT), Shown(False, AUTOMOBILE))


@dataclass(frozen=True)
class Config:
    model: Model = PAPER
    method: Method = TracIn()
    queries: Queries = Queries(shown=SHOWN)


def run(config: Config, scratch: Path) -> dict[str, Any]:
    learned, method = trained(config.model), config.method
    train = pool(learned.module, learned.train)
    evaluation = pool(learned.module, learned.evaluation)
    drawn = draw(evaluation, config.queries, config.model.seed)

    def work() -> dict[str, Any]:
        return measure(config.model, method, learned.task, train, drawn, config.queries.top)

    return {**learned.metrics, **(timed(learned, drawn, work) if method == TracIn() else work())}


def timed(learned: Trained, drawn: Drawn, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The results of `work`, and its cost in passes, which are timed before and after it.

    On a CPU, times are processor seconds of all threads, which exclude other programs. The work is
    complete: rows of queries and candidates, their products, and the search for the top.
    """
    index = torch.from_numpy(drawn.index)
    query = take(drawn.pool.examples, index)
    both = {name: torch.cat([column, query[name]]) for name, column in learned.train.items()}
    one = one_pass(copy.deepcopy(learned.module).requires_grad_(True), both)
    one()  # the first pass allocates memory and chooses kernels
    outcome: dict[str, Any] = {}
    calls = one, lambda: outcome.update(work()), one
    first, seconds, last = (clock.seconds(call, device().type) for call in calls)
    unit = (first + last) / 2
    passes = len(learned.task.checkpoints)
    return {
        **outcome,
        "processor_seconds": seconds,
        "pass_seconds": unit,
        "n_checkpoints": passes,
        "ratio": seconds / (passes * unit),
        "n_queries": len(index),
        "n_candidates": len(learned.train["label"]),
    }


def work(config: Config) -> Work:
    """What a cell takes, with the network's training."""
    model = config.model
    of, learned, n = cifar_models.unit(model), cifar_models.work(model), model.data.n_train
    return proponents.work(model, config.method, config.queries, of, n, model.fit, learned)


def methods(num_eigen: int, basis: Krylov) -> list[Method]:
    variants = [TracIn(layers=("head.*",)), TracIn(learning_rates=False)]
    return [TracIn(), *influence(num_eigen, basis), Representer(), *variants]


PRESETS: dict[str, list[Config]] = {
    "smoke": sweep(
        Config(SMOKE, queries=Queries(60, 20, shown=SHOWN)),
        model__seed=range(2),
        method=methods(10, Krylov(15, 100, 0, 10)),
    ),
    "small": sweep(Config(SMALL), model__seed=range(3), method=methods(30, Krylov(60, 256, 0, 30))),
    "paper": sweep(Config(), model__seed=range(5), method=methods(50, Krylov(200, 512, 0, 50))),
}

EXPERIMENT = Experiment(
    "cifar_proponents",
    run,
    PRESETS,
    summary="CIFAR-10 images for and against a prediction: classes of the top 5, by method",
    columns=(*COLUMNS, "ratio"),
    seconds={"smoke": 9, "small": 2_300},
    gpu=True,
    work=work,
)

if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
