"""FastIF's own analysis: head, original, recall, paths, agreement and run time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis.fastif_table1 import Costs
from experiments import mnli_speed
from experiments.laboratory import runs
from experiments.laboratory.disk import checkpointed
from experiments.laboratory.errors import UserError
from experiments.mnli_speed import Agreement, Config, Recall, recalls
from experiments.pairs import influence, inverse, models
from experiments.pairs.influence import Plan, gradient_products
from experiments.pairs.inverse import Everything, HeadAlone, Inverse
from experiments.pairs.models import PAPER, SMOKE, Sample, load, trained
from experiments.pairs.runtime import PlainAutograd, Product, RunTime, from_column, through_trunk
from methods import fastif, workers
from methods.curvature.operators import Hessian
from methods.errors import MethodError
from methods.examples import take
from methods.ihvp.cg import CG
from methods.rows.gradients import gradient_rows
from methods.workers import ALONE
from tests.analysis.synthetic import shapes

N = 90
TINY = replace(
    SMOKE, train=Sample("mnli train", "generated", N), fit=replace(SMOKE.fit, epochs=6, every=6)
)
FEW = Sample("mnli dev", "generated", 90)
STEEP = Plan(depth=30, damping=2.0, scale=60.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results that the tests share, so that one model is trained."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("results")
        patch.setenv("RETRACE_RESULTS", str(home))
        yield home


@pytest.fixture
def classifier(folder, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(folder))
    return trained(TINY)


# --- the head, and the original ------------------------------------------------------------------


def test_the_head_is_the_end_of_the_model(classifier):
    task, train = HeadAlone().task(TINY), HeadAlone().examples(TINY, TINY.train)
    torch.testing.assert_close(
        task.loss(task.params, train),
        classifier.task.loss(classifier.task.params, classifier.train),
    )
    ours = gradient_rows(task, take(train, slice(0, 5))).dense()
    whole = gradient_rows(classifier.task, take(classifier.train, slice(0, 5))).dense()
    assert task.size == sum(v.numel() for v in task.params.values()) < classifier.task.size
    torch.testing.assert_close(ours, whole[:, -task.size :])
    vector = torch.randn(2, task.size, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([torch.zeros(2, classifier.task.size - task.size), vector], dim=1)
    torch.testing.assert_close(
        Hessian(task, train).apply(vector),
        Hessian(classifier.task, classifier.train).apply(padded)[:, -task.size :],
        rtol=1e-3,
        atol=1e-5,
    )


def test_the_curvature_of_a_part_is_asked_once_and_settles_a_plan(classifier):
    result = HeadAlone().curvature(TINY, 2).metrics
    assert result["damping"] == -2 * result["lowest"] > 0
    settings = Plan(k=3, sample=2).settled(result)
    assert settings.damping == result["damping"]
    assert settings.lissa.depth == np.ceil(3 * settings.lissa.scale / settings.damping)
    assert Everything().curvature(TINY, 2).metrics["largest"] > result["largest"]


def test_the_original_finds_what_the_fast_way_does(classifier):
    _, pairs = load(TINY, TINY.train)
    label = classifier.train["label"]
    whole = PlainAutograd(classifier.module, through_trunk(TINY.network.open(), pairs), label)
    cached = PlainAutograd(classifier.module, from_column(classifier.train), label)
    vector = torch.randn(1, classifier.task.size, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([4, 0, 17])
    wanted = fastif.scores(classifier.task, vector, classifier.train, index[None])[0]
    product = Hessian(classifier.task, take(classifier.train, index)).apply(vector)
    product = product - classifier.task.weight_decay * vector
    for plain in (whole, cached):
        torch.testing.assert_close(plain.scores(vector[0], index), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            plain.product(vector[0], index)[None], product, rtol=1e-3, atol=1e-5
        )
    step = cached.recursion(vector[0], 5e-3, 1e4, [index])
    wanted = (vector + 0.995 * vector - product / 1e4)[0] / 1e4
    torch.testing.assert_close(step, wanted, rtol=1e-4, atol=1e-9)
    assert not any(p.requires_grad for p in classifier.module.parameters()), "a copy was trained"


# --- recall --------------------------------------------------------------------------------------


def test_recall_counts_the_most_influential_among_the_first_candidates():
    scores = torch.tensor([[5.0, -9.0, 1.0, -2.0, 3.0, 0.5]])
    order = torch.tensor([[1, 0, 4, 2, 3, 5]])
    result = recalls(scores, order, ks=(1, 2, 6), ms=(1, 2))[..., 0]
    harmful, helpful, unsigned = result
    assert harmful.tolist() == [[1, 1, 1], [0.5, 0.5, 1]]
    assert helpful.tolist() == [[0, 1, 1], [0, 0.5, 1]]
    assert unsigned.tolist() == [[1, 1, 1], [0.5, 1, 1]]


def test_a_pass_over_all_pairs_gives_the_scores_of_candidates(classifier):
    directions = torch.randn(3, classifier.task.size, generator=torch.Generator().manual_seed(1))
    index = torch.arange(N).expand(3, N)
    wanted = fastif.scores(classifier.task, directions, classifier.train, index)
    torch.testing.assert_close(
        gradient_products(classifier.task, classifier.train, directions),
        wanted,
        rtol=1e-4,
        atol=1e-5,
    )


def test_recall_is_complete_when_all_are_candidates(classifier, tmp_path):
    work = Recall(FEW, 6, ks=(5, N), ms=(3, 10), plan=STEEP)
    result = work.run(TINY, tmp_path)
    assert result["recall"].shape == (2, 3, 2, 2, 6)
    assert (result["recall"][..., 1, :] == 1).all()
    assert result["scores"].shape == result["similarity"].shape == (6, N)
    assert result["scores"].dtype == np.float32
    assert result["right"].tolist() == [True] * 3 + [False] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["block-0.npz"]
    again = work.run(TINY, tmp_path)
    np.testing.assert_array_equal(again["recall"], result["recall"])


def test_a_piece_that_is_there_is_not_computed_again(tmp_path):
    def fail():
        raise AssertionError("computed twice")

    first = checkpointed(tmp_path, "a", lambda: {"x": np.arange(3)})
    np.testing.assert_array_equal(checkpointed(tmp_path, "a", fail)["x"], first["x"])


# --- paths, agreement, run time ------------------------------------------------------------------

SHORT = Inverse(
    sample=FEW,
    n_points=4,
    lengths=(1.0, 2.0),
    samples=(4, 30),
    repeats=2,
    whole_samples=(1,),
    whole_steps=2,
)


def test_paths_near_the_solution_with_more_examples(classifier, tmp_path):
    result = SHORT.run(TINY, tmp_path)
    assert result["error"].shape == result["distance"].shape == (2, 2, 2, 4)
    assert result["distance"][-1, -1, -1].max() == 0, "the most expensive is what it is taken from"
    small, large = result["error"].mean((1, 2, 3))
    assert large < small
    assert result["residual"] < 1e-3
    assert (result["seconds"][:, 1] > result["seconds"][:, 0]).all(), "more steps take longer"
    assert result["whole_seconds"].shape == (1, 2)
    assert result["diverged"] == 0


def test_points_have_minibatches_of_their_own(classifier, tmp_path):
    """Of the same point twice, the errors of single examples differ."""
    few = replace(SHORT, samples=(1, N), repeats=1)
    index = influence.balanced(TINY, FEW, 2)[[0, 0]]
    task, train = few.part.task(TINY), few.part.examples(TINY, TINY.train)
    vectors = gradient_rows(task, take(few.part.examples(TINY, FEW), torch.from_numpy(index)))
    settings = Plan(None, damping=4.0, scale=200.0, depth=1).settled({})
    same = vectors.dense()
    path = inverse._path(few, 1, settings, task, train, same, same, same)
    one, other = path["error"][-1, 0]
    assert one != other
    np.testing.assert_allclose(
        *inverse._path(few, N, settings, task, train, same, same, same)["error"][-1, 0], rtol=1e-4
    )


def test_the_solution_is_that_of_the_whole_training_set(classifier, tmp_path):
    result = replace(SHORT, samples=(N,), repeats=1, lengths=(5.0,)).run(TINY, tmp_path)
    assert result["error"].max() < 0.02


def test_a_minibatch_size_that_diverges_is_told_and_the_largest_is_an_error(classifier, tmp_path):
    task = HeadAlone().task(TINY)
    largest = HeadAlone().curvature(TINY, 4).metrics["largest"]
    loose = replace(SHORT, samples=(1, N), lengths=(10.0,), repeats=1, damping=0.5)
    result = replace(loose, scale=0.6 * (largest + 0.5)).run(TINY, tmp_path)
    assert task.size == result["num_params"]
    assert np.isfinite(result["error"][1]).all()
    if result["diverged"]:
        assert np.isnan(result["error"][0]).all()
    again = tmp_path / "again"
    again.mkdir()
    with pytest.raises(MethodError, match="diverged at the largest minibatch, 90: raise scale"):
        replace(loose, scale=0.1 * largest).run(TINY, again)


@pytest.mark.long
def test_systems_agree_where_all_that_differs_is_noise(classifier, tmp_path):
    plan = Plan(depth=30, damping=4.0, scale=40.0, sample=30)
    work = Agreement(FEW, 4, (10, 40), full=plan, fast=plan, few=STEEP)
    result = work.run(TINY, tmp_path)
    full, fast = result["scores_full"], result["scores_fast_10"]
    assert result["neighbours"].shape == (4, 40)
    assert (fast != result["scores_fast_40"]).any(), "each k has minibatches of its own"
    assert np.corrcoef(full.ravel(), fast.ravel())[0, 1] > 0.98
    assert result["few_scale"] == 60.0
    index = influence.balanced(TINY, FEW, 4)
    query = influence.examples(TINY, FEW, index)
    features = [influence.features(TINY, one) for one in (FEW, TINY.train)]
    features[0] = features[0][index]
    settings = work.plans()["fast_10"].settle(TINY)
    whole = fastif.influential(classifier.task, classifier.train, query, tuple(features), settings)
    np.testing.assert_array_equal(whole.candidates, result["neighbours"][:, :10])
    np.testing.assert_allclose(
        whole.scores,
        np.take_along_axis(fast, result["neighbours"][:, :10], 1),
        rtol=1e-3,
        atol=1e-5,
    )


def agreed(group, scratch):
    plan = Plan(depth=12, damping=4.0, scale=40.0, sample=10, repeats=3)
    own = scratch / str(group.rank)
    own.mkdir()
    if group.rank == 1:  # left by an attempt that was killed: process 0 has no such piece
        checkpointed(own, "full", lambda: {"mean": np.zeros(1)})
    return Agreement(FEW, 2, (10,), full=plan, fast=plan).run(TINY, own)


@pytest.mark.long
def test_processes_divide_repeats_and_agree_on_what_a_killed_attempt_left(classifier, tmp_path):
    shared = workers.run(agreed, 2, tmp_path)
    (tmp_path / "alone").mkdir()
    alone = agreed(ALONE, tmp_path / "alone")
    for name in ("scores_full", "scores_fast_10", "error_full"):
        np.testing.assert_allclose(shared[name], alone[name], rtol=1e-3, atol=1e-6)


TIMED = RunTime(FEW, 2, ks=(40, 10), batch=8, workers=1, candidates=2, batched=20, steps=2, takes=1)


def test_run_time_measures_every_part_at_every_point(classifier, tmp_path):
    before = torch.get_num_threads()
    runs.plan("mnli_speed", "custom", [Config(TINY, TIMED)])
    run = mnli_speed.EXPERIMENT.once(Config(TINY, TIMED))
    assert torch.get_num_threads() == before
    costs = Costs.of(run)
    assert all(len(values) == 2 and (values > 0).all() for values in costs.seconds.values())
    assert costs.total(N, None, "original").shape == (2,)
    assert run.metrics["hidden_seconds"] > 0


def test_a_hessian_product_is_timed_beside_a_pass_and_leaves_the_model_as_it_was(
    classifier, tmp_path
):
    before = torch.get_num_threads()
    result = Product(batch=8, batches=3, takes=1).run(TINY, tmp_path)
    assert result["product"].shape == result["product_pass"].shape == (3,)
    assert (result["product"] > 0).all()
    assert result["num_params"] == classifier.task.size
    assert not any(p.requires_grad for p in classifier.module.parameters())
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (Product(batch=N + 1), "batch asks for 91 of 90 training pairs: give numbers from 1 to 90"),
        (Product(takes=0), "takes is 0: give 1 or more"),
        (Recall(FEW, 6, ks=(N + 1,), ms=(3,)), "ks asks for 91 of 90 training pairs: give numbers"),
        (Recall(FEW, 6, ks=(3,), ms=()), "ms asks for nothing of 90 training pairs"),
        (Recall(FEW, 180, ks=(3,), ms=(3,)), "points at most"),
        (replace(SHORT, lengths=()), "lengths or samples are empty"),
        (replace(SHORT, lengths=(1.0, 1.001), damping=40.0), "give lengths further apart"),
        (Agreement(FEW, 4, (1_000,)), "ks asks for 1,000 of 90 training pairs"),
        (replace(TIMED, batched=200), "batched asks for 200 of 90 training pairs"),
        (replace(TIMED, ks=(0,)), "ks asks for 0 of 90 training pairs"),
        (replace(TIMED, workers=0), "workers is 0: give 1 or more"),
        (replace(TIMED, steps=0), "steps is 0: give 1 or more"),
        (replace(SHORT, solver=CG(max_products=1)), "raise `damping`, `tolerance` or"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_remedy(work, message, classifier, tmp_path):
    with pytest.raises((UserError, MethodError)) as caught:
        work.run(TINY, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_slice_is_one_line(classifier, tmp_path):
    nothing = Sample("mnli dev", "generated", 0)
    with pytest.raises(UserError, match="0 pairs of mnli dev: give n = 1 or more"):
        Recall(nothing, 2, ks=(3,), ms=(3,)).run(TINY, tmp_path)


# --- presets -------------------------------------------------------------------------------------


def shrunk(work):
    """A cell of the paper with as many kinds of numbers, each of them small."""
    if isinstance(work, Product):
        return replace(work, batch=4, batches=4, takes=1)
    few = replace(work, sample=FEW, n_points=4)
    if isinstance(work, Recall):
        return replace(few, ks=(3, 9), ms=(2, 5), plan=replace(STEEP, repeats=2))
    if isinstance(work, Inverse):
        grid = replace(few, lengths=(0.5, 1.0), samples=(2, 20), repeats=2, whole_samples=(1, 4))
        return replace(grid, whole_steps=2, solver=CG(1e-2))
    if isinstance(work, Agreement):
        full, fast = (replace(one, depth=3, sample=2, repeats=2) for one in (work.full, work.fast))
        return replace(few, ks=(5, 20), full=full, fast=fast, few=work.few and STEEP)
    return replace(few, ks=(20, 5), batch=4, workers=1, candidates=2, batched=10, steps=1)


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, marks=pytest.mark.long if isinstance(cell.work, Inverse) else ())
        for cell in mnli_speed.PRESETS["paper"]
    ],
    ids=lambda cell: type(cell.work).__name__,
)
def test_a_cell_of_the_paper_tier_runs(cell, classifier, tmp_path):
    assert cell.model == PAPER
    result = shrunk(cell.work).run(TINY, tmp_path)
    shapes.hold("mnli_speed", result)
    assert result["work"] in ("recall", "inverse", "agreement", "run time", "product")
    assert len(result["product" if result["work"] == "product" else "right"]) == 4


def test_the_paper_tier_has_the_papers_settings():
    works = [cell.work for cell in mnli_speed.PRESETS["paper"]]
    recall, recalled, inverse, released, agreement, again, run_time, product = works
    assert (recalled.plan.damping, recalled.plan.k, recalled.ks) == (50.0, None, recall.ks)
    assert (run_time.batch, run_time.repeats, run_time.workers) == (128, 4, 4)
    assert PAPER.fit.lr == 2e-5
    network = PAPER.network.network
    assert (network.frozen, network.length, PAPER.train.n) == (10, 128, None)
    assert {10, 100, 1_000, 10_000, 50_000, 100_000} <= set(recall.ks)
    assert (recall.n_points, inverse.n_points, agreement.n_points, run_time.n_points) == (
        100, 8, 6, 10,
    )  # fmt: skip
    assert (product.batch, product.batches) == (32, 10)
    assert inverse.samples == tuple(2**i for i in range(8))
    settled = Plan(None, damping=50.0, scale=1e4, depth=1).settled({})
    assert released.depths(settled) == list(range(700, 1_301, 100))
    assert (released.damping, released.scale) == (50.0, 1e4)
    assert again.fast == Plan(depth=1_000, damping=50.0, scale=1e4, repeats=3)
    assert (again.full.depth, again.full.sample, again.few.damping) == (1_000, 32, 50.0)


def test_hidden_states_of_a_sample_are_looked_up_for_what_they_cost(classifier):
    assert runs.find("nli_hidden", models.Hidden(TINY.network, TINY.train)) is not None
