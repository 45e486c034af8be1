"""Models of CIFAR-10, proponents of its images, and Figures 5 and 6."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.numbers import cifar_proponents as proponents
from analysis.numbers import table
from experiments import cifar_proponents
from experiments.data import cifar
from experiments.images import cifar_models
from experiments.images.cifar_models import Data, Model, trained
from experiments.images.proponents import Queries
from experiments.models.resnet import ResNet
from experiments.training.plans import Stepped
from tests.analysis.synthetic import cifar as synthetic_cifar


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path))
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    cifar_models.load_data.cache_clear()
    yield
    cifar_models.load_data.cache_clear()


TINY = Model(ResNet(8, 2), Data("digits", 60, 60), Stepped(2, 20, 0.05, drops=(0.5,)), augment=None)


def test_a_trained_model_has_its_statistics_at_every_checkpoint():
    there = trained(TINY)
    first, last = there.task.checkpoints
    assert [first.lr, last.lr] == pytest.approx([0.05, 0.005])
    names = set(dict(there.module.named_parameters())) | set(there.task.frozen)
    assert set(first.params) == set(last.params) == names
    assert not torch.equal(first.params["norm.running_mean"], last.params["norm.running_mean"])
    torch.testing.assert_close(last.params["norm.running_mean"], there.module.norm.running_mean)
    again = trained(TINY)
    torch.testing.assert_close(
        again.module(there.train["image"]), there.module(there.train["image"]), rtol=0, atol=0
    )
    assert there.metrics["accuracy_train"] == cifar_models.accuracy(there.module, there.train)


def test_every_method_finds_proponents_and_tracin_is_timed_in_passes(tmp_path):
    cells = [c for c in cifar_proponents.PRESETS["smoke"] if c.model.seed == 0]
    found = {}
    for cell in cells:
        small = replace(cell, model=TINY, queries=replace(cell.queries, count=12, wrong=4))
        out = cifar_proponents.run(small, tmp_path)
        found[out["method"]] = out
        assert out["proponent_images"].shape == (2, 5, 8, 8, 3)
    assert list(found) == [
        "TracIn",
        "Influence functions",
        "Influence functions, 5 eigenvectors",
        "Representer point",
        "TracIn, last layer",
        "TracIn, no learning rates",
    ]
    ours = found["TracIn"]
    assert ours["n_checkpoints"] == 2
    assert ours["ratio"] == pytest.approx(ours["processor_seconds"] / (2 * ours["pass_seconds"]))
    assert not any("ratio" in out for name, out in found.items() if name != "TracIn")


def test_the_displays_and_the_sizes_are_those_of_the_figures():
    cat, automobile = Queries(shown=cifar_proponents.SHOWN).shown
    assert (cat.correct, cifar.CLASSES[cat.label]) == (True, "cat")
    assert (automobile.correct, cifar.CLASSES[automobile.label]) == (False, "automobile")
    assert proponents.CLASSES == cifar.CLASSES
    paper, small = cifar_models.PAPER, cifar_models.SMALL
    assert (paper.network.depth, paper.data.source, paper.data.n_train) == (56, "original", 50_000)
    assert small.data.n_train >= 10_000
    for model in (paper, small):
        plan = model.fit
        assert (
            sum((e + 1) % plan.every == 0 or e + 1 == plan.epochs for e in range(plan.epochs)) == 5
        )


@pytest.mark.parametrize(("figure", "stratum"), [(5, "correctly classified"), (6, "misclassified")])
def test_the_figure_rests_on_shares_of_its_stratum(figure, stratum):
    synthetic_cifar.write("small", 3)
    from analysis import tracin_fig5, tracin_fig6

    artifact = {5: tracin_fig5, 6: tracin_fig6}[figure].ARTIFACT
    built = artifact.build("small").verdict
    assert built.word == "partly", "types within a class are not measured"
    assert built.holding == built.counted - 1
    rows = table.from_csv(artifact.path("small", "csv").read_text())
    claims = rows[rows["kind"] == "claim"]
    assert set(claims["quantity"].str.endswith(stratum)) == {True}
    others = claims["method"].str.startswith("TracIn − ")
    assert others.any()
    assert (claims["method"] == "TracIn − Representer point").any() == (figure == 5)
    images = rows[rows["kind"] == "image"]
    right = images[images["role"] == "query"].iloc[0]
    assert (right["given"] == right["predicted"]) == (figure == 5)
    assert set(images["channels"]) == {3}
    assert any("JPEG-recompressed" in note for note in artifact.tier_notes.values())


class Timed:
    """A run of which only the cost is of interest."""

    def __init__(self, ratio: float) -> None:
        self.metrics = {"ratio": ratio, "accuracy_eval": 0.7, "accuracy_train": 0.9}


def test_the_cost_is_shown_beside_the_method_and_decides_nothing(monkeypatch):
    monkeypatch.setattr(proponents.proponents, "tabulate", lambda *_, **__: table.tabulated([]))
    ratios = (2.1, 2.2, 2.3)
    rows = proponents.tabulate([Timed(r) for r in ratios], {}, "correctly classified", 0)
    cost = rows[rows["quantity"] == "cost of scores"].iloc[0]
    assert cost["ours"] == pytest.approx(np.mean(ratios))
    assert cost["kind"] == "curve"
    shown = proponents.page(
        pd.concat(
            [
                rows,
                table.tabulated(
                    [table.curve("TracIn", "q", "%", proponents.over_seeds([1.0, 2.0]))]
                ),
            ]
        )
    )
    assert shown.set_index("method").loc["TracIn", "cost of scores, passes a checkpoint"]
