"""The experiment on nearest-neighbour search, and what its artifact says of made-up runs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import tracin_nearest as artifact
from analysis.ink import style
from analysis.numbers.table import from_csv, to_csv
from experiments import tracin_nearest as experiment
from experiments.digits.models import Data, trained
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import describe
from experiments.tracin_nearest import Stored, fitted
from methods.rows.projections import Gaussian, TwoSided
from methods.search.searches import HNSW, IVF, Exact
from tests.analysis.synthetic import nearest

TINY = replace(
    experiment.DIGITS,
    data=replace(experiment.DIGITS.data, n_train=150, n_eval=20),
    fit=replace(experiment.DIGITS.fit, epochs=2, every=1),
)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    monkeypatch.setattr(experiment, "ALONE", 3)


@pytest.mark.parametrize(
    ("projection", "method", "efforts"),
    [
        (None, Exact(), ()),
        (TwoSided(64), Exact(), ()),
        (Gaussian(64), HNSW(links=4), (10, 80)),
        (Gaussian(64), IVF(lists=4), (1, 4)),
    ],
)
def test_an_index_of_digits_is_swept(
    projection: Any, method: Any, efforts: tuple[int, ...], tmp_path: Path
) -> None:
    if not isinstance(method, Exact):
        pytest.importorskip("faiss", reason="FAISS is an optional extra")
    stored = Stored(TINY, projection, 140, 20)
    cell = experiment.Config(stored, method, 120, efforts)
    found = experiment.run(cell, tmp_path)
    steps = max(1, len(efforts))
    assert found["hits"].shape == found["hits_tracin"].shape == (steps, 20)
    assert found["ms"].shape == found["ratio"].shape == (steps, 2)
    assert found["dim"] == (1_448 if projection is None else 64) * 2
    assert found["hits"][-1].mean() > 9.5
    assert found["bytes"] >= 4 * 120 * found["dim"]
    if isinstance(method, Exact):
        assert (found["hits"] == 10).all()
    if projection is None:
        assert (found["other_ids"] == 0).all()
        assert found["score_gap"] < 1e-5
    else:
        assert 4 < found["hits_tracin"][-1].mean() < 10, "a projection costs some"


def test_more_than_is_stored_is_one_clear_error(tmp_path: Path) -> None:
    for stored, n, said in [
        (Stored(TINY, None, 100, 20), 101, "101 of 100 rows: lower n"),
        (Stored(TINY, None, 151, 20), 100, "151 rows of 150 training examples"),
        (Stored(TINY, None, 100, 21), 100, "21 queries of 20 held out: lower"),
    ]:
        with pytest.raises(UserError, match=said):
            experiment.run(experiment.Config(stored, n=n), tmp_path)


def test_a_list_of_too_few_does_not_cost_the_run(tmp_path: Path) -> None:
    """One cluster of many holds fewer than ten: FAISS fills up with the lowest float."""
    pytest.importorskip("faiss", reason="FAISS is an optional extra")
    stored = Stored(TINY, Gaussian(64), 140, 20)
    found = experiment.run(experiment.Config(stored, IVF(lists=60), 120, (1,)), tmp_path)
    assert found["recall"] < 1
    assert all(np.isfinite(value).all() for value in found.values() if not isinstance(value, str))


def test_another_candidate_of_equal_score_is_a_tie_and_of_less_is_not() -> None:
    truth = {"ids": np.array([[4, 7, 2]] * 3), "scores": np.array([[-9.0, 1.0, 0.5]] * 3)}
    ids = np.array([[4, 7, 2], [4, 2, 7], [4, 7, 3]])
    scores = truth["scores"] + np.array([[0, 2e-5, 0], [0, 5e-5, 0], [0, 0, -2e-4]])
    found = experiment._differences(scores, ids, truth)
    assert found["other_ids"].tolist() == [0, 0, 1]
    assert found["score_gap"] == pytest.approx(2e-4 / 9)


def test_queries_are_drawn_from_all_that_is_held_out() -> None:
    _, _, few = fitted(Stored(TINY, None, 100, 5))
    _, _, all_of_them = fitted(Stored(TINY, None, 100, 20))
    held = trained(TINY).evaluation.examples["image"]
    assert torch.equal(few["image"], all_of_them["image"][:5])
    assert not torch.equal(all_of_them["image"], held)
    assert torch.equal(all_of_them["image"].sum(0), held.sum(0))


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_all_training_digits_are_candidates(preset: str) -> None:
    cells = experiment.PRESETS[preset]
    assert {cell.n for cell in cells} == {6_000, 60_000}
    assert {cell.stored.model.data for cell in cells} == {Data(n_train=60_000, n_eval=0, noise=0.0)}


def test_what_needs_no_faiss_comes_first() -> None:
    for cells in experiment.PRESETS.values():
        exact = [isinstance(cell.method, Exact) for cell in cells]
        assert exact == sorted(exact, reverse=True)
        assert any(exact)


def test_every_seed_has_a_model_and_a_projection_of_its_own() -> None:
    for preset in ("smoke", "small", "paper"):
        for cell in experiment.PRESETS[preset]:
            if cell.stored.projection is not None:
                assert cell.stored.projection.seed == cell.stored.model.seed


# --- the artifact ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """The part of a run that an artifact reads, without a disk."""

    config: dict[str, Any]
    metrics: dict[str, Any]

    def array(self, name: str) -> np.ndarray:
        return self.metrics[name]


def tabulated(**settings: float) -> pd.DataFrame:
    cells = nearest.nearest_cells(range(4))
    made: Any = [Made(describe(c), nearest.result(c, **settings)) for c in cells]
    return artifact.tabulate(made).assign(tier="paper", missing=0)


def test_a_fast_and_faithful_index_is_reproduced() -> None:
    rows = tabulated()
    assert artifact.ARTIFACT.judge(rows).word == "reproduced"
    claims = rows[rows["kind"] == "claim"].set_index(["method", "quantity"])["ours"]
    assert claims[("HNSW", "recall of exact, of 10")] > 0.9
    assert claims[("HNSW", "latency ÷ exact, alone")] < 0.5
    projected = rows[rows["quantity"] == "recall of TracInCP"].set_index("method")["ours"]
    assert projected["Exact, TwoSided 256"] > projected["Exact, TwoSided 64"]
    times = rows[(rows["quantity"] == "search") & (rows["method"] == "HNSW")]
    assert set(times["unit"]) == {"ms"}
    assert len(times) == 2 * 2 * 3  # sizes, alone or together, efforts


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"slow": 30.0}, "HNSW, latency ÷ exact, alone"),
        ({"best": 0.8}, "recall of exact"),
        ({"other": 1}, "Exact, ids other than TracInCP's"),
    ],
)
def test_a_slow_or_faithless_index_is_not(settings: dict[str, float], wrong: str) -> None:
    verdict = artifact.ARTIFACT.judge(tabulated(**settings))
    assert (verdict.word, verdict.holding) == ("partly", 2)
    assert wrong in verdict.evidence


@pytest.mark.parametrize("there", [("Exact",), ("HNSW",), ("IVF", "HNSW")])
def test_what_is_there_is_drawn(there: tuple[str, ...]) -> None:
    cells = nearest.nearest_cells(range(2))
    made: Any = [Made(describe(c), nearest.result(c)) for c in cells if c.method.name in there]
    rows = from_csv(to_csv(artifact.tabulate(made).assign(tier="paper", missing=1)))
    with style.settings():
        artifact.ARTIFACT.draw(rows).draw_without_rendering()
    decided = ("reproduced", "not reproduced")
    assert artifact.ARTIFACT.judge(rows).word not in decided, "for want of runs"
