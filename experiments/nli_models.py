"""Classifiers of sentence pairs: what FastIF is tried on, and what they are trained on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments import hidden, runs
from experiments.data.pairs import Pairs
from experiments.hidden import Sample
from experiments.models.bert import Bert, Labels, TinyBert
from experiments.models.encoder import Encoder, Top
from experiments.problems import UserError
from experiments.runs import Run
from experiments.training import AdamW, Decayed, Fit, fit, load_params
from methods.progress import track
from methods.task import Examples, Task

BATCH = 256

FIT = Decayed(
    epochs=2, batch_size=64, lr=2e-4, momentum=0.0, weight_decay=0.005, every=2, adam=AdamW()
)


SECOND = replace(FIT, lr=1e-4)


@dataclass(frozen=True)
class Tuned:
    """A trunk that was fine-tuned before: all but the layers above `frozen` stay as they ended.

    The other fields are those of the Model that was trained first.
    """

    network: Bert | TinyBert = Bert()
    train: Sample = Sample()
    labels: Labels = 3
    fit: Fit = FIT
    dropout: float = 0.1
    seed: int = 0
    frozen: int = 5

    def open(self) -> Encoder:
        """The network with the layers of the model that was trained first."""
        return self.network.open().tuned(trained(self.first()).module, self.frozen)

    def weights(self) -> str:
        """They follow from the network's and these settings."""
        return self.network.weights()

    def first(self) -> "Model":
        """The model that was trained first."""
        return Model(self.network, self.train, self.labels, self.fit, self.dropout, self.seed)


@dataclass(frozen=True)
class Model:
    """A fine-tuned classifier; the seed draws its last layer, order and dropout."""

    network: Bert | TinyBert | Tuned = Bert()
    train: Sample = Sample()
    labels: Labels = 3
    fit: Fit = FIT
    dropout: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Simulator:
    """The same network, trained on the predictions of a task model in place of the labels."""

    of: Model = Model()
    seed: int = 1


SMOKE = Model(
    TinyBert(),
    Sample("mnli train", "generated", 300),
    fit=Decayed(
        epochs=8, batch_size=20, lr=3e-3, momentum=0.0, weight_decay=0.005, every=8, adam=AdamW()
    ),
)

PAPER = Model(  # what the paper leaves out is as its released code has it
    Bert("bert-base-cased", frozen=10, length=128),
    Sample("mnli train", "whole"),
    fit=replace(FIT, epochs=10, batch_size=512, lr=2e-5, every=10),
)


def small(labels: Labels = 3, seed: int = 0) -> Model:
    """The small tier's model: its last encoder layer trained again on a trunk tuned before.

    A sixth of the encoder's layers is differentiated, as in the paper (two of twelve). The trunk
    is the same for every seed.
    """
    return Model(Tuned(labels=labels), labels=labels, fit=SECOND, seed=seed)


@dataclass(frozen=True)
class Trained:
    """A trained classifier; `train` has its training examples, as hidden states."""

    model: Model | Simulator
    module: Top
    task: Task
    train: Examples
    pairs: Pairs
    metrics: dict[str, Any]


def cross_entropy(model: nn.Module, batch: Examples) -> Tensor:
    """Negative log-likelihood of the given label in nats, (b,)."""
    logits = model(batch["hidden"], batch["length"])
    return F.cross_entropy(logits, batch["label"], reduction="none")


def load(model: Model, sample: Sample) -> tuple[Examples, Pairs]:
    """The examples of a sample, with the labels that a model takes."""
    examples, pairs = hidden.column(model.network, sample)
    if model.labels == 2:
        pairs = pairs.two_way()
    if len(pairs.classes) != model.labels:
        raise UserError(
            f"{sample.which} has the labels {', '.join(pairs.classes)}, the model {model.labels}: "
            f"set labels to {len(pairs.classes)}"
        )
    return {**examples, "label": torch.from_numpy(np.array(pairs.label))}, pairs


def task_model(model: Model | Simulator) -> Model:
    """The model whose settings both share."""
    return model.of if isinstance(model, Simulator) else model


def trained(model: Model | Simulator) -> Trained:
    """The trained model, training it if no run has it yet."""
    run = runs.once("nli_model", model, lambda scratch: _train(model, scratch))
    train, pairs = _training_set(model)
    module = _built(model)
    load_params(module, np.asarray(run.array("params")[-1]))
    module.requires_grad_(False)
    decay = task_model(model).fit.weight_decay
    task = Task.of(module, cross_entropy, weight_decay=decay)
    return Trained(model, module, task, train, pairs, run.metrics)


@dataclass(frozen=True)
class Pass:
    """One forward pass of a trained model over a sample."""

    model: Model | Simulator
    sample: Sample


def passed(model: Model | Simulator, sample: Sample) -> Run:
    """A run with `features` (n, width), what the classifier sees, and `logits` (n, labels)."""
    config = Pass(model, sample)
    return runs.once("nli_pass", config, lambda scratch: _pass(config))


@torch.no_grad()
def logits(module: Top, examples: Examples) -> Tensor:
    """Logits (n, labels), longest pairs last so that little is padded."""
    order = examples["length"].argsort(stable=True)
    out: Tensor | None = None
    for rows in track(list(order.split(BATCH)), "predictions"):
        found = module(examples["hidden"][rows], examples["length"][rows])
        out = found.new_empty(len(order), found.shape[1]) if out is None else out
        out[rows] = found
    if out is None:
        raise UserError("no examples to predict: give a slice that has some")
    return out


def accuracy(module: Top, examples: Examples) -> float:
    """Share of examples whose label is predicted."""
    return float((logits(module, examples).argmax(1) == examples["label"]).float().mean())


def _pass(config: Pass) -> dict[str, Any]:
    there = trained(config.model)
    examples, _ = load(task_model(config.model), config.sample)
    order = examples["length"].argsort(stable=True)
    n, width = len(order), there.module.classifier.in_features
    features = torch.empty(n, width)
    with torch.no_grad():
        for rows in track(list(order.split(BATCH)), "features"):
            features[rows] = there.module.features(
                examples["hidden"][rows], examples["length"][rows]
            )
        found = there.module.classifier(features)
    same = float((found.argmax(1) == examples["label"]).float().mean())
    return {"features": features.numpy(), "logits": found.numpy(), "accuracy": same}


def _training_set(model: Model | Simulator) -> tuple[Examples, Pairs]:
    base = task_model(model)
    train, pairs = load(base, base.train)
    if isinstance(model, Simulator):
        predicted = np.asarray(passed(model.of, base.train).array("logits")).argmax(1)
        return {**train, "label": torch.from_numpy(predicted)}, replace(pairs, label=predicted)
    return train, pairs


def _built(model: Model | Simulator) -> Top:
    base = task_model(model)
    return base.network.open().top(base.labels, base.dropout, model.seed)


def _train(model: Model | Simulator, scratch: Path) -> dict[str, Any]:
    train, _ = _training_set(model)
    module, base = _built(model), task_model(model)
    outcome = fit(module, cross_entropy, train, base.fit, model.seed, scratch)
    return {
        **outcome,
        "accuracy_train": accuracy(module, train),
        "num_params": sum(p.numel() for p in module.parameters()),
    }
