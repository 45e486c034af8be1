"""The work on Hessians whose speed is measured: products on fresh and reused batches, the whole."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from experiments.losses import cross_entropy
from experiments.models.mnist_cnn import SmallCNN
from experiments.speed_work import Piece, Timed, examples, forward_flops, one_pass
from methods.exact_hessian import exact_hessian
from methods.operators import Hessian
from methods.task import Task, take


def _vector(task: Task) -> Tensor:
    return torch.randn(1, task.size, generator=torch.Generator().manual_seed(2))


@dataclass(frozen=True)
class FreshProduct(Piece):
    """A Hessian-vector product on a batch not met before."""

    n: int = 512

    def build(self) -> Timed:
        module, batch = self.network.build(0), examples(self.n)
        task = Task.of(module, cross_entropy)
        hessian, vector = Hessian(task, batch), _vector(task)
        return Timed(
            "Hessian product, fresh batch",
            lambda: hessian.apply(vector),
            one_pass(module, batch),
            bound=3.0,
            flops=9 * forward_flops(module, self.n),  # each of three products twice more, dotted
            bytes=4.0 * (self.n * 784 + 3 * task.size),
        )


@dataclass(frozen=True)
class ReusedProduct(Piece):
    """A Hessian-vector product on a batch whose gradient was linearised before."""

    n: int = 256

    def build(self) -> Timed:
        module, batch = self.network.build(0), examples(self.n)
        task = Task.of(module, cross_entropy)
        hessian, vector = Hessian(task, batch).linearized(), _vector(task)
        return Timed(
            "Hessian product, batch reused",
            lambda: hessian.apply(vector),
            one_pass(module, batch),
            bound=1.4,
            flops=6 * forward_flops(module, self.n),
            bytes=4.0 * (self.n * 784 + 3 * task.size),
        )


@dataclass(frozen=True)
class ExactHessian(Piece):
    """The whole Hessian of the small network, held against torch.func.hessian.

    The latter is timed on `theirs` examples and scaled to n.
    """

    n: int = 32
    theirs: int = 4

    @property
    def network(self) -> Any:
        return SmallCNN()

    def build(self) -> Timed:
        module, batch = self.network.build(0), examples(self.n)
        task = Task.of(module, cross_entropy)
        few = take(batch, slice(0, self.theirs))

        def reference() -> None:
            torch.func.hessian(lambda p: task.loss(p, few).mean())(task.params)

        return Timed(
            "exact Hessian, against torch.func.hessian",
            lambda: exact_hessian(task, batch),
            reference,
            bound=8.0,
            speedup=True,
            factor=self.theirs / self.n,
            flops=_hessian_flops(module, self.n),
            bytes=4.0 * task.size**2,
        )


def _hessian_flops(module: nn.Module, n: int) -> float:
    """Block-triangular: each tangent of a layer costs four products in every layer above."""
    layers: list[tuple[int, float]] = []

    def note(layer: nn.Module, args: Any, output: Tensor) -> None:
        weights = [p.numel() for p in layer.parameters(recurse=False)]
        if weights and isinstance(layer, nn.Conv2d | nn.Linear):
            positions = output[0].numel() // output.shape[1]
            layers.append((sum(weights), 2.0 * layer.weight.numel() * positions))

    handles = [m.register_forward_hook(note) for m in module.modules()]
    functional_call(module, dict(module.named_parameters()), (examples(1)["image"],))
    for handle in handles:
        handle.remove()
    above = [sum(cost for _, cost in layers[i + 1 :]) for i in range(len(layers))]
    return n * sum(4 * size * cost for (size, _), cost in zip(layers, above, strict=True))
