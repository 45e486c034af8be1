"""Ideal TracIn at every training step: the change in a loss, and its first-order term.

Reproduces Figure 7 of TracIn's appendix (Pruthi et al., 2020): the change in loss of 100 test
examples at all training steps against their TracIn influence at those steps. The text of Sec. 4.3
was not available, so network, learning rates and length of training are ours. Training is plain
gradient descent, as in the definition: with batch size 1, the influence of a step is that of one
example; with minibatches, that of the mean over the batch.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.func import functional_call

from experiments.data import digits, labels
from experiments.digits.models import Network, predictions
from experiments.laboratory import counting, process
from experiments.laboratory.device import device, on_device
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.work import Step, Work
from experiments.models.mnist_cnn import DigitsCNN, LargeCNN
from experiments.training.loop import Saved
from experiments.training.plans import cross_entropy
from methods.examples import Examples, take
from methods.losses.objective import Params
from methods.progress import track
from methods.randomness import Purpose, numpy_generator
from methods.task import Task
from methods.tracin import descent, measure, moved, watch

COLUMNS = ("before", "influence", "after", "remainder")
FACTORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of a step, which show how its remainder scales


@dataclass(frozen=True)
class Config:
    """One training; the seed draws the subsets, the initial parameters and the order.

    every   steps between two recorded ones
    probes  recorded steps at which fractions of the step are tried too, in double precision
    """

    source: Literal["mnist", "digits"] = "mnist"
    network: Network = LargeCNN()
    n_train: int = 60_000
    n_query: int = 100
    batch_size: int = 1
    lr: float = 0.01
    epochs: int = 1
    every: int = 1
    probes: int = 8
    seed: int = 0


def run(config: Config, scratch: Path) -> dict[str, Any]:
    train, query, rest = load(config)
    module = config.network.build(config.seed).to(device())
    task = Task.of(module, cross_entropy)
    walk = Walk(config, task, on_device(train), on_device(query), scratch)
    started = time.perf_counter()
    walk.go()
    change, influence = walk.change(), walk.column("influence")
    params = walk.task.params
    guesses = predictions(lambda image: functional_call(module, params, image), rest[0])
    return {
        "change": change,
        "influence": influence,
        "recorded": np.array(walk.recorded),
        "label": query["label"].numpy(),
        "factors": np.array(FACTORS),
        "remainder": walk.column("remainder"),
        "pearson": float(stats.pearsonr(change.ravel(), influence.ravel()).statistic),
        "spearman": float(stats.spearmanr(change.ravel(), influence.ravel()).statistic),
        "accuracy": float((guesses == rest[1]).mean()),
        "n_steps": len(walk.batches),
        "seconds": time.perf_counter() - started,
        "num_params": walk.task.size,
    }


class Walk:
    """One training, step by step; after a kill it resumes from the saved state."""

    def __init__(
        self, config: Config, task: Task, train: Examples, query: Examples, scratch: Path
    ) -> None:
        self.config, self.task, self.train, self.query = config, task, train, query
        self.batches = order(config)
        self.recorded = range(0, len(self.batches), config.every)
        picks = np.linspace(0, len(self.recorded) - 1, config.probes).round().astype(int)
        self.probed = {self.recorded[pick] for pick in picks}
        self.columns: dict[str, list[Tensor]] = {name: [] for name in COLUMNS}
        self.step, self.saved = 0, Saved(scratch, "steps")
        if state := self.saved.read(task.device):
            self.step, self.task = state["step"], replace(task, params=state["params"])
            self.columns = {name: list(state["columns"].get(name, [])) for name in COLUMNS}

    def go(self) -> None:
        """Take the remaining steps."""
        for step in track(range(self.step, len(self.batches)), "steps"):
            self._take(step)
            if process.stop_requested() or self.saved.due:
                self._save(step + 1)
                process.stop_if_requested()

    def column(self, name: str) -> np.ndarray:
        """A recorded quantity, one row per step."""
        return torch.stack(self.columns[name]).cpu().numpy()

    def change(self) -> np.ndarray:
        """Loss before minus loss after each recorded step, (n_recorded, n_query)."""
        before, after = self.column("before"), self.column("after")
        # If all steps are recorded, the loss after a step is the loss before the next.
        return before - (np.concatenate([before[1:], after]) if self.config.every == 1 else after)

    def _take(self, step: int) -> None:
        config, task, columns = self.config, self.task, self.columns
        update = descent(task, take(self.train, self.batches[step]), config.lr)
        learned = moved(task, update)
        if step % config.every == 0:
            seen = watch(task, self.query, update)
            columns["before"].append(seen.before)
            columns["influence"].append(seen.influence)
            if config.every > 1 or step == len(self.batches) - 1:
                columns["after"].append(measure(learned, self.query))
        if step in self.probed:
            columns["remainder"].append(remainder(task, self.query, update))
        self.task = learned

    def _save(self, step: int) -> None:
        columns = {name: torch.stack(rows) for name, rows in self.columns.items() if rows}
        self.saved.write({"step": step, "params": self.task.params, "columns": columns})


def load(config: Config) -> tuple[Examples, Examples, tuple[Tensor, np.ndarray]]:
    """Training and query examples, and images with labels that measure the model's accuracy."""
    whole = digits.load_mnist("train") if config.source == "mnist" else digits.load_sklearn()
    n = len(whole["label"])
    if config.source == "mnist":
        (chosen,) = labels.split(n, [config.n_train], config.seed)
        other = digits.load_mnist("test")
        queries, rest = np.split(labels.split(10_000, [10_000], config.seed)[0], [config.n_query])
    else:
        if config.n_train + config.n_query >= n:
            raise UserError(
                f"{config.n_train} + {config.n_query} of {n} digits leave none to measure the "
                "accuracy: lower n_train or n_query"
            )
        sizes = [config.n_train, config.n_query, n - config.n_train - config.n_query]
        chosen, queries, rest = labels.split(n, sizes, config.seed)
        other = whole
    others = take(other, torch.from_numpy(rest))
    train = take(whole, torch.from_numpy(chosen))
    return train, take(other, torch.from_numpy(queries)), (others["image"], others["label"].numpy())


def order(config: Config) -> list[Tensor]:
    """The training examples of each step, in random order, each once per epoch."""
    for name in ("n_train", "n_query", "batch_size", "epochs", "every", "probes", "lr"):
        if getattr(config, name) <= 0:
            raise UserError(f"{name} is {getattr(config, name)}: give a positive number")
    steps: list[Tensor] = []
    for epoch in range(config.epochs):
        shuffled = numpy_generator(config.seed, Purpose.ORDER, epoch).permutation(config.n_train)
        steps += torch.from_numpy(shuffled).split(config.batch_size)
    return steps


def remainder(task: Task, query: Examples, update: Params) -> Tensor:
    """Root mean square over the queries of change minus first-order term, (n_factors,).

    In double precision: in single precision, rounding hides the remainder of a small step.
    """
    learned = replace(task, params={name: value.double() for name, value in task.params.items()})
    query = learned.move(query)
    update = {name: value.double() for name, value in update.items()}
    seen = watch(learned, query, update)
    remainders = []
    for factor in FACTORS:
        change = seen.before - measure(moved(learned, update, factor), query)
        remainders.append((change - factor * seen.influence).square().mean().sqrt())
    return torch.stack(remainders)


def work(config: Config) -> Work:
    """What a walk takes: a step, and at recorded ones the queries with their derivatives."""
    of = counting.image_unit(config.network, config.network.image_shape, cross_entropy)
    steps = config.epochs * -(-config.n_train // config.batch_size)
    step = Step(of.operations * config.batch_size, of.kernels, steps)
    seen = Step(3 * of.forward * config.n_query, of.kernels, steps / config.every)
    disk = 2 * counting.FLOAT * config.n_query * steps / config.every
    label = f"walk by batches of {config.batch_size}"
    walk = Work(label, (step,), kind="training", memory=2 * disk)
    return Work("queries", (seen,), (walk,), disk=disk)


RATES = {1: (0.001, 0.003, 0.01, 0.03), 10: (0.003, 0.01, 0.03, 0.1), 100: (0.01, 0.03, 0.1, 0.3)}


def table(base: Config, seeds: int, lengths: dict[int, tuple[int, int]]) -> list[Config]:
    """Every seed with every batch size, its n_train and epochs in `lengths`, and its RATES.

    The highest rates are close to where training diverges.
    """
    return [
        replace(base, batch_size=size, lr=lr, n_train=n_train, epochs=epochs, seed=seed)
        for size, (n_train, epochs) in lengths.items()
        for lr in RATES[size]
        for seed in range(seeds)
    ]


SMOKE = Config("digits", DigitsCNN(), probes=4)
PRESETS: dict[str, list[Config]] = {
    "smoke": table(SMOKE, 2, {1: (200, 1), 10: (200, 4)}),
    "small": table(Config(), 3, {1: (1_000, 1), 10: (3_000, 1), 100: (3_000, 5)}),
    "paper": table(Config(), 5, {1: (60_000, 1), 10: (60_000, 2), 100: (60_000, 10)}),
}

EXPERIMENT = Experiment(
    "mnist_first_order",
    run,
    PRESETS,
    summary="change in loss at each training step against its first-order term, TracIn's influence",
    columns=("pearson", "spearman", "accuracy", "seconds"),
    seconds={"smoke": 16.0, "small": 1_200.0},
    gpu=True,
    work=work,
)

if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
