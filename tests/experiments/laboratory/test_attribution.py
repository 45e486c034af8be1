"""The once-per-model work of a method is one run; settings and names of methods."""

import numpy as np
import pytest
import torch

from experiments.laboratory import attribution
from experiments.laboratory.attribution import Loss, arnoldi, randproj, randselect
from experiments.training.plans import Fit, cross_entropy
from methods.ihvp.arnoldi import Krylov
from methods.ihvp.compressed import Compressed
from methods.ihvp.exact import Exact
from methods.ihvp.lissa import LiSSA
from methods.influence import Influence
from methods.rows.projections import Gaussian
from methods.task import Task
from methods.tracin import TracIn

BASIS = Krylov(8, keep=4)


@pytest.fixture
def small() -> tuple[Task, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 3)).eval()
    train = {"image": torch.randn(20, 1, 2, 3), "label": torch.arange(20) % 3}
    return Task.of(module, cross_entropy), train


@pytest.mark.parametrize(
    ("method", "family", "dim", "draw", "name"),
    [
        (TracIn(), "TracIn", 0, 0, "TracIn"),
        (randproj(10, 3), "RandProj", 10, 3, "RandProj 10"),
        (randselect(20, 1), "RandSelect", 20, 1, "RandSelect 20"),
        (arnoldi(4, BASIS), "Arnoldi", 4, 0, "Arnoldi 4"),
        (arnoldi(4, BASIS, True), "Arnoldi", 4, 0, "Arnoldi 4 positive"),
        (Influence(LiSSA(7)), "LiSSA", 0, 0, "LiSSA r=7"),
        (Influence(Exact()), "Exact", 0, 0, "Exact"),
        (Influence(Compressed(Gaussian(5, 2))), "GHG^T", 5, 2, "GHG^T 5"),
        (Loss(), "Loss", 0, 0, "Loss"),
    ],
)
def test_methods_have_settings_and_names(method, family, dim, draw, name):
    assert attribution.settings(method) == {"family": family, "dim": dim, "draw": draw}
    assert attribution.display(method) == name


def test_a_state_is_computed_once(small, tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    loaded = []

    def load():
        loaded.append(1)
        return small

    first, again = (
        attribution.stored_state("basis", Fit(), arnoldi(4, BASIS), load) for _ in range(2)
    )
    assert len(loaded) == 1
    assert first[1] == again[1] >= 0
    assert first[0].keys() == again[0].keys()
    for key, value in arnoldi(4, BASIS).state(*small).items():
        torch.testing.assert_close(again[0][key], value)


def test_losses_do_not_depend_on_the_size_of_passes(small):
    task, train = small
    whole = task.loss(task.params, train)
    torch.testing.assert_close(attribution.losses(task, train, chunk=7), whole)


def test_a_ranking_has_the_quality_of_its_order():
    corrupted = np.array([True, False, True, False])
    assert attribution.quality(corrupted, np.array([4.0, 1, 3, 2])) == {
        "auc": 1.0,
        "ap": 1.0,
        "chance_ap": 0.5,
    }
    assert attribution.quality(corrupted, np.array([1.0, 4, 2, 3]))["auc"] == 0.0
