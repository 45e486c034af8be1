"""Ensembles are trained in parts and gathered; their agreement becomes three figures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis import models_fig1, models_fig5, models_fig6
from analysis.numbers import overlap, table
from experiments import subset_ensembles
from experiments.data import cifar100
from experiments.ensembles import subsets
from experiments.ensembles.published import Released
from experiments.ensembles.subsets import Data, Ensemble
from experiments.laboratory.errors import UserError
from experiments.models.digits_mlp import DigitsMLP
from experiments.models.inception import SmallInception
from experiments.subset_ensembles import Halves, Restarts, Train, run
from experiments.training.plans import Fit
from methods import workers
from methods.ensembles.masks import draw_masks
from methods.ensembles.subset import influence
from methods.workers import ALONE
from tests.analysis.synthetic import subset_ensembles as synthetic

TINY = Ensemble(
    DigitsMLP((8,), (1, 8, 8)), Data("digits", 40, 30), Fit(8, 14, 0.1), stack=6
)  # fmt: skip


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture
def whole():
    return subsets.gathered(TINY, 12)


def test_an_ensemble_is_its_parts_in_any_order(whole):
    second, first = (subsets.part(one) for one in subsets.parts(TINY, 12)[::-1])
    assert len(whole.masks) == len(whole.right) == len(whole.probability) == 12
    for part, some in ((first, slice(6)), (second, slice(6, 12))):
        np.testing.assert_array_equal(whole.masks.bits[some], part.array("masks"))
        np.testing.assert_array_equal(whole.right.bits[some], part.array("right"))
    masks = whole.masks.unpacked().numpy()
    np.testing.assert_array_equal(masks, draw_masks(12, 40, 28, seed=0))


def test_what_is_kept_is_what_a_network_of_the_stack_says(whole):
    assert whole.right.width == 70
    assert whole.probability.shape == (12, 70)
    right = whole.right.unpacked().numpy()
    sure = whole.probability > 0.6 * subsets.STEPS
    assert right[sure].all(), "who gives the right class more than half is right"
    assert not right[whole.probability < 0.09 * subsets.STEPS].any()
    metrics = subsets.part(subsets.parts(TINY, 6)[0]).metrics
    assert metrics["accuracy_query"] == pytest.approx(right[:6, 40:].mean())
    assert metrics["accuracy_inside"] > metrics["accuracy_outside"]


def in_a_group(group):
    kept = subsets.part(subsets.Part(TINY))
    return {name: np.array(array) for name, array in kept.arrays().items()}


@pytest.mark.long
def test_two_processes_divide_a_stack_and_find_what_one_does(tmp_path, monkeypatch):
    shared = workers.run(in_a_group, 2)
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "alone"))
    alone = in_a_group(ALONE)
    np.testing.assert_array_equal(shared["masks"], alone["masks"])
    np.testing.assert_array_equal(shared["right"], alone["right"])
    np.testing.assert_allclose(shared["train_loss"], alone["train_loss"], rtol=1e-4)
    apart = shared["probability"].astype(int) - alone["probability"]
    assert abs(apart).max() <= 1, "a 255th, where rounding differs"


def test_a_restart_has_the_same_masks_and_other_networks(whole):
    again = subsets.gathered(replace(TINY, restart=1), 12)
    np.testing.assert_array_equal(again.masks.bits, whole.masks.bits)
    assert not np.array_equal(again.probability, whole.probability)
    other = subsets.gathered(replace(TINY, seed=1), 12)
    assert not np.array_equal(other.masks.bits, whole.masks.bits)


def test_halves_agree_with_themselves_as_the_plain_estimate_does(whole, tmp_path):
    found = run(Halves(TINY, 12, (3, 6), splits=2), tmp_path)
    shape = 2, 2, len(subset_ensembles.THRESHOLDS)
    for name in ("hard", "soft", "null", "hard_full", "soft_full", "hard_rest", "soft_rest"):
        assert found[f"{name}_all"].shape == found[f"{name}_memorized"].shape == shape
    # With half of all models, the rest is the other half.
    np.testing.assert_array_equal(found["hard_rest_all"][1], found["hard_all"][1])
    masks, right = whole.masks.unpacked(), whole.right.unpacked()[:, 40:]
    above = (influence(masks, right) >= found["thresholds"][4]).sum()
    assert found["pairs_above"][0, 4] == above


def test_restarts_compare_the_same_subsets(tmp_path):
    found = run(Restarts(TINY, 6), tmp_path)
    assert found["same_all"].shape == found["different_memorized"].shape == (40,)
    assert run(Train(subsets.parts(TINY, 6)[0]), tmp_path)["accuracy_query"] > 0.1


def test_every_preset_trains_all_it_compares():
    for cells in subset_ensembles.PRESETS.values():
        cells = [one for one in cells if not isinstance(getattr(one, "ensemble", None), Released)]
        trained = {cell.part for cell in cells if isinstance(cell, Train)}
        for cell in cells:
            if isinstance(cell, Halves):
                assert set(subsets.parts(cell.ensemble, cell.n_models)) <= trained
                assert 2 * max(cell.sizes) <= cell.n_models
            if isinstance(cell, Restarts):
                again = replace(cell.ensemble, restart=1)
                assert set(subsets.parts(again, cell.n_models)) <= trained


def of_few_photos(paper: Ensemble, n: int, monkeypatch: pytest.MonkeyPatch) -> Ensemble:
    """The paper's networks, two in a stack, on n made-up photographs for an epoch."""
    draw = np.random.default_rng(0)
    few = {
        "image": torch.from_numpy(draw.random((n, 3, 32, 32), np.float32)),
        "label": torch.from_numpy(draw.integers(0, 100, n)),
    }
    monkeypatch.setattr(cifar100, "load", lambda split, index: few)
    subsets.load.cache_clear()
    return replace(
        paper,
        data=replace(paper.data, n_train=n, n_query=n),
        fit=replace(paper.fit, epochs=1, batch_size=4),
        stack=2,
    )


@pytest.mark.long
def test_the_paper_s_networks_take_a_step(tmp_path, monkeypatch):
    paper = subset_ensembles.PRESETS["paper"][0].part.ensemble
    assert (paper.data.n_train, paper.fit.rate(59), paper.fit.rate(60)) == (50_000, 0.1, 0.01)
    found = subsets.gathered(of_few_photos(paper, 12, monkeypatch), 2)
    subsets.load.cache_clear()
    assert found.probability.shape == (2, 24)
    assert sum(v.numel() for v in SmallInception().build(0).parameters()) == 1_681_444


def test_missing_cifar_100_says_where_it_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"train is not in .*cifar-100-python and has to"):
        cifar100.load("train", np.arange(3))


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: subsets.parts(TINY, 13), "13 models do not fill stacks of 6"),
        (lambda: run(Halves(TINY, 12, (7,)), None), "two halves of 7 models need 14"),
    ],
)
def test_what_cannot_be_compared_is_named(act, said):
    with pytest.raises(UserError, match=said):
        act()


def words_of(artifact):
    built = artifact.build("paper")
    rows = table.from_csv(artifact.path("paper", "csv").read_text())
    claims = rows[rows["kind"] == "claim"].set_index("quantity")
    return built.verdict.word, claims, rows


def test_curves_that_rise_reproduce_the_figure_and_low_ones_do_not():
    synthetic.write("paper", 4)
    word, claims, rows = words_of(models_fig1.ARTIFACT)
    assert word == "partly", "one set of restarts has no interval"
    assert abs(claims.loc["mean IOU − that by chance, 25 models", "ours"]) < 0.1
    assert set(claims["verdict"]) == {"holds", "leans"}
    assert overlap.ensembles(rows) == ["MNIST, MLP"]
    (said,) = models_fig1.findings(rows)
    assert "135 above 0.1, 27 above 0.3, 5 above 0.5" in said  # 300 exp(-8 t)
    assert "With 25 models the mean IOU is 0.0" in said


def test_ensembles_that_do_not_agree_are_not_reproduced():
    synthetic.write("paper", 4, better=0.2)
    word, claims, _ = words_of(models_fig1.ARTIFACT)
    assert word != "reproduced"
    assert claims.loc["share of thresholds with an IOU above 0.7, 400 models", "ours"] == 0


def test_probabilities_are_steadier_and_farther_from_the_whole():
    synthetic.write("paper", 4)
    assert words_of(models_fig5.ARTIFACT)[0] == "reproduced"
    word, claims, rows = words_of(models_fig6.ARTIFACT)
    assert word == "reproduced"
    assert list(claims.index) == ["mean IOU, right or wrong − probabilities, 400 models"]
    assert rows["quantity"].str.contains("against the rest").any()
