"""The cost of scoring sentence pairs through a fixed basis, in forward and backward passes.

Both go over the same pairs, in the same batches of similar length, in turns; the fastest round
counts. Parameters and directions are random: their values do not change the work.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.data.parallel import Corpus
from experiments.laboratory import clock
from experiments.laboratory.attribution import randproj
from experiments.laboratory.counting import dot, forward, gradients
from experiments.laboratory.device import device, on_device
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment, sweep
from experiments.laboratory.work import Work
from experiments.translation import models
from experiments.translation.models import Model, examples
from experiments.translation.scores import by_length, contributions, losses, projected
from methods.examples import chunks, take
from methods.task import Task
from methods.tracin import TracIn


@dataclass(frozen=True)
class Config:
    """`n` pairs of the model's training set, `rounds` times; `again` numbers repetitions."""

    model: Model = models.SMALL
    directions: int = 10
    batch: int = 64
    n: int = 512
    rounds: int = 5
    again: int = 0


def run(config: Config, scratch: Path) -> dict[str, Any]:
    if config.rounds < 1 or config.n < 1 or config.batch < 1:
        raise UserError(f"{config.rounds} rounds over {config.n} pairs: give 1 or more")
    module = config.model.build()
    corpus = replace(config.model.train, n=config.n)
    pairs = corpus.load()
    some = examples(config.model, pairs)
    ordered = on_device(take(some, by_length(some)))
    task = Task.of(module, config.model.loss)
    basis = projected(randproj(config.directions, 0), task)
    norms = TracIn(False).fit(task, some)
    trained = list(module.parameters())

    def plain() -> None:
        for batch in chunks(ordered, config.batch):
            loss = config.model.loss(module, batch).mean()
            torch.autograd.grad(loss, trained)

    works: dict[str, Callable[[], Any]] = {
        "plain": plain,
        "scored": lambda: contributions(basis, some),
        "norms": lambda: contributions(norms, some),
        "loss": lambda: losses(task, some),
    }
    seconds = clock.in_turns(works, config.rounds, partial(clock.now, device().type))
    least = {name: min(values) for name, values in seconds.items()}
    return {
        **{f"seconds_{name}": value for name, value in least.items()},
        **{f"ratio_{name}": least[name] / least["plain"] for name in works if name != "plain"},
        "pairs_per_hour": 3600 * config.n / least["scored"],
        "n_pairs": config.n,
        "subwords": float(some["length"].float().mean()),
        "num_params": task.size,
        **{f"rounds_{name}": np.array(values) for name, values in seconds.items()},
    }


def work(config: Config) -> Work:
    """What the rounds take: a plain pass and three ways to score."""
    of, n = models.unit_of(config.model), config.n
    each = gradients(of, n), gradients(of, n), gradients(of, n), forward(of, n)
    basis = dot(n, of.size, config.directions)
    steps = (replace(one, times=one.times * config.rounds) for one in (*each, basis))
    memory = 4.0 * of.size * (2 + config.directions) + of.held * config.batch
    words = models.vocabulary(config.model.language.subwords)
    return Work("rounds", tuple(steps), (words,), memory=memory)


UNTRAINED = replace(models.PAPER.fit, precision="float32")  # nothing is trained here
PAPER = replace(models.PAPER, train=Corpus("wmt17", 0, 2_048), fit=UNTRAINED)
PRESETS = {
    "smoke": sweep(Config(models.SMOKE, n=128, rounds=2), again=range(2)),
    "small": sweep(Config(), again=range(3)),
    "paper": sweep(Config(PAPER, batch=2_048, n=2_048), again=range(3)),
}

EXPERIMENT = Experiment(
    "speed_translation",
    run,
    PRESETS,
    summary="self-influence of sentence pairs through ten directions, beside a plain pass",
    columns=("ratio_scored", "ratio_norms", "ratio_loss", "pairs_per_hour"),
    seconds={"small": 140},
    work=work,
    gpu=True,
)

if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
