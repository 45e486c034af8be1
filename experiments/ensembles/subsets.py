"""Ensembles of networks trained on random subsets.

An ensemble is trained in parts of `stack` networks, each a run of its own: jobs of an array train
some of them, and any job that needs the ensemble gathers them, in any order. For each network are
stored its mask, whether it classifies each example correctly (one bit each), and the probability of
the correct class (in 255ths), for training examples first, then for queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments.data import cifar, cifar100, digits, labels
from experiments.laboratory import provenance, runs
from experiments.laboratory.counting import image_unit
from experiments.laboratory.device import device, on_device
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import Run
from experiments.laboratory.work import Unit, Work
from experiments.models.digits_mlp import DigitsMLP
from experiments.models.inception import SmallInception
from experiments.models.resnet import ResNet
from experiments.models.strided_cnn import StridedCNN
from experiments.training.augmentation import CropAndFlip
from experiments.training.models import training_work
from experiments.training.plans import Fit, Stepped, cross_entropy
from experiments.training.stacked import Members, fit_stack, together
from methods.ensembles.masks import Packed, draw_masks
from methods.ensembles.subset import influence, memorization
from methods.examples import Examples, chunks, take
from methods.precision import products
from methods.randomness import stream
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


def rows(data: Data) -> np.ndarray:
    """The positions of the training examples in their file, (n_train,)."""
    if data.source == "digits":
        total = len(digits.load_sklearn()["label"])
        return labels.split(total, [data.n_train, data.n_query], data.seed)[0]
    return _index(data, "train", data.n_train)


def _index(data: Data, split: Literal["train", "test"], n: int) -> np.ndarray:
    counts = {"mnist": digits.N_EXAMPLES, "cifar100": cifar100.N_EXAMPLES}
    total = counts.get(data.source, cifar.N_EXAMPLES)[split]
    return labels.split(total, [n], data.seed)[0]


def _drawn(data: Data, split: Literal["train", "test"], n: int) -> Examples:
    index = _index(data, split, n)
    if data.source == "mnist":
        return take(digits.load_mnist(split), torch.from_numpy(index))
    if data.source == "cifar100":
        return cifar100.load(split, index)
    assert data.source == "jpeg" or data.source == "original"
    return cifar.load(data.source, split, index)


def train(
    networks: Members,
    ensemble: Ensemble,
    examples: Examples,
    masks: np.ndarray,
    plan: Fit,
    seeds: Sequence[int],
    scratch: Path,
) -> dict[str, np.ndarray]:
    """`fit_stack` with the loss and the augmentation of an ensemble."""
    move = ensemble.augment

    def seen(batch: Examples) -> Examples:
        return batch if move is None else {**batch, "image": move(batch["image"])}

    return fit_stack(networks, cross_entropy, examples, masks, plan, seeds, scratch, seen)


def _train(one: Part, scratch: Path) -> dict[str, Any]:
    ensemble = one.ensemble
    examples, query = map(on_device, load(ensemble.data))
    n_train = ensemble.data.n_train
    size = round(ensemble.inside * n_train)
    masks = draw_masks(ensemble.stack, n_train, size, ensemble.seed, one.first)
    group = here()
    own = list(group.share(ensemble.stack))
    hits, probability = torch.zeros(2, ensemble.stack, n_train + len(query["label"])).byte()
    train_loss = torch.zeros(ensemble.fit.epochs, ensemble.stack, dtype=torch.float64)
    if own:  # the share of this process; afterwards every process has the results of all
        seeds = [_seed(ensemble, one.first + member) for member in own]
        networks = together([ensemble.network.build(seed) for seed in seeds], device())
        outcome = train(networks, ensemble, examples, masks[own], ensemble.fit, seeds, scratch)
        train_loss[:, own] = torch.from_numpy(outcome["train_loss"])
        hits[own], probability[own] = answers(networks, examples, query)
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
@products("ieee")
def answers(networks: Members, train: Examples, query: Examples) -> tuple[Tensor, Tensor]:
    """Whether each network is right, and its probability, (K, n_train + n_query) uint8 each."""
    batches = [batch for examples in (train, query) for batch in chunks(examples, CHUNK)]
    right, probability = (
        torch.cat([networks.shared(judge, batch) for batch in batches], dim=1).cpu()
        for judge in (_hits, lambda model, some: (-cross_entropy(model, some)).exp())
    )
    return right.byte(), (probability * STEPS).round().to(torch.uint8)


def _hits(model: Any, batch: Examples) -> Tensor:
    """One for each example that is classified correctly, otherwise zero."""
    hits: Tensor = model(batch["image"]).argmax(1) == batch["label"]
    return hits.float()


def unit(ensemble: Ensemble) -> Unit:
    """A pass of the network over one image."""
    network = ensemble.network
    return image_unit(network, getattr(network, "image_shape", (3, 32, 32)), cross_entropy)


def work(one: Part) -> Work:
    """What training a part takes; it stores a bit and a byte for each answer."""
    ensemble, size = one.ensemble, one.ensemble.stack
    data = ensemble.data
    return training_work(
        "ensemble_part",
        one,
        unit(ensemble),
        round(ensemble.inside * data.n_train),
        ensemble.fit,
        f"{type(ensemble.network).__name__} on {data.source}",
        together=True,
        networks=size,
        scored=data.n_train + data.n_query,
        kept=False,
    )


def ensemble_work(ensemble: Ensemble, n_models: int) -> tuple[Work, ...]:
    """What training the first `n_models` takes."""
    return tuple(work(one) for one in parts(ensemble, n_models))


SMOKE = Ensemble(DigitsMLP((16,), (1, 8, 8)), Data("digits", 150, 300), Fit(15, 35, 0.1), stack=50)
MNIST = Ensemble(DigitsMLP((64,)), Data("mnist", 2_000, 2_000), Fit(20, 50, 0.05), stack=50)
CIFAR = Ensemble(
    StridedCNN((16, 32), (3, 32, 32)), Data("jpeg", 4_000, 2_000), Fit(15, 50, 0.03), stack=16
)
SCHEDULE = Stepped(200, 128, 0.1, 0.9, 5e-4, drops=(0.3, 0.6, 0.8))
# What is counted are answers of networks with different subsets and seeds, which differ by far more
# than roundings in bfloat16.
PAPER = Ensemble(
    SmallInception(),
    Data("cifar100", 50_000, 10_000),
    replace(SCHEDULE, precision="bf16", channels_last=True),
    CropAndFlip(),
    stack=10,
)
