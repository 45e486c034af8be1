"""Digit classifiers, some of them trained on partly wrong labels, and their exact Hessians."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.data import digits, labels
from experiments.laboratory import counting, provenance, runs
from experiments.laboratory.counting import FLOAT
from experiments.laboratory.device import device
from experiments.laboratory.errors import UserError
from experiments.laboratory.keys import LATER
from experiments.laboratory.work import Unit, Work
from experiments.models.mnist_cnn import DigitsCNN, LargeCNN, SmallCNN
from experiments.training import models as training
from experiments.training.loop import fit, flat_params
from experiments.training.plans import Adam, Fit, cross_entropy
from experiments.training.second_order import Finish, converge, gradient_norm
from methods.curvature.exact_hessian import exact_hessian
from methods.examples import take
from methods.ihvp.exact import Exact
from methods.influence import Influence
from methods.precision import full_precision
from methods.progress import track
from methods.randomness import numpy_generator

Network = LargeCNN | SmallCNN | DigitsCNN
CHUNK = 500  # examples in a forward pass


@dataclass(frozen=True)
class Data:
    """Two disjoint random subsets, for training and evaluation.

    source  mnist, digits, or a folder of idx files, such as EMNIST's, as a path or under the data
            folder: what is in it is part of the key, and gives the number of classes
    noise   share of examples of both that get another, uniformly random label before training
    n_eval  0 means the whole test split of MNIST, with its own labels, as the second subset
    """

    source: str = "mnist"
    n_train: int = 6_000
    n_eval: int = 6_000
    noise: float = 0.2
    digest: str = field(default="", init=False, metadata={LATER: True})

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", digits.digest(self.source))


@dataclass(frozen=True)
class Model:
    """A trained network; the seed draws subsets, wrong labels, initial parameters and order."""

    network: Network = LargeCNN()
    data: Data = Data()
    fit: Fit = Fit(epochs=10, batch_size=128, lr=0.1, momentum=0.9)
    finish: Finish | None = None
    seed: int = 0


@dataclass(frozen=True)
class Digits:
    """Images with the labels given to training; their true labels, and which ones were changed."""

    examples: dict[str, Tensor]
    true: np.ndarray
    corrupted: np.ndarray
    index: np.ndarray
    n_classes: int = 10


@dataclass(frozen=True)
class Trained(training.Trained[nn.Module]):
    """A trained network with its data."""

    train: Digits
    evaluation: Digits


@provenance.remembered
def load_data(data: Data, seed: int) -> tuple[Digits, Digits]:
    """The training and the evaluation subset."""
    whole, n_classes = digits.load(data.source)
    parts = labels.split(len(whole["label"]), [data.n_train, data.n_eval], seed)
    subsets = []
    for which, index in enumerate(parts):
        true = whole["label"][torch.from_numpy(index)].numpy()
        # Each subset draws its wrong labels from a stream of its own.
        given, corrupted = labels.reassign(true, data.noise, n_classes, 2 * seed + which)
        examples = {
            "image": whole["image"][torch.from_numpy(index)],
            "label": torch.from_numpy(given),
        }
        subsets.append(Digits(examples, true, corrupted, index, n_classes))
    return subsets[0], subsets[1] if data.n_eval else _test_split(data)


def _test_split(data: Data) -> Digits:
    if data.source != "mnist":
        raise UserError(f"data.n_eval is 0, but {data.source} has no test split: give a number")
    examples = digits.load_mnist("test")
    true = examples["label"].numpy()
    return Digits(examples, true, np.zeros(len(true), dtype=bool), np.arange(len(true)))


def check_shape(model: Model, train: Digits) -> None:
    """Refuse images whose shape the network cannot take."""
    shape, wanted = tuple(train.examples["image"].shape[1:]), model.network.image_shape
    if shape != wanted:
        raise UserError(
            f"{type(model.network).__name__} takes images of shape {wanted}, "
            f"{model.data.source} has {shape}: choose another network or data.source"
        )


def trained(model: Model) -> Trained:
    """The trained model, training it if no run has it yet."""
    train, evaluation = load_data(model.data, model.seed)
    check_shape(model, train)
    learned = training.train_once(
        "digit_model",
        model,
        partial(model.network.build, model.seed, train.n_classes),
        cross_entropy,
        partial(_train, model),
        weight_decay=model.fit.weight_decay,
    )
    return Trained(**vars(learned), train=train, evaluation=evaluation)


def _train(model: Model, module: nn.Module, scratch: Path) -> dict[str, Any]:
    train, evaluation = load_data(model.data, model.seed)  # noted as this run's data
    outcome = fit(module, cross_entropy, train.examples, model.fit, model.seed, scratch)
    decay = model.fit.weight_decay
    if model.finish is not None:
        converge(module, cross_entropy, train.examples, decay, model.finish, model.seed, scratch)
    with torch.no_grad():
        predicted = predictions(module, evaluation.examples["image"])
    return {
        "final": flat_params(module),
        "params": outcome["params"],
        "lrs": outcome["lrs"],
        "train_loss": outcome["train_loss"],
        "accuracy_corrupted": float((predicted == evaluation.examples["label"].numpy()).mean()),
        "accuracy_true": float((predicted == evaluation.true).mean()),
        "gradient_norm": gradient_norm(module, cross_entropy, train.examples, decay),
    }


@dataclass(frozen=True)
class Blocks:
    """The Hessians of `count` disjoint random minibatches, which together are the training set."""

    model: Model
    count: int = 20


def block_hessians(blocks: Blocks) -> runs.Run:
    """The run with the undamped `hessians` (count, p, p) of the trained model, and `seconds`.

    Their mean is the exact Hessian of the mean training loss.
    """

    def compute(_scratch: Path) -> dict[str, Any]:
        started = time.perf_counter()
        learned = trained(blocks.model)  # noted as what this run was made of
        train = learned.train.examples
        n = len(train["label"])
        order = torch.from_numpy(numpy_generator(blocks.model.seed, "blocks").permutation(n))
        if n % blocks.count:
            raise UserError(
                f"{n} examples do not make {blocks.count} equal blocks: give a count that divides"
            )
        groups = order.split(n // blocks.count)
        hessians = [
            exact_hessian(learned.task, take(train, rows)).cpu().numpy()
            for rows in track(groups, "blocks")
        ]
        return {"hessians": np.stack(hessians), "seconds": time.perf_counter() - started}

    return runs.once("digit_blocks", blocks, compute)


def mean_hessian(blocks: Blocks) -> tuple[Tensor, float]:
    """The exact Hessian of the mean training loss, (p, p), and the seconds it took to compute."""
    run = block_hessians(blocks)  # looked up every time, so that each user notes it
    return _mean(run.path), float(run.metrics["seconds"])


@lru_cache(maxsize=1)
def _mean(path: Path) -> Tensor:
    return torch.from_numpy(runs.Run.at(path).array("hessians").mean(0))


@full_precision()
def predictions(module: Callable[[Tensor], Tensor], images: Tensor) -> np.ndarray:
    """The predicted class of each image, (n,), by a network on the device."""
    predicted = [module(some.to(device())).argmax(1) for some in images.split(CHUNK)]
    return torch.cat(predicted).cpu().numpy()


def unit(model: Model) -> Unit:
    """A pass of the network over one image."""
    return counting.image_unit(model.network, model.network.image_shape, cross_entropy)


def work(model: Model) -> Work:
    """What training takes, the second-order end included."""
    of, n, end = unit(model), model.data.n_train, model.finish
    label = type(model.network).__name__
    trained = training.training_work(
        "digit_model",
        model,
        of,
        n,
        model.fit,
        label,
        scored=model.data.n_eval or digits.N_EXAMPLES["test"],
    )
    if end is None:
        return trained
    finish = (
        counting.products(of, end.sample, end.rounds * of.size / CHUNK, CHUNK),
        counting.gradients(of, end.rounds * end.iterations * n),
    )
    return replace(trained, steps=(*trained.steps, *finish))


def blocks_work(blocks: Blocks) -> Work:
    """What the exact Hessians of the minibatches take."""
    of, n = unit(blocks.model), blocks.model.data.n_train
    exact = counting.once_per_model("digit_blocks", blocks, Influence(Exact()), of, n)
    assert exact is not None
    size = FLOAT * float(of.size) ** 2 * blocks.count
    return replace(exact, parts=(work(blocks.model),), disk=size, memory=size)


SMALL = Model(
    network=SmallCNN(),
    fit=Fit(epochs=250, batch_size=500, lr=0.01, weight_decay=5e-3, every=10, adam=Adam()),
    finish=Finish(),
)
LARGE = Model()
SMOKE = Model(
    network=DigitsCNN(),
    data=Data("digits", n_train=1_000, n_eval=797),
    fit=Fit(epochs=30, batch_size=50, lr=0.01, weight_decay=1e-3, every=3, adam=Adam()),
)
