"""Logistic regressions without one example each: those of a stack, to rounding."""

import numpy as np
import pytest
import torch

from experiments.ensembles.benchmark import InOrder
from experiments.laboratory.errors import Diverged
from experiments.models.benchmark_mlp import BenchmarkMLP
from experiments.training.left_out import fit_without
from experiments.training.loop import flat_params
from experiments.training.plans import Fit, cross_entropy
from experiments.training.stacked import Stack, fit_stack


def examples(n=23):
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(n, 1, 3, 3, generator=draw)
    return {"image": image, "label": torch.randint(10, (n,), generator=draw)}


def test_they_are_those_of_a_stack(tmp_path):
    train, removed = examples(), np.array([0, 4, 7, 8, 15, 22])
    network = BenchmarkMLP((), (1, 3, 3))
    found, losses = fit_without(network.build(0), train, removed, Fit(3, 8, 0.3, 0.0))
    masks = np.ones((len(removed), 23), dtype=bool)
    masks[np.arange(len(removed)), removed] = False
    plan = InOrder(3, 8, 0.3, 0.0, every=3)
    stack = Stack([network.build(0) for _ in removed])
    outcome = fit_stack(stack, cross_entropy, train, masks, plan, [0] * len(removed), tmp_path)
    ours = np.stack([flat_params(one) for one in found])
    np.testing.assert_allclose(ours, outcome["params"][-1], atol=1e-5)
    np.testing.assert_allclose(losses, outcome["train_loss"], rtol=1e-5)
    assert np.ptp(ours, axis=0).max() > 1e-2, "each lacks another example"


def test_divergence_is_said():
    train = {**examples(), "image": examples()["image"] * 1e30}
    with pytest.raises(Diverged, match="lower lr"):
        fit_without(
            BenchmarkMLP((), (1, 3, 3)).build(0), train, np.array([1]), Fit(2, 8, 1e30, 0.0)
        )
