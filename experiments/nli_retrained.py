"""Classifiers trained again with a few training pairs left out: a run each, shared by content."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments import runs
from experiments.hidden import Sample
from experiments.nli_models import Model, cross_entropy, load, logits
from experiments.nli_points import examples
from experiments.problems import UserError
from experiments.training import fit
from methods.task import Examples


@dataclass(frozen=True)
class Without:
    """A classifier trained again with some training pairs left out.

    They keep their places in the order and weigh nothing: with one seed, initial parameters, order
    and dropout of all others are those of the whole set, so that what differs is what they did.
    The mean stays over the whole batch, as the derivative with respect to a weight has it.
    """

    of: Model
    removed: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Asked:
    """What a retrained classifier says of the pairs at some positions of a sample."""

    model: Without
    sample: Sample
    at: tuple[int, ...]


def asked(config: Asked) -> np.ndarray:
    """Logits (len(at), labels) of the retrained classifier; its parameters are not kept."""
    run = runs.once("nli_retrained", config, lambda scratch: _retrain(config, scratch))
    return np.asarray(run.array("logits"))


def without(of: Model, removed: np.ndarray, seed: int) -> Without:
    """The classifier without the pairs at these positions, in whatever order they come."""
    return Without(of, tuple(sorted(int(i) for i in removed)), seed)


def _retrain(config: Asked, scratch: Path) -> dict[str, Any]:
    model, base = config.model, config.model.of
    train, _ = load(base, base.train)
    weight = torch.ones(len(train["label"]))
    weight[_checked(model.removed, len(weight))] = 0.0
    module = base.network.open().top(base.labels, base.dropout, model.seed)
    outcome = fit(module, _weighed, {**train, "weight": weight}, base.fit, model.seed, scratch)
    query = examples(base, config.sample, np.array(config.at, dtype=np.int64))
    return {"logits": logits(module, query).numpy(), "train_loss": outcome["train_loss"]}


def _weighed(model: nn.Module, batch: Examples) -> Tensor:
    return batch["weight"] * cross_entropy(model, batch)


def _checked(removed: tuple[int, ...], n: int) -> list[int]:
    if len(set(removed)) < len(removed) or not all(0 <= i < n for i in removed):
        raise UserError(
            f"pairs {removed} cannot be left out of {n}: give each position from 0 to {n - 1} once"
        )
    return list(removed)
