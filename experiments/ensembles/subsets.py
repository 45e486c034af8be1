"""Ensembles of networks trained on random subsets.

An ensemble is trained in parts of `stack` networks, each a run of its own: jobs of an array train
some of them, and any job that needs the ensemble gathers them, in any order. For each network are
stored its mask, whether it classifies each example correctly (one bit each), and the probability of
the correct class (in 255ths), for training examples first, then for queries.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments.data import cifar, cifar100, digits, labels
from experiments.laboratory import provenance, runs
from experiments.laboratory.device import device, on_device
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import Run
from experiments.models.digits_mlp import DigitsMLP
from experiments.models.inception import SmallInception
from experiments.models.resnet import ResNet
from experiments.models.strided_cnn import StridedCNN
from experiments.training.augmentation import CropAndFlip, augmented
from experiments.training.plans import Fit, Loss, Stepped, cross_entropy
from experiments.training.stacked import Stack, fit_stack
from methods.ensembles.masks import Packed, draw_masks
from methods.ensembles.subset import influence, memorization
from methods.randomness import stream
from methods.task import Examples, chunks, take
from methods.workers import here

STEPS = 255  # of a probability
CHUNK = 500  # examples in a forward pass of a trained stack
MEMORIZED = 0.25  # Subsets, App. E, counts pairs whose training example is memorized more than this


@dataclass(frozen=True)
class Data:
    """Random examples: from the training split to train on, from the test split as queries."""

    source: Literal["digits", "mnist", "jpeg", "original", "cifar100"] = "mnist"
    n_train: int = 2_000
    n_query: int = 2_000
    seed: int = 0


@dataclass(frozen=True)
class Ensemble:
    """Networks, each trained on a random share `inside` of the examples.

    `seed` draws the masks; another `restart` changes only initial parameters, order, augmentation.
    """

    network: DigitsMLP | StridedCNN | ResNet | SmallInception = DigitsMLP()
    data: Data = Data()
    fit: Fit = Fit(epochs=20, batch_size=50, lr=0.05)
    augment: CropAndFlip | None = None
    inside: float = 0.7
    stack: int = 50
    seed: int = 0
    restart: int = 0


@dataclass(frozen=True)
class Part:
    """The networks of an ensemble from number `first` on, `stack` of them."""

    ensemble: Ensemble
    first: int = 0


@dataclass(frozen=True)
class Outcomes:
    """The stored part of an ensemble: masks, correctness, probabilities of the right class."""

    masks: Packed
    right: Packed
    probability: np.ndarray
    """(n_models, n_train + n_query) uint8, in 255ths."""
    n_train: int

    def memorized(self) -> Tensor:
        """Which training examples are memorized by more than MEMORIZED, (n_train,) bool."""
        return memorization(self.masks, self.right.unpacked()[:, : self.n_train]) > MEMORIZED

    def soft_influence(self, models: np.ndarray, n_query: int | None = None) -> Tensor:
        """Influence on the probability of the right class, by some models, (n_query, n_train)."""
        masks = Packed(self.masks.bits[models], self.masks.width)
        steps = self.probability[models][:, self.n_train :][:, :n_query]
        return influence(masks, torch.from_numpy(steps).double() / STEPS)


def parts(ensemble: Ensemble, n_models: int) -> list[Part]:
    """The parts that make up the first `n_models` of an ensemble."""
    if n_models % ensemble.stack:
        raise UserError(
            f"{n_models} models do not fill stacks of {ensemble.stack}: give a multiple of it"
        )
    return [Part(ensemble, first) for first in range(0, n_models, ensemble.stack)]


def part(one: Part) -> Run:
    """The run of a part; if there is none, all started processes train it together."""
    return runs.once("ensemble_part", one, lambda scratch: _train(one, scratch), agree=here().all)


def gathered(ensemble: Ensemble, n_models: int) -> Outcomes:
    """The first `n_models` of an ensemble; missing parts are trained now."""
    trained = [part(one) for one in parts(ensemble, n_models)]
    data = ensemble.data
    masks, right, probability = (
        np.concatenate([run.array(name) for run in trained])
        for name in ("masks", "right", "probability")
    )
    width = data.n_train + data.n_query
    return Outcomes(Packed(masks, data.n_train), Packed(right, width), probability, data.n_train)


@provenance.remembered
def load(data: Data) -> tuple[Examples, Examples]:
    """The training examples and the queries."""
    if data.source == "digits":
        whole = digits.load_sklearn()
        index = labels.split(len(whole["label"]), [data.n_train, data.n_query], data.seed)
        train, query = (take(whole, torch.from_numpy(one)) for one in index)
        return train, query
    return _drawn(data, "train", data.n_train), _drawn(data, "test", data.n_query)


def _drawn(data: Data, split: Literal["train", "test"], n: int) -> Examples:
    counts = {"mnist": digits.N_EXAMPLES, "cifar100": cifar100.N_EXAMPLES}
    total = counts.get(data.source, cifar.N_EXAMPLES)[split]
    index = labels.split(total, [n], data.seed)[0]
    if data.source == "mnist":
        return take(digits.load_mnist(split), torch.from_numpy(index))
    if data.source == "cifar100":
        return cifar100.load(split, index)
    assert data.source == "jpeg" or data.source == "original"
    return cifar.load(data.source, split, index)


def loss(ensemble: Ensemble) -> Loss:
    """The training loss of its networks."""
    return augmented(cross_entropy, ensemble.augment)


def _train(one: Part, scratch: Path) -> dict[str, Any]:
    ensemble = one.ensemble
    train, query = map(on_device, load(ensemble.data))
    n_train = ensemble.data.n_train
    size = round(ensemble.inside * n_train)
    masks = draw_masks(ensemble.stack, n_train, size, ensemble.seed, one.first)
    group = here()
    own = list(group.share(ensemble.stack))
    hits, probability = torch.zeros(2, ensemble.stack, n_train + len(query["label"])).byte()
    train_loss = torch.zeros(ensemble.fit.epochs, ensemble.stack, dtype=torch.float64)
    if own:  # the share of this process; afterwards every process has the results of all
        seeds = [_seed(ensemble, one.first + member) for member in own]
        stack = Stack([ensemble.network.build(seed) for seed in seeds]).to(device())
        outcome = fit_stack(stack, loss(ensemble), train, masks[own], ensemble.fit, seeds, scratch)
        train_loss[:, own] = torch.from_numpy(outcome["train_loss"])
        hits[own], probability[own] = answers(stack, train, query)
    right = group.sum(hits).numpy().astype(bool)
    return {
        "accuracy_inside": float(right[:, :n_train][masks].mean()),
        "accuracy_outside": float(right[:, :n_train][~masks].mean()),
        "accuracy_query": float(right[:, n_train:].mean()),
        "train_loss": group.sum(train_loss).numpy(),
        "masks": Packed.of(masks).bits,
        "right": Packed.of(right).bits,
        "probability": group.sum(probability).numpy(),
    }


def _seed(ensemble: Ensemble, member: int) -> int:
    words = stream(ensemble.seed, "member", ensemble.restart, member).generate_state(1)
    return int(words[0])


@torch.no_grad()
def answers(stack: Stack, train: Examples, query: Examples) -> tuple[Tensor, Tensor]:
    """Whether each network is right, and its probability, (K, n_train + n_query) uint8 each."""
    batches = [batch for examples in (train, query) for batch in chunks(examples, CHUNK)]
    right, probability = (
        torch.cat([stack.shared(judge, batch) for batch in batches], dim=1).cpu()
        for judge in (_hits, lambda model, some: (-cross_entropy(model, some)).exp())
    )
    return right.byte(), (probability * STEPS).round().to(torch.uint8)


def _hits(model: Any, batch: Examples) -> Tensor:
    hits: Tensor = model(batch["image"]).argmax(1) == batch["label"]
    return hits


SMOKE = Ensemble(DigitsMLP((16,), (1, 8, 8)), Data("digits", 150, 300), Fit(15, 35, 0.1), stack=50)
MNIST = Ensemble(DigitsMLP((64,)), Data("mnist", 2_000, 2_000), Fit(20, 50, 0.05), stack=50)
CIFAR = Ensemble(
    StridedCNN((16, 32), (3, 32, 32)), Data("jpeg", 4_000, 2_000), Fit(15, 50, 0.03), stack=16
)
PAPER = Ensemble(
    SmallInception(),
    Data("cifar100", 50_000, 10_000),
    Stepped(200, 128, 0.1, 0.9, 5e-4, drops=(0.3, 0.6, 0.8)),
    CropAndFlip(),
    stack=10,
)
