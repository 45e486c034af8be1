"""Bootstrap draws of correlations over models and queries."""

import numpy as np
import pytest

from methods.ensembles.lds import pearson
from methods.ensembles.resampling import interval, pearson_draws, spearman_draws
from methods.errors import MethodError
from methods.randomness import numpy_generator


def pair(n_models=200, n_query=30, noise=1.0, seed=0):
    draw = np.random.default_rng(seed)
    left = draw.normal(size=(n_models, n_query))
    return left, left + noise * draw.normal(size=left.shape)


def test_draws_are_the_correlation_of_what_was_drawn():
    left, right = pair(50, 1)
    found = pearson_draws(left, right, n_draws=3, seed=4)
    counts = numpy_generator(4, "resampling").multinomial(50, np.full(50, 1 / 50), 3)
    for value, times in zip(found, counts, strict=True):
        some = np.repeat(np.arange(50), times)
        assert value == pytest.approx(pearson(left[some].T, right[some].T)[0])


def test_draws_lie_about_the_value_and_cover_it():
    left, right = pair()
    truth = 1 / np.sqrt(2)
    for draws in (pearson_draws(left, right), spearman_draws(left, right)):
        low, high = interval(draws)
        assert low < truth < high + 0.03
        assert 0.01 < high - low < 0.1


def test_equal_seeds_are_equal_draws_whatever_the_values():
    left, right = pair()
    one = pearson_draws(left, right, 10)
    np.testing.assert_allclose(pearson_draws(3 * left + 1, right, 10), one)
    assert np.abs(pearson_draws(left, right, 10, seed=1) - one).max() > 0


def test_queries_that_do_not_vary_are_left_out():
    left, right = pair(40, 3)
    without = pearson_draws(left[:, :2], right[:, :2], 200)
    left[:, 2] = 7.0
    assert np.isfinite(pearson_draws(left, right, 200)).all()
    assert pearson_draws(left, right, 200).mean() == pytest.approx(without.mean(), abs=0.02)
    assert np.isnan(pearson_draws(left[:, 2:], right[:, 2:], 5)).all()
    assert np.isnan(interval([np.nan])).all()


def test_other_shapes_are_refused():
    with pytest.raises(MethodError, match="of the same twice"):
        pearson_draws(np.zeros((3, 2)), np.zeros((2, 3)))
