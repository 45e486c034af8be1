"""The queries of a retrieval: drawn at random out of classified images.

Which of them are displayed is declared before anything is scored.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.problems import UserError
from methods.randomness import numpy_generator
from methods.task import Examples, take

BATCH = 500  # examples in a forward pass


@dataclass(frozen=True)
class Shown:
    """A query to display: the first of the random order that is so classified, of that class."""

    correct: bool = True
    label: int | None = None


@dataclass(frozen=True)
class Queries:
    """`count` evaluation examples at random, and the first `wrong` misclassified ones.

    Those drawn at random are what shares are counted over; misclassified ones are a stratum of
    their own, since there the class given and the class predicted differ.
    """

    count: int = 300
    wrong: int = 50
    top: int = 5
    shown: tuple[Shown, ...] = (Shown(True), Shown(False))


@dataclass(frozen=True, eq=False)
class Pool:
    """Labelled images with the two classes the model prefers.

    examples   columns image (n, channels, h, w) and label (n,)
    predicted, runner_up   (n,) classes of the highest and second highest logit
    pixels     uint8 (n, h, w), or (n, h, w, 3) in colour, as a person would see them
    """

    examples: Examples
    predicted: np.ndarray
    runner_up: np.ndarray
    pixels: np.ndarray

    @property
    def label(self) -> np.ndarray:
        return self.examples["label"].cpu().numpy()

    def take(self, index: np.ndarray) -> "Pool":
        """The examples at `index`."""
        some = take(self.examples, torch.from_numpy(np.asarray(index)))
        return Pool(some, self.predicted[index], self.runner_up[index], self.pixels[index])


@dataclass(frozen=True, eq=False)
class Drawn:
    """Queries out of a pool.

    index   (m,) positions in the pool, each once
    random  (m,) bool, those of the random draw; the rest are there because they are misclassified
            or displayed
    shown   (s,) rows of `index` to display, in the order of the plan; -1 where the pool has none
    """

    pool: Pool
    index: np.ndarray
    random: np.ndarray
    shown: np.ndarray


@torch.no_grad()
def pool(
    model: Callable[[Tensor], Tensor], examples: Examples, pixels: np.ndarray | None = None
) -> Pool:
    """Classify images; `pixels` are needed where the column image is not in [0, 1]."""
    best = torch.cat([model(some).topk(2).indices for some in examples["image"].split(BATCH)])
    seen = to_pixels(examples["image"]) if pixels is None else pixels
    first, second = best.cpu().numpy().T
    return Pool(examples, first, second, seen)


def to_pixels(image: Tensor) -> np.ndarray:
    """Images (n, 1 or 3, h, w) in [0, 1] as uint8 (n, h, w) or (n, h, w, 3)."""
    if float(image.min()) < 0 or float(image.max()) > 1:
        raise UserError("images outside of [0, 1]: give their pixels beside them")
    whole = (image * 255).round().to(torch.uint8).cpu()
    return (whole[:, 0] if whole.shape[1] == 1 else whole.movedim(1, 3)).contiguous().numpy()


def draw(evaluation: Pool, plan: Queries, seed: int) -> Drawn:
    """Draw the queries and find the displayed ones, all in one random order of the pool."""
    n = len(evaluation.label)
    if plan.count > n:
        raise UserError(f"{plan.count} queries of {n} evaluation examples: lower queries.count")
    order = numpy_generator(seed, "queries").permutation(n)
    right = evaluation.predicted[order] == evaluation.label[order]
    wanted = []
    for one in plan.shown:
        fits = right == one.correct
        if one.label is not None:
            fits &= evaluation.label[order] == one.label
        wanted.append(order[fits][:1])
    extra = np.concatenate([order[~right][: plan.wrong], *wanted])
    index = np.concatenate([order[: plan.count], extra])
    _, first = np.unique(index, return_index=True)
    index = index[np.sort(first)]
    random = np.arange(len(index)) < plan.count
    places = [np.flatnonzero(index == one[0])[0] if len(one) else -1 for one in wanted]
    return Drawn(evaluation, index, random, np.array(places, dtype=np.int64))
