"""Estimates from subset ensembles: a plain loop, a known answer, parts in any order."""

import hashlib
import itertools
import tracemalloc

import numpy as np
import pytest
import torch

from methods.ensembles.masks import Packed, draw_masks
from methods.ensembles.overlap import iou
from methods.ensembles.subset import OwnSums, Sums, influence, memorization
from methods.errors import MethodError

DRAW = np.random.default_rng(0)


def ensemble(n_models=60, n_train=23, n_query=17):
    masks = DRAW.random((n_models, n_train)) < 0.7
    masks[:, 3], masks[:, 4] = True, False
    masks[:, 5] = np.arange(n_models) < 1
    return masks, DRAW.random((n_models, n_query)) < 0.6


def looped(masks, outcomes):
    """Influence and its standard error, one pair after another."""
    shape = outcomes.shape[1], masks.shape[1]
    value, error = np.full(shape, np.nan), np.full(shape, np.nan)
    for z, i in np.ndindex(shape):
        one, other = (outcomes[masks[:, i] == arm, z].astype(float) for arm in (True, False))
        if len(one) and len(other):
            value[z, i] = one.mean() - other.mean()
        if len(one) > 1 and len(other) > 1:
            error[z, i] = np.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other))
    return value, error


@pytest.mark.parametrize("kind", [bool, np.float32, np.float64])
def test_influence_and_its_error_are_those_of_a_plain_loop(kind):
    masks, outcomes = ensemble()
    given = outcomes if kind is bool else DRAW.random(outcomes.shape).astype(kind)
    value, error = looped(masks, given)
    sums = Sums.of(masks, given)
    np.testing.assert_allclose(sums.influence(), value, atol=1e-6)
    np.testing.assert_allclose(sums.standard_errors(), error, atol=1e-6)
    np.testing.assert_array_equal(influence(masks, given), sums.influence())


@pytest.mark.parametrize("kind", [bool, np.float64])
def test_memorization_is_the_influence_of_an_example_on_itself(kind):
    masks, _ = ensemble()
    outcomes = (DRAW.random(masks.shape) < 0.5).astype(kind)
    own = OwnSums.of(masks, outcomes)
    value, error = (np.diagonal(each) for each in looped(masks, outcomes))
    np.testing.assert_allclose(memorization(masks, outcomes), value, atol=1e-6)
    np.testing.assert_allclose(own.standard_errors(), error, atol=1e-6)


def test_an_example_in_all_or_none_of_the_masks_has_no_estimate():
    masks, outcomes = ensemble()
    sums = Sums.of(masks, outcomes)
    missing = torch.zeros(23, dtype=torch.bool)
    missing[[3, 4]] = True
    assert torch.equal(sums.influence().isnan().all(0), missing)
    assert torch.equal(sums.influence().isnan().any(0), missing)
    missing[5] = True  # in one mask: a difference, without an error
    assert torch.equal(sums.standard_errors().isnan().all(0), missing)
    assert torch.equal(sums.standard_errors().isnan().any(0), missing)


@pytest.mark.parametrize("sizes", [(60,), (1, 59), (20, 0, 7, 33)])
def test_models_may_come_in_parts_packed_or_not_and_merge_in_any_order(sizes):
    masks, outcomes = ensemble()
    whole = Sums.of(masks, outcomes)
    ends = np.cumsum([0, *sizes])
    parts = [slice(a, b) for a, b in itertools.pairwise(ends)]
    streamed = Sums(masks.shape[1], outcomes.shape[1])
    for part in parts:
        streamed.add(Packed.of(masks[part]), Packed.of(outcomes[part]))
    for order in (parts, parts[::-1]):
        merged = Sums(masks.shape[1], outcomes.shape[1])
        for part in order:
            merged.merge(Sums.of(masks[part], torch.from_numpy(outcomes[part])))
        for sums in (streamed, merged):
            assert sums.n_models == 60
            assert torch.equal(sums.within, whole.within)
            exact = {"rtol": 0, "atol": 0, "equal_nan": True}
            torch.testing.assert_close(sums.influence(), whole.influence(), **exact)


def test_probabilities_merge_too():
    masks, _ = ensemble()
    outcomes = DRAW.random((60, 17))
    merged = Sums.of(masks[40:], outcomes[40:])
    merged.merge(Sums.of(masks[:40], outcomes[:40]))
    whole = Sums.of(masks, outcomes)
    np.testing.assert_allclose(merged.influence(), whole.influence(), atol=1e-6)
    np.testing.assert_allclose(merged.standard_errors(), whole.standard_errors(), atol=1e-6)


def test_the_estimate_finds_the_true_influence_and_its_error_is_honest():
    n_models, n_train = 4_000, 30
    truth = np.zeros(n_train)
    truth[:4] = [0.1, 0.05, -0.1, 0.02]
    masks = draw_masks(n_models, n_train, 21, seed=1)
    outcomes = DRAW.random((n_models, 200)) < (0.5 + masks @ truth)[:, None]
    sums = Sums.of(masks, outcomes)
    # One more of a fixed number of places: the others are rarer by as much as 1/(n_train - 1).
    expected = truth - (truth.sum() - truth) / (n_train - 1)
    error = sums.standard_errors().numpy()
    z = (sums.influence().numpy() - expected) / error
    assert abs(sums.influence().numpy().mean(0) - expected).max() < 0.008
    assert z.std() == pytest.approx(1, abs=0.05)


def test_memory_does_not_grow_with_the_models():
    peaks = []
    for n_models in (64, 640):
        masks, outcomes = ensemble(n_models, 300, 200)
        packed = Packed.of(masks), Packed.of(outcomes)
        sums = Sums(300, 200)
        tracemalloc.start()
        for start in range(0, n_models, 64):
            some = slice(start, start + 64)
            sums.add(*(Packed(each.bits[some], each.width) for each in packed))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert sums.within.dtype == torch.int32
    assert peaks[1] < 1.5 * peaks[0]


def test_packed_rows_are_an_eighth_and_come_back():
    masks, _ = ensemble()
    packed = Packed.of(masks)
    assert packed.bits.shape == (60, 3)
    np.testing.assert_array_equal(packed.unpacked(), masks)
    np.testing.assert_array_equal(packed.unpacked(slice(7, 9)), masks[7:9])


def test_masks_have_their_size_and_are_the_same_everywhere():
    masks = draw_masks(5, 100, 70, seed=3)
    assert (masks.sum(1) == 70).all()
    np.testing.assert_array_equal(draw_masks(2, 100, 70, seed=3, first=3), masks[3:])
    assert not np.array_equal(draw_masks(5, 100, 70, seed=4), masks)
    digest = hashlib.sha256(Packed.of(masks).bits.tobytes()).hexdigest()
    assert digest[:16] == "b25e6d4be202a31d"
    share = draw_masks(3_000, 20, 14, seed=0).mean(0)
    assert abs(share - 0.7).max() < 4 * np.sqrt(0.7 * 0.3 / 3_000)


def test_iou_counts_pairs_above_in_both_over_those_in_either():
    one = torch.tensor([[0.9, 0.5, 0.1], [0.2, float("nan"), 0.3]])
    other = torch.tensor([[0.8, 0.1, 0.6], [0.3, 0.9, 0.3]])
    overlap = iou(one, other, [0.95, 0.3, 0.0, 0.5])
    assert overlap[0].isnan(), "no pair is above: neither 0 nor 1"
    torch.testing.assert_close(overlap[1:], torch.tensor([2 / 5, 1.0, 1 / 3]).double())
    torch.testing.assert_close(iou(one, one, [0.2]), torch.ones(1).double())


MISTAKES = {
    "masks (3, 5) and outcomes (2, 4)": lambda: influence(np.ones((3, 5)), np.ones((2, 4))),
    "masks (2, 5) and outcomes (2, 3)": lambda: Sums(5, 4).add(np.ones((2, 5)), np.ones((2, 3))),
    "memorization needs the outcomes": lambda: memorization(np.ones((2, 5)), np.ones((2, 4))),
    "of another ensemble": lambda: Sums(5, 4).merge(Sums(5, 4, torch.float64)),
    "a subset of 6 of 5 examples": lambda: draw_masks(1, 5, 6, 0),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_what_does_not_fit_is_named(message):
    with pytest.raises(MethodError) as caught:
        MISTAKES[message]()
    assert message in str(caught.value)
