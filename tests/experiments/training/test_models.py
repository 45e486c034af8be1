"""A network is trained once, and restored as it ended."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

from experiments.models.resnet import ResNet
from experiments.training.loop import fit, flat_buffers, flat_params
from experiments.training.models import restore, train_once
from experiments.training.plans import CrossEntropy, Fit, cross_entropy

TRAIN = {"image": torch.rand(40, 3, 8, 8), "label": torch.arange(40) % 10}
PLAN = Fit(epochs=2, batch_size=20, lr=0.05, weight_decay=1e-3)


@dataclass(frozen=True)
class Model:
    seed: int = 0


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))


def once(trained, **options):
    def train(module, scratch):
        trained.append(module)
        return {**fit(module, cross_entropy, TRAIN, PLAN, 0, scratch), "extra": 1.5}

    build = partial(ResNet(8, 2).build, 0)
    return train_once("network", Model(), build, cross_entropy, train, **options)


def test_a_network_is_trained_once_and_restored_with_its_statistics():
    trained = []
    first, again = once(trained, weight_decay=1e-3), once(trained)
    assert len(trained) == 1
    np.testing.assert_array_equal(flat_params(again.module), flat_params(trained[0]))
    np.testing.assert_array_equal(flat_buffers(again.module), flat_buffers(trained[0]))
    assert first.task.weight_decay == 1e-3
    assert first.metrics["extra"] == 1.5
    assert first.metrics["num_params"] == len(flat_params(trained[0]))
    assert not any(value.requires_grad for value in again.module.parameters())
    assert len(again.task.checkpoints) == 2
    early = again.task.checkpoints[0].params
    module = restore(
        ResNet(8, 2).build(1), first.run.array("params")[0], first.run.array("buffers")[0]
    )
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if name in early:
            torch.testing.assert_close(early[name], value.detach(), rtol=0, atol=0)
    assert any(name.endswith("running_mean") for name in early)


def test_precision_and_checkpoints_are_a_choice_of_restoring():
    there = once([], dtype=torch.float64, with_checkpoints=False)
    assert there.task.dtype == torch.float64
    assert there.task.checkpoints == ()
    assert there.run.array("params").dtype == np.float32


def test_cross_entropy_takes_the_columns_it_names_in_their_order():
    logits = torch.randn(4, 3)
    batch = {"b": torch.ones(4, 1), "a": logits, "label": torch.tensor([0, 1, 2, 0])}
    given = CrossEntropy(("a", "b"))(lambda a, b: a * b, batch)
    wanted = -logits.log_softmax(1)[torch.arange(4), batch["label"]]
    torch.testing.assert_close(given, wanted)
