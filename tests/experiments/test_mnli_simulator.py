"""Simulators: rankings and their controls, single steps, the experiment, and its figures."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis import fastif_fig5, fastif_fig9
from analysis.numbers import table
from experiments import mnli_simulator
from experiments import mnli_simulator as experiment
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.pairs import rankings
from experiments.pairs.influence import Plan, balanced, examples, features, predicted
from experiments.pairs.models import SMOKE, Sample, Simulator, cross_entropy, load, trained
from experiments.pairs.rankings import Ranking, SameFeatures, SameGradient, ranked
from experiments.training import loop
from methods import fastif
from methods.errors import MethodError
from methods.examples import take
from methods.tracin import TracIn
from tests.analysis.synthetic import mnli_simulator as synthetic
from tests.analysis.synthetic import shapes

MODEL = replace(SMOKE, train=replace(SMOKE.train, n=120), fit=replace(SMOKE.fit, epochs=4, every=4))
DEV = Sample("mnli dev", "generated", 90)
PLAN = Plan(k=60, depth=15, damping=2.0, scale=60.0)
POINTS, KEEP = 4, 3
TINY = experiment.Config(MODEL, PLAN, DEV, points=POINTS, num_examples=KEEP, num_lrs=4)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(autouse=True)
def store(shared, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(shared))
    return shared


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))


def ranking(system, keep=KEEP):
    return Ranking(MODEL, DEV, POINTS, system, keep)


# --- rankings ------------------------------------------------------------------------------------


def test_fastif_s_ends_are_those_of_its_scores():
    classifier, at = trained(MODEL), balanced(MODEL, DEV, POINTS)
    query = examples(MODEL, DEV, at)
    seen = features(MODEL, DEV)[at], features(MODEL, MODEL.train)
    result = fastif.influential(classifier.task, classifier.train, query, seen, PLAN.settle(MODEL))
    run = ranked(ranking(PLAN))
    order = result.scores.sort(dim=1, descending=True)
    helpful = result.candidates.gather(1, order.indices)[:, :KEEP]
    np.testing.assert_array_equal(run.array("helpful"), helpful)
    np.testing.assert_allclose(run.array("helpful_score"), order.values[:, :KEEP], rtol=1e-4)
    np.testing.assert_allclose(
        run.array("harmful_score"), order.values.flip(1)[:, :KEEP], rtol=1e-4
    )
    assert run.metrics["damping"] == 2.0


def test_the_identity_in_place_of_the_hessian_is_tracin_at_the_end():
    classifier, at = trained(MODEL), balanced(MODEL, DEV, POINTS)
    query = examples(MODEL, DEV, at)
    scores = TracIn(learning_rates=False).scores(classifier.task, classifier.train, query)
    run = ranked(ranking(SameGradient()))
    wanted = scores.sort(dim=1).values
    np.testing.assert_allclose(run.array("harmful_score"), wanted[:, :KEEP], rtol=1e-4)
    np.testing.assert_allclose(run.array("helpful_score"), wanted.flip(1)[:, :KEEP], rtol=1e-4)


def test_nearest_pairs_have_the_label_or_another():
    classifier, at = trained(MODEL), balanced(MODEL, DEV, POINTS)
    label, labels = examples(MODEL, DEV, at)["label"].numpy(), classifier.train["label"].numpy()
    run = ranked(ranking(SameFeatures()))
    distance = torch.cdist(features(MODEL, DEV)[at], features(MODEL, MODEL.train)).numpy()
    for point in range(POINTS):
        for end, wanted in (
            ("helpful", labels == label[point]),
            ("harmful", labels != label[point]),
        ):
            listed = run.array(end)[point]
            assert wanted[listed].all()
            nearest = np.sort(distance[point][wanted])[:KEEP]
            np.testing.assert_allclose(distance[point][listed], nearest, rtol=1e-4)


@pytest.mark.parametrize(
    ("system", "keep", "message"),
    [
        (replace(PLAN, k=121), KEEP, "121 neighbours among 120 training examples: lower k"),
        (replace(PLAN, k=5), KEEP, "3 most harmful pairs of 5 candidates: raise k"),
        (SameGradient(5), KEEP, "3 most harmful pairs of 5 candidates: raise k to 6"),
        (SameFeatures(), 100, "100 neighbours of one label among"),
    ],
)
def test_rankings_that_cannot_be_are_one_line(system, keep, message):
    with pytest.raises((UserError, MethodError), match=message):
        ranked(ranking(system, keep))


def test_random_pairs_have_the_label_and_fewer_are_the_first_of_more():
    labels = np.array([0, 1] * 10)
    draws = [rankings.random_of_label(labels, 1, n, np.random.default_rng(0)) for n in (2, 10)]
    assert (labels[draws[1]] == 1).all()
    assert len(set(draws[1])) == 10
    np.testing.assert_array_equal(draws[0], draws[1][:2])
    with pytest.raises(UserError, match="11 of 10 training pairs of label 1: ask for fewer"):
        rankings.random_of_label(labels, 1, 11, np.random.default_rng(0))


# --- steps ---------------------------------------------------------------------------------------


def stepped(scratch):
    classifier = trained(MODEL)
    query = examples(MODEL, DEV, balanced(MODEL, DEV, POINTS))
    index = np.array([[[3, 7]], [[7, 9]], [[3, 3]], [[11, 7]]])
    lrs = np.array([1e-3, 0.1])
    return classifier, query, index, lrs, mnli_simulator.after_steps(
        classifier.task, classifier.train, query, index, lrs, scratch
    )  # fmt: skip


def test_a_step_is_one_of_gradient_descent(tmp_path):
    classifier, query, index, lrs, loss = stepped(tmp_path)
    assert loss.shape == (4, 1, 2, 2)
    for place in [(0, 0, 1), (1, 0, 0), (3, 0, 0)]:
        for column, lr in enumerate(lrs):
            module = copy.deepcopy(classifier.module).requires_grad_(True)
            optimizer = torch.optim.SGD(module.parameters(), lr=lr)
            pair = torch.tensor([int(index[place])])
            cross_entropy(module, take(classifier.train, pair)).sum().backward()
            optimizer.step()
            after = cross_entropy(module, take(query, torch.tensor([place[0]])))
            assert loss[place][column] == pytest.approx(after.item(), rel=1e-4)


def test_steps_go_on_after_a_kill(tmp_path, monkeypatch):
    whole = stepped(tmp_path / "nowhere")[-1]
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    real, calls = mnli_simulator._after_step, []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(mnli_simulator, "_after_step", dying)
    with pytest.raises(KeyboardInterrupt):
        stepped(tmp_path)
    np.testing.assert_array_equal(stepped(tmp_path)[-1], whole)
    assert len(calls) == 3 + 2, "of four pairs two were done before"


def test_a_step_too_far_names_the_learning_rate(tmp_path):
    classifier = trained(MODEL)
    query = examples(MODEL, DEV, balanced(MODEL, DEV, POINTS))
    with pytest.raises(UserError, match=r"after a step of 1e\+38 on training pair 3 is not finite"):
        mnli_simulator.after_steps(
            classifier.task,
            classifier.train,
            query,
            np.array([[[3]]]),
            np.array([1e-3, 1e38]),
            tmp_path,
        )


# --- the experiment ------------------------------------------------------------------------------


def test_the_simulator_is_asked_for_the_task_model_s_prediction(tmp_path):
    result = experiment.run(TINY, tmp_path)
    shapes.hold("mnli_simulator", result)
    at = balanced(MODEL, DEV, POINTS)
    guess, right = predicted(MODEL, DEV)
    simulator = trained(Simulator(MODEL, 1))
    query = {**examples(MODEL, DEV, at), "label": torch.from_numpy(guess[at])}
    np.testing.assert_allclose(
        result["before"], cross_entropy(simulator.module, query).detach(), rtol=1e-4
    )
    assert result["right"].tolist() == right[at].tolist() == [True, True, False, False]
    assert result["loss"].shape == (POINTS, 9, KEEP, 4)
    assert np.isfinite(result["loss"]).all()
    assert result["lrs"][[0, -1]] == pytest.approx([1e-5, 10**-2.5])
    types = result["types"].tolist()
    np.testing.assert_array_equal(
        result["example"][:, types.index("FastIF, helpful")], ranked(ranking(PLAN)).array("helpful")
    )
    truth = load(MODEL, MODEL.train)[0]["label"].numpy()
    np.testing.assert_array_equal(result["example_label"], truth[result["example"]])
    for name in ("entailment", "neutral", "contradiction"):
        labels = result["example_label"][:, types.index(f"random, {name}")]
        assert (result["classes"][labels] == name).all()
    assert result["point_premise"].shape == (POINTS,)
    assert result["example_hypothesis"].shape == (POINTS, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": 0.0}, "give 0 < low < high"),
        ({"num_examples": 0}, "and 1 or more of both"),
        ({"points": 180}, "ask for"),
    ],
)
def test_settings_that_cannot_be_are_one_line(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        experiment.run(replace(TINY, **change), tmp_path)


def test_the_presets_keep_the_paper_s_protocol():
    for preset in ("small", "paper"):
        (cell,) = experiment.PRESETS[preset]
        assert (cell.points, cell.num_examples, cell.num_lrs) == (20, 10, 50)
        assert (cell.low, cell.high) == pytest.approx((1e-5, 10**-2.5))


# --- the artifacts -------------------------------------------------------------------------------


@pytest.mark.parametrize(("effect", "word"), [(40.0, "reproduced"), (-40.0, "not reproduced")])
def test_the_verdict_follows_the_changes(effect, word, empty):
    synthetic.write("paper", 4, effect=effect)
    artifact = fastif_fig9.ARTIFACT
    rows = artifact.tabulate(runs.load("mnli_simulator", "paper")).assign(tier="paper", missing=0)
    assert artifact.judge(rows).word == word


@pytest.mark.long
def test_the_figure_of_four_has_four_and_claims_over_all(empty):
    synthetic.write("paper", 5)
    for module, lines in ((fastif_fig5, 4), (fastif_fig9, 10)):
        module.ARTIFACT.build("paper")
        rows = table.from_csv(module.ARTIFACT.path("paper", "csv").read_text())
        drawn = rows[rows["kind"] == "line"]
        assert len(drawn[["group", "point"]].drop_duplicates()) == lines
        claims = rows[rows["kind"] == "claim"]
        assert set(claims.loc[claims["unit"] == "nats", "n"]) == {5}
        beyond = claims[claims["quantity"] == "points that improve further"]
        assert beyond["n"].tolist() == [10]
    run = runs.load("mnli_simulator", "paper")[0]
    wanted = run.array("loss")[0, 0].mean(0)
    first = np.array(drawn["mean"].iat[0].split(), float)
    np.testing.assert_allclose(first, wanted, rtol=1e-4)


def test_sentences_say_what_the_label_alone_does(empty):
    synthetic.write("paper", 4)
    rows = fastif_fig9.ARTIFACT.tabulate(runs.load("mnli_simulator", "paper"))
    message = fastif_fig9.ARTIFACT.findings(rows)
    assert [one.split(",")[0] for one in message] == [
        "Where the prediction is right", "Where the prediction is wrong",
    ]  # fmt: skip
    assert all("at random with the predicted label" in one for one in message)
    assert all("FastIF 1.00" in one for one in message)
