"""Classifiers of sentence pairs (MultiNLI, HANS), and the samples they are trained on.

The lower layers of a classifier are frozen. What leaves them, the hidden states of every sample, is
computed once as a run; training and influence computations read it as a column.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments.data import generated_pairs, hans, mnli
from experiments.data.pairs import Pairs
from experiments.laboratory import counting, runs
from experiments.laboratory.counting import FLOAT
from experiments.laboratory.device import device, on_device
from experiments.laboratory.errors import UserError, quoted
from experiments.laboratory.runs import Run
from experiments.laboratory.tensors import fits, mapped
from experiments.laboratory.work import Step, Unit, Work
from experiments.models.bert import (
    TRUNK_BATCH,
    Bert,
    Encoder,
    Labels,
    Network,
    States,
    Streamed,
    TinyBert,
    Top,
)
from experiments.training import models as training
from experiments.training.loop import fit
from experiments.training.plans import AdamW, CrossEntropy, Decayed, Fit
from methods.examples import Examples, take
from methods.precision import full_precision
from methods.progress import track
from methods.randomness import Purpose, numpy_generator

BATCH = 256  # pairs a pass through the trained layers
GENERATED_SEED = {"mnli train": 0, "mnli dev": 1, "hans train": 2, "hans evaluation": 3}
Source = Literal["subset", "whole", "generated"]
Which = Literal["mnli train", "mnli dev", "hans train", "hans evaluation"]

FIT = Decayed(
    epochs=2, batch_size=64, lr=2e-4, momentum=0.0, weight_decay=0.005, every=2, adam=AdamW()
)
SECOND = replace(FIT, lr=1e-4)  # of the last layer, trained again


@dataclass(frozen=True)
class Sample:
    """Pairs of a data set: `n` at random, equally many of each subcase of HANS, or all.

    The draw depends only on these settings, so all models of an experiment see the same pairs.
    """

    which: Which = "mnli train"
    source: Source = "subset"
    n: int | None = None

    def load(self) -> Pairs:
        """The pairs in the order of the data set; those of `subset` without final stops."""
        if self.n is not None and self.n < 1:
            raise UserError(f"{self.n} pairs of {self.which}: give n = 1 or more, or None for all")
        if self.source == "generated":
            if self.n is None:
                raise UserError("generated pairs need a number: set n")
            of_hans = self.which.startswith("hans")
            generate = generated_pairs.hans if of_hans else generated_pairs.mnli
            return generate(self.n, GENERATED_SEED[self.which])
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
        chosen = [order[group[order] == subcase][:each] for subcase in range(len(names))]
        return np.sort(np.concatenate(chosen))


@dataclass(frozen=True)
class Hans:
    """Pairs to learn from, and pairs to evaluate on."""

    train: Sample
    evaluation: Sample


def hans_pairs(source: Source, n_train: int | None = None, n_evaluation: int | None = None) -> Hans:
    """Pairs of HANS; those of `subset` are without final stops, as in the subset of MultiNLI.

    `generated` pairs are those of the generated language that have the traps of HANS.
    """
    return Hans(
        Sample("hans train", source, n_train), Sample("hans evaluation", source, n_evaluation)
    )


WHOLE_HANS = hans_pairs("whole")


@dataclass(frozen=True)
class Tuned:
    """A network with fine-tuned lower layers: those of a Model trained before, `frozen` of them.

    The other fields are those of that Model.
    """

    network: Bert | TinyBert = Bert()
    train: Sample = Sample()
    labels: Labels = 3
    fit: Fit = FIT
    dropout: float = 0.1
    seed: int = 0
    frozen: int = 5

    def open(self) -> Encoder:
        """The network with the layers of the model that was trained before."""
        return self.network.open().tuned(trained(self.first()).module, self.frozen)

    def shaped(self) -> Encoder:
        """The network without weights, `frozen` of its layers frozen."""
        encoder = self.network.shaped()
        return Encoder(encoder.model, self.frozen, encoder.length, encoder._tokens)

    def weights(self) -> str:
        """The checksum of the network: these settings determine the rest."""
        return self.network.weights()

    def first(self) -> "Model":
        """The model that was trained before."""
        return Model(self.network, self.train, self.labels, self.fit, self.dropout, self.seed)


@dataclass(frozen=True)
class Model:
    """A fine-tuned classifier; the seed draws its last layer, order and dropout."""

    network: Bert | TinyBert | Tuned | Streamed = Bert()
    train: Sample = Sample()
    labels: Labels = 3
    fit: Fit = FIT
    dropout: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Simulator:
    """The network of a task model, trained on that model's predictions in place of the labels."""

    of: Model = Model()
    seed: int = 1


SMOKE = Model(
    TinyBert(),
    Sample("mnli train", "generated", 300),
    fit=Decayed(
        epochs=8, batch_size=20, lr=3e-3, momentum=0.0, weight_decay=0.005, every=8, adam=AdamW()
    ),
)

# Settings that the paper does not state are those of its released code. Influence is that of the
# trained model, in float32: it does not depend on the precision of training and of frozen layers.
PAPER = Model(
    Streamed(Bert("bert-base-cased", frozen=10, length=128)),
    Sample("mnli train", "whole"),
    fit=replace(FIT, epochs=10, batch_size=512, lr=2e-5, every=10, precision="bf16"),
)


def small(labels: Labels = 3, seed: int = 0) -> Model:
    """The small tier's model: the last encoder layer, trained again on tuned lower layers.

    One of six layers is differentiated, as two of twelve in the paper. Seeds share lower layers.
    """
    return Model(Tuned(labels=labels), labels=labels, fit=SECOND, seed=seed)


SMOKE_TWO, SMALL_TWO, PAPER_TWO = replace(SMOKE, labels=2), small(2), replace(PAPER, labels=2)


SIZE = {  # pairs of a whole set, and of the subset of MultiNLI
    ("mnli train", "whole"): 392_702,
    ("mnli train", "subset"): 6_000,
    ("mnli dev", "whole"): 9_815,
    ("mnli dev", "subset"): 1_999,
}
USUAL = 40  # tokens of a pair of MultiNLI, special ones included


def pairs_of(sample: Sample) -> int:
    """The number of pairs of a sample, without reading them; HANS has 30,000 in either part."""
    return sample.n or SIZE.get((sample.which, sample.source), 30_000)


@dataclass(frozen=True)
class Hidden:
    """The settings that the hidden states of a sample depend on."""

    network: Network
    sample: Sample


def column(network: Network, sample: Sample) -> tuple[Examples, Pairs]:
    """Examples with `hidden` (n, T, width), `length` and `label` (n,); and the pairs.

    Both have the labels of the data set. The hidden states are on the device where they fit. Others
    are mapped from disk, or, of a `Streamed` network, computed as they are read.
    """
    pairs = sample.load()
    config = Hidden(network, sample)
    streamed = isinstance(network, Streamed)
    name, compute = ("nli_tokens", _tokens) if streamed else ("nli_hidden", _hidden_states)
    run = runs.once(name, config, lambda scratch: compute(config, pairs, scratch))
    _check_weights(network, run)
    if len(run.array("length")) != len(pairs):
        raise UserError(
            f"{quoted(run.path)} has other pairs: remove it with `rm -r {quoted(run.path)}`"
        )
    hidden: Any = (
        _streamed(network, run.path, device()) if streamed else _stored(run.path, device())
    )
    return {
        "hidden": hidden,
        "length": torch.from_numpy(np.array(run.array("length"))),
        "label": torch.from_numpy(np.array(pairs.label)),
    }, pairs


@cache
def _stored(path: Path, place: torch.device) -> Tensor:
    """The hidden states of a run: on the device where they fit, else mapped from disk."""
    hidden = mapped(Run.at(path).array("hidden"))
    return hidden.to(place) if fits(hidden.nbytes, place) else hidden


@cache
def _streamed(network: Network, path: Path, place: torch.device) -> States:
    """The hidden states of a run's tokens."""
    run = Run.at(path)
    tokens = {n: torch.from_numpy(np.array(run.array(n))) for n in ("ids", "types", "length")}
    return States(network.open(), tokens, f"{run.key} {run.metrics['weights']}")


def _tokens(config: Hidden, pairs: Pairs, scratch: Path) -> dict[str, Any]:
    tokens = config.network.open().tokens(pairs)
    return {
        "ids": tokens["ids"].int().numpy(),
        "types": tokens["types"].to(torch.int8).numpy(),
        "length": tokens["length"].numpy(),
        "weights": config.network.weights(),
    }


def _hidden_states(config: Hidden, pairs: Pairs, scratch: Path) -> dict[str, Any]:
    encoder = config.network.open().to(device())
    tokens = encoder.tokens(pairs)
    n, width = tokens["ids"].shape
    size = 4 * n * width * encoder.width
    free = shutil.disk_usage(scratch).free
    if 2 * size > free:
        raise UserError(
            f"hidden states of {n:,} pairs take {size / 1e9:.1f} GB, twice while they are written, "
            f"and {free / 1e9:.1f} GB are free at {quoted(scratch)}: lower `length` or `n`, set "
            "RETRACE_RESULTS to a folder on another disk, or choose a Streamed network, which "
            "stores none"
        )
    hidden = np.lib.format.open_memmap(
        scratch / "hidden.npy", mode="w+", dtype=np.float32, shape=(n, width, encoder.width)
    )
    order = tokens["length"].argsort()
    for rows in track(list(order.split(TRUNK_BATCH)), "hidden states"):
        longest = int(tokens["length"][rows].max())
        batch = {k: v[rows] if v.ndim == 1 else v[rows, :longest] for k, v in tokens.items()}
        hidden[rows.numpy(), :longest] = encoder.trunk(batch).cpu().numpy()
    return {
        "hidden": hidden,
        "length": tokens["length"].numpy(),
        "weights": config.network.weights(),
    }


def _check_weights(network: Network, run: Run) -> None:
    if run.metrics["weights"] != network.weights():
        raise UserError(
            f"{quoted(run.path)} was computed with other weights than "
            f"{getattr(network, 'folder', network)} has now: put those back, or remove the runs "
            f"made with them, `rm -r {quoted(run.path.parent)}`"
        )


@dataclass(frozen=True)
class Trained(training.Trained[Top]):
    """A trained classifier; `train` has its training examples, as hidden states."""

    model: Model | Simulator
    train: Examples
    pairs: Pairs


cross_entropy = CrossEntropy(("hidden", "length"))


def load(model: Model, sample: Sample) -> tuple[Examples, Pairs]:
    """The examples of a sample, with two labels or three as the model has, and the pairs."""
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
    """A model itself, or the task model of a simulator."""
    return model.of if isinstance(model, Simulator) else model


def trained(model: Model | Simulator) -> Trained:
    """The trained model, training it if no run has it yet."""
    base = task_model(model)
    classifier = training.train_once(
        "nli_model",
        model,
        lambda: base.network.open().top(base.labels, base.dropout, model.seed),
        cross_entropy,
        partial(_train, model),
        weight_decay=base.fit.weight_decay,
        with_checkpoints=False,
    )
    train, pairs = _training_set(model)
    return Trained(**vars(classifier), model=model, train=train, pairs=pairs)


@dataclass(frozen=True)
class Pass:
    """One forward pass of a trained model over a sample."""

    model: Model | Simulator
    sample: Sample


def passed(model: Model | Simulator, sample: Sample) -> Run:
    """A run with `features` (n, width), the classifier's inputs, and `logits` (n, labels)."""

    def compute(_scratch: Path) -> dict[str, Any]:
        module = trained(model).module
        examples, _ = load(task_model(model), sample)
        features = in_batches(module.features, examples, "features")
        with torch.no_grad():
            predicted = module.classifier(features.to(device())).cpu()
        right = float((predicted.argmax(1) == examples["label"]).float().mean())
        return {"features": features.numpy(), "logits": predicted.numpy(), "accuracy": right}

    return runs.once("nli_pass", Pass(model, sample), compute)


def logits(module: Top, examples: Examples) -> Tensor:
    """Logits (n, labels) of all examples."""
    return in_batches(module, examples, "predictions")


@torch.no_grad()
@full_precision()
def in_batches(
    function: Callable[[Tensor, Tensor], Tensor], examples: Examples, title: str
) -> Tensor:
    """Rows of a function of hidden states and lengths on the device, in the CPU's memory.

    Batches are of similar length, so little is padded. The title is that of the progress bar.
    """
    order = examples["length"].argsort(stable=True)
    if not len(order):
        raise UserError("no examples to predict: choose a part of the sample that has some")
    batches = []
    for rows in track(list(order.split(BATCH)), title):
        batch = on_device(take(examples, rows))
        batches.append(function(batch["hidden"], batch["length"]))
    return torch.cat(batches).cpu()[order.argsort()]


def accuracy(module: Top, examples: Examples) -> float:
    """Share of examples whose label is predicted."""
    return float((logits(module, examples).argmax(1) == examples["label"]).float().mean())


def _training_set(model: Model | Simulator) -> tuple[Examples, Pairs]:
    base = task_model(model)
    train, pairs = load(base, base.train)
    if isinstance(model, Simulator):
        predicted = np.asarray(passed(model.of, base.train).array("logits")).argmax(1)
        return {**train, "label": torch.from_numpy(predicted)}, replace(pairs, label=predicted)
    return train, pairs


def _train(model: Model | Simulator, module: Top, scratch: Path) -> dict[str, Any]:
    train, _ = _training_set(model)
    results = fit(module, cross_entropy, train, task_model(model).fit, model.seed, scratch)
    return {**results, "accuracy_train": accuracy(module, train)}


@cache
def encoder_of(network: Network) -> tuple[int, int, int]:
    """Frozen layers, width, and the most tokens of a pair."""
    encoder = network.shaped()
    return encoder.frozen, encoder.width, encoder.length


@cache
def unit(network: Network, labels: Labels) -> Unit:
    """A pass of the trained layers over the hidden states of a usual pair."""
    _, width, longest = encoder_of(network)
    tokens = min(USUAL, longest)
    columns = {
        "hidden": ((tokens, width), torch.float32),
        "length": ((), torch.int64),
        "label": ((), torch.int64),
    }
    return counting.unit(lambda: network.shaped().top(labels, 0.0, 0), cross_entropy, columns)


def hidden_work(network: Network, sample: Sample) -> Work:
    """What the hidden states of a sample take: 12 width^2 weights a frozen layer, and attention."""
    n, (frozen, width, longest) = pairs_of(sample), encoder_of(network)
    tokens = min(USUAL, longest)
    layer = 24 * width**2 + 4 * tokens * width
    operations = TRUNK_BATCH * tokens * frozen * layer
    times = max(1, n / TRUNK_BATCH)
    if isinstance(network, Streamed):  # computed anew by whoever reads them, kept in memory
        step = Step(operations, 12 * frozen, times, "bf16")
        return Work("hidden states", (step,), memory=FLOAT / 2 * n * tokens * width)
    step = Step(operations, 12 * frozen, times)
    parts = (work(network.first()),) if isinstance(network, Tuned) else ()
    disk, wanted = FLOAT * n * longest * width, Hidden(network, sample)
    return Work("hidden states", (step,), parts, "nli_hidden", wanted, disk=disk, scratch=disk)


def work(model: Model | Simulator) -> Work:
    """What training takes, with the hidden states."""
    base = task_model(model)
    parts: tuple[Work, ...] = (hidden_work(base.network, base.train),)
    if isinstance(model, Simulator):
        parts += (pass_work(model.of, base.train),)
    of, n = unit(base.network, base.labels), pairs_of(base.train)
    label = f"{of.size:,} parameters of BERT"
    return training.training_work("nli_model", model, of, n, base.fit, label, parts=parts, scored=n)


def pass_work(model: Model | Simulator, sample: Sample) -> Work:
    """What one forward pass over a sample takes, with the model and the hidden states."""
    base, n = task_model(model), pairs_of(sample)
    of = unit(base.network, base.labels)
    parts = work(model), hidden_work(base.network, sample)
    step = counting.forward(of, n)
    return Work("passes", (step,), parts, "nli_pass", Pass(model, sample), disk=FLOAT * n * 800)
