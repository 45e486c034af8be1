"""Retraining without pairs: what is left out has no say, and all else stays; the figure."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis import fastif_fig8
from analysis.numbers import table
from experiments import mnli_retraining as experiment
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.mnli_retraining import Asked, retrained_logits, without
from experiments.pairs import models
from experiments.pairs.influence import Plan, balanced
from experiments.pairs.models import SMOKE, Model, Sample, load, passed
from tests.analysis.synthetic import mnli_retraining as synthetic
from tests.analysis.synthetic import shapes

MODEL = replace(SMOKE, train=replace(SMOKE.train, n=120), fit=replace(SMOKE.fit, epochs=3, every=3))
DEV = Sample("mnli dev", "generated", 90)
PLAN = Plan(depth=15, damping=2.0, scale=60.0)
TINY = experiment.Config(
    MODEL,
    PLAN,
    ks=(20, 60),
    full=replace(PLAN, k=None, sample=8),
    sample=DEV,
    points=2,
    remove=(1, 4),
    seeds=(0,),
    others=(1, 2),
)
AT = (3, 11, 40)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(autouse=True)
def store(shared, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(shared))


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))


def ask(removed, seed=0):
    return retrained_logits(Asked(without(MODEL, np.array(removed, dtype=int), seed), DEV, AT))


# --- retraining ----------------------------------------------------------------------------------


def test_nothing_left_out_is_the_model_itself():
    logits = passed(MODEL, DEV).array("logits")[list(AT)]
    np.testing.assert_allclose(ask([]), logits, rtol=1e-4, atol=1e-5)
    assert np.abs(ask([], seed=1) - logits).max() > 1e-2


def test_what_is_left_out_has_no_say(monkeypatch):
    removed = [2, 50, 7]
    before, real = ask(removed), models.load

    def spoiled(model, sample):
        columns, pairs = real(model, sample)
        if sample != MODEL.train:
            return columns, pairs
        label = columns["label"].clone()
        label[removed] = (label[removed] + 1) % 3
        return {**columns, "label": label}, pairs

    monkeypatch.setattr(models, "load", spoiled)
    question = Asked(without(MODEL, np.array(removed), 0), DEV, (*AT, 41))  # another run
    np.testing.assert_allclose(retrained_logits(question)[:3], before, rtol=1e-4, atol=1e-5)
    assert np.abs(before - ask([])).max() > 1e-4


def test_the_same_set_is_one_run_in_whatever_order():
    one, other = (without(MODEL, np.array(order), 0) for order in ([5, 2], [2, 5]))
    assert runs.key(one) == runs.key(other)


@pytest.mark.parametrize("removed", [[1, 1], [120], [-1]])
def test_pairs_that_cannot_be_left_out_are_one_line(removed):
    with pytest.raises(UserError, match="give each position from 0 to 119 once"):
        ask(removed)


def test_models_keep_the_keys_they_are_stored_under():
    assert set(runs.describe(Model())) == {
        "type", "network", "train", "labels", "fit", "dropout", "seed",
    }  # fmt: skip


# --- the experiment ------------------------------------------------------------------------------


@pytest.mark.long
def test_losses_are_those_of_the_retrained_classifiers(tmp_path):
    result = experiment.run(replace(TINY, point=1), tmp_path)
    shapes.hold("mnli_retraining", result)
    systems = result["systems"].tolist()
    assert list(dict.fromkeys(systems)) == [
        "Fast, k = 20", "Fast, k = 60", "Full", "H = I", "features", "random",
    ]  # fmt: skip
    assert result["loss"].shape == (13, 2, 1)
    assert result["whole"].shape == (3,)
    at = balanced(MODEL, DEV, 2)
    assert result["right"] == 0.0
    row = systems.index("Full") + 1
    assert result["directions"][row] == "harmful"
    model = without(MODEL, result["removed"][row], 0)
    logits = torch.from_numpy(np.array(retrained_logits(Asked(model, DEV, tuple(at.tolist())))))
    label = load(MODEL, DEV)[1].label[at[1]]
    wanted = -logits[1].double().log_softmax(0)[label]
    assert result["loss"][row, 1, 0] == pytest.approx(float(wanted), rel=1e-6)
    assert result["before"] == result["whole"][0]
    labels = load(MODEL, MODEL.train)[1].label
    random = result["removed"][systems.index("random") :]
    assert [set(labels[pairs]) for pairs in random] == [{0}, {1}, {2}]


@pytest.mark.long
def test_a_point_uses_the_rankings_and_sets_of_the_others(tmp_path):
    experiment.run(TINY, tmp_path)
    home = runs.results() / "runs"
    rankings = {path.name for path in (home / "nli_ranking").iterdir()}
    experiment.run(replace(TINY, point=1), tmp_path)
    assert {path.name for path in (home / "nli_ranking").iterdir()} == rankings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"point": 2}, "point 2 of 2: choose from 0 to 1"),
        ({"seeds": ()}, "give at least one in seeds"),
        ({"others": (0, 1)}, "three different ones"),
        ({"remove": (0, 5)}, "give numbers of 1 or more"),
        ({"ks": (6,)}, "4 most helpful and 4 most harmful pairs of 6 candidates: raise k to 8"),
    ],
)
def test_settings_that_cannot_be_are_one_line(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        experiment.run(replace(TINY, **change), tmp_path)


def test_the_presets_keep_the_paper_s_protocol():
    for preset in ("small", "paper"):
        cells = experiment.PRESETS[preset]
        assert [cell.point for cell in cells] == list(range(6))
        assert {cell.remove for cell in cells} == {(1, 5, 25)}
        n = cells[0].model.train.n or 392_702
        assert all(2 * 25 <= k < n for k in cells[0].ks)


# --- the artifact --------------------------------------------------------------------------------


def judged(fast: float) -> tuple[str, str]:
    synthetic.write("paper", 6, fast=fast)
    artifact = fastif_fig8.ARTIFACT
    rows = artifact.tabulate(runs.load("mnli_retraining", "paper"))
    verdict = artifact.judge(rows.assign(tier="paper", missing=0))
    return verdict.word, verdict.evidence


def test_the_verdict_follows_the_changes(empty):
    assert judged(1.0)[0] == "reproduced"


@pytest.mark.parametrize(
    ("fast", "failing"), [(0.3, "Fast, k = 300 − 0.5 Full"), (-1.0, "Fast, k = 300, ")]
)
def test_fast_that_is_not_about_full_is_not_reproduced(fast, failing, empty):
    word, evidence = judged(fast)
    assert word != "reproduced"
    assert failing in evidence.partition("Fails")[2]


def test_changes_are_against_the_same_seed(empty):
    synthetic.write("paper", 4)
    fastif_fig8.ARTIFACT.build("paper")
    rows = table.from_csv(fastif_fig8.ARTIFACT.path("paper", "csv").read_text())
    result = [r for r in runs.load("mnli_retraining", "paper") if r.metrics["right"]]
    wanted = np.mean([(r.array("loss")[4, 2] - r.array("whole")[:2]).mean() for r in result])
    one = rows[
        (rows["method"] == "Full") & (rows["quantity"] == "change, helpful 25 left out, right")
    ]
    assert one["ours"].item() == pytest.approx(wanted, rel=1e-5)
    assert one["n"].item() == 2


def test_sentences_compare_with_what_needs_no_hessian(empty):
    synthetic.write("paper", 6)
    rows = fastif_fig8.ARTIFACT.tabulate(runs.load("mnli_retraining", "paper"))
    message = " ".join(fastif_fig8.ARTIFACT.findings(rows))
    for name in ("H = I", "features", "random, matched label", "Another seed alone"):
        assert name in message
