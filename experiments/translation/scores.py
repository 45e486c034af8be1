"""Self-influence of sentence pairs: once-per-model work is a run, pairs stream past."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.laboratory import attribution
from experiments.laboratory.attribution import Loss
from experiments.laboratory.errors import UserError
from experiments.translation.models import Model, Trained, examples, moved, trained
from methods.attributor import Bilinear, Embedded, Fitted, Prepared
from methods.influence import Influence
from methods.progress import track
from methods.random_projection import RandomProjection
from methods.randomness import numpy_generator
from methods.rows.projections import Directions, Select
from methods.task import Examples, Task, take
from methods.tracin import TracIn

LOSSES = 256  # pairs of a forward pass


Method = RandomProjection | Influence | TracIn | Loss


@dataclass(frozen=True)
class Basis:
    """What the once-per-model work of a method depends on; `part` as `narrowed` has it."""

    model: Model
    part: int | None
    preparation: Any


def narrowed(model: Model, task: Task, part: int | None) -> Task:
    """The task on the last `part` decoder layers, or on all parameters."""
    return task if part is None else task.only(model.network.last_layers(part))


def fitted(
    model: Model, there: Trained, method: RandomProjection | Influence | TracIn, part: int | None
) -> Fitted:
    """A method fitted to a trained model; a basis is found once and is a run."""
    task = narrowed(model, there.task, part)
    if isinstance(method, RandomProjection):
        return projected(method, task)
    ready: Prepared = {}
    if wanted := basis(model, method, part):

        def load() -> tuple[Task, Examples]:
            again = trained(model)  # noted as what this run was made of
            train = moved(examples(model, model.train.load()))
            return narrowed(model, again.task, part), train

        ready, _ = attribution.prepared("translation_basis", wanted, method, load)
    # The training pairs were needed for the basis alone: one pair stands for them.
    one = {"source": torch.ones(1, 2).long(), "target": torch.ones(1, 3).long()}
    return method.fit(task, one, ready)


def basis(model: Model, method: Method, part: int | None = None) -> Basis | None:
    """The run that a method's once-per-model work is, None if it has none."""
    needed = None if isinstance(method, Loss) else method.preparation
    return None if needed is None else Basis(model, part, needed)


def projected(method: RandomProjection, task: Task) -> Embedded:
    """A random projection whose directions are held whole: one pass over pairs, however large."""
    drawn = method.projection.draw(task)
    if not isinstance(method.projection, Select):
        drawn = Directions(drawn.directions(), task)
    return Embedded(task, Bilinear(drawn, drawn))


def by_length(some: Examples) -> Tensor:
    """The order from the longest pairs to the shortest: batches that are hardly padded.

    The longest come first, so that what an example costs is found on them.
    """
    return some["length"].argsort(descending=True, stable=True)


def contributions(method: Fitted, some: Examples) -> Tensor:
    """What each direction adds to the self-influence of each pair, (n, d); others have d = 1."""
    if not isinstance(method, Embedded):
        return _restored(lambda rows: method.self_influence(rows)[:, None], some)

    def of(rows: Examples) -> Tensor:
        right = method.embed(rows, method.form.right, method.gradients)
        return (method.form.weigh(right) * right).cpu()

    return _restored(of, some)


def losses(task: Task, some: Examples) -> Tensor:
    """The training loss of each pair in nats a subword, (n, 1)."""

    return _restored(lambda rows: attribution.losses(task, rows, LOSSES)[:, None], some)


def _restored(of: Any, some: Examples) -> Tensor:
    order = by_length(some)
    found = of(take(some, order))
    out = torch.empty_like(found)
    out[order] = found
    return out


def nested(values: Tensor, dims: tuple[int, ...], method: Method) -> np.ndarray:
    """Self-influence at each of `dims` directions of the largest number, (k, n).

    The first directions of a basis or a Gaussian draw are the smaller one; of chosen parameters
    a random part is.
    """
    size = values.shape[1]
    if not dims:
        return values.sum(1)[None].double().numpy()
    if max(dims) > size or min(dims) < 1:
        raise UserError(f"dims {dims} of {size} directions: give 1 to {size}")
    if isinstance(method, RandomProjection) and isinstance(method.projection, Select):
        order = numpy_generator(method.projection.seed, "nested").permutation(size)
        values = values[:, torch.from_numpy(order)]
    sums = values.double().cumsum(1)
    unbiased = isinstance(method, RandomProjection)  # each draw is scaled by its own dimension
    return np.stack([sums[:, dim - 1].numpy() * (size / dim if unbiased else 1.0) for dim in dims])


def streamed(n: int, block: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `block` of n pairs: what is held does not grow with n."""
    for start in track(list(range(0, n, block)), "scoring"):
        yield start, min(start + block, n)
