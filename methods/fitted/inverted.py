"""Fitted methods whose query rows are multiplied by an inverse curvature."""

from __future__ import annotations

from methods.curvature.matrix import Operator
from methods.examples import Examples
from methods.fitted.gradients import FittedGradients
from methods.rows.factored import Rows
from methods.task import Task

VECTORS = 128 << 20  # bytes of gradients inverted at a time


class FittedInverse(FittedGradients):
    """Query rows H^-1 g by an operator, candidate rows g."""

    def __init__(self, task: Task, inverse: Operator) -> None:
        super().__init__(task)
        self.inverse = inverse

    def chunk(self, examples: Examples) -> int:
        return min(super().chunk(examples), self._vectors())

    def query_chunk(self, examples: Examples) -> int:
        return min(super().query_chunk(examples), self._vectors())

    def _vectors(self) -> int:
        """How many gradients may be inverted at a time."""
        return max(1, VECTORS // (self.task.size * self.task.dtype.itemsize))

    def query_rows(self, examples: Examples) -> Rows:
        return self.inverted(self.query_gradients(examples))

    def train_rows(self, examples: Examples) -> Rows:
        return self.train_gradients(examples)

    def own_rows(self, examples: Examples) -> tuple[Rows, Rows]:
        if self.measured is not self.gradients:
            return super().own_rows(examples)
        rows = self.train_gradients(examples)
        return self.inverted(rows), rows

    def inverted(self, rows: Rows) -> Rows:
        return Rows.dense_of(self.inverse.apply(rows.dense()), self.sizes())
