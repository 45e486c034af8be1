"""Vision Transformers fine-tuned by SAM on few images, some of them with a wrong label.

Schioppa et al. (2022), Sec. 5.3. A network starts from a published checkpoint, or from one trained
here, also by SAM, on images of the same data set that fine-tuning never sees.
"""

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from experiments.data import cifar, digits, labels
from experiments.images.cifar_models import accuracy
from experiments.laboratory import provenance, runs
from experiments.laboratory.counting import image_unit
from experiments.laboratory.device import device, on_device
from experiments.laboratory.errors import UserError
from experiments.laboratory.work import Unit, Work
from experiments.models.vit import VisionTransformer, ViT
from experiments.models.vit_checkpoint import Published
from experiments.training import models as training
from experiments.training.augmentation import CropAndFlip, augmented
from experiments.training.loop import fit, load_params
from experiments.training.plans import AdamW, SharpnessAware, cross_entropy
from methods.examples import Examples, take

Source = Literal["original", "jpeg", "digits"]
N_DIGITS, DIGITS_TEST = 1_797, 400  # the last of the bundled digits, in a fixed random order


@dataclass(frozen=True)
class Pretraining:
    """`n` images of the training split, with their true labels: one network for all seeds."""

    n: int = 40_000
    fit: SharpnessAware = SharpnessAware(
        16, 128, 1e-3, weight_decay=0.05, adam=AdamW(), rho=0.05, warmup=0.1, every=16
    )
    augment: CropAndFlip | None = CropAndFlip()
    seed: int = 0


@dataclass(frozen=True)
class Data:
    """Images to fine-tune on and to test on, and which of them get wrong labels.

    where  "test": test images, after training, as in the paper; "train": training images, before
    """

    source: Source = "original"
    n_train: int = 50_000
    n_test: int = 10_000
    noise: float = 0.1
    where: Literal["test", "train"] = "test"


@dataclass(frozen=True)
class Model:
    """A fine-tuned network; the seed draws images, wrong labels, the new head and the order."""

    network: ViT = ViT()
    start: Pretraining | Published = Published()
    data: Data = Data()
    fit: SharpnessAware = SharpnessAware(102, 512, 0.03, every=102, rho=0.05, warmup=0.05)
    seed: int = 0


@dataclass(frozen=True)
class Pretrained:
    """A network trained here: a run of its own, shared by the seeds."""

    network: ViT
    source: Source
    plan: Pretraining


@dataclass(frozen=True)
class Split:
    """Images with the labels given; arrays `true` (n,) int64 and `corrupted` (n,) bool."""

    examples: Examples
    true: np.ndarray
    corrupted: np.ndarray


@dataclass(frozen=True)
class Tuned(training.Trained[VisionTransformer]):
    """A fine-tuned network with its data; some images of the `pool` are mislabelled."""

    train: Split
    test: Split
    pool: Split


@provenance.remembered
def load_data(model: Model) -> tuple[Split, Split]:
    """The images that the model is fine-tuned on, and test images."""
    data, seed = model.data, model.seed
    n_before = model.start.n if isinstance(model.start, Pretraining) else 0
    rest = _before(data.source, n_before)[1]
    if data.n_train > len(rest):
        raise UserError(
            f"{data.n_train:,} images to fine-tune on, but pretraining leaves {len(rest):,}: lower "
            "data.n_train or start.n"
        )
    n_test = _size(data.source, "test")
    drawn: dict[cifar.Split, np.ndarray] = {
        "train": rest[labels.split(len(rest), [data.n_train], seed)[0]],
        "test": labels.split(n_test, [data.n_test], seed)[0],
    }
    made = []
    for split, index in drawn.items():
        examples = _images(data.source, split, index)
        true = examples["label"].numpy()
        given, corrupted = labels.reassign(true, data.noise * (split == data.where), 10, seed)
        made.append(Split({**examples, "label": torch.from_numpy(given)}, true, corrupted))
    return made[0], made[1]


def _before(source: Source, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the training split of what pretraining sees, and of the rest."""
    size = _size(source, "train")
    first, rest = labels.split(size, [min(n, size), size - min(n, size)], 0)
    return first, rest


def _size(source: Source, split: cifar.Split) -> int:
    if source == "digits":
        return DIGITS_TEST if split == "test" else N_DIGITS - DIGITS_TEST
    return cifar.count(source, split)


def _images(source: Source, split: cifar.Split, index: np.ndarray) -> Examples:
    if source != "digits":
        return cifar.load(source, split, index)
    parts = labels.split(N_DIGITS, [N_DIGITS - DIGITS_TEST, DIGITS_TEST], 0)
    return take(digits.load_sklearn(), torch.from_numpy(parts[split == "test"][index]))


def tuned(model: Model) -> Tuned:
    """The fine-tuned model; what no run has is trained now."""
    train, test = load_data(model)
    learned = training.train_once(
        "vit_model",
        model,
        partial(model.network.build, model.seed),
        cross_entropy,
        partial(_tune, model),
        weight_decay=model.fit.weight_decay,
        with_checkpoints=False,
    )
    pool = test if model.data.where == "test" else train
    return Tuned(**vars(learned), train=train, test=test, pool=pool)


def _tune(model: Model, module: VisionTransformer, scratch: Path) -> dict[str, Any]:
    start, new_head = model.start, copy.deepcopy(module.head.state_dict())
    if isinstance(start, Pretraining):
        wanted = Pretrained(model.network, model.data.source, start)
        before = runs.once("vit_pretrained", wanted, lambda own: _pretrain(wanted, own))
        load_params(module, before.array("params")[-1])
    else:
        start.load(module)
    module.head.load_state_dict(new_head)  # the start's head knows other classes
    train, test = load_data(model)
    seen = on_device(train.examples)
    outcome = fit(module, cross_entropy, seen, model.fit, model.seed, scratch)
    with_true = {**test.examples, "label": torch.from_numpy(test.true)}
    return {
        **outcome,
        "accuracy_train": accuracy(module, seen),
        "accuracy_test": accuracy(module, on_device(with_true)),
    }


def _pretrain(wanted: Pretrained, scratch: Path) -> dict[str, Any]:
    plan = wanted.plan
    first, rest = _before(wanted.source, plan.n)
    train = on_device(_images(wanted.source, "train", first))
    module = wanted.network.build(plan.seed).to(device())
    loss = augmented(cross_entropy, plan.augment)
    outcome = fit(module, loss, train, plan.fit, plan.seed, scratch)
    others = on_device(_images(wanted.source, "train", rest[:1_000]))
    return {
        **outcome,
        "accuracy_train": accuracy(module, take(train, slice(0, 2_000))),
        "accuracy_held": accuracy(module, others),
    }


def unit(network: ViT) -> Unit:
    """A pass of the network over one image."""
    return image_unit(network, network.image_shape, cross_entropy)


def work(model: Model) -> Work:
    """What fine-tuning takes, with the training before it if that is done here."""
    of, data, start = unit(model.network), model.data, model.start
    label = f"ViT of {of.size:,} parameters"
    before: tuple[Work, ...] = ()
    if isinstance(start, Pretraining):
        wanted = Pretrained(model.network, data.source, start)
        before = (
            training.training_work(
                "vit_pretrained", wanted, of, start.n, start.fit, f"{label}, before"
            ),
        )
    scored = data.n_train + data.n_test
    return training.training_work(
        "vit_model", model, of, data.n_train, model.fit, label, parts=before, scored=scored
    )


PAPER = Model()
SMALL = Model(
    ViT(6, 64, 4, 8, 32),
    Pretraining(),
    Data("jpeg", 4_000, 2_000),
    SharpnessAware(6, 64, 0.03, every=6, rho=0.05),
)
SMOKE = Model(
    ViT(2, 16, 2, 2, 8, channels=1),
    Pretraining(900, SharpnessAware(8, 50, 3e-3, every=8, adam=AdamW(), rho=0.05), None),
    Data("digits", 400, 300),
    SharpnessAware(4, 50, 0.05, every=4, rho=0.05),
)
