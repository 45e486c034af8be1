"""A digit classifier with checkpoints from its first steps to past convergence, all traced."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import runs
from experiments.digit_models import Model, check_shape, load_data, predictions
from experiments.losses import cross_entropy
from experiments.problems import UserError
from experiments.seeds import Purpose, generator
from experiments.training import Fit, fit, load_params
from methods.progress import track
from methods.task import Checkpoint, Examples, Task, chunks, count, take
from methods.tracin import TracIn

CHUNK = 500  # examples whose losses are taken at a time


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
        checkpoints = []
        for row in kept.array("params"):
            load_params(module, np.array(row))
            params = {name: p.detach().clone() for name, p in module.named_parameters()}
            checkpoints.append(Checkpoint(params, model.fit.lr))
        decay = model.fit.weight_decay
        task = Task.of(module, cross_entropy, weight_decay=decay, checkpoints=checkpoints)
        terms = list(TracIn().fit(task, train.examples).terms())
        own = [term.self_influence(train.examples).numpy() for term in track(terms, "checkpoints")]
        losses = [_losses(task.at(one), train.examples) for one in checkpoints]
        return {
            "self_influence": np.stack(own),
            "loss": np.stack(losses),
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
    order = generator(dense.model.seed, Purpose.ORDER, plan.epochs).permutation(count(train))
    for rows in torch.from_numpy(order).split(dense.apart * plan.batch_size):
        yield take(train, rows), replace(plan, epochs=1)
    yield train, replace(plan, epochs=plan.epochs - 1)


@torch.no_grad()
def _losses(task: Task, train: Examples) -> np.ndarray:
    pieces = [task.loss(task.params, some) for some in chunks(train, CHUNK)]
    return torch.cat(pieces).numpy()
