"""Any fitted method with its rows projected onto few dimensions, term by term (TracIn, Sec. E)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from methods import memory
from methods.errors import MethodError
from methods.examples import Examples
from methods.fitted.scoring import Fitted, FittedSum
from methods.randomness import stream
from methods.rows.factored import Rows
from methods.rows.maps import LIMIT, Map
from methods.rows.projections import Projection
from methods.task import Task


class Projected(FittedSum):
    """Rows of `projection.dim` numbers for each term, such as a checkpoint; scores stay unbiased.

    Every term has its own map, so that their errors average out; Sec. E has one map for all.
    """

    def __init__(self, fitted: Fitted, projection: Projection) -> None:
        super().__init__(list(fitted.terms()))
        self.fitted, self.projection = fitted, projection
        nbytes = len(self.addends) * projection.bytes(self.task)
        self._keeps_maps = nbytes <= memory.held(self.task.device, LIMIT)
        self._maps: dict[int, Map] = {}

    def terms(self) -> Iterator[Fitted]:
        """A term for every slice of every map: directions are drawn once a pass over examples."""
        for index, term in enumerate(self.addends):
            for part in self._map(index, term).slices():
                yield ProjectedTerm(term, part)

    def _map(self, index: int, term: Fitted) -> Map:
        if index in self._maps:
            return self._maps[index]
        state = stream(self.projection.seed, "projected", index).generate_state(1)
        drawn = replace(self.projection, seed=int(state[0])).draw(term.task)
        if self._keeps_maps:
            self._maps[index] = drawn
        return drawn


class ProjectedTerm(Fitted):
    """One addend of a score, projected by one map."""

    def __init__(self, term: Fitted, projection: Map) -> None:
        self.term, self.task, self.projection = term, term.task, projection

    def measuring(self) -> Task:
        return self.term.measuring()

    def query_rows(self, examples: Examples) -> Rows:
        return self._apply(self.term.query_rows(examples))

    def train_rows(self, examples: Examples) -> Rows:
        return self._apply(self.term.train_rows(examples))

    def _apply(self, rows: Rows) -> Rows:
        if rows.parts.keys() != self.task.params.keys():
            raise MethodError(
                "only rows of gradients can be projected: these are projected already"
            )
        return Rows.dense_of(self.projection.apply(rows))

    def chunk(self, examples: Examples) -> int:
        return self.term.chunk(examples)

    def query_chunk(self, examples: Examples) -> int:
        return self.term.query_chunk(examples)
