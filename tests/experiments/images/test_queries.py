"""Queries out of classified images: pixels, the two best classes, what is drawn and displayed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.data import digits
from experiments.images.proponents import Pool, Queries, Shown, draw, pool, to_pixels
from experiments.laboratory.errors import UserError

N = 60


def made_up(n: int = N, seed: int = 0, channels: int = 1) -> Pool:
    """A pool of three classes, every third example misclassified."""
    rng = np.random.default_rng(seed)
    label = rng.integers(3, size=n)
    wrong = np.arange(n) % 3 == 0
    predicted = (label + wrong) % 3
    image = torch.from_numpy(rng.random((n, channels, 4, 4)))
    examples = {"image": image, "label": torch.from_numpy(label)}
    return Pool(examples, predicted, (predicted + 1) % 3, to_pixels(image))


def test_pixels_are_bytes_in_grey_or_in_colour():
    image = torch.tensor([0.0, 0.5, 1.0])[None, :, None, None].expand(2, 3, 4, 5)
    assert to_pixels(image).shape == (2, 4, 5, 3)
    assert to_pixels(image)[1, 2, 3].tolist() == [0, 128, 255]
    assert to_pixels(image[:, :1]).shape == (2, 4, 5)
    with pytest.raises(UserError, match="give their pixels"):
        to_pixels(image - 0.1)


def test_a_pool_knows_the_two_best_classes_of_each_image():
    examples = {"image": torch.rand(7, 1, 2, 2), "label": torch.zeros(7, dtype=torch.int64)}
    made = pool(lambda image: image.flatten(1), examples)
    order = (-examples["image"].flatten(1)).argsort(1).numpy()
    np.testing.assert_array_equal(made.predicted, order[:, 0])
    np.testing.assert_array_equal(made.runner_up, order[:, 1])
    assert made.take(np.array([4, 2])).predicted.tolist() == order[[4, 2], 0].tolist()


def test_queries_are_random_and_the_misclassified_beside_them():
    there = made_up()
    plan = Queries(10, 8, shown=(Shown(True), Shown(False), Shown(True, 2), Shown(False, 9)))
    drawn = draw(there, plan, seed=3)
    right = there.predicted == there.label
    assert drawn.random[:10].all()
    assert not drawn.random[10:].any()
    assert len(set(drawn.index)) == len(drawn.index)
    assert (~right[drawn.index]).sum() >= 8
    first, second, third, absent = drawn.shown
    assert absent == -1, "there is no class 9"
    in_order = right[drawn.index[:10]]
    assert first == np.flatnonzero(in_order)[0]
    assert second == np.flatnonzero(~right[drawn.index])[0]
    assert (right & (there.label == 2))[drawn.index[third]]
    again = draw(there, plan, seed=3)
    np.testing.assert_array_equal(drawn.index, again.index)
    assert drawn.index.tolist() != draw(there, plan, seed=4).index.tolist()
    more = draw(there, replace(plan, count=20), seed=3)
    np.testing.assert_array_equal(more.index[:10], drawn.index[:10])
    with pytest.raises(UserError, match="61 queries, but 60 evaluation examples"):
        draw(there, Queries(61), 0)


def test_queries_come_from_the_bundled_digits():
    there = pool(lambda image: image.flatten(1)[:, :10], digits.load_sklearn())
    assert len(draw(there, Queries(5, 2), 0).index) >= 5
