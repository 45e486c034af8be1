"""Attributions against ensembles: what is divided from what, every method, the artifact."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis import ground_truth as artifact
from analysis.numbers import table
from experiments import subset_ensembles
from experiments.ensembles import attributions, subset_truth, subsets
from experiments.ensembles.attributions import Chance, Similarity, Whole, display, scored
from experiments.ensembles.subset_truth import Division, truth_of
from experiments.ensembles.subsets import PAPER, Data, Ensemble
from experiments.ground_truth import PRESETS, Attribution, Estimate, Train, cells, run
from experiments.laboratory.errors import UserError
from experiments.models.digits_mlp import DigitsMLP
from experiments.training.plans import Fit, cross_entropy, negative_log_odds
from methods.ensembles.subset import influence
from methods.errors import MethodError
from methods.ihvp.arnoldi import Krylov
from methods.ihvp.cg import CG
from methods.ihvp.exact import Exact
from methods.ihvp.lissa import LiSSA
from methods.influence import Influence
from tests.analysis.synthetic import ground_truth as synthetic
from tests.analysis.synthetic import shapes
from tests.experiments.test_subset_ensembles import of_few_photos

TINY = Ensemble(DigitsMLP((8,), (1, 8, 8)), Data("digits", 40, 30), Fit(8, 14, 0.1), stack=6)
DIVISION = Division(TINY, 24, 6, 6, 6, 20)
WHOLE = Whole(TINY, 2, 4)
SLOW = [(Exact(), (0.1, 1.0)), (CG(), (1.0,)), (LiSSA(20, 20), (0.1,))]
CELLS = cells(DIVISION, WHOLE, (2, 18), Krylov(20, None, 0, 8), (1, 2), SLOW)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(autouse=True)
def store(shared, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(shared))
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture
def scratch(tmp_path):
    return tmp_path


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: display(getattr(c, "method", c)))
def test_every_cell_of_a_preset_runs(cell, scratch):
    found = run(cell, scratch)
    shapes.hold("ground_truth", found)
    if isinstance(cell, Train):
        assert found["accuracy_train"] > 0.2
        return
    n = len(getattr(cell, "counts", getattr(cell, "sizes", ())))
    for name in ("lds_mean", "pairs_mean", "area_mean"):
        assert found[name].shape == (n, 20)
    assert np.isfinite(found["lds_mean"]).any()
    if isinstance(cell, Estimate):
        assert found["reliability"].shape == found["contested"].shape == (20,)
        assert np.isnan(found["pairs_mean"][1]).all(), "18 models, of which the truth has 12"
        return
    first = found["lds_each"][0]
    np.testing.assert_array_equal(first, found["lds_mean"][0], err_msg="an average of one")
    if cell.dampings:
        assert found["damping"] == cell.dampings[int(np.nanargmax(found["choosing"]))]
    for name in ("own_each", "ap_each"):
        asked = cell.own and display(cell.method) not in ("Cosine", "Features")
        assert (name in found) == asked


def test_no_model_that_is_held_out_chooses_or_estimates(scratch, monkeypatch):
    asked, chosen = [], []

    def estimated(whole, models, n_query):
        asked.append(models)
        return torch.zeros(20, 40)

    def score(division, whole, models, pairs):
        chosen.append(models)
        return pairs[:, 0].numpy()

    monkeypatch.setattr(subsets.Outcomes, "soft_influence", estimated)
    monkeypatch.setattr(subset_truth, "score", score)
    run(Estimate(DIVISION, (2, 18)), scratch)
    truth = [*range(6), *range(12, 24)]
    assert [models.tolist() for models in asked] == [truth, [6, 7], [*range(6, 24)]]
    chosen.clear()
    run(next(c for c in CELLS if isinstance(c, Attribution) and c.dampings), scratch)
    assert chosen == [slice(6, 12)] * 7 + [slice(0, 6)] * 4, "chosen first, judged after"


def test_a_damping_that_any_network_refuses_is_not_chosen(scratch, monkeypatch):
    cell = next(c for c in CELLS if isinstance(c, Attribution) and c.dampings)
    scored, refused = attributions.scored, {(0.1, 0), (1.0, 1)}  # damping and network

    def refusing(method, whole, member, n_query, own):
        if (method.damping, member) in refused:
            raise MethodError("an eigenvalue is nearly minus the damping")
        return scored(method, whole, member, n_query, own)

    def score(division, whole, models, pairs):  # the best damping is that of the last call
        score.calls += 1
        return np.full(len(pairs), float(score.calls))

    score.calls = 0
    monkeypatch.setattr(attributions, "scored", refusing)
    monkeypatch.setattr(subset_truth, "score", score)
    found = run(replace(cell, dampings=(0.03, 0.1, 0.3, 1.0)), scratch)
    assert found["damping"] == 0.3
    assert np.isnan(found["choosing"]).tolist() == [False, True, False, True]
    with pytest.raises(MethodError, match="no damping of"):
        run(replace(cell, dampings=(0.1, 1.0)), scratch)


def test_the_truth_is_the_estimate_of_all_but_those_that_choose():
    whole = subsets.gathered(TINY, 24)
    kept = np.r_[0:6, 12:24]
    probability = whole.probability[kept, 40:60] / 255
    masks = whole.masks.unpacked().numpy()[kept]
    truth = truth_of(DIVISION, whole)
    np.testing.assert_allclose(truth.influence, influence(masks, probability), atol=1e-6)
    assert truth.memorization.shape == (40,)
    assert not truth.strong[:, truth.memorization <= 0.25].any()


def test_scores_come_back_as_they_were_kept(scratch):
    cell = next(c for c in CELLS if isinstance(c, Attribution) and display(c.method) == "TracIn")
    whole = run(cell, scratch)
    (scratch / "1.npz").unlink()  # as a kill leaves it
    again = run(cell, scratch)
    for name in ("lds_mean", "own_mean", "pairs_each"):
        np.testing.assert_array_equal(whole[name], again[name])


def test_networks_of_the_whole_set_differ_and_know_it():
    first, second = (attributions.member_task(WHOLE, member) for member in (0, 1))
    assert len(first.checkpoints) == 2
    for name, value in first.params.items():
        torch.testing.assert_close(first.checkpoints[-1].params[name], value)
        assert not torch.equal(value, second.params[name]) or name.endswith("bias")
    train, _ = subsets.load(TINY.data)
    assert first.loss(first.params, train).mean() < 1.0
    module = TINY.network.build(0)
    p = (-cross_entropy(module, train)).exp()
    torch.testing.assert_close(-negative_log_odds(module, train), (p / (1 - p)).log())


def test_features_that_are_alike_have_a_cosine_of_one():
    scores = scored(Similarity(), WHOLE, 0, 30, own=True)
    assert scores.own is None
    assert -1e-6 < float(scores.pairs.min()) <= float(scores.pairs.max()) < 1 + 1e-6
    one, other = (scored(Chance(), WHOLE, member, 5, own=True).pairs for member in (0, 1))
    assert one.shape == (5, 40)
    assert not torch.equal(one, other)


def test_every_preset_asks_for_the_ensembles_that_subset_ensembles_trains():
    for preset, mine in PRESETS.items():
        theirs = subset_ensembles.PRESETS[preset]
        parts = {cell.part for cell in theirs if isinstance(cell, subset_ensembles.Train)}
        for cell in mine:
            if isinstance(cell, Train):
                continue
            division = cell.division
            again = replace(division.ensemble, restart=1)
            assert set(subsets.parts(division.ensemble, division.n_models)) <= parts
            assert set(subsets.parts(again, division.n_restarts)) <= parts
            if isinstance(cell, Estimate):
                assert max(cell.sizes) <= division.n_models - division.n_held


def test_a_division_without_models_left_is_refused():
    with pytest.raises(UserError, match="leave some models"):
        Division(TINY, 12, 6, 6, 6, 20)
    with pytest.raises(UserError, match="train twice at most those held out"):
        Division(TINY, 24, 6, 6, 12, 20)
    with pytest.raises(UserError, match="20 models, but 18 are not held out"):
        Estimate(DIVISION, (20,))
    with pytest.raises(UserError, match="3 networks of 2: raise"):
        Attribution(DIVISION, WHOLE, Chance(), (1, 3))
    with pytest.raises(UserError, match=r"set whole\.ensemble to division\.ensemble"):
        Attribution(DIVISION, replace(WHOLE, ensemble=replace(TINY, seed=1)), Chance(), (1,))


def test_queries_on_which_half_of_the_networks_agree_have_no_score():
    whole = subsets.gathered(TINY, 24)
    tied = whole.probability.copy()
    tied[6:15, 41] = 7  # of 18 networks that are not held out
    tied[6:14, 42] = np.arange(8)
    changed = replace(whole, probability=tied)
    assert not subset_truth.varied(DIVISION, changed)[1]
    assert subset_truth.varied(DIVISION, changed)[2]
    found = subset_truth.score(DIVISION, changed, DIVISION.held_out, torch.randn(20, 40))
    assert np.isnan(found[1])
    assert np.isfinite(found[2])


@pytest.mark.long
def test_the_paper_s_networks_are_scored(scratch, monkeypatch):
    tiny = of_few_photos(PAPER, 8, monkeypatch)
    paper = PRESETS["paper"][2]
    basis = Krylov(3, 4, 0, 2)
    inverse = replace(paper.method.inverse, num_eigen=2, basis=basis)
    for method in (Influence(inverse, 1.0), attributions.GRADIENT):
        found = scored(method, Whole(tiny, 2, 1), 1, 2, own=method == attributions.GRADIENT)
        assert found.pairs.shape == (2, 8)
        assert torch.isfinite(found.pairs).all()
    subsets.load.cache_clear()


# --- the artifact --------------------------------------------------------------------------------


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))


def built():
    made = artifact.ARTIFACT.build("paper")
    rows = table.from_csv(artifact.ARTIFACT.path("paper", "csv").read_text())
    claims = rows[rows["kind"] == "claim"].set_index(["method", "quantity"])
    return made.verdict.word, claims, rows


def test_attributions_that_do_as_claimed_are_reproduced(made_up):
    synthetic.write("paper", 12)
    word, claims, rows = built()
    assert word == "partly", "the estimate of 12 models is not in the runs"
    assert set(claims["verdict"]) == {"holds", "not run"}
    single = claims.loc[
        ("Influence − Gradients, of one network", "MNIST, MLP: LDS, paired"), "ours"
    ]
    assert single == pytest.approx(0.2, abs=0.02)
    ceiling = rows[rows["measure"] == "ceiling"]["ours"].iat[0]
    assert ceiling == pytest.approx(0.6, abs=0.02)
    page = artifact.page(rows)
    assert {"LDS", "own", "LDS left by noise"} <= set(page.columns)


def test_averaging_that_brings_nothing_is_not_reproduced(made_up):
    synthetic.write("paper", 3, gain=-0.05)
    word, claims, _ = built()
    assert word in ("partly", "not met")
    wrong = claims[claims["verdict"] == "fails"].reset_index()["method"]
    assert set(wrong) == {f"{name} of all networks − of one" for name in artifact.TESTED}
