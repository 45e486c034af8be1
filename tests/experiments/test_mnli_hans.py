"""Error correction on HANS: what is stepped on, the steps themselves, and the figure of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis.fastif_fig7 import ARTIFACT
from analysis.numbers import table
from experiments import mnli_hans
from experiments import mnli_hans as nli_correction
from experiments.laboratory.errors import UserError
from experiments.mnli_hans import (
    Anchors,
    Config,
    Fixed,
    Influential,
    Nearest,
    Predicted,
    Random,
    Similar,
)
from experiments.pairs.influence import Plan, features
from experiments.pairs.models import SMOKE_TWO, Sample, hans_pairs, load, trained
from methods import fastif
from methods.errors import MethodError
from methods.examples import take
from methods.rows.gradients import gradient_rows
from tests.analysis.synthetic import mnli_hans as synthetic_mnli_hans

MODEL = replace(
    SMOKE_TWO,
    train=Sample("mnli train", "generated", 120),
    fit=replace(SMOKE_TWO.fit, epochs=4, every=4),
)
HANS = hans_pairs("generated", 60, 90)
PLAN = Plan(k=25, depth=15, sample=4, damping=2.0, scale=60.0)
AT = Config(MODEL, plan=PLAN, evaluation=HANS.evaluation, n_anchors=6, iterations=3, batch=5)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(autouse=True)
def results(store, monkeypatch):
    """Results that all tests share, so that the model is trained once."""
    monkeypatch.setenv("RETRACE_RESULTS", str(store))


def outcome(config, tmp_path):
    return mnli_hans.run(config, tmp_path)


def test_anchors_are_of_the_slice_and_the_rest_of_it_is_evaluated():
    anchored = mnli_hans.draw_anchors(replace(AT, part="subsequence"))
    _, pairs = load(MODEL, HANS.evaluation)
    assert (pairs.part[anchored.index] == "subsequence").all()
    assert len(anchored.rest["label"]) == 30 - 6
    whole = np.flatnonzero(pairs.part == "subsequence")
    rest = take(
        load(MODEL, HANS.evaluation)[0], torch.from_numpy(np.setdiff1d(whole, anchored.index))
    )
    torch.testing.assert_close(anchored.rest["hidden"], rest["hidden"])
    again, other = mnli_hans.draw_anchors(AT), mnli_hans.draw_anchors(replace(AT, repeat=1))
    assert torch.equal(again.index, mnli_hans.draw_anchors(AT).index)
    assert set(again.index.tolist()) != set(other.index.tolist())


@pytest.mark.parametrize("arm", nli_correction.arms(MODEL.train, HANS.train), ids=str)
def test_every_arm_leaves_a_trajectory_from_the_same_start(arm, tmp_path):
    result = outcome(replace(AT, arm=arm, rate=Fixed(0.1)), tmp_path)
    start = outcome(replace(AT, arm=Anchors(), iterations=1), tmp_path)
    assert result["accuracy"].shape == result["loss"].shape == result["anchor_loss"].shape == (4,)
    assert result["chosen"].shape == (3, 5)
    assert result["auc"].shape == (4,)
    label = mnli_hans.draw_anchors(AT).rest["label"]
    share = float((label == 0).double().mean())
    both = share * result["accuracy_entailed"] + (1 - share) * result["accuracy_other"]
    np.testing.assert_allclose(both, result["accuracy"])
    assert result["loss"][0] == pytest.approx(start["loss"][0])
    assert result["loss"][-1] != result["loss"][0]
    assert result["gain"] == pytest.approx(result["accuracy"][-1] - result["accuracy"][0])
    assert ("damping" in result) == isinstance(arm, Influential)


def test_helpful_pairs_lower_the_anchors_loss_and_harmful_ones_raise_it(tmp_path):
    def change(arm):
        result = outcome(replace(AT, arm=arm, rate=Fixed(0.05), iterations=4), tmp_path)
        return result["anchor_loss"][-1] - result["anchor_loss"][0]

    helpful, harmful = (change(Influential(HANS.train, side)) for side in ("helpful", "harmful"))
    assert helpful < 0 < harmful
    assert change(Anchors()) < 0


def test_the_helpful_are_those_that_the_definition_says(tmp_path):
    """Top of <H^-1 g, g_i> over the nearest, by gradients made one by one."""
    arm = Influential(MODEL.train, "helpful")
    chosen = outcome(replace(AT, arm=arm, iterations=1), tmp_path)["chosen"][0]
    classifier, anchored = trained(MODEL), mnli_hans.draw_anchors(AT)
    mean = features(MODEL, HANS.evaluation)[anchored.index].mean(0)
    near = (features(MODEL, MODEL.train) - mean).norm(dim=1).argsort()[:25]
    gradient = gradient_rows(classifier.task, anchored.anchors).dense().mean(0, keepdim=True)
    s_test = fastif.inverted(classifier.task, classifier.train, gradient, PLAN.settle(MODEL)).mean
    rows = gradient_rows(classifier.task, take(classifier.train, near)).dense()
    scores = (rows @ s_test.T)[:, 0]
    assert set(chosen) == set(near[scores.topk(5).indices].tolist())
    harmful = outcome(replace(AT, arm=replace(arm, side="harmful"), iterations=1), tmp_path)
    assert set(harmful["chosen"][0]) == set(near[(-scores).topk(5).indices].tolist())
    similar = outcome(replace(AT, arm=Similar(MODEL.train), iterations=1), tmp_path)
    alike = (rows @ gradient.T)[:, 0]
    assert set(similar["chosen"][0]) == set(near[alike.topk(5).indices].tolist())
    nearest = outcome(replace(AT, arm=Nearest(MODEL.train), iterations=2), tmp_path)
    assert nearest["chosen"].tolist() == [near[:5].tolist()] * 2


def test_the_influence_is_that_of_the_current_model(tmp_path):
    """A recursion made before a step is of the model after it: both share their parameters."""
    classifier, anchored = trained(MODEL), mnli_hans.draw_anchors(AT)
    settings = PLAN.settle(MODEL)
    inverse = fastif.recursion_of(classifier.task, classifier.train, settings)
    nli_correction.descend(classifier, anchored.anchors, 0.2)
    gradient = nli_correction.mean_gradient(classifier.task, anchored.anchors)
    anew = fastif.inverted(classifier.task, classifier.train, gradient, settings).mean
    torch.testing.assert_close(inverse.apply(gradient), anew)


def test_a_step_is_plain_gradient_descent_and_reaches_the_module():
    classifier, anchored = trained(MODEL), mnli_hans.draw_anchors(AT)
    before = classifier.task.flatten(classifier.task.params).clone()
    gradient = gradient_rows(classifier.task, anchored.anchors).dense().mean(0)
    nli_correction.descend(classifier, anchored.anchors, 0.3)
    after = torch.cat([value.detach().flatten() for value in classifier.module.parameters()])
    torch.testing.assert_close(after, before - 0.3 * gradient)


def test_the_rate_by_rule_lowers_the_loss_of_training_pairs_by_its_share():
    """To first order: at a small share, steps on random batches do what is predicted."""
    classifier, share = trained(MODEL), 0.02
    lr = Predicted(share, draws=30).of(classifier, 5, seed=0)
    assert lr == Predicted(share, draws=30).of(classifier, 5, seed=0)
    draw, drops, losses = np.random.default_rng(1), [], []
    for _ in range(30):
        index = torch.from_numpy(draw.choice(120, 5, replace=False))
        batch = take(classifier.train, index)
        again = trained(MODEL)
        before = nli_correction._loss(again, batch)
        nli_correction.descend(again, batch, lr)
        drops.append(before - nli_correction._loss(again, batch))
        losses.append(before)
    assert np.mean(drops) / np.mean(losses) == pytest.approx(share, rel=0.5)


def test_random_pairs_are_others_at_every_step_and_at_every_draw(tmp_path):
    of = replace(AT, arm=Random(HANS.train))
    one, other = (outcome(replace(of, repeat=r), tmp_path)["chosen"] for r in (0, 1))
    assert len({tuple(sorted(row)) for row in [*one, *other]}) == 6
    assert one.max() >= 25, "the whole pool, not the nearest alone"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_anchors": 30}, UserError, "30 anchors of 30 pairs of lexical_overlap"),
        ({"part": "nowhere"}, UserError, "6 anchors of 0 pairs of nowhere.*raise n"),
        ({"batch": 26}, UserError, "26 pairs in each step of 25 candidates: raise plan.k"),
        ({"plan": replace(PLAN, k=500)}, MethodError, "500 neighbours among 120.*lower k"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(change, error, message, tmp_path):
    with pytest.raises(error, match=message) as caught:
        outcome(replace(AT, arm=Influential(MODEL.train), **change), tmp_path)
    assert "\n" not in str(caught.value)


def test_presets_are_the_protocol_of_the_paper():
    for preset in ("small", "paper"):
        cells = mnli_hans.PRESETS[preset]
        assert {(c.n_anchors, c.iterations, c.batch) for c in cells} == {(10, 10, 10)}
        assert {c.model.seed for c in cells} == {0, 1, 2}
        judged = {type(c.rate) for c in cells if c.repeat == 2}
        assert judged == {Predicted if preset == "small" else Fixed}
        assert {c.rate.lr for c in cells if isinstance(c.rate, Fixed)} == {1e-4}
        assert {c.model.labels for c in cells} == {2}


# --- the figure ----------------------------------------------------------------------------------


def build(folder, **more):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRACE_RESULTS", str(folder))
        synthetic_mnli_hans.write("paper", 3, **more)
        verdict = ARTIFACT.build("paper").verdict
        return verdict, table.from_csv(ARTIFACT.path("paper", "csv").read_text())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("corrected"))


@pytest.mark.long
def test_claims_are_judged_at_the_rate_by_rule_alone(tmp_path):
    verdict, rows = build(tmp_path, at_our_rate=0.0)
    assert verdict.word == "not reproduced"
    second = rows[rows["kind"] == "second rate"]
    assert set(second["rate"]) == {"lr 0.0001"}
    claims = second[second["at_least"].notna() | second["at_most"].notna()]
    assert set(claims["verdict"]) == {"holds"}


@pytest.mark.long
def test_gaps_are_paired_within_a_model_and_averaged_over_slices(built):
    verdict, rows = built
    assert verdict.word in ("reproduced", "partly")
    claims = rows[rows["kind"] == "claim"].set_index(["method", "quantity"])
    ours = claims.loc[("helpful − anchors", "accuracy, MultiNLI, rate by rule")]
    pace = synthetic_mnli_hans.PACE
    assert ours["ours"] == pytest.approx(10 * (pace["helpful"] - pace["Anchors"]), abs=0.5)
    assert ours["high"] - ours["low"] < 2, "how much models differ at the start is not in it"
    assert ours["n"] == 3, "draws of the anchors of one model are no models"
    printed = rows[rows["kind"] == "number"]
    assert printed["paper"].tolist() == [2.6, 2.6]


@pytest.mark.long
def test_the_figure_has_a_row_a_source_and_rate_and_a_column_a_slice(built):
    _, rows = built
    figure = ARTIFACT.draw(rows)
    assert len(figure.axes) == 4 * (3 + 2), "the last columns are answers by label, and the loss"
    lines = figure.axes[0].get_lines()
    assert len(lines) == 8
    answers = figure.axes[3].get_lines()
    entailed, others = (line.get_ydata()[-1] for line in answers[:2])
    assert entailed < 0 < others
    np.testing.assert_allclose(lines[0].get_xdata(), np.arange(11))
    wide = ARTIFACT.page(rows)
    assert len(wide) == 2 * (8 + 6), "the released damping is of pairs of MultiNLI alone"
    message = " ".join(ARTIFACT.findings(rows))
    assert "control `nearest`" in message
    assert "H = I" in message
    assert not math.isnan(rows["ours"].iloc[0])
