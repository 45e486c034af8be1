"""Which checkpoints to trace: mislabelled digits found by TracIn on parts of a training run.

Tests Sec. D of TracIn's appendix (Pruthi et al., 2020), which gives advice and no experiment:
take checkpoints where the loss decreases steadily, more of them where it falls faster, none while
it fluctuates at the beginning, few after it has converged, more than the last one. Where those
phases are is read off the training loss alone, by methods/checkpoints.py; 20% of the labels are
wrong before training, and no set of checkpoints knows which.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from experiments.digits.models import LARGE, SMOKE, Data, Model, check_shape, load_data, predictions
from experiments.laboratory import runs
from experiments.laboratory.attribution import losses
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.training.loop import fit
from experiments.training.models import checkpoints
from experiments.training.plans import Fit, cross_entropy
from methods.progress import track
from methods.randomness import Purpose, numpy_generator
from methods.task import Examples, Task, count, take
from methods.tracin import Phases, TracIn, evenly, phases, propose

# A digit classifier with checkpoints from its first steps to past convergence, all traced.


@dataclass(frozen=True)
class Dense:
    """A model trained with checkpoints `apart` steps from each other during the first epoch.

    From then on they are as the model's own settings say. Only plain descent will do: momentum
    would restart at each checkpoint of the first epoch.
    """

    model: Model
    apart: int = 2


def traced(dense: Dense) -> runs.Run:
    """The run with what each of (n_checkpoints) moments of training says of each example.

    `self_influence` (n_checkpoints, n_train), times the learning rate; `loss` likewise, for the
    label given to training; `train_loss` (n_checkpoints,), the mean while training over the last
    epoch, or part of the first, before the checkpoint; `steps` (n_checkpoints,); `corrupted`
    (n_train,).
    """

    def compute(_scratch: Path) -> dict[str, Any]:
        model = dense.model
        train, _ = load_data(model.data, model.seed)
        kept = trained(dense)
        module = model.network.build(model.seed)
        params = kept.array("params")
        moments = checkpoints(module, params, np.full(len(params), model.fit.lr))
        decay = model.fit.weight_decay
        task = Task.of(module, cross_entropy, weight_decay=decay, checkpoints=moments)
        terms = list(TracIn().fit(task, train.examples).terms())
        own = [term.self_influence(train.examples).numpy() for term in track(terms, "checkpoints")]
        loss = [losses(task.at(one), train.examples).numpy() for one in moments]
        return {
            "self_influence": np.stack(own),
            "loss": np.stack(loss),
            "train_loss": kept.array("train_loss"),
            "steps": kept.array("steps"),
            "corrupted": train.corrupted,
            "accuracy_true": kept.metrics["accuracy_true"],
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
            "checkpoints within it, so give 2 epochs at least, and apart 1 at least"
        )

    def compute(scratch: Path) -> dict[str, Any]:
        model = dense.model
        train, evaluation = load_data(model.data, model.seed)
        check_shape(model, train)
        module = model.network.build(model.seed)
        params, losses, steps = [], [], [0]
        for some, part in _parts(dense, train.examples):
            found = fit(module, cross_entropy, some, part, model.seed, scratch)
            per_epoch = -(-len(some["label"]) // part.batch_size)
            params += list(found["params"])
            losses += list(found["train_loss"][found["steps"] // per_epoch - 1])
            steps += list(steps[-1] + found["steps"])
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
    """The examples between two checkpoints of the first epoch, one after the other; then the rest.

    Each with how to learn them: plain descent keeps no state but the parameters, so that training
    in parts is training in one.
    """
    plan = dense.model.fit
    order = numpy_generator(dense.model.seed, Purpose.ORDER, plan.epochs).permutation(count(train))
    for rows in torch.from_numpy(order).split(dense.apart * plan.batch_size):
        yield take(train, rows), replace(plan, epochs=1)
    yield train, replace(plan, epochs=plan.epochs - 1)


COUNT = 5  # checkpoints proposed; as many at random, and evenly spaced, are the controls


@dataclass(frozen=True)
class All:
    """Every checkpoint there is."""


@dataclass(frozen=True)
class Last:
    """The last one alone."""


@dataclass(frozen=True)
class Early:
    """Those before the loss has settled."""


@dataclass(frozen=True)
class Steady:
    """Those of the steady decrease."""


@dataclass(frozen=True)
class Converged:
    """Those after the loss has converged."""


@dataclass(frozen=True)
class Unconverged:
    """All but those after the loss has converged."""


@dataclass(frozen=True)
class Proposed:
    """`count` of the steady decrease, densest where the loss falls fastest."""

    count: int = COUNT


@dataclass(frozen=True)
class Random:
    """`count` of all, at random: a control of `Proposed`."""

    count: int = COUNT
    draw: int = 0


@dataclass(frozen=True)
class Even:
    """`count` evenly spaced in steps, to the last, as is usual: another control of `Proposed`."""

    count: int = COUNT


Choice = All | Last | Early | Steady | Converged | Unconverged | Proposed | Random | Even


@dataclass(frozen=True)
class Config:
    dense: Dense
    choice: Choice = All()


def run(config: Config, scratch: Path) -> dict[str, Any]:
    kept = traced(config.dense)
    curve, steps = kept.array("train_loss"), kept.array("steps")
    found = phases(curve, steps)
    chosen = positions(config, curve, steps, found)
    own, losses = (np.array(kept.array(name)) for name in ("self_influence", "loss"))
    corrupted = np.array(kept.array("corrupted"))
    outcome = {
        "method": display(config.choice),
        "n_checkpoints": len(chosen),
        "settled": found.settled,
        "converged": found.converged,
        "chance_ap": float(corrupted.mean()),
        "accuracy_true": kept.metrics["accuracy_true"],
        "positions": chosen,
        "train_loss": np.array(curve),
        "steps": np.array(steps),
        "self_influence_mean": own.mean(1),
        "ap_each": np.array([average_precision_score(corrupted, one) for one in own]),
    }
    if len(chosen):
        for name, values in (("", own), ("loss_", losses)):
            scores = values[chosen].sum(0)
            outcome[f"{name}auc"] = float(roc_auc_score(corrupted, scores))
            outcome[f"{name}ap"] = float(average_precision_score(corrupted, scores))
    return outcome


def positions(config: Config, curve: np.ndarray, steps: np.ndarray, found: Phases) -> np.ndarray:
    """Which checkpoints a choice takes, ascending; none where the loss has no such phase."""
    n, choice = len(curve), config.choice
    everything = np.arange(n)
    match choice:
        case All():
            return everything
        case Last():
            return everything[-1:]
        case Early():
            return everything[: found.settled]
        case Steady():
            return everything[found.settled : found.converged]
        case Converged():
            return everything[found.converged :]
        case Unconverged():
            return everything[: found.converged]
        case Proposed():
            return propose(curve, choice.count, steps)
        case Even():
            return evenly(steps, choice.count)
        case Random():
            draw = numpy_generator(config.dense.model.seed, "checkpoints", choice.draw)
            return np.sort(draw.choice(n, choice.count, replace=False))


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


def table(dense: Dense, seeds: int, draws: int) -> list[Config]:
    """Every choice on every seed, and `draws` random sets of each."""
    choices: list[Choice] = [All(), Last(), Early(), Steady(), Converged(), Unconverged()]
    choices += [Proposed(), Even(), *(Random(draw=draw) for draw in range(draws))]
    models = [replace(dense, model=replace(dense.model, seed=seed)) for seed in range(seeds)]
    return [Config(model, choice) for model in models for choice in choices]


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
PRESETS: dict[str, list[Config]] = {
    "smoke": table(BUNDLED, 3, 2),
    "small": table(TENTH, 3, 5),
    "paper": table(WHOLE, 5, 10),
}

EXPERIMENT = Experiment(
    "mnist_checkpoints",
    run,
    PRESETS,
    summary="mislabelled digits by TracIn's self-influence on parts of training: AUC and AP",
    columns=("auc", "ap", "loss_ap", "n_checkpoints"),
    seconds={"smoke": 14.0, "small": 1_250},
)


if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
