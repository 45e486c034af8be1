"""The work whose speed is measured, with the operations that its architecture requires."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.utils.flop_counter import FlopCounterMode

from experiments.laboratory.device import device, on_device
from experiments.models.mnist_cnn import LargeCNN, SmallCNN
from experiments.models.resnet import ResNet
from experiments.training.plans import cross_entropy
from methods.curvature.exact_hessian import exact_hessian
from methods.curvature.operators import Hessian
from methods.examples import Examples, chunks, take
from methods.fitted.embedded import Bilinear, Embedded
from methods.rows.maps import Directions
from methods.sources import Source
from methods.task import Task
from methods.tracin import TracIn

UNIT_CHUNK = 64


@dataclass(frozen=True)
class Timed:
    """A call to time, and its unit.

    `factor` turns time(work) / time(unit) into the reported ratio; `memory` says whether its peak
    is measured too.
    """

    name: str
    work: Callable[[], Any]
    unit: Callable[[], Any]
    bound: float | None = None
    speedup: bool = False
    factor: float = 1.0
    flops: float = 0.0
    bytes: float = 0.0
    memory: bool = True


class TimedWork(ABC):
    """Work over `n` examples, to be built and timed."""

    n: int

    @abstractmethod
    def build(self) -> Timed: ...

    @property
    def network(self) -> Any:
        return LargeCNN()

    def module(self) -> nn.Module:
        """The network, on the device."""
        module: nn.Module = self.network.build(0).to(device())
        return module


MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


def examples(n: int, seed: int = 0, shape: tuple[int, int, int] = MNIST) -> Examples:
    """n random images with labels of ten classes, on the device."""
    draw = torch.Generator().manual_seed(seed)
    return on_device(
        {
            "image": torch.rand(n, *shape, generator=draw),
            "label": torch.randint(0, 10, (n,), generator=draw),
        }
    )


def forward_flops(module: nn.Module, n: int, shape: tuple[int, int, int] = MNIST) -> float:
    """Operations of one forward pass over n examples (a multiply-add is two)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(examples(1, shape=shape)["image"])
    return float(counter.get_total_flops()) * n


def one_pass(module: nn.Module, batch: Examples) -> Callable[[], None]:
    """The unit of time: a batched forward and backward pass, weights included."""
    params = list(module.parameters())

    def both() -> None:
        for some in chunks(batch, UNIT_CHUNK):
            torch.autograd.grad(cross_entropy(module, some).mean(), params)

    return both


def forward_pass(module: nn.Module, batch: Examples) -> Callable[[], None]:
    """The unit where nothing is differentiated below the last layer."""

    def forward() -> None:
        with torch.inference_mode():
            for some in chunks(batch, UNIT_CHUNK):
                module(some["image"])

    return forward


def _sizes(module: nn.Module) -> tuple[float, float]:
    """Multiply-adds of one inner product: materialised convolutions, factored linear layers."""
    dense = sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d))
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
    return float(dense), float(sum(m.in_features + m.out_features for m in linear))


@dataclass(frozen=True)
class SelfInfluence(TimedWork):
    """TracInCP self-influence, all layers, one checkpoint."""

    n: int = 1_024

    def build(self) -> Timed:
        module, batch = self.module(), examples(self.n)
        fitted = TracIn(learning_rates=False).fit(Task.of(module, cross_entropy), batch)
        flops = 3 * forward_flops(module, self.n)
        size = sum(p.numel() for p in module.parameters())
        return Timed(
            "self-influence, all layers",
            lambda: fitted.self_influence(batch),
            one_pass(module, batch),
            bound=1.5,
            flops=flops,
            bytes=4.0 * (self.n * 784 + size + self.n),
        )


@dataclass(frozen=True)
class Matrix(TimedWork):
    """All-layer influence of `n` candidates on some queries."""

    n: int = 6_000
    queries: int = 100

    def build(self) -> Timed:
        module, batch, query = self.module(), examples(self.n), examples(self.queries, 1)
        fitted = TracIn(learning_rates=False).fit(Task.of(module, cross_entropy), batch)
        dense, factored = _sizes(module)
        products = 2.0 * self.n * self.queries * (dense + factored)
        return Timed(
            f"{self.n:,} x {self.queries} influence matrix",
            lambda: fitted.scores(query, batch),
            one_pass(module, batch),
            bound=2.2,
            flops=3 * forward_flops(module, self.n + self.queries) + products,
            bytes=4.0 * self.n * (784 + self.queries),
        )


@dataclass(frozen=True)
class LastLayer(TimedWork):
    """The same matrix from the last layer alone, compared with a mere forward pass."""

    n: int = 6_000
    queries: int = 100

    def build(self) -> Timed:
        module, batch, query = self.module(), examples(self.n), examples(self.queries, 1)
        layers: list[tuple[str, Any]] = list(module.named_children())
        name, head = layers[-1]
        method = TracIn(learning_rates=False, layers=(f"{name}.*",))
        fitted = method.fit(Task.of(module, cross_entropy), batch)
        products = 2.0 * self.n * self.queries * (head.in_features + head.out_features)
        return Timed(
            f"{self.n:,} x {self.queries} of the last layer, against forward passes",
            lambda: fitted.scores(query, batch),
            forward_pass(module, batch),
            bound=1.25,
            flops=forward_flops(module, self.n + self.queries) + products,
            bytes=4.0 * self.n * (784 + self.queries),
        )


class Endless:
    """n images with labels that are computed when they are read, each other than all others.

    A slice is a dict of columns: what `Source` reads a chunk at a time.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.drawn = examples(509)  # of which the others are shades

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, some: slice) -> Examples:
        where = range(self.n)[some]
        place = torch.arange(where.start, where.stop, where.step, device=device())
        which, shade = place % 509, place // 509
        darker = 1 / (1 + 0.01 * shade)
        image = self.drawn["image"][which] * darker[:, None, None, None]
        return {"image": image, "label": self.drawn["label"][which]}


@dataclass(frozen=True)
class BeyondMemory(TimedWork):
    """Proponents among candidates that are read as they are needed, against those in memory.

    The latter are `held` examples, of which there are scores, and their time is scaled to n.
    """

    n: int = 10_000
    queries: int = 100
    k: int = 10
    held: int = 2_000

    def build(self) -> Timed:
        module, query = self.module(), examples(self.queries, 1)
        candidates, batch = Source(Endless(self.n)), Source(Endless(self.held)).read(slice(None))
        fitted = TracIn(learning_rates=False).fit(Task.of(module, cross_entropy), batch)
        dense, factored = _sizes(module)
        products = 2.0 * self.n * self.queries * (dense + factored)
        return Timed(
            f"proponents of {self.queries} queries among examples read as needed",
            lambda: fitted.proponents(query, candidates, self.k),
            lambda: fitted.scores(query, batch),
            bound=1.1,
            factor=self.held / self.n,
            flops=3 * forward_flops(module, self.n + self.queries) + products,
            bytes=4.0 * self.n * 784,
        )


@dataclass(frozen=True)
class Proponents(TimedWork):
    """The top 5 of n CIFAR-shaped candidates for each query, TracIn of a residual network."""

    n: int = 1_000
    queries: int = 200

    @property
    def network(self) -> Any:
        return ResNet(depth=8)

    def build(self) -> Timed:
        module = self.module().eval()
        batch, query = (examples(m, m, CIFAR) for m in (self.n, self.queries))
        both = {name: torch.cat([column, query[name]]) for name, column in batch.items()}
        fitted = TracIn(learning_rates=False).fit(Task.of(module, cross_entropy), batch)
        size = sum(p.numel() for p in module.parameters())
        return Timed(
            f"proponents of {self.queries} queries, residual network",
            lambda: fitted.scores(query, batch).topk(5),
            one_pass(module, both),
            bound=3.0,
            flops=3 * forward_flops(module, self.n + self.queries, CIFAR)
            + 2.0 * self.n * self.queries * size,
            bytes=4.0 * self.n * (3_072 + self.queries),
        )


@dataclass(frozen=True)
class ScoreDirections(TimedWork):
    """Scores on Arnoldi directions, compared with one JVP pass a direction.

    JVP passes are timed for `passes` directions and scaled to all.
    """

    n: int = 256
    directions: int = 100
    passes: int = 3

    def build(self) -> Timed:
        module, batch = self.module(), examples(self.n)
        task = Task.of(module, cross_entropy)
        draw = torch.Generator().manual_seed(3)
        matrix = torch.randn(self.directions, task.size, generator=draw).to(task.device)
        projection = Directions(matrix, task)
        fitted = Embedded(task, Bilinear(projection, projection))

        def jvps() -> None:
            for vector in matrix[: self.passes]:
                tangent = task.unflatten(vector)
                for some in chunks(batch, UNIT_CHUNK):
                    jvp(lambda p, b=some: task.loss(p, b), (task.params,), (tangent,))

        return Timed(
            f"scores on {self.directions} directions, against JVPs",
            lambda: fitted.self_influence(batch),
            jvps,
            bound=20.0,
            speedup=True,
            factor=self.passes / self.directions,
            flops=3 * forward_flops(module, self.n) + 2.0 * self.n * task.size * self.directions,
            bytes=4.0 * (self.n * 784 + matrix.numel()),
        )


def _vector(task: Task) -> Tensor:
    return torch.randn(1, task.size, generator=torch.Generator().manual_seed(2)).to(task.device)


@dataclass(frozen=True)
class FreshProduct(TimedWork):
    """A Hessian-vector product on a new batch."""

    n: int = 512

    def build(self) -> Timed:
        module, batch = self.module(), examples(self.n)
        task = Task.of(module, cross_entropy)
        hessian, vector = Hessian(task, batch), _vector(task)
        return Timed(
            "Hessian product, fresh batch",
            lambda: hessian.apply(vector),
            one_pass(module, batch),
            bound=3.0,
            # A pass takes three products per layer; differentiating each adds two.
            flops=9 * forward_flops(module, self.n),
            bytes=4.0 * (self.n * 784 + 3 * task.size),
        )


@dataclass(frozen=True)
class ReusedProduct(TimedWork):
    """A Hessian-vector product on a batch whose gradient is already linearised."""

    n: int = 256

    def build(self) -> Timed:
        module, batch = self.module(), examples(self.n)
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
class ExactHessian(TimedWork):
    """The whole Hessian of the small network, compared with torch.func.hessian.

    The latter is timed on `theirs` examples and scaled to n.
    """

    n: int = 32
    theirs: int = 4

    @property
    def network(self) -> Any:
        return SmallCNN()

    def build(self) -> Timed:
        module, batch = self.module(), examples(self.n)
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
    """Operations of the upper triangle: a tangent costs four products in every layer above."""
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
