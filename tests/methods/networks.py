"""Small models, data and independent references that the tests of methods/ share."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.checkpoints import Checkpoint
from methods.examples import Examples
from methods.losses.objective import Params, PerExample
from methods.task import Task

REFERENCE = json.loads(Path(__file__).with_name("reference.json").read_text())
DOUBLE = torch.float64
WORDS, WIDTH, LENGTH = 11, 8, 5


def nll(model: Any, batch: Examples) -> Tensor:
    """Cross-entropy of (b, classes, ...) scores, the mean over positions."""
    losses = F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
    return losses.flatten(1).mean(1) if losses.ndim > 1 else losses


class ConvNet(nn.Module):
    """Groups, stride, dilation, padding in words and by reflection, in-place activations."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding="same", dilation=2, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="reflect"),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 6, (3, 2), groups=3, dilation=(1, 2), padding=(1, 0)),
            nn.Tanh(),
            nn.Conv2d(6, 4, 1, groups=2, stride=(2, 1), bias=False),
            nn.Flatten(),
        )
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Encoder(nn.Module):
    """A language model of torch's own encoder layer; embedding and output share a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, batch_first=True)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.words(x) + self.places(torch.arange(x.shape[1])[None])
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivatives
            return self.head(self.layer(h)).mT


class Block(nn.Module):
    """The same by hand, of Linear, LayerNorm and Embedding: every parameter is factored."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.first, self.last = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.words(x)
        query, key, value = self.qkv(self.first(h)).chunk(3, dim=-1)
        h = h + self.out((query @ key.mT / WIDTH**0.5).softmax(-1) @ value)
        return self.head(self.last(h + self.down(F.gelu(self.up(h))))).mT


class Mlp(nn.Module):
    """A plain network; its variants below use parameters in less plain ways."""

    def __init__(self, n_in: int = 6, hidden: int = 5, classes: int = 3) -> None:
        super().__init__()
        self.inner, self.middle = nn.Linear(n_in, hidden), nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.inner(x).tanh()).tanh())


class Twice(Mlp):
    """A layer used twice."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.middle(self.inner(x).tanh()).tanh()))


class Outside(Mlp):
    """A parameter of no layer, and layers that are never called."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(5))
        self.idle = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gain * self.inner(x).tanh())


class RawWeight(Mlp):
    """A Linear whose weight is also multiplied by outside of it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.inner(x).tanh()).tanh() @ self.middle.weight)


class InPlace(Mlp):
    """A sequence through Linear layers, activated in place."""

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.inner(x), inplace=True)
        return self.head(F.relu(self.middle(h), inplace=True).mean(1))


class SequenceFirst(Mlp):
    """Examples along the second axis inside the model."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.inner(x.transpose(0, 1)).tanh()).mean(0))


class Padded(nn.Module):
    """A bag of words with a padding token."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, WIDTH, padding_idx=2), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x).sum(1).tanh())


def built(make: Callable[[], nn.Module], seed: int = 0) -> Any:
    """A model in float64 and evaluation mode, random in every parameter, biases too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().to(DOUBLE).eval()
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.3 * torch.randn_like(value))
    return model


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def integers(high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def examples(n: int, *shape: int, classes: int = 3, seed: int = 0) -> Examples:
    return {"x": normal(n, *shape, seed=seed), "y": integers(classes, n, seed=seed + 1)}


def sentences(n: int, seed: int = 0) -> Examples:
    words = integers(WORDS, n, LENGTH, seed=seed)
    return {"x": words, "y": integers(WORDS, n, LENGTH, seed=seed + 1)}


def bags(n: int, seed: int = 0) -> Examples:
    return {"x": integers(4, n, LENGTH, seed=seed), "y": integers(3, n, seed=seed + 1)}


def gradient_rows(task: Task, of: PerExample, batch: Examples) -> Tensor:
    """Gradients by one autograd call an example, (n, p)."""
    rows = []
    for i in range(len(batch["x"])):
        params = {n: v.detach().clone().requires_grad_() for n, v in task.params.items()}
        one = {k: v[i : i + 1] for k, v in batch.items()}
        loss = of({**(task.frozen or {}), **params}, one).sum()
        values = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        grads = dict(zip(params, values, strict=True))
        whole = {
            n: torch.zeros_like(v) if grads[n] is None else grads[n] for n, v in params.items()
        }
        rows.append(task.flatten(whole))
    return torch.stack(rows)


def checkpoints(model: nn.Module, lrs: tuple[float, ...] = (0.3, 0.1)) -> tuple[Checkpoint, ...]:
    """Checkpoints of a made-up training, the last of them the model itself."""
    last: Params = {n: v.detach().clone() for n, v in model.named_parameters()}
    moments = [
        {n: v + 0.1 * normal(*v.shape, seed=i).to(v.device) for n, v in last.items()}
        for i in range(len(lrs) - 1)
    ]
    return tuple(Checkpoint(p, lr) for p, lr in zip([*moments, last], lrs, strict=True))


def subclasses(package: ModuleType, kind: type) -> list[Any]:
    """Concrete subclasses of `kind` defined in the modules of a package's folder."""
    classes = []
    for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        for _, value in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
            defined_here = value.__module__ == info.name and not inspect.isabstract(value)
            if defined_here and issubclass(value, kind):
                classes.append(value)
    return classes
