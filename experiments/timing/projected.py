"""Gradients projected at random, timed beside float32 products with a dense matrix."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from experiments.laboratory.device import device
from experiments.models.mnist_cnn import LargeCNN
from experiments.models.resnet18 import SmallImageResNet18
from experiments.timing.work import CIFAR, MNIST, Timed, TimedWork, examples, forward_flops
from experiments.training.plans import cross_entropy
from methods.random_projection import RandomProjection
from methods.rows.projections import SJLT, Gaussian, Rademacher, TwoSided
from methods.task import Task

Drawn = Rademacher | Gaussian | SJLT | TwoSided
BLOCK = 4_096  # numbers of a row that the unit multiplies at a time
BLOCKS = 8
BOUNDS = {  # of the unit, by parameters in millions and the map
    (1, "Rademacher", 512): 2.2,
    (1, "Rademacher", 4_096): 1.9,
    (11, "Rademacher", 512): 4.7,
    (1, "SJLT", 4_096): 0.5,
    (1, "TwoSided", 512): 0.3,
    (1, "TwoSided", 4_096): 0.05,
}


@dataclass(frozen=True)
class Projected(TimedWork):
    """Rows of `n` examples by a random map, from the examples on.

    The unit is what a dense map of as many dimensions must multiply, in float32, its entries in
    memory: a row times `dim` directions, cut into blocks that stay in cache.
    """

    n: int = 128
    projection: Drawn = Rademacher(512)
    kind: LargeCNN | SmallImageResNet18 = LargeCNN()

    @property
    def network(self) -> Any:
        return self.kind

    def module(self) -> nn.Module:
        return super().module().eval()

    def build(self) -> Timed:
        module, shape = self.module(), MNIST if isinstance(self.kind, LargeCNN) else CIFAR
        batch, dim = examples(self.n, shape=shape), self.projection.dim
        task = Task.of(module, cross_entropy)
        fitted = RandomProjection(self.projection).fit(task, batch)
        rows, directions = (torch.randn(k, BLOCK, device=device()) for k in (self.n, dim))

        def products() -> None:
            for _ in range(BLOCKS):
                torch.mm(rows, directions.T)

        name = type(self.projection).__name__
        dense = isinstance(self.projection, Gaussian | Rademacher)
        multiplied = 2.0 * self.n * task.size * dim if dense else 0.0
        return Timed(
            f"{name} map of {task.size:,} numbers to {dim:,}, against products with a dense one",
            lambda: fitted.train_rows(batch),
            products,
            bound=BOUNDS.get((round(task.size / 1e6), name, dim)),
            factor=BLOCKS * BLOCK / task.size,
            flops=3 * forward_flops(module, self.n, shape) + multiplied,
            bytes=4.0 * self.n * (batch["image"][0].numel() + dim),
            memory=False,
        )


PROJECTED = [
    Projected(projection=Rademacher(512)),
    Projected(projection=Gaussian(512)),
    Projected(projection=SJLT(4_096)),
    Projected(projection=TwoSided(512)),
    Projected(projection=TwoSided(4_096)),
    Projected(64, Rademacher(4_096)),
    Projected(16, Rademacher(512), SmallImageResNet18()),
    Projected(8, Rademacher(4_096), SmallImageResNet18()),
    Projected(16, TwoSided(512), SmallImageResNet18()),
]
