"""The last two layers of a classifier as a task of their own: so few parameters that all is exact.

What enters them, the first token after the last encoder layer, is computed once and a column.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments import runs
from experiments.hidden import Sample
from experiments.models.encoder import Top
from experiments.nli_curvature import Curvature, curvature, measure
from experiments.nli_models import BATCH, Model, load, task_model, trained
from methods.progress import track
from methods.task import Examples, Task


class Head(nn.Module):
    """Pooler and classifier: first token (b, width) to logits, the same as the whole model's."""

    def __init__(self, top: Top) -> None:
        super().__init__()
        self.pooler, self.classifier = top.pooler, top.classifier

    def forward(self, first: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pooler(first[:, None]))
        return logits


def cross_entropy(model: nn.Module, batch: Examples) -> Tensor:
    """Negative log-likelihood of the given label in nats, (b,)."""
    return F.cross_entropy(model(batch["first"]), batch["label"], reduction="none")


@dataclass(frozen=True)
class First:
    """The first token of each pair of a sample after the last layer of a model."""

    model: Model
    sample: Sample


def column(model: Model, sample: Sample) -> Examples:
    """Examples with `first` (n, width) and `label` (n,)."""
    config = First(model, sample)
    run = runs.once("nli_first", config, lambda scratch: _compute(config))
    examples, _ = load(task_model(model), sample)
    return {"first": torch.from_numpy(np.array(run.array("first"))), "label": examples["label"]}


@torch.no_grad()
def _compute(config: First) -> dict[str, Any]:
    there = trained(config.model)
    examples, _ = load(task_model(config.model), config.sample)
    order = examples["length"].argsort(stable=True)
    first = torch.empty(len(order), there.module.classifier.in_features)
    for rows in track(list(order.split(BATCH)), "first tokens"):
        first[rows] = there.module.first(examples["hidden"][rows], examples["length"][rows])
    return {"first": first.numpy()}


@dataclass(frozen=True)
class HeadAlone:
    """Differentiate pooler and classifier alone."""

    def task(self, model: Model) -> Task:
        """The task of the loss as a function of the head."""
        head = Head(trained(model).module).eval()
        return Task.of(head, cross_entropy, weight_decay=model.fit.weight_decay)

    def examples(self, model: Model, sample: Sample) -> Examples:
        """The pairs of a sample, as the head takes them."""
        return column(model, sample)

    def curvature(self, model: Model, sample: int) -> runs.Run:
        """The curvature of the head's training loss, at minibatches of `sample`."""
        config = Curvature(model, sample=sample)

        def compute(_: Path) -> dict[str, Any]:
            return measure(self.task(model), self.examples(model, model.train), config)

        return runs.once("nli_head_curvature", config, compute)


@dataclass(frozen=True)
class Everything:
    """Differentiate all that was trained."""

    def task(self, model: Model) -> Task:
        """The task of the trained model."""
        return trained(model).task

    def examples(self, model: Model, sample: Sample) -> Examples:
        """The pairs of a sample, as hidden states."""
        return load(model, sample)[0]

    def curvature(self, model: Model, sample: int) -> runs.Run:
        """The curvature of the training loss, at minibatches of `sample`."""
        return curvature(model, sample)


Part = HeadAlone | Everything
