"""Scores in tiles, a block of queries and some candidates at a time, so that a pass can be gone on
with from any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from methods.examples import Examples, count, take
from methods.progress import track
from methods.search.searches import highest, lowest
from methods.sources import Source

Best = tuple[Tensor, Tensor]
Find = Callable[[Tensor, int], Best]
SIDES: dict[str, Find] = {"proponents": highest, "opponents": lowest}


class Tiled(Protocol):
    """A fitted method, as it is scored in tiles."""

    def query_scores(self, query: Examples) -> Iterator[tuple[int, Callable[..., Tensor]]]: ...

    def step(self, n: int, n_candidates: int) -> int: ...


@dataclass(frozen=True)
class Place:
    """How far a pass is: all scores of the first `queries`, and for the `block` of queries after
    them those of the first `candidates`, of which `best` are the best so far.
    """

    queries: int = 0
    block: int = 0
    candidates: int = 0
    best: tuple[Tensor, ...] = field(default=(), compare=False)
    late: bool = False  # all of it is being computed again, by slower ways


def every(
    fitted: Tiled,
    query: Examples,
    candidates: Examples,
    total: Tensor,
    place: Place,
    note: Callable[[Place], None],
) -> None:
    """Write all scores to `total` from a place on; `note` is given each place that is reached."""
    for n, start, scores, reached in _tiles(fitted, query, candidates, place):
        rows, columns = (
            slice(reached.queries, reached.queries + n),
            slice(start, reached.candidates),
        )
        total[rows, columns] = scores.cpu()
        note(reached)


def best(
    fitted: Tiled,
    query: Examples,
    candidates: Examples,
    find: Find,
    found: tuple[Tensor, Tensor],
    place: Place,
    note: Callable[[Place], None],
) -> None:
    """Write the best scores of each query, and the candidates' positions, to two (n_query, k)."""
    k, last = found[0].shape[1], count(candidates)
    so_far = place.best
    for n, start, scores, reached in _tiles(fitted, query, candidates, place):
        values, positions = find(scores, min(k, scores.shape[1]))
        values, positions = values.cpu(), positions.cpu() + start
        if start:  # earlier candidates come first, so that ties stay in their order
            values, positions = (
                torch.cat(both, dim=1) for both in zip(so_far, (values, positions), strict=True)
            )
            values, chosen = find(values, min(k, values.shape[1]))
            positions = positions.gather(1, chosen)
        so_far = values, positions
        if reached.candidates == last:
            for whole, part in zip(found, so_far, strict=True):
                whole[reached.queries : reached.queries + n] = part
        note(replace(reached, best=so_far))


def _tiles(
    fitted: Tiled, query: Examples, candidates: Examples, place: Place
) -> Iterator[tuple[int, int, Tensor, Place]]:
    """Of each tile: how many queries, its first candidate, its scores and the place after it.

    A block of other queries than that of the place, which may have met other memory, begins anew.
    """
    last, first = count(candidates), place.queries
    if place.block and place.candidates == last:
        first += place.block
    if first == count(query):
        return
    for n, scores in fitted.query_scores(_part(query, slice(first, None))):
        go_on = first == place.queries and n == place.block
        start = place.candidates if go_on else 0
        step = fitted.step(n, last)
        starts = range(start, last, step)
        for start in track(starts, "candidates", len(starts)):
            some = _part(candidates, slice(start, start + step))
            yield n, start, scores(some), Place(first, n, min(last, start + step), (), place.late)
        first += n


def _part(examples: Examples, some: slice) -> Examples:
    return examples.part(some) if isinstance(examples, Source) else take(examples, some)
