"""Shuffled translations: the folds, nested directions, every kind of cell, and the table."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis import arnoldi_table2
from analysis.numbers import table
from experiments import wmt_retrieval
from experiments.data.parallel import Corpus
from experiments.laboratory import runs
from experiments.laboratory.attribution import Loss, arnoldi, randproj, randselect
from experiments.laboratory.errors import UserError
from experiments.translation import models
from experiments.translation.models import PAPER, SMOKE, trained
from experiments.translation.scores import (
    Basis,
    by_length,
    contributions,
    fitted,
    losses,
    narrowed,
    nested,
)
from experiments.wmt_retrieval import Config, Fold, Translation
from methods.examples import take
from methods.ihvp.arnoldi import Krylov
from methods.tracin import TracIn
from tests.analysis.synthetic import shapes
from tests.analysis.synthetic import wmt_retrieval as synthetic

BASIS = Krylov(6, 16, 0, 4)
FEW = Fold(n=40, corrupted=6)


def shrunk(model):
    """The same kind of model on generated pairs, with a network of a few thousand parameters."""
    width = replace(model.network, width=16, heads=2, inner=16, layers=min(model.network.layers, 4))
    few = replace(model.fit, epochs=1, batch_size=16, every=1)
    return replace(
        model,
        network=width,
        language=replace(SMOKE.language, length=20),
        train=Corpus("generated", 0, 48),
        fit=few,
    )


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRACE_RESULTS", str(tmp_path_factory.mktemp("retrieval")))
        yield


# --- folds ---------------------------------------------------------------------------------------


def test_shuffled_targets_are_another_s_and_the_rest_stay():
    pairs = Corpus("generated", 0, 300).load()
    some, corrupted = Fold(n=200, corrupted=50).draw(pairs)
    true = dict(pairs)
    assert corrupted.sum() == 50
    assert len(some) == 200
    kept = [true[s] == t for s, t in zip(some.source, some.target, strict=True)]
    assert all(np.array(kept)[~corrupted])
    assert np.mean(np.array(kept)[corrupted]) < 0.1  # two sentences may have one translation
    assert sorted(some.target) == sorted(true[s] for s in some.source)
    again, _ = Fold(n=200, corrupted=50).draw(pairs)
    other, _ = Fold(1, 200, 50).draw(pairs)
    assert some == again != other


@pytest.mark.parametrize(
    "fold", [Fold(n=400, corrupted=5), Fold(n=10, corrupted=11), Fold(0, 9, 1)]
)
def test_a_fold_that_cannot_be_is_one_line(fold):
    with pytest.raises(UserError, match=r"shuffled of .* drawn from 300 pairs: give"):
        fold.draw(Corpus("generated", 0, 300).load())


# --- scores --------------------------------------------------------------------------------------


def ready():
    model = shrunk(SMOKE)
    there = trained(model)
    pairs, _ = FEW.draw(model.train.load())
    return model, there, models.examples(model, pairs)


def test_fewer_directions_of_a_pass_are_a_smaller_method():
    model, there, some = ready()
    for make in (lambda dim: randproj(dim, 3), lambda dim: arnoldi(dim, BASIS)):
        both = contributions(fitted(model, there, make(4), None), some)
        few, all_of = nested(both, (2, 4), make(4))
        for dim, found in ((2, few), (4, all_of)):
            alone = fitted(model, there, make(dim), None).self_influence(some)
            np.testing.assert_allclose(found, alone.numpy(), rtol=2e-3, atol=1e-6)


def test_fewer_parameters_are_a_random_part_of_those_chosen():
    values = torch.eye(6)
    found = nested(values, (2, 6), randselect(6, 1))
    assert (found[0] > 0).sum() == 2
    assert set(found[0]) == {0.0, 3.0}  # scaled by 6 / 2
    np.testing.assert_array_equal(found[1], np.ones(6))
    with pytest.raises(UserError, match=r"dims \(2, 7\) of 6 directions"):
        nested(values, (2, 7), randselect(6, 1))


def test_scores_do_not_depend_on_the_order_of_pairs():
    model, there, some = ready()
    method = fitted(model, there, randproj(3, 0), None)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    for of in (lambda x: contributions(method, x), lambda x: losses(there.task, x)):
        torch.testing.assert_close(of(take(some, order)), of(some)[order], rtol=1e-4, atol=1e-6)
    lengths = some["length"][by_length(some)]
    assert (lengths.diff() <= 0).all()


def test_a_basis_is_found_once():
    model, there, _ = ready()
    fitted(model, there, arnoldi(2, BASIS), 1)
    kept = runs.find("translation_basis", Basis(model, 1, arnoldi(2, BASIS).state_settings))
    assert kept is not None
    assert kept.array("eigenvectors").shape == (4, narrowed(model, there.task, 1).size)


# --- cells ---------------------------------------------------------------------------------------


def kind(cell: Config) -> str:
    """The part of a cell that makes it a different computation."""
    projection = getattr(cell.method, "projection", None)
    names = [type(cell.method).__name__, type(projection).__name__ if projection else ""]
    return " ".join([*filter(None, names), "last" if cell.part else "all"])


def smaller(cell: Config) -> Config:
    """A cell of the paper tier on few pairs and in few steps."""
    method = cell.method
    if isinstance(method, Translation):
        method = replace(method, test=Corpus("generated test", 0, 5))
    elif hasattr(method, "inverse"):
        method = arnoldi(4, BASIS)
    elif hasattr(method, "projection"):
        method = replace(method, projection=replace(method.projection, dim=4))
    dims = (2, 4) if cell.dims else ()
    return replace(cell, model=shrunk(cell.model), method=method, fold=FEW, dims=dims)


CELLS = {kind(cell): smaller(cell) for cell in wmt_retrieval.PRESETS["paper"]}


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_of_the_paper_tier_runs(name, tmp_path):
    outcome = wmt_retrieval.run(CELLS[name], tmp_path)
    shapes.hold("wmt_retrieval", outcome)
    if name.startswith("Translation"):
        assert 0 <= outcome["bleu"] <= 100
        return
    k = max(1, len(CELLS[name].dims))
    assert outcome["self_influence"].shape == (k, 40)
    assert np.isfinite(outcome["self_influence"]).all()
    assert outcome["auc"].shape == outcome["ap"].shape == (k,)
    assert outcome["corrupted"].sum() == 6


def test_the_paper_tier_has_the_paper_s_settings():
    cells = wmt_retrieval.PRESETS["paper"]
    assert {cell.model for cell in cells} == {PAPER}
    assert (PAPER.network.width, PAPER.network.layers, PAPER.network.inner) == (512, 6, 2_048)
    steps = -(-PAPER.train.n // PAPER.fit.batch_size) * PAPER.fit.epochs
    assert abs(steps - 100_000) < 500
    assert {(cell.fold.n, cell.fold.corrupted) for cell in cells} == {(4_096, 256)}
    assert {cell.fold.index for cell in cells} == set(range(5))
    assert {cell.part for cell in cells} == {None, 3}
    basis = {c.method.inverse.basis for c in cells if hasattr(c.method, "inverse")}
    assert {(one.iterations, one.sample) for one in basis} == {(200, 512)}
    assert Loss() in {cell.method for cell in cells}
    assert TracIn(False) in {cell.method for cell in cells}


def test_wrong_settings_are_one_line(capsys):
    smoke = wmt_retrieval.EXPERIMENT
    assert smoke.main(["--cell", "1", "--fold.corupted", "3"]) == 2
    assert "corupted" in capsys.readouterr().err
    assert smoke.main(["--cell", "1", "--fold.n", "9999"]) == 2
    assert "drawn from 600 pairs" in capsys.readouterr().err


# --- the table -----------------------------------------------------------------------------------


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))


def rows(tier: str):
    arnoldi_table2.ARTIFACT.build(tier)
    text = arnoldi_table2.ARTIFACT.path(tier, "csv").read_text()
    return {(r["method"], r["quantity"]): r for r in table.records(table.from_csv(text))}


def test_the_paper_s_order_is_reproduced_and_its_numbers_are_compared(empty):
    synthetic.write("paper", 5)
    found = rows("paper")
    assert found["Arnoldi 20", "AUC"]["verdict"] == "holds"
    assert found["Arnoldi 20", "AUC"]["n"] == 5
    claims = [r for r in found.values() if r["kind"] == "claim"]
    assert {r["verdict"] for r in claims} == {"holds"}
    assert len(claims) == 20
    assert found["RandProj 10", "AUC, std over draws"]["n"] == 1  # one fold has several draws
    assert found["Model", "BLEU, newstest2016"]["paper"] == 36.0


def test_a_wrong_order_is_not_reproduced(empty):
    synthetic.write("small", 5, arnoldi=-0.2)
    found = rows("small")
    assert found["Arnoldi 20 − RandProj 20", "AUC"]["verdict"] == "fails"
    assert found["Arnoldi 20 − Arnoldi 20, last", "AUC"]["verdict"] == "holds"
    assert found["Arnoldi 20 − Loss", "AUC"]["ours"] < 0
    assert found["Arnoldi 20 − Loss", "AUC"]["verdict"] == ""  # no claim of the paper
    text = arnoldi_table2.ARTIFACT.path("small", "csv").read_text()
    sentences = arnoldi_table2.findings(table.from_csv(text))
    assert any("Arnoldi 20 minus the plain loss" in one and ": -" in one for one in sentences)
    assert any("TracIn, of whole gradients" in one for one in sentences)
    assert any("tok:13a" in one for one in sentences)
