"""Checkpoints proposed from loss curves whose phases are known."""

import numpy as np
import pytest

from methods.errors import MethodError
from methods.tracin import Calm, Phases, evenly, phases, propose

TIME = np.arange(40)
FLUCTUATING = np.array([2.3, 2.9, 2.0, 2.7, 1.93, 2.6, 2.2, 2.8])
FALLING = 2.5 - 0.1 * np.arange(1, 21)
FLAT = np.full(12, 0.5)
WHOLE = np.concatenate([FLUCTUATING, FALLING, FLAT])


def test_phases_are_those_the_curve_was_made_of():
    phase = phases(WHOLE)
    # 1.93 was reached by chance among the fluctuations: settled is where the fall goes below it.
    assert phase.settled == np.flatnonzero(np.minimum.accumulate(WHOLE) < 1.93)[0]
    assert WHOLE[phase.converged] <= 0.5 + 0.05 * 1.4
    assert phase.converged < 8 + 20


def test_a_loss_settles_in_time_and_for_good():
    """Ten values of the first epoch are a moment; a swing before convergence unsettles again."""
    steps = np.concatenate([np.arange(10) / 10, np.arange(1, 31)])
    falling = np.concatenate([2.3 - 0.01 * np.arange(10), 2.2 - 0.06 * np.arange(30)])
    assert phases(falling, steps).settled == 0
    swung = falling.copy()
    swung[15] += 0.5
    assert swung[phases(swung, steps).settled] < falling[14]
    assert phases(swung, steps).settled > 15
    late = np.concatenate([np.exp(-TIME / 4), [0.3, *np.full(9, 0.001)]])
    assert phases(late).settled == 0  # a swing after convergence is none of the steady decrease


def test_a_calm_too_short_is_none():
    short = np.concatenate([np.tile([2.0, 3.0], 20), 1.9 - 0.2 * np.arange(8)])
    with pytest.raises(MethodError, match="no phase of it is steady"):
        phases(short)
    assert phases(short, calm=Calm(lasting=0.1)).settled == 40


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_proposals_are_distinct_ascending_and_within_the_steady_decrease(count):
    phase, chosen = phases(WHOLE), propose(WHOLE, count)
    assert len(chosen) == count
    assert (np.diff(chosen) > 0).all()
    assert phase.settled <= chosen[0] <= chosen[-1] < phase.converged
    np.testing.assert_array_equal(propose(WHOLE, count), chosen)


def test_an_even_fall_is_sampled_evenly():
    even = 2 - TIME / 20
    assert phases(even) == Phases(0, 40)
    assert propose(even, 4).tolist() == [5, 15, 24, 34]
    assert propose(even, 40).tolist() == list(TIME)


def test_the_faster_fall_gets_more_checkpoints():
    fast_then_slow = np.concatenate([3 - 0.2 * np.arange(10), 1.0 - 0.02 * np.arange(40)])
    assert (propose(fast_then_slow, 5) < 10).sum() == 3
    slow_then_fast = np.concatenate([3 - 0.02 * np.arange(40), 2.2 - 0.2 * np.arange(10)])
    assert (propose(slow_then_fast, 5) >= 40).sum() == 3


def test_a_steep_beginning_is_not_taken_for_the_whole_fall():
    assert phases(np.concatenate([[2.3], 0.5 - 0.02 * np.arange(20)])).converged == 21


def test_an_exponential_ends_where_little_is_left():
    phase = phases(np.exp(-TIME / 8))
    assert phase.settled == 0
    assert 0.01 < np.exp(-phase.converged / 8) < 0.06


def test_uneven_steps_are_taken_into_account():
    """The same fall seen often at first is the same fall."""
    steps = np.concatenate([np.arange(0, 8, 0.5), np.arange(8, 40)])
    dense, even = phases(np.exp(-steps / 8), steps), phases(np.exp(-TIME / 8))
    assert steps[dense.converged] == TIME[even.converged]
    unaware = phases(np.exp(-steps / 8))
    assert unaware.converged != dense.converged


def test_proposals_do_not_depend_on_the_unit_of_the_loss():
    np.testing.assert_array_equal(propose(7 * WHOLE + 3, 6), propose(WHOLE, 6))


def test_more_than_there_are_is_an_error_that_says_how_many():
    phase = phases(WHOLE)
    available = phase.converged - phase.settled
    assert len(propose(WHOLE, available)) == available
    with pytest.raises(MethodError, match=f"ask for at most {available}"):
        propose(WHOLE, available + 1)


def test_even_checkpoints_are_even_in_steps_and_not_in_number():
    """Half of them saved in the first tenth of training: as a schedule every so many steps."""
    steps = [*range(1, 11), *range(20, 101, 10)]
    assert [steps[i] for i in evenly(steps, 5)] == [20, 40, 60, 80, 100]
    assert [steps[i] for i in evenly(steps, 1)] == [100]
    assert evenly(steps, len(steps)).tolist() == list(range(len(steps)))
    for count in (0, len(steps) + 1):
        with pytest.raises(MethodError, match=f"choose from 1 to {len(steps)}"):
            evenly(steps, count)


@pytest.mark.parametrize(
    ("losses", "steps", "message"),
    [
        (np.where(TIME == 7, np.nan, 1 - TIME / 40), None, "loss 7 is nan"),
        (np.where(TIME == 7, np.inf, 1 - TIME / 40), None, "loss 7 is inf"),
        ([3.0, 2.0, 1.0], None, "3 losses is too short"),
        (np.ones(20), None, "constant"),
        (np.ones((20, 2)), None, r"\(20, 2\)"),
        (np.tile([1.0, 2.0], 20), None, "no phase of it is steady"),
        (1 - TIME / 40, TIME[:-1], "40 losses at steps of shape"),
        (1 - TIME / 40, np.zeros(40), "must rise"),
    ],
)
def test_what_is_no_loss_curve_is_one_clear_error(losses, steps, message):
    with pytest.raises(MethodError, match=message):
        propose(losses, 3, steps)


def test_no_checkpoints_asked_for_is_an_error():
    with pytest.raises(MethodError, match="ask for one at least"):
        propose(WHOLE, 0)
