"""Datamodels: closed forms, optimality, scikit-learn's numbers, and what made the outcomes."""

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Lasso, Ridge

from methods.ensembles.datamodels import Datamodel, chosen_penalty, largest_penalty, lasso, ridge
from methods.ensembles.lds import lds
from methods.ensembles.masks import Packed, draw_masks
from methods.errors import MethodError

DRAW = np.random.default_rng(0)


def ensemble(n_models: int, n_train: int, noise: float = 0.1) -> tuple[Any, Any, Any]:
    """Masks, outcomes and the sparse weights of a linear truth, (4, n_train)."""
    masks = draw_masks(n_models, n_train, n_train // 2, seed=3)
    truth = DRAW.standard_normal((4, n_train)) * (DRAW.random((4, n_train)) < 0.2)
    outcomes = masks @ truth.T + noise * DRAW.standard_normal((n_models, 4)) + 2
    return masks, outcomes, truth


PENALTIES = np.array([0.01, 0.02, 0.05, 0.1])


@pytest.mark.parametrize("shape", [(60, 20), (25, 40)])
def test_ridge_is_scikit_learn_s_for_each_query(shape: tuple[int, int]) -> None:
    masks, outcomes, _ = ensemble(*shape)
    found = ridge(masks, outcomes, PENALTIES)
    for i, penalty in enumerate(PENALTIES):
        theirs = Ridge(alpha=shape[0] * penalty).fit(masks, outcomes[:, i])
        np.testing.assert_allclose(found.weights[i], theirs.coef_, atol=1e-9)
        np.testing.assert_allclose(found.constant[i], theirs.intercept_)


@pytest.mark.parametrize("shape", [(60, 20), (25, 40)])
def test_lasso_is_scikit_learn_s_for_each_query(shape: tuple[int, int]) -> None:
    masks, outcomes, _ = ensemble(*shape)
    found = lasso(masks, outcomes, PENALTIES, tolerance=1e-12)
    for i, penalty in enumerate(PENALTIES):
        theirs = Lasso(alpha=penalty, tol=1e-12, max_iter=100_000).fit(masks, outcomes[:, i])
        np.testing.assert_allclose(found.weights[i], theirs.coef_, atol=1e-5)
        np.testing.assert_allclose(found.constant[i], theirs.intercept_, atol=1e-5)
    one = lasso(masks, outcomes, 0.05, tolerance=1e-12)
    np.testing.assert_allclose(one.weights[2], found.weights[2], atol=1e-9)


def test_a_lasso_is_zero_from_the_largest_penalty_on_and_sparse_below() -> None:
    masks, outcomes, _ = ensemble(60, 20)
    most = largest_penalty(masks, outcomes)
    assert not lasso(masks, outcomes, most * 1.001).weights.any()
    below = lasso(masks, outcomes, most * 0.9, tolerance=1e-10)
    kept = (below.weights != 0).sum(1)
    assert (kept >= 1).all()
    assert (kept < 10).all()
    np.testing.assert_allclose(below.predicted(masks).mean(0), outcomes.mean(0))


def test_a_linear_truth_is_found_by_both_and_signs_are_those_of_help() -> None:
    masks, outcomes, truth = ensemble(200, 20, noise=0.0)
    for found in (ridge(masks, outcomes, 1e-9), lasso(masks, outcomes, 1e-7, 1e-11)):
        # All masks have one size, so that a constant on all weights is not determined.
        gap = found.weights - truth
        np.testing.assert_allclose(gap - gap.mean(1, keepdims=True), 0, atol=1e-4)
        new = draw_masks(30, 20, 10, seed=9)
        np.testing.assert_allclose(found.predicted(new), new @ truth.T + 2, atol=1e-4)
        assert lds(new, new @ truth.T, found.weights).min() > 0.9  # ties are broken by rounding


def test_packed_masks_are_masks() -> None:
    masks, outcomes, _ = ensemble(60, 20)
    wanted, found = (ridge(m, outcomes, 0.1) for m in (masks, Packed.of(masks)))
    np.testing.assert_array_equal(found.weights, wanted.weights)


def test_a_penalty_is_chosen_by_models_that_were_held_out() -> None:
    """Against every fold refitted by hand; the least penalty if there is no noise."""
    masks, outcomes, _ = ensemble(40, 20, noise=0.5)
    tried = np.array([1e-4, 1e-2, 0.1, 10.0])
    chosen = chosen_penalty(ridge, masks, outcomes, tried, folds=4)
    assert (chosen < 10).all()
    errors = []
    for penalty in tried:

        def one(m: Any, y: Any, _p: Any, penalty: float = penalty) -> Datamodel:
            return ridge(m, y, penalty)

        total = np.zeros(4)

        def counting(m: Any, y: Any, p: Any, total: Any = total, one: Any = one) -> Any:
            held = [i for i in range(40) if not any((masks[i] == row).all() for row in m)]
            total += np.square(one(m, y, p).predicted(masks[held]) - outcomes[held]).sum(0)
            return one(m, y, p)

        chosen_penalty(counting, masks, outcomes, [1.0], folds=4)
        errors.append(total)
    np.testing.assert_array_equal(chosen, tried[np.argmin(errors, axis=0)])
    clean = chosen_penalty(ridge, *ensemble(60, 20, noise=0.0)[:2], tried)
    np.testing.assert_array_equal(clean, np.full(4, 1e-4))


def test_what_cannot_be_fitted_is_refused() -> None:
    masks, outcomes, _ = ensemble(60, 20)
    with pytest.raises(MethodError, match="give one positive number, or one for each of 4 queries"):
        ridge(masks, outcomes, 0.0)
    with pytest.raises(MethodError, match=r"penalty of shape \(3,\)"):
        lasso(masks, outcomes, [1.0, 2.0, 3.0])
    with pytest.raises(MethodError, match=r"masks \(60, 20\) and outcomes \(59, 4\)"):
        ridge(masks, outcomes[1:], 1.0)
    with pytest.raises(MethodError, match="an outcome is not finite"):
        ridge(masks, np.where(outcomes > 2, np.nan, outcomes), 1.0)
    with pytest.raises(MethodError, match=r"relative duality gap of .* in 10 iterations"):
        lasso(masks, outcomes, 1e-4, 1e-12, max_iterations=10)
    with pytest.raises(MethodError, match="60 models for 61 folds"):
        chosen_penalty(ridge, masks, outcomes, [1.0], folds=61)
