"""Ensembles on a pretend GPU: the CPU's networks, nothing left on the CPU, few waits."""

import logging

import numpy as np
import pytest
import torch

from experiments.models.resnet import ResNet
from experiments.training.plans import Adam, Fit, cross_entropy
from experiments.training.stacked import Apart, Stack, fit_stack, together
from methods.ensembles.masks import draw_masks
from tests.experiments.training.test_stacked import SEEDS, cnn, mlp, moving, normalised
from tests.experiments.training.test_training import TRAIN

MASKS = draw_masks(3, 130, 91, seed=0)
PLAN = Fit(epochs=3, batch_size=20, lr=0.05, weight_decay=1e-3)


def trained(network, device, plan, folder, seen=None, train=TRAIN, masks=MASKS):
    networks = together([network(seed) for seed in SEEDS], torch.device(device))
    train = {name: column.to(device) for name, column in train.items()}
    folder.mkdir()
    return networks, fit_stack(networks, cross_entropy, train, masks, plan, SEEDS, folder, seen)


def colour(seed: int):
    return ResNet(8, 2).build(seed)


@pytest.mark.parametrize("plan", [PLAN, Fit(2, 20, 0.01, adam=Adam())])
@pytest.mark.parametrize("network", [mlp, cnn, normalised])
def test_networks_are_those_of_the_cpu(network, plan, tmp_path, monkeypatch, pretend_gpu, caplog):
    with caplog.at_level(logging.WARNING):
        networks, found = trained(network, "cuda", plan, tmp_path / "gpu", moving)
    assert isinstance(networks, Stack if network is mlp else Apart)
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "without a CUDA graph" in line]) == 1
    monkeypatch.setenv("RETRACE_NETWORKS", "stacked" if network is mlp else "apart")
    _, expected = trained(network, "cpu", plan, tmp_path / "cpu", moving)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-7)
    assert networks.at(1)(TRAIN["image"].to("cuda")).device.type == "cuda"


@pytest.mark.parametrize("way", ["stacked", "apart"])
def test_buffers_outside_of_the_state_are_on_the_gpu_too(way, tmp_path, monkeypatch, pretend_gpu):
    monkeypatch.setenv("RETRACE_NETWORKS", way)
    train = {**TRAIN, "image": TRAIN["image"].expand(-1, 3, -1, -1)}
    networks, found = trained(colour, "cuda", Fit(1, 91, 0.05), tmp_path / "gpu", train=train)
    assert {buffer.device.type for buffer in networks.at(2).buffers()} == {"cuda"}
    _, expected = trained(colour, "cpu", Fit(1, 91, 0.05), tmp_path / "cpu", train=train)
    np.testing.assert_allclose(found["params"], expected["params"], rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_a_training_waits_for_the_gpu_once_in_twenty_steps(tmp_path, pretend_gpu):
    with pretend_gpu.counting() as counted:
        trained(cnn, "cuda", Fit(4, 2, 0.01), tmp_path / "gpu", moving)
    steps = 4 * 46
    assert counted.syncs.total() <= steps // 20 + 4 * 8 + 20, counted.syncs
