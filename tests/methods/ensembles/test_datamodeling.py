"""The linear datamodeling score: known answers first, then noise, then what it refuses."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import nn

from methods.ensembles.lds import (
    area,
    averaged,
    ceiling,
    lds,
    of_noise,
    predicted,
    reliability,
    spearman,
)
from methods.ensembles.masks import draw_masks
from methods.ensembles.subset import influence
from methods.errors import MethodError
from methods.ihvp.exact import Exact
from methods.influence import Influence
from methods.task import Task

N_TRAIN, N_QUERY, WIDTH, PENALTY = 120, 6, 5, 0.1
DRAW = np.random.default_rng(3)


def test_a_linear_datamodel_is_predicted_without_an_error():
    masks = draw_masks(50, N_TRAIN, 84, seed=1)
    weights = DRAW.normal(size=(N_QUERY, N_TRAIN))
    outcomes = 0.3 + masks @ weights.T
    np.testing.assert_allclose(lds(masks, outcomes, weights), 1)
    np.testing.assert_allclose(lds(masks, np.exp(outcomes), 7 * weights), 1, err_msg="ranks alone")
    np.testing.assert_allclose(lds(masks, outcomes, -weights), -1, err_msg="harmful is negative")


def test_the_ensemble_s_estimate_of_a_linear_datamodel_predicts_other_masks():
    weights = DRAW.normal(size=(N_QUERY, N_TRAIN))
    fitted, unseen = draw_masks(8_000, N_TRAIN, 84, seed=2), draw_masks(300, N_TRAIN, 84, seed=3)
    few = influence(fitted[:100], fitted[:100] @ weights.T)
    many = influence(fitted, fitted @ weights.T)
    outcomes = unseen @ weights.T
    assert lds(unseen, outcomes, many).min() > 0.98
    assert 0.3 < lds(unseen, outcomes, few).mean() < 0.9


def ridge(x, y):
    """Of the mean of squares / 2, plus PENALTY / 2 |w|^2."""
    gram = x.T @ x / len(x) + PENALTY * np.eye(WIDTH)
    return np.linalg.solve(gram, x.T @ y / len(x))


def test_exact_influence_on_ridge_predicts_retraining():
    x, noise = DRAW.normal(size=(N_TRAIN, WIDTH)), DRAW.normal(size=N_TRAIN)
    y = x @ DRAW.normal(size=WIDTH) + noise
    queries = DRAW.normal(size=(N_QUERY, WIDTH))
    model = nn.Linear(WIDTH, 1, bias=False).double().eval()
    model.weight.data = torch.from_numpy(ridge(x, y))[None]

    def loss(module, batch):
        return (module(batch["x"])[:, 0] - batch["y"]).square() / 2

    def minus_output(module, batch):
        return -module(batch["x"])[:, 0]

    task = Task.of(model, loss, minus_output, weight_decay=PENALTY)
    train = {"x": torch.from_numpy(x), "y": torch.from_numpy(y)}
    scores = Influence(Exact()).scores(task, train, {"x": torch.from_numpy(queries)})
    masks = draw_masks(200, N_TRAIN, 108, seed=4)
    retrained = np.stack([queries @ ridge(x[mask], y[mask]) for mask in masks])
    assert lds(masks, retrained, scores).min() > 0.95
    shuffled = scores[:, torch.from_numpy(DRAW.permutation(N_TRAIN))]
    assert abs(lds(masks, retrained, shuffled).mean()) < 0.2


def test_reliability_is_the_share_of_variance_that_the_mask_explains():
    share = np.array([0.2, 0.5, 0.8])
    truth = DRAW.normal(size=(40_000, 3)) * np.sqrt(share)

    def trained():
        return truth + DRAW.normal(size=truth.shape) * np.sqrt(1 - share)

    one, other, third = trained(), trained(), trained()
    measured = reliability(one, other)
    # A normal pair's rank correlation is 6/pi asin(r/2): at most 0.018 below Pearson's.
    np.testing.assert_allclose(measured, 6 / np.pi * np.arcsin(share / 2), atol=0.015)
    best = spearman(truth.T, one.T)
    np.testing.assert_allclose(ceiling(measured), best, atol=0.02)
    np.testing.assert_allclose(ceiling(measured, 2), spearman(truth.T, (one + other).T), atol=0.02)
    twice = reliability((one + other) / 2, (third + trained()) / 2)
    np.testing.assert_allclose(averaged(measured, 2), twice, atol=0.02)


def test_spearman_and_brown_by_hand():
    assert averaged(0.5, 2) == pytest.approx(2 / 3)
    assert averaged(0.5, 1) == 0.5
    np.testing.assert_allclose(ceiling([1.0, 0.25, 0.0, -0.3]), [1, 0.5, 0, 0])


def test_correlations_of_rows_are_scipy_s_with_ties():
    one = DRAW.integers(0, 5, size=(4, 30))
    other = DRAW.integers(0, 5, size=(4, 30))
    each = [stats.spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(spearman(one, other), each)
    one[2] = 1
    assert np.isnan(spearman(one, other)).tolist() == [False, False, True, False]


def test_the_area_is_sklearn_s_and_nan_where_nothing_is_wanted():
    scores = DRAW.integers(0, 9, size=(3, 40))
    wanted = DRAW.random((3, 40)) < 0.2
    wanted[1] = False
    areas = area(scores, wanted)
    for row in (0, 2):
        assert areas[row] == pytest.approx(roc_auc_score(wanted[row], scores[row]))
    assert np.isnan(areas[1])


def test_an_example_without_an_estimate_adds_nothing():
    masks = np.array([[True, False, True], [True, True, False]])
    scores = np.array([[np.nan, 2.0, 3.0]])
    np.testing.assert_array_equal(predicted(masks, scores), [[3.0], [2.0]])


def test_scores_of_other_examples_are_refused():
    with pytest.raises(MethodError, match="masks over 4 examples, scores of 3"):
        predicted(np.ones((2, 4)), np.ones((1, 3)))
    with pytest.raises(MethodError, match="correlate the same examples"):
        spearman(np.ones((2, 4)), np.ones((2, 3)))


def test_the_score_of_noise_is_what_simulated_ensembles_reach():
    """A linear outcome of masks with noise, estimated by the difference of means."""
    draw, n_train, n_models, r2 = np.random.default_rng(0), 60, 4_000, 0.5
    weights = draw.normal(size=n_train)
    masks = draw.random((n_models, n_train)) < 0.5
    signal = masks @ weights
    outcome = signal + draw.normal(size=n_models) * signal.std() * np.sqrt(1 / r2 - 1)
    for trainings in (30, 120):
        found = []
        for start in range(0, 2_400, trainings):
            some = slice(start, start + trainings)
            scores = influence(masks[some], outcome[some, None])
            found.append(lds(masks[2_400:], outcome[2_400:, None], scores)[0])
        assert np.mean(found) == pytest.approx(of_noise(r2, n_train, trainings), abs=0.03)
    wanted = [0.031, 0.070, 0.137, 0.228, 0.356]
    np.testing.assert_allclose(of_noise(0.444, 2_000, [10, 50, 200, 600, 1_800]), wanted, atol=2e-3)
