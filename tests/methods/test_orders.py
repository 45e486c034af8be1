"""Layers that take examples in another order, or their tokens apart: factored, and right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.examples import Examples, take
from methods.rows.gradients import Gradients
from methods.rows.owners import _owners
from methods.task import Task
from tests.methods import networks

WORDS, WIDTH = 6, 4


def nll(model: Any, batch: Examples) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


class Flat(nn.Module):
    """All tokens in one row, those of an example together or those of a time."""

    def __init__(self, time_first: bool) -> None:
        super().__init__()
        self.time_first, self.words = time_first, nn.Embedding(WORDS, WIDTH)
        self.layer, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        (b, t), x = x.shape, x.T if self.time_first else x
        flat = self.norm(self.layer(self.words(x.reshape(-1)))).tanh()
        mean = flat.view(t, b, -1).mean(0) if self.time_first else flat.view(b, t, -1).mean(1)
        return self.head(mean)


class TimeFirst(nn.Module):
    """(t, b, d), as recurrent networks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layer(self.words(x.T))).tanh()).mean(0)


class Experts(nn.Module):
    """Each expert takes the tokens that are routed to it, none perhaps."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.router = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, 3)
        self.experts = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.words(x).flatten(0, 1)
        weights, chosen = self.router(flat).softmax(-1).topk(2, -1)
        out = torch.zeros_like(flat)
        for k, expert in enumerate(self.experts):
            token, rank = (chosen == k).nonzero(as_tuple=True)
            out = out.index_add(0, token, expert(flat[token]) * weights[token, rank, None])
        return self.head(out.view(*x.shape, -1).tanh().mean(1))


class Frames(nn.Module):
    """A convolution of the frames of films, (b t, c, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(1, 2, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.double().view(-1, 1, 2, 2) - 2.5
        return self.head(self.layer(frames).tanh().view(len(x), -1, 2).mean(1))


class Sorted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        order = x.sum(1).argsort()
        return self.head(self.words(x[order]).tanh().mean(1))[order.argsort()]


class Placed(nn.Embedding):
    """Places that are given by name, and returned once for all examples."""

    def forward(self, x: Tensor, first: int = 0, places: Tensor | None = None) -> Tensor:
        places = torch.arange(x.shape[1]).expand(len(x), -1) if places is None else places[None]
        return super().forward(places + first)


class Places(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), Placed(8, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        places = self.places(x, 2, places=torch.arange(x.shape[1]))
        return self.head((self.words(x) * places).tanh().mean(1))


KINDS: dict[str, Callable[[], nn.Module]] = {
    "tokens of an example together": lambda: Flat(False),
    "tokens of a time together": lambda: Flat(True),
    "time first": TimeFirst,
    "experts": Experts,
    "frames": Frames,
    "sorted": Sorted,
    "places by name": Places,
}


@pytest.mark.parametrize("length", [1, 3, 4])
@pytest.mark.parametrize("name", KINDS)
def test_rows_are_factored_and_those_of_plain_autograd(name: str, length: int) -> None:
    if name == "frames":
        length *= 4
    data = {"x": networks.integers(WORDS, 12, length), "y": networks.integers(3, 12, seed=1)}
    task = Task.of(networks.built(KINDS[name]), nll)
    expected = networks.gradient_rows(task, task.loss, data)
    source, start = Gradients(task), 0
    for size in (4, 3, 1, 4):  # as many examples as tokens among them
        some = take(data, slice(start, start + size))
        rows = source.rows(some).dense()
        torch.testing.assert_close(rows, expected[start : start + size], rtol=1e-9, atol=1e-12)
        start += size
    assert source.fallback == ()


def test_vectors_where_examples_meet_have_no_owner() -> None:
    own = networks.normal(5, 3)
    factor = torch.tensor([2, 1, 4, 3, 2])[:, None]
    assert _owners(own, own * factor, 4, 1e-16).tolist() == [1, 0, 3, 2, 1]
    mixed = own * factor + networks.normal(5, 3, seed=1) * torch.tensor([0, 0, 1, 0, 0])[:, None]
    with pytest.raises(ValueError, match="several examples meet"):
        _owners(own, mixed, 4, 1e-16)
    with pytest.raises(ValueError, match="too coarse"):
        _owners(own, own, 64, 2.0**-8)
