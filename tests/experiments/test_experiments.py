"""Contracts of every experiment, and the pieces digit experiments share."""

import importlib
import pkgutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import experiments
from analysis import arnoldi_fig1, arnoldi_fig2, arnoldi_table1, digits_suspicious, tracin_fig8
from analysis.numbers import table
from experiments import mnist_mislabel, mnist_sketch
from experiments.data import digits
from experiments.digits import models
from experiments.laboratory import keys, lists, runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.overrides import changed, parts
from experiments.mnist_mislabel import keep_units
from experiments.models.mnist_cnn import DigitsCNN, LargeCNN
from experiments.training.loop import flat_params
from experiments.training.plans import cross_entropy
from experiments.training.second_order import Finish, converge, gradient_norm
from methods.ihvp.arnoldi import Krylov
from methods.ihvp.lissa import LiSSA
from methods.ihvp.sketch import Sketch
from methods.rows.projections import Gaussian
from methods.task import Task


def found() -> list[Experiment]:
    modules = [m.name for m in pkgutil.iter_modules(experiments.__path__) if m.name != "__main__"]
    loaded = [importlib.import_module(f"experiments.{name}") for name in modules]
    return [module.EXPERIMENT for module in loaded if hasattr(module, "EXPERIMENT")]


@pytest.mark.parametrize("experiment", found(), ids=lambda e: e.name)
def test_an_experiment_has_a_summary_and_presets_of_distinct_cells(experiment):
    assert experiment.summary
    assert "smoke" in experiment.presets
    for cells in experiment.presets.values():
        keys = [runs.key(cell) for cell in cells]
        assert len(set(keys)) == len(keys) > 0


@pytest.mark.parametrize("experiment", found(), ids=lambda e: e.name)
def test_each_part_that_the_help_offers_can_be_chosen(experiment, capsys):
    assert experiment.main(["--help"]) == 0
    told = capsys.readouterr().out
    cell = experiment.presets["smoke"][0]
    for kind in (kind for several in parts(cell).values() for kind in several):
        assert kind in told
        assert "nrecognized" not in refusal(cell, kind)


@pytest.mark.parametrize("experiment", found(), ids=lambda e: e.name)
def test_every_cell_can_be_kept_in_a_list_and_comes_back(experiment):
    for cells in experiment.presets.values():
        lists.keep(experiment.name, "kept", {}, cells, of="smoke", words=[], replace=True)
        again = lists.read(experiment.name, "kept", experiment.presets)
        assert again == list(cells)
        assert [*map(keys.described_in_full, again)] == [*map(keys.described_in_full, cells)]


def refusal(cell, kind) -> str:
    """Why a part cannot be chosen alone, such as a field without a default; "" if it can."""
    try:
        changed([cell], [0], [kind], [], [])
    except UserError as error:
        return str(error)
    return ""


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))


TINY = replace(
    models.SMOKE,
    data=replace(models.SMOKE.data, n_train=120, n_eval=60),
    fit=replace(models.SMOKE.fit, epochs=10, every=1),
)
METHODS = {
    cell.method: cell
    for cell in [
        *mnist_mislabel.table_one(TINY, mnist_mislabel.Draws(1, 1, 1), (5,), Krylov(8, 32), 1),
        *mnist_mislabel.figure_eight(TINY, 1),
        *mnist_mislabel.figure_two(
            TINY, mnist_mislabel.Draws(1, 1, 1), (5,), Krylov(8, 32), LiSSA(3)
        ),
        *mnist_mislabel.lissa(TINY, 1, 4),
    ]
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.mark.long
def test_every_method_of_the_paper_s_table_ranks_digits(shared, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(shared))
    names = set()
    for cell in METHODS.values():
        outcome = mnist_mislabel.run(cell, shared)
        names.add(outcome["method"])
        assert outcome["self_influence"].shape == (120,)
        assert np.isfinite(outcome["self_influence"]).all()
        assert 0 <= outcome["auc"] <= 1
        assert outcome["chance_ap"] == pytest.approx(cell.model.data.noise)
        assert outcome["top_images"].shape == (30, 8, 8)
    assert {"TracIn[1]", "TracIn[10]", "Arnoldi 5", "GHG^T 5", "RandSelect 5", "Exact"} <= names


MADE = (arnoldi_fig1, arnoldi_fig2, arnoldi_table1, digits_suspicious, tracin_fig8)


@pytest.mark.long
def test_runs_of_the_experiment_become_the_artifacts_that_are_made_of_them(shared, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(shared))
    cells = list(METHODS.values())
    runs.plan("mnist_mislabel", "smoke", cells)
    names = {mnist_mislabel.EXPERIMENT.once(cell).metrics["method"] for cell in cells}
    for module in MADE:
        built = module.ARTIFACT.build("smoke")
        rows = table.from_csv(module.ARTIFACT.path("smoke", "csv").read_text())
        assert built.image.stat().st_size > 0
        assert set(rows["missing"].astype(int)) == {0}
        shown = rows[np.isfinite(rows["ours"].astype(float))]
        assert len(set(shown["method"]) & names) >= 2, module.ARTIFACT.id


def test_wrong_labels_have_higher_loss_after_training(shared, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(shared))
    outcome = mnist_mislabel.run(mnist_mislabel.Config(TINY, mnist_mislabel.Loss()), shared)
    assert outcome["auc"] > 0.6


def test_a_split_layer_is_the_same_network():
    module = LargeCNN().build(0)
    split, names = keep_units(module, 25, seed=3)
    image = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(split(image), module(image), rtol=1e-5, atol=1e-5)
    task = Task.of(split, cross_entropy).only(names)
    assert task.size == 25 * 3137 + 2570


@pytest.mark.long
def test_convergence_lowers_the_gradient_and_resumes_to_the_same_bits(tmp_path):
    train = {k: v[:200] for k, v in digits.load_sklearn().items()}
    plan = Finish(rounds=2, iterations=8, sample=20)
    ends = []
    for name, rounds in (("whole", [2]), ("stopped", [1, 2])):
        scratch = tmp_path / name
        scratch.mkdir()
        for count in rounds:
            module = DigitsCNN().build(0)
            some = replace(plan, rounds=count)
            point, norm = converge(module, cross_entropy, train, 1e-2, some, 0, scratch)
        ends.append(point)
    np.testing.assert_array_equal(*ends)
    np.testing.assert_array_equal(flat_params(module), ends[0].astype(np.float32))
    assert norm < 0.5 * gradient_norm(DigitsCNN().build(0), cross_entropy, train, 1e-2)


def test_in_double_precision_the_search_reaches_a_minimum(tmp_path):
    """What is left is the rounding of the parameters to single precision."""
    train = {k: v[:60] for k, v in digits.load_sklearn().items()}
    module = DigitsCNN().build(0)
    plan = Finish(rounds=12, iterations=60, sample=60, tolerance=1e-6)
    _, norm = converge(module, cross_entropy, train, 0.1, plan, 0, tmp_path)
    assert norm <= 1e-6
    assert gradient_norm(module, cross_entropy, train, 0.1) < 1e-5


def test_the_sketch_of_a_damped_hessian_converges(tmp_path):
    config = mnist_sketch.Config(
        models.Blocks(TINY, 2), Sketch(Gaussian(4), steps=150), damping=5.0
    )
    outcome = mnist_sketch.run(config, tmp_path)
    assert len(outcome["steps"]) == len(outcome["error"])
    assert outcome["error"][-1] < 0.5 < outcome["error"][0]


def test_smoke_cells_are_few_and_paper_cells_have_the_paper_s_settings():
    paper = mnist_mislabel.PRESETS["paper"]
    large = [cell for cell in paper if isinstance(cell.model.network, LargeCNN)]
    assert {cell.model.data.n_train for cell in paper} == {6_000}
    assert {cell.model.data.noise for cell in paper} == {0.1, 0.2}
    eight = [cell for cell in paper if cell.model.data.noise == mnist_mislabel.TENTH]
    assert len({cell.model.seed for cell in eight}) == 10
    assert {cell.model.finish.precision for cell in paper if cell.model.finish} == {"float64"}
    assert {cell.model.fit.epochs for cell in large} == {10}
    assert len(mnist_mislabel.PRESETS["smoke"]) < 60
