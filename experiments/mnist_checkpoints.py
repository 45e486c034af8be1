"""Which checkpoints to use: mislabelled digits ranked by TracIn on parts of a training run.

Tests Sec. D of TracIn's appendix (Pruthi et al., 2020), which gives advice and no experiment:
take checkpoints where the loss decreases steadily, more of them where it falls faster, none while
it fluctuates at the beginning, few after it has converged, and more than the last one. The phases
are determined from the training loss alone, by methods/tracin.py; 20% of the labels are wrong
before training, which no choice of checkpoints knows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from experiments.data.labels import check_some
from experiments.digits import models
from experiments.digits.models import LARGE, SMOKE, Data, Model, check_shape, load_data, predictions
from experiments.laboratory import runs
from experiments.laboratory.attribution import losses, quality
from experiments.laboratory.counting import FLOAT, dot, forward, scores
from experiments.laboratory.device import device
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment, sweep
from experiments.laboratory.work import Work
from experiments.training.loop import fit
from experiments.training.models import checkpoints
from experiments.training.plans import Fit, cross_entropy
from methods.examples import Examples, count, take
from methods.progress import track
from methods.randomness import Purpose, numpy_generator
from methods.task import Task
from methods.tracin import CALM, Calm, Phases, TracIn, evenly, phases, propose

COUNT = 5  # checkpoints proposed; the random and the evenly spaced controls have as many


@dataclass(frozen=True)
class Dense:
    """A model with a checkpoint every `apart` steps of the first epoch, then as its plan says.

    Only plain descent works: momentum would restart at each checkpoint of the first epoch.
    """

    model: Model
    apart: int = 2


@dataclass(frozen=True)
class All:
    """All checkpoints."""


@dataclass(frozen=True)
class Last:
    """Only the last checkpoint."""


@dataclass(frozen=True)
class Early:
    """Those before the loss has settled."""


@dataclass(frozen=True)
class Steady:
    """Those during the steady decrease."""


@dataclass(frozen=True)
class Converged:
    """Those after the loss has converged."""


@dataclass(frozen=True)
class Unconverged:
    """Those before the loss has converged."""


@dataclass(frozen=True)
class Proposed:
    """`count` during the steady decrease, densest where the loss falls fastest."""

    count: int = COUNT


@dataclass(frozen=True)
class Random:
    """`count` random ones: a control of `Proposed`."""

    count: int = COUNT
    draw: int = 0


@dataclass(frozen=True)
class Even:
    """`count` evenly spaced in steps up to the last, as is usual: another control."""

    count: int = COUNT


Choice = All | Last | Early | Steady | Converged | Unconverged | Proposed | Random | Even


@dataclass(frozen=True)
class Config:
    dense: Dense
    choice: Choice = All()
    calm: Calm = CALM


def run(config: Config, scratch: Path) -> dict[str, Any]:
    check_some(config.dense.model.data.n_train, config.dense.model.data.noise)
    trace = traced(config.dense)
    curve, steps = trace.array("train_loss"), trace.array("steps")
    ends = phases(curve, steps, config.calm)
    chosen = positions(config, curve, steps, ends)
    own, loss = (np.array(trace.array(name)) for name in ("self_influence", "loss"))
    corrupted = np.array(trace.array("corrupted"))
    outcome = {
        "method": display(config.choice),
        "n_checkpoints": len(chosen),
        "settled": ends.settled,
        "converged": ends.converged,
        "chance_ap": float(corrupted.mean()),
        "accuracy_true": trace.metrics["accuracy_true"],
        "positions": chosen,
        "train_loss": np.array(curve),
        "steps": np.array(steps),
        "self_influence_mean": own.mean(1),
        "ap_each": np.array([average_precision_score(corrupted, one) for one in own]),
    }
    if len(chosen):
        for name, values in (("", own), ("loss_", loss)):
            ranking = quality(corrupted, values[chosen].sum(0))
            outcome |= {f"{name}auc": ranking["auc"], f"{name}ap": ranking["ap"]}
    return outcome


def positions(config: Config, curve: np.ndarray, steps: np.ndarray, ends: Phases) -> np.ndarray:
    """The positions of the chosen checkpoints, ascending; none if the loss has no such phase."""
    n, choice = len(curve), config.choice
    everything = np.arange(n)
    match choice:
        case All():
            return everything
        case Last():
            return everything[-1:]
        case Early():
            return everything[: ends.settled]
        case Steady():
            return everything[ends.settled : ends.converged]
        case Converged():
            return everything[ends.converged :]
        case Unconverged():
            return everything[: ends.converged]
        case Proposed():
            return propose(curve, choice.count, steps, config.calm)
        case Even():
            return evenly(steps, choice.count)
        case Random():
            draw = numpy_generator(config.dense.model.seed, "checkpoints", choice.draw)
            return np.sort(draw.choice(n, choice.count, replace=False))


def traced(dense: Dense) -> runs.Run:
    """The run with the self-influence and loss of each example at each checkpoint.

    `self_influence` (n_checkpoints, n_train), times the learning rate; `loss` (n_checkpoints,
    n_train), for the label given to training; `corrupted` (n_train,); `steps` (n_checkpoints,) and
    `train_loss`, the mean during the last epoch, or part of the first, before the checkpoint.
    """

    def compute(_scratch: Path) -> dict[str, Any]:
        model = dense.model
        train, _ = load_data(model.data, model.seed)
        training = trained(dense)
        module = model.network.build(model.seed, train.n_classes).to(device())
        params = training.array("params")
        moments = checkpoints(module, params, np.full(len(params), model.fit.lr))
        decay = model.fit.weight_decay
        task = Task.of(module, cross_entropy, weight_decay=decay, checkpoints=moments)
        terms = list(TracIn().fit(task, train.examples).terms())
        own = [term.self_influence(train.examples).numpy() for term in track(terms, "checkpoints")]
        loss = [losses(task.at(one), train.examples).numpy() for one in moments]
        return {
            "self_influence": np.stack(own),
            "loss": np.stack(loss),
            "train_loss": training.array("train_loss"),
            "steps": training.array("steps"),
            "corrupted": train.corrupted,
            "accuracy_true": training.metrics["accuracy_true"],
        }

    return runs.once("digit_trace", dense, compute)


def trained(dense: Dense) -> runs.Run:
    """The run with the checkpoints: `params` (n_checkpoints, p), `train_loss` and `steps`."""
    plan = dense.model.fit
    if plan.momentum or plan.adam or dense.model.finish:
        raise UserError("checkpoints within an epoch need plain descent: set fit.momentum to 0")
    if plan.epochs < 2 or dense.apart < 1:
        raise UserError(
            f"fit.epochs is {plan.epochs} and apart is {dense.apart}: the first epoch is for "
            "checkpoints within it, so give at least 2 epochs, and at least 1 for apart"
        )

    def compute(scratch: Path) -> dict[str, Any]:
        model = dense.model
        train, evaluation = load_data(model.data, model.seed)
        check_shape(model, train)
        module = model.network.build(model.seed, train.n_classes).to(device())
        params, losses, steps = [], [], [0]
        for some, part in _parts(dense, train.examples):
            outcome = fit(module, cross_entropy, some, part, model.seed, scratch)
            per_epoch = -(-len(some["label"]) // part.batch_size)
            params += list(outcome["params"])
            losses += list(outcome["train_loss"][outcome["steps"] // per_epoch - 1])
            steps += list(steps[-1] + outcome["steps"])
        with torch.no_grad():
            guesses = predictions(module, evaluation.examples["image"])
        return {
            "params": np.stack(params),
            "train_loss": np.array(losses),
            "steps": np.array(steps[1:]),
            "accuracy_true": float((guesses == evaluation.true).mean()),
        }

    return runs.once("digit_dense", dense, compute)


def _parts(dense: Dense, train: Examples) -> Iterator[tuple[Examples, Fit]]:
    """The parts of a training with their plans: between checkpoints of the first epoch; the rest.

    Plain descent has no state but the parameters, so training in parts equals training in one go.
    """
    plan = dense.model.fit
    order = numpy_generator(dense.model.seed, Purpose.ORDER, plan.epochs).permutation(count(train))
    for rows in torch.from_numpy(order).split(dense.apart * plan.batch_size):
        yield take(train, rows), replace(plan, epochs=1)
    yield train, replace(plan, epochs=plan.epochs - 1)


def display(choice: Choice) -> str:
    """The name of a choice in tables and figures."""
    names = {
        All: "all",
        Last: "last",
        Early: "early",
        Steady: "steady decrease",
        Converged: "after convergence",
        Unconverged: "all before convergence",
    }
    if isinstance(choice, Proposed | Random | Even):
        return f"{type(choice).__name__.lower()} {choice.count}"
    return names[type(choice)]


def work(config: Config) -> Work:
    """What a cell takes: the training, and all its checkpoints once."""
    dense, model = config.dense, config.dense.model
    of, n, plan = models.unit(model), model.data.n_train, model.fit
    early = -(-n // (dense.apart * plan.batch_size))
    count = early + -(-(plan.epochs - 1) // plan.every)
    learned = replace(models.work(model), name="digit_dense", config=dense)
    learned = replace(learned, disk=FLOAT * of.size * count)
    steps = (*scores(TracIn(), of, n, checkpoints=count), forward(of, n * count))
    trace = Work("checkpoints", steps, (learned,), "digit_trace", dense, disk=2 * FLOAT * n * count)
    return Work("choices", (dot(1, n, count),), (trace,), gpu=False)


def table(dense: Dense, seeds: int, draws: int) -> list[Config]:
    """Every choice on every seed, with `draws` random ones."""
    choices: list[Choice] = [All(), Last(), Early(), Steady(), Converged(), Unconverged()]
    choices += [Proposed(), Even(), *(Random(draw=draw) for draw in range(draws))]
    return sweep(Config(dense), dense__model__seed=range(seeds), choice=choices)


PLAIN = Fit(epochs=61, batch_size=128, lr=0.5, momentum=0.0, every=3)
TENTH = Dense(replace(LARGE, fit=PLAIN), apart=3)
WHOLE = Dense(replace(LARGE, fit=PLAIN, data=Data(n_train=60_000, n_eval=0)), apart=27)
BUNDLED = Dense(
    replace(
        SMOKE,
        data=Data("digits", n_train=500, n_eval=500),
        fit=Fit(epochs=40, batch_size=20, lr=0.5, momentum=0.0, every=2),
    )
)
TOY = Calm(rise=0.5, lasting=0.05)  # a few steps on toy digits, whose minibatch losses swing
PRESETS: dict[str, list[Config]] = {
    "smoke": [replace(cell, calm=TOY) for cell in table(BUNDLED, 3, 2)],
    "small": table(TENTH, 10, 5),
    "paper": table(WHOLE, 10, 10),
}

EXPERIMENT = Experiment(
    "mnist_checkpoints",
    run,
    PRESETS,
    summary="mislabelled digits by TracIn's self-influence on parts of training: AUC and AP",
    columns=("auc", "ap", "loss_ap", "n_checkpoints"),
    seconds={"smoke": 14.0, "small": 4_200},
    gpu=True,
    work=work,
)


if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
