"""Passes over a batch: how gradients are laid out, how many examples are taken, what is proved."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.examples import Examples, chunks
from methods.rows import convolutions, gradients
from methods.rows.gradients import Gradients
from methods.rows.parts import Dense
from methods.task import Task
from tests.methods import networks

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


class Pool(nn.Module):
    """An average over pairs, which notes whether gradients come to its input channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.last: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            form = torch.channels_last
            x.register_hook(lambda g: self.last.append(g.is_contiguous(memory_format=form)))
        return F.avg_pool2d(x, 2)


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1),
        nn.Tanh(),
        Pool(),
        nn.Conv2d(16, 4, (2, 3), padding="same"),
        nn.Tanh(),
        Pool(),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, 3),
    )


@pytest.mark.parametrize("form", [torch.channels_last, torch.contiguous_format])
def test_gradients_are_laid_out_as_the_outputs_they_belong_to(form: Any) -> None:
    model, batch = networks.built(pooled).to(memory_format=form), networks.examples(9, 2, 12, 12)
    task = Task.of(model, networks.nll)
    source = Gradients(task)
    source.chunk(batch)
    for pool in (model[2], model[5]):
        pool.last.clear()
    rows = source.rows(batch)
    last = form is torch.channels_last
    assert model[5].last[0] is last, "the gradient behind the flattening"
    assert model[2].last[0] is last
    assert source.fallback == ()
    expected = networks.gradient_rows(task, task.loss, batch)
    torch.testing.assert_close(rows.dense(), expected, **CLOSE)


@pytest.mark.parametrize("options", [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2), "stride": (1, 2), "dilation": (2, 1), "padding": (2, 1)},
    {"kernel_size": (2, 3), "padding": "same", "padding_mode": "circular"},
    {"kernel_size": (2, 1), "bias": False},
])  # fmt: skip
def test_a_convolution_is_contracted_row_by_row_of_its_kernel(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolutions, "FACTORS", 0)
    monkeypatch.setattr(convolutions, "PATCHES", 1 << 13)  # a few examples at a time
    model = networks.built(lambda: nn.Sequential(nn.Conv2d(16, 3, **options), nn.Flatten()))
    task, batch = (
        Task.of(model, lambda m, b: m(b["x"]).sin().sum(1)),
        networks.examples(7, 16, 9, 8),
    )
    rows = Gradients(task).rows(batch)
    part = rows.parts["0.weight"][0]
    assert isinstance(part, Dense)
    assert part.order == (1, 3, 0, 2), "not the way that is tested"
    expected = networks.gradient_rows(task, task.loss, batch)
    torch.testing.assert_close(rows.dense(), expected, **CLOSE)
    torch.testing.assert_close(rows.squared_norms(), expected.square().sum(1), **CLOSE)
    torch.testing.assert_close(rows.inner(rows), expected @ expected.T, **CLOSE)


def test_more_examples_are_taken_at_a_time_of_a_small_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = networks.examples(9, 6)

    def chunk() -> int:
        return Gradients(Task.of(networks.built(networks.Mlp), networks.nll)).chunk(batch)

    assert chunk() == gradients.MOST
    taken = []
    for cached in (0, *(1 << k for k in range(14, 20))):
        monkeypatch.setattr(gradients, "CACHED", cached)
        taken.append(chunk())
    assert taken == sorted(taken)
    assert (taken[0], taken[-1]) == (gradients.CHUNK, gradients.MOST)
    assert any(gradients.CHUNK < n < gradients.MOST for n in taken)
    monkeypatch.setattr(gradients, "CACHED", 0)
    monkeypatch.setattr(gradients, "BUDGET", 0)
    assert chunk() == 1


def test_large_activations_below_the_last_layer_count() -> None:
    model = networks.built(lambda: nn.Sequential(nn.Linear(6, 80_000), nn.Tanh(), Mean()))
    task = Task.of(model, networks.nll, only=["2.*"])
    assert Gradients(task).chunk(networks.examples(9, 6)) == gradients.CHUNK


class Mean(nn.Module):
    """Logits that are affine in the mean of very many features."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean(1, keepdim=True))


def test_as_many_rows_are_held_against_autograd_however_large_the_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gradients, "CHUNK", 2)
    data, task = networks.examples(48, 6), Task.of(networks.built(networks.Mlp), networks.nll)
    held: dict[int, list[int]] = {}
    for size in (2, 8, 48):
        source = Gradients(task)
        source.chunk(data)
        alone = source.passes.one_by_one

        def noted(examples: Examples, names: Any, size: int = size, alone: Any = alone) -> Any:
            if names:
                held.setdefault(size, []).append(len(examples["x"]))
            return alone(examples, names)

        monkeypatch.setattr(source.passes, "one_by_one", noted)
        for some in chunks(data, size):
            source.rows(some)
    assert held[2] == held[8] == held[48] == [1] * 9  # of batch 1, 2, 3, 4, 6, 8, 12, 16 and 23
