"""Influence functions (Koh and Liang, 2017), with any inverse Hessian."""

from __future__ import annotations

from dataclasses import dataclass

from methods.attributor import Attributor, Bilinear, Embedded, Fitted, FittedGradients, Prepared
from methods.curvature.operators import Hessian, Operator
from methods.ihvp.cg import CG
from methods.ihvp.inverse import Inverse
from methods.rows.gradients import Gradients
from methods.rows.rows import Rows
from methods.task import Examples, Task

VECTORS = 128 << 20  # bytes of gradients inverted at a time


@dataclass(frozen=True)
class Prepare:
    """What the once-per-model work of an influence function depends on."""

    inverse: object
    damping: float


@dataclass(frozen=True)
class Influence(Attributor):
    """<H^-1 grad query, grad candidate>: positive for proponents.

    inverse  one of methods.ihvp
    damping  added to the Hessian's diagonal, beside the task's weight decay
    """

    inverse: Inverse = CG()
    damping: float = 0.0

    @property
    def preparation(self) -> Prepare:
        return Prepare(self.inverse.preparation, self.damping)

    def hessian(self, task: Task, train: Examples) -> Hessian:
        """The damped Hessian over `train` that the inverse works on."""
        return Hessian(task, train, self.damping, self.inverse.sample, self.inverse.seed)

    def prepare(self, task: Task, train: Examples) -> Prepared:
        return self.inverse.prepare(self.hessian(task, train))

    def fit(self, task: Task, train: Examples, prepared: Prepared | None = None) -> Fitted:
        hessian = self.hessian(task, train)
        prepared = self.inverse.prepare(hessian) if prepared is None else prepared
        inverted = self.inverse.invert(hessian, prepared)
        if isinstance(inverted, Bilinear):
            return Embedded(task, inverted)
        return FittedInverse(task, inverted)


class FittedInverse(FittedGradients):
    """Query rows H^-1 g by an operator, candidate rows g."""

    def __init__(self, task: Task, inverse: Operator) -> None:
        super().__init__(task)
        self.inverse = inverse

    def step(self, gradients: Gradients, examples: Examples) -> int:
        vectors = VECTORS // (self.task.size * self.task.dtype.itemsize)
        return max(1, min(super().step(gradients, examples), vectors))

    def query_rows(self, examples: Examples) -> Rows:
        return self._inverted(self.query_gradients(examples))

    def train_rows(self, examples: Examples) -> Rows:
        return self.train_gradients(examples)

    def own_rows(self, examples: Examples) -> tuple[Rows, Rows]:
        if self.measured is not self.gradients:
            return super().own_rows(examples)
        rows = self.train_gradients(examples)
        return self._inverted(rows), rows

    def _inverted(self, rows: Rows) -> Rows:
        return Rows.dense_of(self.inverse.apply(rows.dense()), self.sizes())
