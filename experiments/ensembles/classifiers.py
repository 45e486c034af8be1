"""Image classifiers of Subsets (Doubov et al., 2022, App. A): recipes, and training in stacks.

Images are standardised by the means and deviations of the training set's channels, after the view
has moved them. Two seeds are random: that of the initial parameters, and that of the order and the
views. Recipes at the end follow the paper: CIFAR as described there; DTD and Flowers from random
initial parameters for 400 epochs along a cosine, with a learning rate and weight decay chosen on
the official validation split from the 7 by 8 grid of Kornblith et al. (2019). The paper does not
say whether Inception v3 had its auxiliary loss: ours has none. Its batches of 256 were accumulated
where needed: ours are not split.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments.data import dtd, flowers, labels
from experiments.data.photos import Photos
from experiments.ensembles import subsets
from experiments.laboratory import provenance
from experiments.laboratory.counting import image_unit
from experiments.laboratory.device import device
from experiments.laboratory.tensors import fits, sent
from experiments.laboratory.work import Unit, Work
from experiments.models.digits_mlp import DigitsMLP
from experiments.models.inception import SmallInception
from experiments.models.inception_v3 import InceptionV3
from experiments.models.resnet18 import ResNet18, SmallImageResNet18
from experiments.models.strided_cnn import StridedCNN
from experiments.training.augmentation import Photographed, Shifted
from experiments.training.models import training_work
from experiments.training.plans import Cosine, Fit, cross_entropy
from experiments.training.stacked import Members, fit_stack, together
from methods.examples import Examples, chunks, take
from methods.precision import products

Network = DigitsMLP | StridedCNN | SmallInception | SmallImageResNet18 | ResNet18 | InceptionV3
Source = Literal["digits", "mnist", "jpeg", "original", "cifar100", "dtd", "flowers"]
PHOTOS = {"dtd": dtd, "flowers": flowers}
CHUNK = 250  # examples in a forward pass


@dataclass(frozen=True)
class Data:
    """Random examples: from the training split to train on, from the test split as queries.

    Validation examples are from the rest of the training split, or DTD's and Flowers' own split.
    """

    source: Source = "mnist"
    n_train: int = 2_000
    n_query: int = 2_000
    n_validation: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Sweep:
    """The plan with the learning rate and weight decay that do best on the validation examples.

    Kornblith et al. (2019) decouple weight decay from the learning rate and list their ratio, which
    is what torch's SGD calls weight decay.
    """

    plan: Fit
    lrs: tuple[float, ...]
    decays: tuple[float, ...]


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a classifier but its seeds."""

    network: Network = DigitsMLP()
    data: Data = Data()
    fit: Fit | Sweep = Fit(epochs=20, batch_size=50, lr=0.05)
    view: Shifted | Photographed = Shifted()


@dataclass(frozen=True)
class Split:
    """Examples: columns label (n,), and image (n, channels, h, w) or the row of a photograph.

    Rows of photographs stay on the CPU, which draws what is seen of each.
    """

    columns: Examples
    photos: Photos | None = None

    def images(self, batch: Examples) -> Any:
        """The images of a batch, on the device of its labels: a tensor, or photographs."""
        if self.photos is None:
            return batch["image"]
        return self.photos.take(batch["row"].tolist(), batch["label"].device)

    def near(self, device: torch.device) -> "Split":
        """The same, its photographs on a device if they fit there."""
        if self.photos is None or not fits(len(self.photos.pixels), device):
            return self
        return replace(self, photos=self.photos.to(device))

    @property
    def label(self) -> np.ndarray:
        return self.columns["label"].numpy()


@dataclass(frozen=True)
class Pictures:
    """The examples of a recipe; mean and deviation (channels, 1, 1) standardise their images."""

    train: Split
    query: Split
    validation: Split
    mean: Tensor
    deviation: Tensor

    def standardised(self, images: Tensor) -> Tensor:
        """Images with mean 0 and deviation 1 in every channel of the training set."""
        return (images - self.mean) / self.deviation

    def to(self, device: torch.device) -> "Pictures":
        """The same, ready to standardise images on a device."""
        return replace(self, mean=self.mean.to(device), deviation=self.deviation.to(device))


@provenance.remembered
def load(data: Data) -> Pictures:
    """The examples, on the CPU."""
    if data.source == "dtd" or data.source == "flowers":
        train = _photographed(data.source, "train", data.n_train, data.seed)
        query = _photographed(data.source, "test", data.n_query, data.seed)
        validation = _photographed(data.source, "val", data.n_validation, data.seed)
    else:
        total = data.n_train + data.n_validation
        tensors = subsets.Data(data.source, total, data.n_query, data.seed)
        others, queries = subsets.load(tensors)
        train = Split(take(others, slice(0, data.n_train)))
        query, validation = Split(queries), Split(take(others, slice(data.n_train, total)))
    return Pictures(train, query, validation, *_moments(train))


def _photographed(source: str, split: Literal["train", "val", "test"], n: int, seed: int) -> Split:
    module = PHOTOS[source]
    index = labels.split(module.N_EXAMPLES[split], [n], seed)[0]
    photos, label = module.load(split, index)
    return Split({"row": torch.arange(n), "label": label}, photos)


def _moments(train: Split) -> tuple[Tensor, Tensor]:
    count, total, squares = 0, torch.zeros(1), torch.zeros(1)
    for batch in chunks(train.columns, CHUNK):
        images = train.images(batch)
        for image in [images] if train.photos is None else [p[None] / 255 for p in images]:
            pixels = image.movedim(1, 0).flatten(1).double()
            count += pixels.shape[1]
            total, squares = total + pixels.sum(1), squares + pixels.square().sum(1)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
    shaped = [value.float()[:, None, None] for value in (mean, deviation)]
    return shaped[0], shaped[1]


def built(recipe: Recipe, seeds: Sequence[int]) -> Members:
    """Untrained networks on the device, one for each seed of the initial parameters."""
    return together([recipe.network.build(seed) for seed in seeds], device())


def learn(
    networks: Members,
    recipe: Recipe,
    plan: Fit,
    orders: Sequence[int],
    masks: np.ndarray,
    scratch: Path,
) -> np.ndarray:
    """Train networks in place on the examples of `masks` (K, n_train); return loss (epochs, K).

    If all networks have the same order seed and mask, they see the same moved images in every step;
    otherwise each has its own order, and its images are moved independently.
    """
    there = next(networks.parameters()).device
    pictures = load(recipe.data).to(there)
    train = pictures.train.near(there)

    def seen(batch: Examples) -> Examples:
        images = recipe.view.moved(train.images(batch))
        return {"image": pictures.standardised(images), "label": batch["label"]}

    plan = replace(plan, every=plan.epochs)  # only the last checkpoint is needed
    given = networks, cross_entropy, train.columns, masks, plan, orders, scratch
    return fit_stack(*given, seen=seen, on_host=("row",))["train_loss"]


def everything(recipe: Recipe, size: int) -> np.ndarray:
    """The masks of `size` networks that are trained on all examples."""
    return np.ones((size, recipe.data.n_train), dtype=bool)


def classify(networks: Members, recipe: Recipe, split: Split) -> np.ndarray:
    """The class that each network predicts for each example, (K, n) int16."""
    return _classes(networks, recipe, split, lambda images: iter([recipe.view.plain(images)]))


def classify_by_views(networks: Members, recipe: Recipe, split: Split) -> np.ndarray:
    """The same by the mean logits over several views (test-time augmentation), (K, n) int16."""
    return _classes(networks, recipe, split, recipe.view.several)


@torch.no_grad()
@products("ieee")
def _classes(
    networks: Members, recipe: Recipe, split: Split, look: Callable[[Any], Iterator[Tensor]]
) -> np.ndarray:
    there = next(networks.parameters()).device
    pictures = load(recipe.data).to(there)
    each = [networks.at(member) for member in range(networks.size)]
    predicted = []
    for batch in chunks(split.columns, CHUNK):
        images = split.images({n: c if n == "row" else sent(c, there) for n, c in batch.items()})
        total: Any = 0
        for view in look(images):
            seen = pictures.standardised(view)
            total = total + torch.stack([network(seen) for network in each])
        predicted.append(total.argmax(2))
    return torch.cat(predicted, dim=1).cpu().numpy().astype(np.int16)


def work(
    name: str, config: Any, recipe: Recipe, networks: int, views: int = 1, **about: Any
) -> Work:
    """What a run takes that trains networks of a recipe and classifies the queries.

    A sweep's plans take the same time, whichever is best. `about` is as for `training_work`.
    """
    plan = recipe.fit.plan if isinstance(recipe.fit, Sweep) else recipe.fit
    label = f"{type(recipe.network).__name__} on {recipe.data.source}"
    return training_work(
        name,
        config,
        unit(recipe),
        recipe.data.n_train,
        about.pop("plan", plan),
        about.pop("label", label),
        together=True,
        networks=networks,
        scored=views * recipe.data.n_query,
        **about,
    )


def unit(recipe: Recipe) -> Unit:
    """A pass of the network over one image as it sees it."""
    view, network = recipe.view, recipe.network
    shape = (3, view.side, view.side) if isinstance(view, Photographed) else (3, 32, 32)
    return image_unit(network, getattr(network, "image_shape", shape), cross_entropy)


def _powers(first: int, last: int) -> tuple[float, ...]:
    """Powers of ten in steps of half an exponent, both ends included."""
    return tuple(float(f"{10 ** (half / 2):.6g}") for half in range(2 * first, 2 * last + 1))


DIGITS = Data("digits", 500, 400, n_validation=200)
LITTLE = Shifted(pad=1, mirror=False)
SMOKE_MLP = Recipe(
    DigitsMLP((16,), (1, 8, 8)), DIGITS, Sweep(Cosine(10, 50), (0.01, 0.1), (0.0, 1e-3)), LITTLE
)
SMOKE_CNN = Recipe(StridedCNN((4, 8), (1, 8, 8)), DIGITS, Fit(10, 50, 0.05), LITTLE)

MNIST, UPRIGHT = Data("mnist", 3_000, 5_000), Shifted(pad=2, mirror=False)
JPEG, MIRRORED = Data("jpeg", 10_000, 5_000), Shifted()
MNIST_MLP = Recipe(DigitsMLP((128,)), MNIST, Cosine(20, 50, 0.05), UPRIGHT)
MNIST_CNN = Recipe(StridedCNN((8, 16)), MNIST, Cosine(20, 50, 0.05), UPRIGHT)
JPEG_MLP = Recipe(DigitsMLP((128,), (3, 32, 32)), JPEG, Cosine(12, 50, 0.02), MIRRORED)
# Not 0.05: there the training loss of two networks of twenty stays at chance level.
JPEG_CNN = Recipe(StridedCNN((16, 32), (3, 32, 32)), JPEG, Cosine(20, 50, 0.02), MIRRORED)

CIFAR_10, CIFAR_100 = Data("original", 50_000, 10_000), Data("cifar100", 50_000, 10_000)
# In bfloat16, as its roundings are alike for all networks that are compared.
STEPS = replace(subsets.SCHEDULE, precision="bf16", channels_last=True)
CIFAR_10_INCEPTION = Recipe(SmallInception(10), CIFAR_10, STEPS, Shifted())
CIFAR_10_RESNET = Recipe(SmallImageResNet18(10), CIFAR_10, STEPS, Shifted())
CIFAR_100_INCEPTION = Recipe(SmallInception(100), CIFAR_100, STEPS, Shifted())
CIFAR_100_RESNET = Recipe(SmallImageResNet18(100), CIFAR_100, STEPS, Shifted())

DTD, FLOWERS = Data("dtd", 1_880, 1_880, 1_880), Data("flowers", 1_020, 6_149, 1_020)
LONG = Cosine(400, 256, precision="bf16", channels_last=True)
GRID = Sweep(LONG, _powers(-3, 0), (0.0, *_powers(-5, -2)))
FOR_INCEPTION, FOR_RESNET = Photographed(299, 342), Photographed(224, 256)
DTD_INCEPTION = Recipe(InceptionV3(47), DTD, GRID, FOR_INCEPTION)
DTD_RESNET = Recipe(ResNet18(47), DTD, GRID, FOR_RESNET)
FLOWERS_INCEPTION = Recipe(InceptionV3(102), FLOWERS, GRID, FOR_INCEPTION)
FLOWERS_RESNET = Recipe(ResNet18(102), FLOWERS, GRID, FOR_RESNET)
