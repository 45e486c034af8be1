"""Networks fine-tuned and retrained without an example are compared; Table 1 of them."""

from dataclasses import replace

import numpy as np
import pytest

from analysis import models_table1
from experiments import finetune_vs_retrain as experiment
from experiments.ensembles.classifiers import load
from experiments.ensembles.rate_sweep import Trial
from experiments.finetune_vs_retrain import (
    PRESETS,
    Compared,
    Full,
    Retrained,
    Tuned,
    Without,
    dropped,
    parts,
    run,
    trained,
)
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.models.inception import SmallInception
from experiments.models.strided_cnn import StridedCNN
from experiments.training.loop import flat_buffers, flat_params
from experiments.training.models import restore
from experiments.training.plans import Cosine
from tests.analysis.synthetic import finetune_vs_retrain as synthetic
from tests.experiments.ensembles.test_classifiers import TINY
from tests.experiments.test_nondeterminism import judged

RECIPE = replace(TINY, fit=Cosine(10, 20, 0.05))
CONFIG = Compared(RECIPE, n_seeds=3, n_dropped=4, share=0.2, stack=6)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def store(shared, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(shared))


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")


def test_each_seed_does_without_each_dropped_example_once():
    examples = dropped(CONFIG)
    assert len(set(examples)) == 4
    full, again, tuned = parts(CONFIG)
    assert [one.seeds for one in full] == [(0, 1, 2)]
    for kind in (again, tuned):
        assert [len(one.networks) for one in kind] == [6, 6]
        seen = [one for part in kind for one in part.networks]
        assert seen == [Without(seed, example) for seed in range(3) for example in examples]
    alone = parts(replace(CONFIG, stack=1))[2]
    assert {one.full[0].seeds for one in alone} == {(0,), (1,), (2,)}
    assert all(one.full[0].seeds == (one.networks[0].seed,) for one in alone)


def test_the_comparison_is_of_what_each_network_says(store, tmp_path):
    found = run(CONFIG, tmp_path)
    full, again, tuned = (
        np.concatenate([trained(one).array("plain") for one in kind]) for kind in parts(CONFIG)
    )
    label = load(RECIPE.data).query.label
    assert found["tuned_retrained"].shape == found["tuned_full"].shape == (3, 4)
    assert found["tuned_retrained"][2, 1] == (tuned[9] == again[9]).mean()
    assert found["tuned_full"][1, 3] == (tuned[7] == full[1]).mean()
    assert found["accuracy_retrained"][1, 0] == (again[4] == label).mean()
    assert found["between_full"][0, 2] == (full[0] == full[2]).mean()
    pairs = [(again[i] == again[4 + i]).mean() for i in range(4)]
    assert found["between_retrained"][0, 1] == pytest.approx(np.mean(pairs))
    cross = [(tuned[8 + i] == again[i]).mean() for i in range(4)]
    assert found["tuned_others"][2, 0] == pytest.approx(np.mean(cross))
    assert found["tuned_full"].mean() > found["tuned_retrained"].mean()
    np.testing.assert_allclose(np.diag(found["tuned_others"]), found["tuned_retrained"].mean(1))


def test_fine_tuning_goes_on_from_the_trained_network_for_a_share_of_the_epochs(store):
    config = parts(CONFIG)[2][0]
    found = trained(config).metrics
    assert found["epochs"] == 2
    assert found["lr"] == pytest.approx(RECIPE.fit.rate(8))
    full = trained(config.full[0])
    module = restore(RECIPE.network.build(1), full.array("params")[1], full.array("buffers")[1])
    there = load(RECIPE.data)
    logits = module(there.standardised(there.query.columns["image"]))
    np.testing.assert_array_equal(logits.argmax(1).numpy(), full.array("plain")[1])


def test_one_network_after_another_is_the_stack(store):
    stack, lone = (parts(replace(CONFIG, stack=size)) for size in (12, 1))
    for kind in (1, 2):
        together = trained(stack[kind][0]).array("plain")[:2]
        apart = np.concatenate([trained(one).array("plain") for one in lone[kind][:2]])
        assert (together == apart).mean() > 0.97, "but for rounding"


def test_running_statistics_go_on_too(empty):
    network = SmallInception(10)
    start = network.build(0)
    flat = flat_buffers(start)
    moved = restore(network.build(1), flat_params(start), flat + 1)
    np.testing.assert_array_equal(flat_buffers(moved), flat + 1)
    assert flat_buffers(StridedCNN().build(0)).size == 0


def test_every_preset_trains_all_it_compares_by_the_paper_s_protocol():
    for tier, cells in PRESETS.items():
        there = set(cells)
        for cell in cells:
            if isinstance(cell, Compared):
                assert all(set(kind) <= there for kind in parts(cell))
                assert set(experiment.rate_sweep.trials(cell.recipe)) <= there
                if tier != "smoke":
                    assert (cell.n_seeds, cell.n_dropped, cell.share) == (3, 10, 0.06)
        kinds = {type(cell) for cell in cells}
        assert (
            {Full, Retrained, Tuned, Compared} <= kinds <= {Full, Retrained, Tuned, Compared, Trial}
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_dropped": 61}, "61 of 60 examples dropped"),
        ({"n_dropped": 0}, "0 of 60 examples dropped"),
        ({"n_seeds": 0}, "n_seeds is 0"),
    ],
)
def test_what_cannot_be_dropped_is_named(change, said):
    with pytest.raises(UserError, match=said):
        parts(replace(CONFIG, **change))


def test_the_command_s_table_has_a_line_a_comparison(store):
    found = [experiment.EXPERIMENT.once(cell) for cell in (parts(CONFIG)[0][0], CONFIG)]
    header, rows = experiment.table(found)
    assert len(rows) == 1
    assert rows[0][:2] == ["digits", "DigitsMLP"]
    assert len(rows[0]) == len(header)


def words_of():
    found = runs.load("finetune_vs_retrain", "paper")
    artifact = models_table1.ARTIFACT
    return judged(artifact, [one for one in found if artifact.needs(one.config)])


def test_what_the_paper_prints_reproduces_its_table(empty):
    synthetic.write("paper", 5)
    word, claims, rows = words_of()
    assert word == "reproduced"
    assert set(claims["method"]) == {"CIFAR-100, Inception", "CIFAR-100, ResNet-18"}
    printed = rows[rows["kind"] == "number"]
    printed = printed[printed["paper"].notna()]
    assert len(printed) == 6
    assert set(printed["verdict"]) == {"holds"}


def test_fine_tuning_that_foretells_retraining_is_not_reproduced(empty):
    synthetic.write("paper", 5, better=0.1)
    _, claims, _ = words_of()
    better = claims[claims["claim"] == models_table1.NO_BETTER.name]
    np.testing.assert_allclose(better["ours"], 0.1, atol=0.005)
    assert set(better["verdict"]) == {"fails"}


def test_two_seeds_are_one_pair_without_an_interval(empty):
    synthetic.write("paper", 2)
    word, claims, _ = words_of()
    assert word != "reproduced"
    better = claims[claims["claim"] == models_table1.NO_BETTER.name]
    assert better["low"].isna().all()
