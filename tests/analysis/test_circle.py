"""Circular graphs: what is tied together lies together, and nothing lies on anything else."""

import numpy as np
import pytest

from analysis import fastif_fig6
from analysis.fastif_fig6 import OUTER, RADII, Links

GROUPS = {"a": [0, 1, 2, 3], "b": [4, 5, 6, 7], "c": [8, 9, 10, 11]}


def links(*edges):
    query, train, weight = zip(*edges, strict=True)
    return Links(np.array(query), np.array(train), np.array(weight, dtype=float))


def distance(one, other):
    """The angle between two directions."""
    return abs(np.angle(np.exp(1j * (one - other))))


def test_evaluation_is_on_the_outer_circle_and_training_on_the_inner():
    """As the caption of the figure says; the first sentence of B.2 says otherwise."""
    assert max(RADII.values()) < OUTER < fastif_fig6.NAMED


def test_groups_have_arcs_of_their_own():
    angles = fastif_fig6.arcs(GROUPS)
    for place, members in enumerate(GROUPS.values()):
        inside = np.array([angles[node] for node in members])
        assert (np.diff(inside) > 0).all()
        assert place * 2 * np.pi / 3 < inside.min() < inside.max() < (place + 1) * 2 * np.pi / 3


def test_a_training_pair_tied_to_one_slice_lands_beside_it():
    angles = fastif_fig6.arcs(GROUPS)
    for members in GROUPS.values():
        tied = links(*[(node, 100, 1 + node % 3) for node in members])
        inside = [angles[node] for node in members]
        at = fastif_fig6.facing(tied, angles)[100] % (2 * np.pi)
        assert min(inside) < at < max(inside)


def test_the_stronger_edge_pulls_harder():
    angles = fastif_fig6.arcs(GROUPS)
    at = fastif_fig6.facing(links((1, 100, 5.0), (5, 100, 1.0)), angles)[100]
    assert distance(at, angles[1]) < distance(at, angles[5])


def test_no_other_place_on_the_circle_has_a_smaller_weighted_distance():
    angles = fastif_fig6.arcs(GROUPS)
    edges = [(0, 1.0), (3, 0.2), (5, 2.0), (9, 0.7)]
    angle = fastif_fig6.facing(links(*[(node, 7, weight) for node, weight in edges]), angles)[7]

    def cost(at):
        ends = RADII["mnli"] * np.exp(1j * np.asarray(at))
        return sum(w * abs(ends - OUTER * np.exp(1j * angles[node])) ** 2 for node, w in edges)

    grid = np.linspace(0, 2 * np.pi, 2_000)
    assert cost(angle) <= cost(grid).min() + 1e-9


@pytest.mark.parametrize("n", [1, 2, 30, 250])
def test_nodes_are_moved_apart_in_their_order_and_little(n):
    draw = np.random.default_rng(n)
    before = {int(i): float(a) for i, a in enumerate(draw.vonmises(1.0, 3.0, size=n))}
    after = fastif_fig6.spread(before)
    assert after.keys() == before.keys()
    least = min(fastif_fig6.GAP, fastif_fig6.FULL * 2 * np.pi / n)
    turned = np.sort(np.array(list(after.values())) % (2 * np.pi))
    if n > 1:
        assert np.diff(turned, append=turned[0] + 2 * np.pi).min() > 0.99 * least
    if n <= 30:
        assert max(distance(after[i], before[i]) for i in before) < n * least


def test_nodes_far_apart_stay_where_they_are():
    before = {0: 0.1, 1: 2.0, 2: 4.0}
    after = fastif_fig6.spread(before)
    assert all(distance(after[i], before[i]) < 1e-9 for i in before)


def test_predictions_of_a_slice_are_ordered_by_what_they_share():
    """Two that share a pair with the next slice move to its side, whatever their names."""
    tied = links((0, 50, 1), (4, 50, 1), (2, 51, 1), (8, 51, 1), (1, 52, 1), (3, 52, 1))
    ordered = fastif_fig6.ordered(GROUPS, tied)
    assert {name: sorted(members) for name, members in ordered.items()} == GROUPS
    assert ordered["a"][-1] == 0, "next to slice b"
    assert ordered["a"][0] == 2, "next to slice c"


def test_an_empty_slice_is_no_trouble():
    groups = {"a": [0, 1], "b": []}
    ordered = fastif_fig6.ordered(groups, links((0, 9, 1.0)))
    assert ordered["b"] == []
    assert set(fastif_fig6.arcs(ordered)) == {0, 1}
