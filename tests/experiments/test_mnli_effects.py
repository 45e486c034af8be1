"""Edges between training pairs and wrong predictions; the tables and graphs made of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis import fastif_fig6, fastif_table4, fastif_table5
from analysis import fastif_fig6 as circle_panels
from analysis.numbers import influence_graph, table
from experiments import mnli_effects
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.mnli_effects import Config
from experiments.pairs import influence as nli_points
from experiments.pairs.influence import Plan
from experiments.pairs.models import SMOKE_TWO, Sample, hans_pairs, load, trained
from methods import fastif
from methods.errors import MethodError
from methods.examples import take
from methods.rows.gradients import gradient_rows
from tests.analysis.synthetic import mnli_effects as synthetic_mnli_effects

MODEL = replace(
    SMOKE_TWO,
    train=Sample("mnli train", "generated", 90),
    fit=replace(SMOKE_TWO.fit, epochs=2, every=2),
)
HANS = hans_pairs("generated", 60, 90)
PLAN = Plan(k=12, depth=10, sample=4, damping=2.0, scale=60.0)
AT = Config(MODEL, HANS.evaluation, "subsequence", PLAN, n=7)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(autouse=True)
def results(store, monkeypatch):
    """Results that all tests share, so that the model is trained once."""
    monkeypatch.setenv("RETRACE_RESULTS", str(store))


def test_the_queries_are_wrong_predictions_of_the_part(tmp_path):
    result = mnli_effects.run(AT, tmp_path)
    predicted, _ = nli_points.predicted(MODEL, HANS.evaluation)
    _, pairs = load(MODEL, HANS.evaluation)
    assert len(result["query"]) == result["n_queries"] == 7
    assert (pairs.part[result["query"]] == "subsequence").all()
    assert (predicted[result["query"]] != pairs.label[result["query"]]).all()
    assert result["scores"].shape == result["similarity"].shape == (7, 12)
    assert result["accuracy"] == pytest.approx(1 - result["n_wrong"] / 30)


def test_scores_are_those_of_one_query_at_a_time_and_similarity_is_of_gradients(tmp_path):
    result = mnli_effects.run(AT, tmp_path)
    classifier = trained(MODEL)
    queries = nli_points.examples(MODEL, HANS.evaluation, result["query"])
    settings = PLAN.settle(MODEL)
    s_tests = fastif.s_test(classifier.task, classifier.train, queries, settings).mean
    near = torch.from_numpy(result["candidates"]).long()
    features = (nli_points.features(MODEL, s) for s in (HANS.evaluation, MODEL.train))
    query, train = features
    wanted = torch.cdist(query[result["query"]], train).topk(12, largest=False).indices
    assert torch.equal(near.sort(1).values, wanted.sort(1).values)
    scores = fastif.scores(classifier.task, s_tests, classifier.train, near)
    torch.testing.assert_close(torch.from_numpy(result["scores"]), scores, rtol=1e-4, atol=1e-5)
    rows = gradient_rows(classifier.task, take(classifier.train, near[0]))
    one = gradient_rows(classifier.task, queries).dense()[0]
    torch.testing.assert_close(
        torch.from_numpy(result["similarity"][0]), rows.dense() @ one, rtol=1e-4, atol=1e-5
    )


def test_blocks_give_what_one_pass_does_and_a_kill_loses_one(tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    whole = mnli_effects.run(AT, tmp_path / "whole")
    monkeypatch.setattr(mnli_effects, "BLOCK", 3)
    made, score = [], mnli_effects.score_block

    def killed(*arguments):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        return score(*arguments)

    folder = tmp_path / "parts"
    folder.mkdir()
    monkeypatch.setattr(mnli_effects, "score_block", killed)
    with pytest.raises(KeyboardInterrupt):
        mnli_effects.run(AT, folder)
    assert len(list(folder.glob("*.npz"))) == 2
    made.clear()
    result = mnli_effects.run(AT, folder)
    assert len(made) == 1, "two of three blocks were there"
    np.testing.assert_allclose(result["scores"], whole["scores"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result["cosine"], whole["cosine"], rtol=1e-4)


def test_where_a_model_errs_less_all_wrong_predictions_are_taken(tmp_path, monkeypatch):
    result = mnli_effects.run(replace(AT, n=1_000), tmp_path)
    assert result["n_queries"] == result["n_wrong"] == len(result["query"]) < 1_000
    right = np.ones(90, dtype=bool)
    monkeypatch.setattr(nli_points, "predicted", lambda *_: (None, right))
    none = mnli_effects.run(AT, tmp_path)
    assert (none["n_queries"], none["n_wrong"], none["accuracy"]) == (0, 0, 1.0)
    assert none["scores"].shape == none["candidates"].shape == (0, 12)
    run = runs.once("empty", AT, lambda _: none)
    assert run.array("scores").shape == (0, 12)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"part": "nowhere"}, UserError, "hans evaluation has no pairs of nowhere: it has const"),
        ({"n": 0}, UserError, "n is 0: ask about at least one"),
        ({"plan": replace(PLAN, k=91)}, MethodError, "91 neighbours among 90.*lower k"),
    ],
)
def test_what_cannot_be_asked_is_one_line(change, error, message, tmp_path):
    with pytest.raises(error, match=message) as caught:
        mnli_effects.run(replace(AT, **change), tmp_path)
    assert "\n" not in str(caught.value)


def test_presets_are_the_protocol_of_the_paper():
    for preset, ks in {"small": {33, 300}, "paper": {1_000}}.items():
        cells = mnli_effects.PRESETS[preset]
        assert {(cell.n, cell.plan.k) for cell in cells} == {(100, k) for k in ks}
        assert {cell.model.train.which for cell in cells} == {"mnli train", "hans train"}
        assert {cell.part for cell in cells} == set(influence_graph.SLICES)


def test_a_model_of_hans_has_met_no_pair_of_multinli():
    for preset in mnli_effects.PRESETS.values():
        for model in {cell.model for cell in preset if cell.model.train.which == "hans train"}:
            assert "mnli train" not in repr(model)


# --- tables and graphs ---------------------------------------------------------------------------


def built(module, tmp_path, monkeypatch, seeds=3, **more):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    synthetic_mnli_effects.write("paper", seeds, **more)
    verdict = module.ARTIFACT.build("paper").verdict
    return verdict, table.from_csv(module.ARTIFACT.path("paper", "csv").read_text())


def test_few_strong_helpful_edges_are_told_from_many_weak_harmful_ones(tmp_path, monkeypatch):
    _, rows = built(fastif_table4, tmp_path, monkeypatch)
    claims = rows[rows["kind"] == "claim"]
    assert len(claims) == 8
    assert set(claims["verdict"]) == {"holds"}
    shares = rows[rows["quantity"] == fastif_table4.SHARE]
    assert (shares["query_low"] <= shares["ours"]).all()
    assert (shares["query_high"] >= shares["ours"]).all()
    assert len(fastif_table4.ARTIFACT.page(rows)) == 8


def test_the_other_sign_is_not_reproduced(tmp_path, monkeypatch):
    verdict, _ = built(fastif_table4, tmp_path, monkeypatch, sign=-1.0)
    assert verdict.word == "not reproduced"


def test_an_edge_s_sign_is_the_papers_and_counts_are_of_all_edges(tmp_path, monkeypatch):
    _, rows = built(fastif_table4, tmp_path, monkeypatch, seeds=1)
    run = next(
        run
        for run in runs.load("mnli_effects", "paper")
        if run.config["part"] == "subsequence" and run.metrics["n_queries"]
        and run.config["model"]["train"]["which"] == "mnli train"
    )  # fmt: skip
    scores = np.asarray(run.array("scores"))
    by = rows[(rows["method"] == "influence") & (rows["part"] == "H (S)")].set_index("quantity")
    assert by.loc[fastif_table4.SHARE, "ours"] == pytest.approx((scores > 0).mean(), rel=1e-5)
    strong, weak = scores[scores > 0].mean(), -scores[scores < 0].mean()
    assert by.loc[fastif_table4.TIMES, "ours"] == pytest.approx(strong / weak, rel=1e-5)


def test_correlations_are_of_mean_influences_over_pairs_that_have_both():
    def edges(candidates, influence):
        return influence_graph.Edges(np.array(candidates), np.array(influence, dtype=float), 6)

    one = edges([[0, 1, 2], [1, 2, 3]], [[1, 2, 3], [4, 5, 6]])
    other = edges([[1, 2, 5]], [[10, 30, 7]])
    first, second = influence_graph.shared(one, other)
    assert first.tolist() == [3.0, 4.0]
    assert second.tolist() == [10.0, 30.0]
    assert np.isnan(fastif_table5.correlation(one, other)), "two points always correlate"
    wider = edges([[0, 1, 2, 3]], [[1, 2, 4, 3]])
    wanted = np.corrcoef([1, 3, 4, 6], [1, 2, 4, 3])[0, 1]
    assert fastif_table5.correlation(one, wider) == pytest.approx(wanted)


def test_slices_that_are_influenced_alike_correlate(tmp_path, monkeypatch):
    _, rows = built(fastif_table5, tmp_path, monkeypatch)
    claims = rows[rows["kind"] == "claim"]
    assert len(claims) == 7
    assert set(claims["verdict"]) <= {"holds", "leans"}
    numbers = rows[rows["quantity"] == "correlation"].set_index("method")
    assert numbers.loc["H (L), H (S)", "paper"] == 0.99
    assert numbers.loc["H (L), H (S)", "query_low"] > 0.9
    counts = rows[rows["quantity"] == "training pairs tied to both"].set_index("method")
    assert counts.loc["H (C), M", "paper"] == 13_972
    assert len(fastif_table5.ARTIFACT.draw(rows).axes) == 3


def test_the_graphs_are_drawn_of_the_strongest_edges_in_the_csv(tmp_path, monkeypatch):
    verdict, rows = built(fastif_fig6, tmp_path, monkeypatch)
    assert verdict.word == "reproduced"
    edges = rows[rows["kind"] == "edge"]
    sizes = edges.groupby(["method", "part", "quantity"]).size()
    assert set(sizes) == {fastif_fig6.DRAWN}
    assert (edges.loc[edges["quantity"] == "edge, harmful", "ours"] > 0).all()
    assert (edges.loc[edges["quantity"] == "edge, helpful", "ours"] < 0).all()
    assert set(edges.loc[edges["method"] == "MultiNLI", "train_part"]) == {"mnli"}
    figure = fastif_fig6.ARTIFACT.draw(rows)
    drawn = [len(one.get_segments()) for axes in figure.axes for one in axes.collections]
    assert drawn == [4 * fastif_fig6.DRAWN] * 4


def test_predictions_keep_their_places_in_both_graphs_of_a_model(tmp_path, monkeypatch):
    _, rows = built(fastif_fig6, tmp_path, monkeypatch)
    one, other = fastif_fig6.ARTIFACT.draw(rows).axes[:2]
    n = len(influence_graph.SLICES)
    for left, right in zip(one.get_lines()[:n], other.get_lines()[:n], strict=True):
        np.testing.assert_array_equal(left.get_xydata(), right.get_xydata())
    assert set(circle_panels.SIGNS) == {-1, 1}


def test_a_slice_that_a_model_makes_no_mistake_on_is_said_and_not_drawn(tmp_path, monkeypatch):
    verdict, rows = built(fastif_fig6, tmp_path, monkeypatch, none_wrong="constituent")
    claims = rows[rows["kind"] == "claim"].set_index("quantity")
    assert claims.loc["|I| on H (C)", "verdict"] == "not run"
    assert verdict.word != "reproduced"
    assert any(
        "0 wrong predictions of H (C)" in message for message in fastif_fig6.ARTIFACT.findings(rows)
    )
