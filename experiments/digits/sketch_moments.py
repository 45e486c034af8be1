"""Projected inner products of the gradients of one fully-connected layer: draws and their theory.

A gradient of the layer is an outer product a x^T of unit vectors; u = a x^T and v = b y^T make a
pair. A Gaussian matrix restricted to the span of some vectors is Gaussian in any orthonormal basis
of the span. Gaussian and TwoSided are therefore drawn there, which is exact in distribution for a
layer of any size. Rademacher is not invariant under rotation and is drawn entry by entry.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.digits.models import Model, trained
from experiments.laboratory import runs
from experiments.laboratory.device import device
from experiments.training.plans import cross_entropy
from methods.examples import Examples, take
from methods.randomness import numpy_generator, stream, torch_generator
from methods.rows.factored import Rows
from methods.rows.gradients import Gradients
from methods.rows.parts import Outer
from methods.rows.projections import Gaussian, Rademacher, TwoSided
from methods.task import Task

POOL = 1_000  # candidates for a query's proponent
EACH = 2  # pairs of gradients of each kind
ELEMENTS = 1 << 22  # random numbers drawn at once
KINDS = ("aligned", "orthogonal", "one factor orthogonal")


@dataclass(frozen=True)
class Generated:
    """A linear classifier with random weights, on random examples."""

    n_in: int = 24
    classes: int = 10


@dataclass(frozen=True)
class Source:
    """The network whose last layer gives gradients."""

    network: Generated | Model
    seed: int = 0


@dataclass(frozen=True)
class Pairs:
    """Unit vectors, the two of a pair in succession: left (2 pairs, m), right (2 pairs, n)."""

    left: Tensor
    right: Tensor
    kinds: tuple[str, ...]

    def exact(self) -> Tensor:
        """<u, v> of each pair."""
        left, right = self.cosines()
        return left * right

    def cosines(self) -> tuple[Tensor, Tensor]:
        """a.b and x.y of each pair."""
        left, right = ((f[::2] * f[1::2]).sum(1) for f in (self.left, self.right))
        return left, right


def pairs(source: Source) -> Pairs:
    """Pairs of unit vectors in known positions, and of gradients of examples."""
    run = runs.once("sketch_gradients", source, lambda _scratch: _gradients(source))
    left, right = (torch.from_numpy(np.array(run.array(name))) for name in ("left", "right"))
    generator = numpy_generator(source.seed, "unit vectors")
    known_left, known_right = (_known(f.shape[1], generator) for f in (left, right))
    order = [(0, 0), (0, 0), (0, 0), (1, 1), (0, 0), (1, 0)]  # left and right vector of u, v, ...
    return Pairs(
        torch.cat([torch.stack([known_left[i] for i, _ in order]), left]),
        torch.cat([torch.stack([known_right[j] for _, j in order]), right]),
        (*KINDS, *("proponents",) * EACH, *("random gradients",) * EACH),
    )


def _known(size: int, generator: np.random.Generator) -> Tensor:
    """Two orthonormal vectors in random directions, (2, size)."""
    return torch.from_numpy(np.linalg.qr(generator.standard_normal((size, 2)))[0].T.copy())


def _gradients(source: Source) -> dict[str, Any]:
    task, candidates, queries = _task(source)
    rows = Gradients(task).rows
    of_candidates, of_queries = rows(candidates), rows(queries)
    best = of_queries.inner(of_candidates).argmax(1)[:EACH].cpu()
    chosen = torch.cat([best, torch.arange(len(best), 2 * EACH)])
    vectors = {}
    for name in ("left", "right"):
        (u,), (v,) = (next(iter(each.parts.values())) for each in (of_queries, of_candidates))
        factors = torch.stack([getattr(u, name)[:, 0], getattr(v, name)[chosen, 0]], dim=1)
        flat = factors.flatten(0, 1).double()
        vectors[name] = (flat / flat.norm(dim=1, keepdim=True)).cpu().numpy()
    return vectors


def _task(source: Source) -> tuple[Task, Examples, Examples]:
    """The task of the last layer's weight, candidates, and 2 EACH queries."""
    if isinstance(source.network, Generated):
        n_in, classes = source.network.n_in, source.network.classes
        module = nn.utils.skip_init(nn.Linear, n_in, classes, bias=False)
        generator = torch_generator(source.seed, "generated")
        with torch.no_grad():
            module.weight.normal_(generator=generator)
        image = torch.randn(POOL + 2 * EACH, n_in, generator=generator).relu()
        label = torch.randint(classes, (len(image),), generator=generator)
        examples = {"image": image, "label": label}
        task = Task.of(module.eval().to(device()), cross_entropy)
        return task, take(examples, slice(0, POOL)), take(examples, slice(POOL, None))
    learned = trained(source.network)
    last = [name for name in learned.task.params if name.endswith("weight")][-1]
    draw = numpy_generator(source.seed, "pairs")
    drawn = [
        take(part.examples, torch.from_numpy(draw.permutation(len(part.index))[:count]))
        for part, count in ((learned.train, POOL), (learned.evaluation, 2 * EACH))
    ]
    return learned.task.only([last]), drawn[0], drawn[1]


def variance(projection: Gaussian | Rademacher | TwoSided, these: Pairs) -> Tensor:
    """The variance of <Gu, Gv> by theory, for each pair."""
    left, right = these.cosines()
    if isinstance(projection, TwoSided):
        side = isqrt(projection.dim)
        one, other = (1 + left**2) / side, (1 + right**2) / side
        return (left**2 + one) * (right**2 + other) - (left * right) ** 2
    whole = 1 + (left * right) ** 2
    if isinstance(projection, Rademacher):
        fourth = [(f[::2] * f[1::2]).square().sum(1) for f in (these.left, these.right)]
        whole = whole - 2 * fourth[0] * fourth[1]
    return whole / projection.dim


def simulate(
    projection: Gaussian | Rademacher | TwoSided, these: Pairs, draws: int, seed: int
) -> Tensor:
    """<Gu, Gv> over draws of G, (draws, pairs)."""
    generator = torch_generator(seed, f"simulated {type(projection).__name__}", projection.dim)
    if isinstance(projection, Rademacher):
        return _signs(projection.dim, these, draws, seed)
    left, right = (factors @ factors.T for factors in (these.left, these.right))
    if isinstance(projection, Gaussian):
        return _normal(left * right, projection.dim, draws, generator)
    side = isqrt(projection.dim)
    return _normal(left, side, draws, generator) * _normal(right, side, draws, generator)


def _normal(gram: Tensor, dim: int, draws: int, generator: torch.Generator) -> Tensor:
    """<Gu, Gv> of vectors with these inner products, in the span of the vectors."""
    values, vectors = torch.linalg.eigh(gram)
    positive = values > 1e-12 * values[-1]
    root = (vectors[:, positive] * values[positive].sqrt()).T.float()
    step = max(1, ELEMENTS // (dim * len(root)))

    def some(count: int) -> Tensor:
        seen = torch.randn(count, dim, len(root), generator=generator) @ root
        return (seen[..., ::2] * seen[..., 1::2]).mean(1, dtype=torch.float64)

    return _in_steps(some, draws, step)


def _signs(dim: int, these: Pairs, draws: int, seed: int) -> Tensor:
    vectors = torch.einsum("vm,vn->mnv", these.left, these.right).flatten(0, 1).float()
    generator = numpy_generator(seed, "simulated signs", dim)
    size, total = len(vectors), vectors.sum(0)

    def directions(count: int) -> Tensor:
        drawn = np.frombuffer(generator.bytes(-(-count * size // 8)), np.uint8)
        bits = torch.from_numpy(np.unpackbits(drawn, count=count * size)).view(count, size)
        seen = 2 * (bits.float() @ vectors) - total
        return seen[:, ::2] * seen[:, 1::2]

    step = max(1, ELEMENTS // size)
    each = [_in_steps(directions, dim, step).mean(0, dtype=torch.float64) for _ in range(draws)]
    return torch.stack(each)


def _in_steps(some: Callable[[int], Tensor], count: int, step: int) -> Tensor:
    return torch.cat([some(min(step, count - start)) for start in range(0, count, step)])


def drawn_by_library(
    projection: Gaussian | Rademacher | TwoSided, these: Pairs, draws: int, seed: int
) -> Tensor:
    """The same by methods.rows.projections, on rows of a task with one linear layer."""
    m, n = these.left.shape[1], these.right.shape[1]
    layer = nn.utils.skip_init(nn.Linear, n, m, bias=False)
    task = Task.of(layer.eval().to(device()), lambda model, batch: model(batch["image"]).sum(1))
    left, right = (f.float()[:, None].to(task.device) for f in (these.left, these.right))
    rows = Rows({"weight": [Outer(left, right, m, (n,))]}, len(these.left))
    products = []
    for draw in range(draws):
        own = int(stream(seed, "library", draw).generate_state(1)[0])
        seen = type(projection)(projection.dim, own).draw(task).apply(rows).double()
        products.append((seen[::2] * seen[1::2]).sum(1))
    return torch.stack(products).cpu()
