"""Runs become lines of numbers; draws of one seed are averaged, and names are read back."""

import math
from types import SimpleNamespace

import pytest

from analysis.numbers import frame
from analysis.numbers.frame import Method, Observation, tidy
from analysis.numbers.statistics import NONE, over_seeds

RANDOM, ARNOLDI = Method("RandProj", 10), Method("Arnoldi", 10)
VALUES = {  # by method, seed and draw
    (RANDOM, 0): [1.0, 3.0],
    (RANDOM, 1): [2.0, 4.0],
    (RANDOM, 2): [5.0, 7.0],
    (ARNOLDI, 1): [9.0],
    (ARNOLDI, 2): [8.0],
    (ARNOLDI, 3): [math.nan],
}
FRAME = tidy(
    Observation(seed, method, SimpleNamespace(), {"auc": value, "n": 1.0}, draw)
    for (method, seed), values in VALUES.items()
    for draw, value in enumerate(values)
)


def test_a_frame_has_a_line_per_run_and_metric_without_missing_values():
    assert list(FRAME.lines.columns) == frame.COLUMNS
    assert len(FRAME.lines) == 2 * 9 - 1
    assert FRAME.methods() == [RANDOM, ARNOLDI]
    assert FRAME.dims("Arnoldi") == [10]


def test_draws_of_one_seed_do_not_narrow_the_interval():
    assert FRAME.estimate("auc", RANDOM) == over_seeds([2, 3, 6])
    assert FRAME.estimate("auc", Method("RandProj", 20)) == NONE
    assert tidy([]).estimate("auc") == NONE
    assert FRAME.estimate("n").n == 4, "seeds of all methods"


def test_a_difference_is_paired_on_the_seeds_that_both_have():
    assert FRAME.paired("auc", ARNOLDI, RANDOM) == over_seeds([6, 2])


@pytest.mark.parametrize(
    ("method", "name", "directions"),
    [
        (ARNOLDI, "Arnoldi 10", 10),
        (Method("Arnoldi positive", 10), "Arnoldi 10 positive", math.nan),
        (Method("LiSSA", 100), "LiSSA r=100", math.nan),
        (Method("TracIn", 10), "TracIn[10]", math.nan),
        (Method("TracIn@", 15), "TracIn@15", math.nan),
        (Method("evenly spaced", 5), "evenly spaced 5", 5),
        (Method("GHG^T", 5), "GHG^T 5", 5),
        (Method("Loss"), "Loss", math.nan),
    ],
)
def test_a_name_is_made_from_numbers_and_read_back(method, name, directions):
    assert str(method) == name
    assert frame.read_name(name) == method
    assert method.directions == pytest.approx(directions, nan_ok=True)


def test_a_method_is_read_from_its_config():
    tracin = {"type": "TracIn", "checkpoints": None}
    arnoldi = {"type": "Arnoldi", "num_eigen": 5, "positive_only": True}
    projection = {"type": "Select", "dim": 7, "seed": 3}
    assert frame.checkpoint_epochs({"epochs": 10, "every": 4}) == [4, 8, 10]
    assert frame.method_of(tracin, [4, 8, 10]) == Method("TracIn", 3)
    assert frame.method_of(tracin | {"checkpoints": [-1]}, [4, 8, 10]) == Method("TracIn", 1)
    assert frame.method_of(tracin | {"checkpoints": [1]}, [4, 8, 10]) == Method("TracIn@", 8)
    assert frame.method_of(tracin) == Method("TracIn")
    influence = {"type": "Influence", "inverse": arnoldi}
    assert frame.method_of(influence) == Method("Arnoldi positive", 5)
    drawn = {"type": "RandomProjection", "projection": projection}
    assert (frame.method_of(drawn), frame.draw_of(drawn)) == (Method("RandSelect", 7), 3)
    compressed = {"type": "Influence", "inverse": {"type": "Compressed", "projection": projection}}
    assert (frame.method_of(compressed), frame.draw_of(compressed)) == (Method("GHG^T", 7), 3)
