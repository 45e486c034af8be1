"""The measurement of ensembles' speed runs, and its artifact names the fastest way."""

import pytest

from analysis import speed_ensembles as artifact
from analysis.numbers import table
from experiments.models.strided_cnn import StridedCNN
from experiments.speed_ensembles import PRESETS, Apart, Autocast, Estimate, Stacked, Training, run
from tests.analysis.synthetic import speed_ensembles as synthetic


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))


def test_a_training_says_models_an_hour_and_their_ratio(tmp_path):
    found = run(Training(StridedCNN(), Stacked(2), n_train=60, repeats=1), tmp_path)
    assert (found["work"], found["way"], found["size"]) == ("StridedCNN", "Stacked", 2)
    assert found["ratio"] > 0
    gain = found["models_per_hour"] / found["models_per_hour_alone"]
    assert found["ratio"] == pytest.approx(gain, rel=1e-6)


@pytest.mark.parametrize("way", [Apart(2), Autocast()])
def test_other_ways_are_measured_too(way, tmp_path):
    found = run(Training(StridedCNN(), way, n_train=60, repeats=1), tmp_path)
    assert (found["way"], found["size"]) == (type(way).__name__, way.size)


def test_a_gpu_is_asked_for_convolutions_apart_and_dense_layers_stacked():
    ways = {}
    for cell in PRESETS["gpu"]:
        ways.setdefault(type(cell.network).__name__, set()).add(type(cell.way).__name__)
    assert ways["DigitsMLP"] >= {"Stacked"}
    assert ways["StridedCNN"] == ways["SmallInception"] == {"Stacked", "Apart"}


def test_an_estimate_is_held_against_its_product(tmp_path):
    found = run(Estimate(40, 200, 100, repeats=1), tmp_path)
    assert found["over_limit"] == pytest.approx(found["seconds"] / found["product_seconds"])


def test_the_cnn_has_the_size_it_says():
    network = StridedCNN().build(0)
    assert sum(value.numel() for value in network.parameters()) == 9_226


def test_the_best_stack_is_judged_and_a_gpu_that_was_not_there_is_not_run():
    synthetic.write("small", 3)
    built = artifact.ARTIFACT.build("small")
    rows = table.from_csv(artifact.ARTIFACT.path("small", "csv").read_text())
    claims = rows[rows["kind"] == "claim"].set_index("method")
    assert claims.loc["MLP, one CPU thread", "ours"] == pytest.approx(4.08, abs=0.01)
    assert claims.loc["MLP, GPU", "verdict"] == "not run"
    assert built.verdict.word == "partly", "a goal of which the GPU's part was not run"
    sentence = "MLP, one CPU thread: the fastest is the stack of 16"
    assert artifact.findings(rows)[1].startswith(sentence)
    assert "models an hour, one after another" in set(artifact.page(rows)["quantity"])
