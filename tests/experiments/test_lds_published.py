"""dattri's benchmark: what is trained on what, which settings are chosen by what, the artifact."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis import lds_published as artifact
from analysis.numbers import table
from experiments.ensembles import benchmark, benchmark_scores
from experiments.ensembles.benchmark import Part, Setting
from experiments.ensembles.benchmark_scores import Plan, Representers, attempts
from experiments.laboratory.errors import UserError
from experiments.lds_published import PRESETS, Row, Train, cells, run
from experiments.models.benchmark_mlp import BenchmarkMLP
from experiments.training.plans import Fit
from methods.curvature.exact_hessian import exact_hessian
from methods.ihvp.cholesky import Cholesky
from methods.ihvp.lissa import LiSSA
from methods.ihvp.truncated import Truncated
from methods.influence import Influence
from methods.rows.projections import SJLT
from tests.analysis.synthetic import lds_published as synthetic
from tests.analysis.synthetic import shapes

SHAPE = (1, 8, 8)
FIT = Fit(3, 20, 0.05, 0.0, every=3)
LINEAR = Setting(BenchmarkMLP((), SHAPE), "digits", 60, 25, FIT, 0.3, 0.4)
DEEP = replace(LINEAR, network=BenchmarkMLP((6,), SHAPE), fit=replace(FIT, momentum=0.9))
PLAN = Plan(LINEAR, 12, 6, 10, 20, 2, 6, 10)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(autouse=True)
def store(shared, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(shared))
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.mark.long
@pytest.mark.parametrize("setting", [LINEAR, DEEP], ids=["linear", "deep"])
def test_every_cell_of_a_preset_runs(setting, tmp_path):
    few = cells(replace(PLAN, setting=setting), SJLT(8), 8)
    for cell in few:
        found = run(
            replace(cell, tried=cell.tried[:2]) if isinstance(cell, Row) else cell, tmp_path
        )
        shapes.hold("lds_published", found)
        if isinstance(cell, Row):
            assert found["lds"].shape == found["loo"].shape == (2, 20)
            assert np.isfinite(found["lds_draws"]).all()
            several = len(cell.tried) > 1
            assert found["trainings"] == cell.count + 6 * several


def test_halves_are_half_and_the_others_lack_one_of_all_in_turn():
    assert (benchmark.masks_of(Part(LINEAR, "half", 0, 5)).sum(1) == 30).all()
    lacks = ~benchmark.masks_of(Part(LINEAR, "without one", 0, 60))
    assert (lacks.sum(0) == 1).all()
    assert (lacks.sum(1) == 1).all()
    some = benchmark.masks_of(Part(LINEAR, "without one", 20, 10))
    np.testing.assert_array_equal(some, ~lacks[20:30])


def test_halves_that_choose_never_judge(monkeypatch):
    truth = benchmark_scores.truth(PLAN)
    scores = torch.randn(20, 60, generator=torch.Generator().manual_seed(0))
    before = truth.quality(scores)
    truth.losses[12:] = np.random.default_rng(0).normal(size=truth.losses[12:].shape)
    after = truth.quality(scores)
    np.testing.assert_array_equal(after.lds, before.lds)
    assert (after.choosing != before.choosing).any()


def test_leave_one_out_compares_scores_with_the_loss_without_each_example():
    truth = benchmark_scores.truth(PLAN)
    scores = torch.zeros(20, 60, dtype=torch.float64)
    scores[:, truth.lacks] = torch.from_numpy(truth.without.T)
    np.testing.assert_allclose(truth.quality(scores).loo, 1.0)


def test_one_span_a_query_serves_every_damping_as_the_method_alone():
    params = benchmark.gathered(PLAN.wholes, "params")[:1]
    tried = tuple(Influence(Truncated(4), damping) for damping in (1.0, 0.01))
    train, query = benchmark.load(LINEAR)
    task = benchmark.task_of(LINEAR, params, 1.0)
    query = {name: column[:20] for name, column in query.items()}
    for method, found in zip(tried, attempts(PLAN, params, tried), strict=True):
        wanted = method.scores(task, train, query).double()
        torch.testing.assert_close(found.scores, wanted, rtol=1e-3, atol=1e-5)


def test_an_explicit_inverse_is_that_of_the_whole_hessian():
    params = benchmark.gathered(PLAN.wholes, "params")[:1]
    method = Influence(Cholesky(), 0.1)
    (found,) = attempts(PLAN, params, (method,))
    train, query = benchmark.load(LINEAR)
    task = benchmark.task_of(LINEAR, params, 1.0)
    hessian = exact_hessian(task, train).double()
    fitted = method.fit(task, train)
    rows = [fitted.query_gradients(query).dense(), fitted.train_gradients(train).dense()]
    moved = hessian + 0.1 * torch.eye(len(hessian), dtype=torch.float64)
    wanted = rows[0].double() @ torch.linalg.solve(moved, rows[1].double().T)
    torch.testing.assert_close(found.scores, wanted[:20], rtol=1e-3, atol=1e-5)


def test_a_setting_that_is_refused_is_said_and_another_taken(tmp_path):
    tried = (Influence(LiSSA(100, 10, 1e-3)), Influence(LiSSA(5, 10, 50.0)))
    found = run(Row("LiSSA", tried, PLAN), tmp_path)
    assert found["refused"] == "batch 10"
    assert np.isnan(found["tried"][0]).all()
    with pytest.raises(UserError, match="LiSSA: every setting was refused, the last: LiSSA div"):
        run(Row("LiSSA", tried[:1], PLAN), tmp_path)


def test_representer_points_are_scaled_to_length_one():
    params = benchmark.gathered(PLAN.wholes, "params")[:1]
    train, query = benchmark.load(LINEAR)
    task = benchmark.task_of(LINEAR, params, 1.0)
    one = Representers(0.1).scores(task, train, query)
    tripled = {**train, "image": train["image"].clone()}
    assert one.shape == (25, 60)
    assert torch.isfinite(Representers(0.1).scores(task, tripled, query)).all()


def test_more_networks_than_are_trained_are_refused():
    with pytest.raises(UserError, match="TRAK-7: 7 networks of 6"):
        Row("TRAK-7", plan=PLAN, models="half", count=7)
    with pytest.raises(UserError, match="do not fill stacks"):
        Plan(LINEAR, 10, 7).halves  # noqa: B018


def test_the_published_settings_are_those_of_the_paper_tier():
    rows = [cell for cell in PRESETS["paper"] if isinstance(cell, Row)]
    linear = [cell for cell in rows if not cell.plan.setting.network.hidden]
    names = [cell.name for cell in linear]
    published = list(artifact.PUBLISHED[artifact.LOGISTIC]["lds"])
    assert [name for name in names if name in published] == published
    plan = linear[0].plan
    assert (plan.n_held, plan.n_left_out, plan.setting.n_train, plan.n_query) == (
        100,
        5_000,
        5_000,
        500,
    )
    trained = [cell.part for cell in PRESETS["paper"] if isinstance(cell, Train)]
    assert all(part in trained for cell in rows for part in cell.plan.parts)


# --- the artifact --------------------------------------------------------------------------------


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))


def rows_of(noise):
    synthetic.write("paper", 1, noise=noise)
    text, _ = artifact.ARTIFACT.measure("paper")
    return table.from_csv(text)


def test_published_numbers_are_judged_and_both_columns_shown(made_up):
    rows = rows_of(0.01)
    numbers = rows[rows["kind"] == "number"]
    assert set(numbers["chosen"]) == {artifact.BEST}
    assert list(numbers[numbers["verdict"] != "holds"]["method"]) == []
    assert artifact.ARTIFACT.judge(rows).word == "met"
    page = artifact.page(rows)
    assert list(page["LDS published"])[:2] == ["0.8", "0.8"]
    assert page.loc[page["method"] == "New", "LDS published"].item() == ""
    said = " ".join(artifact.findings(rows))
    assert "Logistic regression, LDS: 4 of 4 published numbers within .03 of ours." in said
    assert "refuses: Logistic regression, CG: regularisation 1e-05" in said
    assert "Logistic regression, TracIn: 19 of 20" in said


def test_a_number_that_is_far_is_named(made_up, monkeypatch):
    monkeypatch.setitem(artifact.PUBLISHED[artifact.MLP]["lds"], "CG", 0.5)
    rows = rows_of(0.001)
    assert "further apart: CG -0.24" in " ".join(artifact.findings(rows))
