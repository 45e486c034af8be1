"""Sharpness-aware minimisation: its gradient, its steps, and training that resumes within one."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from experiments.laboratory.errors import UserError
from experiments.models.vit import ViT
from experiments.training import loop
from experiments.training.augmentation import CropAndFlip, augmented
from experiments.training.loop import fit, sharpen
from experiments.training.plans import SharpnessAware, cross_entropy

SMALL = ViT(2, 8, 2, 4, 8, channels=1)


def test_the_gradient_is_that_at_the_worst_point_to_first_order():
    matrix = torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64))
    module = nn.Linear(3, 1, bias=False).double()
    start = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    module.weight.data.copy_(start)

    def loss():  # theta' A theta / 2, of two examples alike
        value = (module.weight @ matrix @ module.weight.T).squeeze() / 2
        return value.expand(2)

    loss().mean().backward()
    gradient = start @ matrix
    torch.testing.assert_close(module.weight.grad, gradient)
    sharpen(module, 0.3, loss)
    wanted = (start + 0.3 * gradient / gradient.norm()) @ matrix
    torch.testing.assert_close(module.weight.grad, wanted)
    assert torch.equal(module.weight.data, start)


DRAW = np.random.default_rng(0)
TRAIN = {
    "image": torch.from_numpy(DRAW.random((50, 1, 8, 8), np.float32)),
    "label": torch.from_numpy(DRAW.integers(0, 10, 50)),
}


def test_a_step_goes_from_the_old_point_by_the_gradient_at_the_worst(tmp_path):
    plan = SharpnessAware(1, 50, 0.05, momentum=0.0, weight_decay=0.1, rho=0.2)
    module, data = SMALL.build(0).double(), {**TRAIN, "image": TRAIN["image"].double()}
    start = [value.detach().clone() for value in module.parameters()]

    def gradient(point):
        for value, new in zip(module.parameters(), point, strict=True):
            value.data.copy_(new)
        return torch.autograd.grad(cross_entropy(module, data).mean(), list(module.parameters()))

    first = gradient(start)
    norm = sum(g.square().sum() for g in first).sqrt()
    worst = gradient([p + 0.2 * g / norm for p, g in zip(start, first, strict=True)])
    wanted = [p - 0.05 * (g + 0.1 * p) for p, g in zip(start, worst, strict=True)]
    gradient(start)  # back to where it starts
    fit(module, cross_entropy, data, plan, 0, tmp_path)
    found = list(module.parameters())
    torch.testing.assert_close([p.detach() for p in found], wanted, rtol=1e-9, atol=1e-12)


class Killed(BaseException):
    """As sudden as a signal."""


@pytest.mark.parametrize("deaths", [[3], [10, 7]])
def test_killed_within_a_step_and_restarted_it_ends_with_the_same_bits(
    deaths, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)
    plan = SharpnessAware(2, 10, 0.05, rho=0.1)
    moved = augmented(cross_entropy, CropAndFlip(1))  # the same crops in both halves of a step
    ends = []
    for place, ends_of in enumerate(([], deaths)):
        scratch = tmp_path / str(place)
        scratch.mkdir()
        for after in [*ends_of, None]:
            left = iter(range(after)) if after else None

            def loss(module, batch, left=left):
                if left is not None and next(left, None) is None:
                    raise Killed
                return moved(module, batch)

            with contextlib.suppress(Killed):
                outcome = fit(SMALL.build(0), loss, TRAIN, plan, 5, scratch)
        ends.append(outcome["params"])
    np.testing.assert_array_equal(*ends)


def test_a_stack_and_a_radius_of_nothing_are_refused(tmp_path):
    module = SMALL.build(0)
    cross_entropy(module, TRAIN).mean().backward()
    with pytest.raises(UserError, match="stack of networks"):
        sharpen(module, 0.1, lambda: cross_entropy(module, TRAIN).expand(2, -1))
    with pytest.raises(UserError, match="rho is 0"):
        fit(SMALL.build(0), cross_entropy, TRAIN, SharpnessAware(rho=0.0), 0, tmp_path)


def test_the_rate_warms_up_and_falls_to_zero_along_a_cosine():
    plan = SharpnessAware(10, lr=1.0, warmup=0.2)
    rates = [plan.rate(epoch) for epoch in np.linspace(0, 10, 101)]
    assert 0 < rates[0] < 0.1
    assert rates[20] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert all(np.diff(rates[:20]) > 0)
    assert all(np.diff(rates[21:]) < 0)
    assert SharpnessAware(10, lr=1.0).rate(0) == 1.0
