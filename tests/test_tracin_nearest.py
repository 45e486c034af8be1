"""The experiment on nearest-neighbour search, and what its artifact says of made-up runs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import tracin_nearest as artifact
from experiments import tracin_nearest as experiment
from experiments.nearest_rows import Stored
from experiments.problems import UserError
from experiments.runs import describe
from methods.projections import Gaussian, TwoSided
from methods.search import HNSW, IVF, Exact
from tests import synthetic_nearest

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
    stored = Stored(TINY, projection, 140)
    cell = experiment.Config(stored, method, 120, efforts, n_queries=20)
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
        assert (found["same_ids"] == 10).all()
        assert found["score_gap"] < 1e-5
    else:
        assert 4 < found["hits_tracin"][-1].mean() < 10, "a projection costs some"


def test_more_than_is_stored_is_one_clear_error(tmp_path: Path) -> None:
    cell = experiment.Config(Stored(TINY, None, 100), n=101, n_queries=20)
    with pytest.raises(UserError, match="101 of 100 rows and 20 of 20 queries: lower n"):
        experiment.run(cell, tmp_path)


def test_every_seed_has_a_model_and_a_projection_of_its_own() -> None:
    for preset in ("smoke", "small", "paper"):
        for cell in experiment.PRESETS[preset]:
            if cell.stored.projection is not None:
                assert cell.stored.projection.seed == cell.stored.model.seed


# --- the artifact ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """What an artifact asks of a run, without a disk."""

    config: dict[str, Any]
    metrics: dict[str, Any]

    def array(self, name: str) -> np.ndarray:
        return self.metrics[name]


def tabulated(**settings: float) -> pd.DataFrame:
    cells = synthetic_nearest.nearest_cells(range(4))
    made: Any = [Made(describe(c), synthetic_nearest.outcome(c, **settings)) for c in cells]
    return artifact.tabulate(made).assign(tier="paper", missing=0)


def test_a_fast_and_faithful_index_is_reproduced() -> None:
    rows = tabulated()
    assert artifact.ARTIFACT.judge(rows).word == "reproduced"
    claims = rows[rows["kind"] == "claim"].set_index(["method", "quantity"])["ours"]
    assert claims[("HNSW", "recall of exact")] > 0.9
    assert claims[("HNSW", "latency ÷ exact, alone")] < 0.5
    projected = rows[rows["quantity"] == "recall of TracInCP"].set_index("method")["ours"]
    assert projected["Exact, TwoSided 256"] > projected["Exact, TwoSided 64"]


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"slow": 30.0}, "HNSW latency ÷ exact, alone"),
        ({"found": 0.8}, "IVF recall of exact"),
        ({"same": 0.95}, "Exact ids as TracInCP's"),
    ],
)
def test_a_slow_or_faithless_index_is_not(settings: dict[str, float], wrong: str) -> None:
    verdict = artifact.ARTIFACT.judge(tabulated(**settings))
    assert verdict.word == "not reproduced"
    assert wrong in verdict.evidence
