"""Gradients projected at random, beside other libraries: each draws a map of its own.

So results are compared by what all of them estimate, the lengths of the gradients.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from experiments.laboratory.device import device
from experiments.models.mnist_cnn import LargeCNN
from experiments.models.resnet18 import SmallImageResNet18
from experiments.timing.peers.beside import Beside, Call, Way
from experiments.timing.work import CIFAR, MNIST, examples
from experiments.training.plans import cross_entropy
from methods.examples import Examples, chunks
from methods.losses.objective import Params
from methods.random_projection import RandomProjection
from methods.rows.projections import SJLT, Gaussian, Projection, Rademacher, TwoSided
from methods.task import Task

GRADIENTS = 32  # of theirs at a time, by vmap(grad): TRAK's own way
KEPT = 2e9  # bytes that a matrix of theirs may take: else it is drawn in blocks, for each call
DRAWN = 1 << 14  # coordinates that plain torch draws signs for at a time


def dense(kind: type[Projection], dim: int, n: int, network: Any, name: str) -> Beside:
    """Rows of n examples by a dense random map, from the examples on."""
    module = network.build(0).eval().to(device())
    batch = examples(n, shape=CIFAR if name != "MNIST CNN" else MNIST)
    task = Task.of(module, cross_entropy)
    fitted = RandomProjection(kind(dim)).fit(task, batch)
    words = {Gaussian: "normal", Rademacher: "rademacher", SJLT: "rademacher"}[kind]

    whole = 4.0 * task.size * dim <= KEPT
    block = dim if whole else min(100, int(KEPT / 4 / task.size))
    drawn = "once" if whole else f"in blocks of {block} for {n} rows"

    def projected(project: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([project(task.flatten(some, 1)) for some in gradients(task, batch)])

    def traker() -> Call:
        from trak.projectors import BasicProjector, ProjectionType

        def rows() -> Tensor:
            projector = BasicProjector(
                task.size, dim, 0, ProjectionType(words), device(), block_size=block
            )
            return projected(lambda rows: projector.project(rows, 0)) / dim**0.5

        return rows

    def dattri() -> Call:
        from dattri.func.projection import BasicProjector, ProjectionType

        def rows() -> Tensor:
            projector = BasicProjector(task.size, dim, 0, ProjectionType(words), device(), block)
            return projected(lambda rows: projector.project(rows, 0))

        return rows

    def plain() -> Call:
        def sketch(some: Tensor) -> Tensor:
            out = torch.zeros(len(some), dim, device=some.device)
            for first in range(0, task.size, DRAWN):
                block = some[:, first : first + DRAWN].bfloat16()
                bits = torch.randint(2, (dim, block.shape[1]), dtype=torch.int8, device=some.device)
                out += block @ bits.bfloat16().mul_(2).sub_(1).T
            return out / dim**0.5

        return lambda: sketch(projected(lambda rows: rows))

    return Beside(
        f"{n} rows by a {kind.__name__} map to {dim:,}, {name}",
        "example",
        n,
        lambda: fitted.train_rows(batch).dense(),
        {
            "traker": Way(f"BasicProjector, {words}, drawn {drawn}", traker),
            "dattri": Way(f"BasicProjector, {words}, drawn {drawn}", dattri),
            "torch": Way(f"all {n} rows and signs in bfloat16, drawn in blocks", plain),
        },
        tolerance=6 / dim**0.5,
        agree=lengths,
    )


def two_sided(dim: int, n: int) -> Beside:
    """Rows of n examples by a map of each layer's two sides; a plain way has the same map."""
    module = LargeCNN().build(0).eval().to(device())
    batch = examples(n)
    task = Task.of(module, cross_entropy)
    fitted, drawn = RandomProjection(TwoSided(dim)).fit(task, batch), TwoSided(dim).draw(task)

    def plain() -> Call:
        left, right = drawn.left, drawn.right
        kept = next(len(own) * len(right[name]) for name, own in left.items())

        def sketch(some: Params) -> Tensor:
            sides = [
                left[name] @ own.reshape(len(own), left[name].shape[1], -1) @ right[name].T
                for name, own in some.items()
            ]
            return torch.stack(sides).sum(0).flatten(1)[:, :dim] * (kept / dim) ** 0.5

        return lambda: torch.cat([sketch(some) for some in gradients(task, batch)])

    return Beside(
        f"{n} rows by a TwoSided map to {dim:,}, MNIST CNN",
        "example",
        n,
        lambda: fitted.train_rows(batch).dense(),
        {"torch": Way(f"vmap(grad), {GRADIENTS} at a time, then both sides", plain)},
    )


def gradients(task: Task, batch: Examples) -> Iterator[Params]:
    """Gradients of a few examples at a time, by vmap(grad)."""
    loss = task.function(task.loss)

    def of_one(params: Params, example: Examples) -> Tensor:
        return loss(params, {k: v[None] for k, v in example.items()})[0]

    each = vmap(grad(of_one), in_dims=(None, 0))
    return (each(task.params, some) for some in chunks(batch, GRADIENTS))


def lengths(theirs: Tensor, ours: Tensor) -> float:
    """The relative distance of the squared lengths of rows."""
    one, other = (rows.double().square().sum(1) for rows in (theirs, ours))
    return float((one - other).norm() / other.norm())


def digits(kind: type[Projection], dim: int, n: int) -> Beside:
    """Of the MNIST CNN of 820k parameters."""
    return dense(kind, dim, n, LargeCNN(), "MNIST CNN")


def resnet(kind: type[Projection], dim: int, n: int) -> Beside:
    """Of a ResNet-18 of 11.2 million parameters."""
    return dense(kind, dim, n, SmallImageResNet18(), "ResNet-18")
