"""Circular bipartite graphs: where the nodes go, so that what belongs together lies together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

INNER, OUTER = 0.6, 1.0  # radii of the two circles
FREE = 0.12  # of a full turn, left between the arcs of groups together
SWEEPS = 12
APART = 0.03  # radians between outer nodes, or less where there are many
FULL = 0.9  # of the circle that they may fill so


@dataclass(frozen=True, eq=False)
class Links:
    """Weighted edges: inner[i] and outer[i] are names of nodes, weight[i] > 0."""

    inner: np.ndarray
    outer: np.ndarray
    weight: np.ndarray


def arcs(groups: Mapping[str, Sequence[int]]) -> dict[int, float]:
    """The angle of every inner node: groups in arcs of equal length, in the given order."""
    step = 2 * np.pi / max(len(groups), 1)
    angles: dict[int, float] = {}
    for place, members in enumerate(groups.values()):
        inside = (np.arange(len(members)) + 0.5) / max(len(members), 1)
        at = step * (place + FREE / 2 + (1 - FREE) * inside)
        angles |= dict(zip(members, at.tolist(), strict=True))
    return angles


def facing(links: Links, inner: Mapping[int, float]) -> dict[int, float]:
    """The angle of every outer node that is nearest, by weight, its inner nodes.

    The sum of weight times squared distance to points of the inner circle is least on the outer
    circle in the direction of their weighted mean: B.2's optimum, in closed form.
    """
    at = np.array([inner[node] for node in links.inner.tolist()])
    names, place = np.unique(links.outer, return_inverse=True)
    x, y = (
        np.bincount(place, weights=links.weight * part, minlength=len(names))
        for part in (np.cos(at), np.sin(at))
    )
    return dict(zip(names.tolist(), np.arctan2(y, x).tolist(), strict=True))


def ordered(groups: Mapping[str, Sequence[int]], links: Links) -> dict[str, list[int]]:
    """Each group's members so ordered that edges cross little: barycentres, in turns."""
    lists = {name: list(members) for name, members in groups.items()}
    for _ in range(SWEEPS):
        inner = arcs(lists)
        outer = facing(links, inner)
        pull = dict.fromkeys(inner, 0j)
        ends = zip(links.inner.tolist(), links.outer.tolist(), links.weight.tolist(), strict=True)
        for node, other, weight in ends:
            pull[node] += weight * np.exp(1j * outer[other])
        for name, members in lists.items():
            centre = np.exp(1j * np.mean([inner[node] for node in members])) if members else 1
            key = {n: float(np.angle((pull[n] or centre) / centre)) for n in members}
            lists[name] = sorted(members, key=lambda node: (key[node], inner[node]))
    return lists


def spread(angles: Mapping[int, float]) -> dict[int, float]:
    """Angles moved as little as may be so that no two nodes lie on each other.

    The order is kept; squared moves are least on the circle cut open at its widest gap.
    """
    names = sorted(angles, key=lambda name: (angles[name] % (2 * np.pi), name))
    at = np.array([angles[name] % (2 * np.pi) for name in names])
    n = len(at)
    if n < 2:
        return dict(angles)
    gaps = np.diff(at, append=at[0] + 2 * np.pi)
    cut = int(gaps.argmax()) + 1
    at = np.concatenate([at[cut:], at[:cut] + 2 * np.pi]) if cut < n else at
    names = names[cut:] + names[:cut] if cut < n else names
    apart = min(APART, FULL * 2 * np.pi / n)
    even = apart * np.arange(n)
    moved = _isotonic(at - even) + even
    if moved[-1] - moved[0] > 2 * np.pi - apart:  # pushed round to the other side of the cut
        moved = moved.mean() + 2 * np.pi / n * (np.arange(n) - (n - 1) / 2)
    return dict(zip(names, moved.tolist(), strict=True))


def _isotonic(values: np.ndarray) -> np.ndarray:
    """The non-decreasing sequence nearest in squares: neighbours that violate it are pooled."""
    pools: list[tuple[float, int]] = []
    for value in values.tolist():
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (one, n_one), (other, n_other) = pools[-2:]
            n = n_one + n_other
            pools[-2:] = [((one * n_one + other * n_other) / n, n)]
    return np.concatenate([np.full(n, mean) for mean, n in pools])
