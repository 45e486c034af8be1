"""Grad-Cos: cosines of gradients (Charpiat et al., 2019, Input Similarity from the Neural Network
Perspective, arXiv:2102.05262; Hanawa et al., 2021, arXiv:2006.04528, Sec. 3).

Grad-Dot, the inner product without the lengths, is `TracIn(learning_rates=False,
checkpoints=(-1,))`.
"""

from __future__ import annotations

from dataclasses import dataclass

from methods.attributor import Attributor, State
from methods.examples import Examples
from methods.fitted.gradients import FittedGradients
from methods.fitted.scoring import Fitted
from methods.rows.factored import Rows
from methods.rows.weighted import reciprocal, weighted
from methods.task import Task


@dataclass(frozen=True)
class GradCos(Attributor):
    """<grad query, grad candidate> / (|grad query| |grad candidate|), at the task's parameters.

    Between -1 and 1, positive for proponents; 0 where a gradient is 0.
    """

    def fitted(self, task: Task, state: State, train: Examples | None) -> Fitted:
        return FittedCosines(task)


class FittedCosines(FittedGradients):
    """Gradients of length 1 on both sides, kept factored."""

    def query_rows(self, examples: Examples) -> Rows:
        return _of_length_one(self.query_gradients(examples))

    def train_rows(self, examples: Examples) -> Rows:
        return _of_length_one(self.train_gradients(examples))

    def own_rows(self, examples: Examples) -> tuple[Rows, Rows]:
        if self.measured is not self.gradients:
            return super().own_rows(examples)
        rows = self.train_rows(examples)
        return rows, rows


def _of_length_one(rows: Rows) -> Rows:
    return weighted(rows, reciprocal(rows.squared_norms().sqrt()))
