"""California housing: its parts, where proponents are, and the map of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis import tracin_fig10
from analysis.numbers import table
from analysis.tracin_fig10 import ARTIFACT, partial_rank
from experiments import housing
from experiments.data import generated_housing
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from methods.tracin import TracIn
from tests.analysis.synthetic import housing as synthetic


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path))
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))


# --- the model and what is measured --------------------------------------------------------------

DATA = housing.Data("generated", n_test=60, n_generated=260)
MODEL = replace(housing.SMOKE, data=DATA, fit=replace(housing.SMOKE.fit, epochs=6, every=3))


def test_parts_are_disjoint_whole_and_standardised_by_training_rows_alone():
    train, test = housing.load_data(DATA, 0, True)
    assert sorted([*train.index, *test.index]) == list(range(260))
    torch.testing.assert_close(train.examples["input"].mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    assert abs(float(train.examples["target"].std(correction=0)) - 1) < 1e-5
    assert float(test.examples["input"].mean(0).abs().max()) > 1e-3
    blind, _ = housing.load_data(DATA, 0, False)
    torch.testing.assert_close(blind.examples["input"], train.examples["input"][:, 2:])
    again = generated_housing.generate(260, housing.GENERATED_SEED)
    np.testing.assert_array_equal(again.latitude[train.index], train.place[:, 0])


def test_too_many_test_rows_or_queries_are_refused(tmp_path):
    with pytest.raises(UserError, match="n_test is 260: give a number from 1 to 259"):
        housing.load_data(replace(DATA, n_test=260), 0, True)
    with pytest.raises(UserError, match="lower n_queries or top"):
        housing.run(housing.Config(MODEL, n_queries=61), tmp_path)


def test_what_is_stored_is_what_the_scores_say(tmp_path):
    config = housing.Config(MODEL, n_queries=9, top=3)
    result = housing.run(config, tmp_path)
    regression = housing.trained(MODEL)
    city = housing.distances(np.array([housing.CENTRE]), regression.test.place)[0]
    nearest = np.argsort(city, kind="stable")[:11]
    np.testing.assert_array_equal(result["city_place"], regression.test.place[nearest])
    query = {name: column[nearest] for name, column in regression.test.examples.items()}
    scores = TracIn().scores(regression.task, regression.train.examples, query)
    np.testing.assert_array_equal(
        result["city_proponents"], scores.argsort(1, descending=True)[:, :3]
    )
    km = housing.distances(result["city_place"], regression.train.place)
    top = np.take_along_axis(km, result["city_proponents"], axis=1)
    np.testing.assert_allclose(result["city_proponent_km"], np.median(top, axis=1))
    np.testing.assert_allclose(result["city_random_km"], np.median(km, axis=1))
    nearer = (km[:, None, :] < top[:, :, None]).mean(2)
    np.testing.assert_allclose(
        result["city_proponent_nearer"], np.median(nearer, axis=1), atol=0.01
    )
    own = (
        TracIn()
        .scores(regression.task, regression.train.examples, regression.train.examples)
        .diagonal()
    )
    np.testing.assert_allclose(result["self_influence"], own, rtol=1e-6)
    assert "self_influence" not in housing.run(
        replace(config, method=housing.NearestInputs()), tmp_path
    )


def test_the_nearest_inputs_ignore_the_place(tmp_path):
    regression = housing.trained(MODEL)
    scores = housing._scores(housing.NearestInputs(), regression, np.array([4]))
    gaps = np.linalg.norm(regression.train.features - regression.test.features[4], axis=1)
    np.testing.assert_allclose(-scores[0], gaps, atol=1e-9)


# --- the artifact --------------------------------------------------------------------------------


def test_a_partial_rank_correlation_removes_a_common_cause():
    draw = np.random.default_rng(1)
    cause = draw.normal(size=4_000)
    one, other = (cause + draw.normal(size=4_000) for _ in range(2))
    assert np.corrcoef(one, other)[0, 1] > 0.4
    assert abs(partial_rank(one, other, cause)) < 0.06
    assert partial_rank(one, one + 0.1 * other, draw.normal(size=4_000)) > 0.9


def test_places_survive_the_csv():
    place = np.array([[37.44, -122.14], [34.05, -118.25], [37.44, -122.14]])
    text = table.to_csv(table.tabulated([tracin_fig10.points("queries", place)]))
    back = tracin_fig10.places(table.from_csv(text), "queries")
    np.testing.assert_allclose(back, [[34.05, -118.25], [37.44, -122.14]])
    assert tracin_fig10.places(table.from_csv(text), "high").shape == (0, 2)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({}, "reproduced"),
        ({"near": 1.5}, "reproduced"),  # a measure of our own
        ({"dense": -0.5}, "partly"),
        ({"away": -0.5}, "partly"),
        ({"dense": -0.5, "away": -0.5}, "not reproduced"),
    ],
)
def test_the_verdict_follows_distances_and_density(settings, word):
    synthetic.write("paper", 4, **settings)
    rows = ARTIFACT.tabulate(runs.load("housing", "paper")).assign(tier="paper", missing=0)
    assert ARTIFACT.judge(rows).word == word
