"""Residual networks trained on CIFAR-10, with running statistics in their checkpoints."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.data import cifar, digits, labels, own
from experiments.laboratory import provenance
from experiments.laboratory.counting import image_unit
from experiments.laboratory.device import on_device
from experiments.laboratory.keys import LATER
from experiments.laboratory.work import Unit, Work
from experiments.models.resnet import ResNet
from experiments.training import models as training
from experiments.training.augmentation import CropAndFlip, augmented
from experiments.training.loop import fit
from experiments.training.plans import Stepped, cross_entropy
from methods.examples import Examples, chunks, take

KNOWN = (*cifar.FOLDERS, "digits")


@dataclass(frozen=True)
class Data:
    """Random examples for training and evaluation: from two splits, if the source has them.

    source  one of experiments.data.cifar, the bundled digits as grey RGB images, or images of one's
            own that experiments/data/own.py reads, whose content is part of the key
    """

    source: str = "original"
    n_train: int = 50_000
    n_eval: int = 10_000
    digest: str = field(default="", init=False, metadata={LATER: True})

    def __post_init__(self) -> None:
        known = "" if self.source in KNOWN else own.digest(self.source)
        object.__setattr__(self, "digest", known)


@dataclass(frozen=True)
class Model:
    """A trained network; the seed draws subsets, initial parameters, order and augmentation."""

    network: ResNet = ResNet()
    data: Data = Data()
    fit: Stepped = Stepped(164, 128, 0.1, 0.9, 1e-4, every=33)
    augment: CropAndFlip | None = CropAndFlip()
    seed: int = 0


@dataclass(frozen=True)
class Trained(training.Trained[nn.Module]):
    """A trained network with its data, on the device; checkpoints have running statistics too."""

    train: Examples
    evaluation: Examples


@provenance.remembered
def load_data(data: Data, seed: int) -> tuple[Examples, Examples]:
    """The training and the evaluation examples: columns image (n, 3, h, w) and label."""
    source: cifar.Source
    for source in ("original", "jpeg"):
        if data.source == source:
            train = _drawn(source, "train", data.n_train, seed)
            return train, _drawn(source, "test", data.n_eval, seed)
    if data.source == "digits":
        grey = digits.load_sklearn()
        whole = _coloured(grey)
    elif data.source == "first4000":
        whole = cifar.load("first4000", "train")
    else:
        whole = _coloured(own.images(data.source))
    parts = labels.split(len(whole["label"]), [data.n_train, data.n_eval], seed)
    train, evaluation = (take(whole, torch.from_numpy(part)) for part in parts)
    return train, evaluation


def _coloured(examples: Examples) -> Examples:
    """The same with three channels."""
    return {**examples, "image": examples["image"].expand(-1, 3, -1, -1).contiguous()}


def _network(model: Model, *parts: Examples) -> ResNet:
    """The network, for images of one's own with as many classes as they have."""
    if model.data.source in KNOWN:
        return model.network
    most = max(int(part["label"].max()) for part in parts if len(part["label"]))
    return replace(model.network, num_classes=most + 1)


def _drawn(source: cifar.Source, split: cifar.Split, n: int, seed: int) -> Examples:
    return cifar.load(source, split, labels.split(cifar.count(source, split), [n], seed)[0])


def trained(model: Model) -> Trained:
    """The trained model, training it if no run has it yet."""
    train, evaluation = map(on_device, load_data(model.data, model.seed))
    learned = training.train_once(
        "cifar_model",
        model,
        partial(_network(model, train, evaluation).build, model.seed),
        cross_entropy,
        partial(_train, model),
        weight_decay=model.fit.weight_decay,
    )
    return Trained(**vars(learned), train=train, evaluation=evaluation)


def _train(model: Model, module: nn.Module, scratch: Path) -> dict[str, Any]:
    train, evaluation = map(on_device, load_data(model.data, model.seed))
    loss = augmented(cross_entropy, model.augment)
    outcome = fit(module, loss, train, model.fit, model.seed, scratch)
    return {
        **outcome,
        "accuracy_train": accuracy(module, train),
        "accuracy_eval": accuracy(module, evaluation),
    }


@torch.no_grad()
def accuracy(module: nn.Module, examples: Examples) -> float:
    """The share of examples, on the network's device, whose label has the highest logit."""
    parts = chunks(examples, 250)
    hits = torch.cat([module(part["image"]).argmax(1) == part["label"] for part in parts])
    return float(hits.cpu().double().mean())


def unit(model: Model) -> Unit:
    """A pass of the network over one image."""
    side = 8 if model.data.source == "digits" else 32
    return image_unit(model.network, (3, side, side), cross_entropy)


def work(model: Model) -> Work:
    """What training takes."""
    data, scored = model.data, model.data.n_train + model.data.n_eval
    label = f"ResNet-{model.network.depth}"
    of = unit(model)
    return training.training_work(
        "cifar_model", model, of, data.n_train, model.fit, label, scored=scored
    )


# In bfloat16: proponents are the same kind of images whichever way a network was rounded.
PAPER = Model(fit=replace(Model().fit, precision="bf16", channels_last=True))
SMALL = Model(
    ResNet(depth=8), Data("jpeg", 10_000, 2_000), Stepped(25, 128, 0.1, 0.9, 5e-4, every=5)
)
SMOKE = Model(
    ResNet(depth=8, width=4), Data("digits", 500, 300), Stepped(5, 50, 0.1, 0.9, 5e-4), augment=None
)
