"""Classifiers of sentence pairs: what FastIF is tried on, and what they are trained on."""

import shutil
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments.data import generated_pairs, hans, mnli
from experiments.data.pairs import Pairs
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import Run
from experiments.models.bert import Bert, Encoder, Labels, Network, TinyBert, Top
from experiments.training import models as training
from experiments.training.loop import fit
from experiments.training.plans import AdamW, CrossEntropy, Decayed, Fit
from methods.progress import track
from methods.randomness import Purpose, numpy_generator
from methods.task import Examples

# Hidden states under the trained layers, computed once: a run whose array is a column.


TRUNK_BATCH = 128
GENERATED = {"mnli train": 0, "mnli dev": 1, "hans train": 2, "hans evaluation": 3}
Source = Literal["subset", "whole", "generated"]
Which = Literal["mnli train", "mnli dev", "hans train", "hans evaluation"]


@dataclass(frozen=True)
class Sample:
    """Some pairs of a data set: `n` drawn at random, or all; of HANS as many from each subcase.

    The draw depends on nothing but these settings: every model of an experiment sees the same.
    """

    which: Which = "mnli train"
    source: Source = "subset"
    n: int | None = None

    def load(self) -> Pairs:
        """The pairs, in the order of the data set, without final stops where `subset` has none."""
        if self.n is not None and self.n < 1:
            raise UserError(f"{self.n} pairs of {self.which}: give n = 1 or more, or None for all")
        if self.source == "generated":
            if self.n is None:
                raise UserError("generated pairs need a number: set n")
            make = generated_pairs.hans if self.which.startswith("hans") else generated_pairs.mnli
            return make(self.n, GENERATED[self.which])
        whole = self._whole()
        pairs = whole.without_stops() if self.source == "subset" else whole
        return pairs if self.n is None else pairs.take(self._drawn(whole, self.n))

    def _whole(self) -> Pairs:
        if self.which == "hans train":
            return hans.load("train")
        if self.which == "hans evaluation":
            return hans.load("evaluation")
        source: mnli.Source = "subset" if self.source == "subset" else "whole"
        return mnli.load(source, "train" if self.which == "mnli train" else "dev_matched")

    def _drawn(self, pairs: Pairs, n: int) -> np.ndarray:
        names, group = np.unique(pairs.subcase, return_inverse=True)
        each = n // len(names)
        if n % len(names) or not 0 < each <= np.bincount(group).min():
            raise UserError(
                f"{n} pairs of {self.which}: give a multiple of its {len(names)} subcases, at most "
                f"{np.bincount(group).min() * len(names):,}"
            )
        order = numpy_generator(0, Purpose.SPLIT).permutation(len(pairs))
        chosen = [order[group[order] == one][:each] for one in range(len(names))]
        return np.sort(np.concatenate(chosen))


@dataclass(frozen=True)
class Hidden:
    """What the hidden states of a sample depend on."""

    network: Network
    sample: Sample


def column(network: Network, sample: Sample) -> tuple[Examples, Pairs]:
    """Examples with `hidden` (n, T, width), mapped from disk, `length` and `label` (n,); the pairs.

    The pairs carry the labels of their data set; the examples those too.
    """
    pairs = sample.load()
    config = Hidden(network, sample)
    run = runs.once("nli_hidden", config, lambda scratch: _compute(config, pairs, scratch))
    _check_weights(network, run)
    if len(run.array("length")) != len(pairs):
        raise UserError(f"{run.path} is of other pairs: remove it with `rm -r {run.path}`")
    return {
        "hidden": _mapped(run.array("hidden")),
        "length": torch.from_numpy(np.array(run.array("length"))),
        "label": torch.from_numpy(np.array(pairs.label)),
    }, pairs


def _compute(config: Hidden, pairs: Pairs, scratch: Path) -> dict[str, Any]:
    encoder = config.network.open()
    tokens = encoder.tokens(pairs)
    n, width = tokens["ids"].shape
    size = 4 * n * width * encoder.width
    free = shutil.disk_usage(scratch).free
    if 2 * size > free:
        raise UserError(
            f"hidden states of {n:,} pairs take {size / 1e9:.1f} GB, twice while they are written, "
            f"and {free / 1e9:.1f} GB are free at {scratch}: lower `length` or `n`, or set "
            "RETRACE_RESULTS to a folder on another disk"
        )
    hidden = np.lib.format.open_memmap(
        scratch / "hidden.npy", mode="w+", dtype=np.float32, shape=(n, width, encoder.width)
    )
    order = tokens["length"].argsort()
    for rows in track(list(order.split(TRUNK_BATCH)), "hidden states"):
        longest = int(tokens["length"][rows].max())
        some = {k: v[rows] if v.ndim == 1 else v[rows, :longest] for k, v in tokens.items()}
        hidden[rows.numpy(), :longest] = encoder.trunk(some).numpy()
    return {
        "hidden": hidden,
        "length": tokens["length"].numpy(),
        "weights": config.network.weights(),
    }


def _check_weights(network: Network, run: Run) -> None:
    if run.metrics["weights"] != network.weights():
        raise UserError(
            f"{run.path} was computed with other weights than are in "
            f"{getattr(network, 'folder', network)} now: put those back, or remove what was made "
            f"with them, `rm -r {run.path.parent}`"
        )


def _mapped(array: np.ndarray) -> Tensor:
    """A read-only array on disk as a tensor, without a copy; nothing here writes to columns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))


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
class Trained(training.Trained[Top]):
    """A trained classifier; `train` has its training examples, as hidden states."""

    model: Model | Simulator
    train: Examples
    pairs: Pairs


cross_entropy = CrossEntropy(("hidden", "length"))


def load(model: Model, sample: Sample) -> tuple[Examples, Pairs]:
    """The examples of a sample, with the labels that a model takes."""
    examples, pairs = column(model.network, sample)
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
    base = task_model(model)
    there = training.train_once(
        "nli_model",
        model,
        lambda: base.network.open().top(base.labels, base.dropout, model.seed),
        cross_entropy,
        partial(_train, model),
        weight_decay=base.fit.weight_decay,
        with_checkpoints=False,
    )
    train, pairs = _training_set(model)
    return Trained(**vars(there), model=model, train=train, pairs=pairs)


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


def _train(model: Model | Simulator, module: Top, scratch: Path) -> dict[str, Any]:
    train, _ = _training_set(model)
    outcome = fit(module, cross_entropy, train, task_model(model).fit, model.seed, scratch)
    return {**outcome, "accuracy_train": accuracy(module, train)}
