"""Influence functions (Koh and Liang, 2017), with any inverse Hessian."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from methods.attributor import Attributor, Bilinear, Embedded, Fitted, FittedGradients, State
from methods.curvature.operators import Hessian, Operator
from methods.errors import MethodError
from methods.ihvp.cg import CG
from methods.ihvp.inverse import Inverse
from methods.rows.factored import Rows
from methods.task import Examples, Task

VECTORS = 128 << 20  # bytes of gradients inverted at a time


@dataclass(frozen=True)
class Prepare:
    """The settings that the state of an influence function depends on."""

    inverse: object
    damping: float


@dataclass(frozen=True)
class Influence(Attributor):
    """<H^-1 grad query, grad candidate>: positive for proponents.

    inverse  one of methods.ihvp
    damping  added to the Hessian's diagonal, in addition to the task's weight decay
    """

    inverse: Inverse = CG()
    damping: float = 0.0

    @property
    def reads_train(self) -> bool:
        return self.inverse.reads_train

    @property
    def state_settings(self) -> Prepare:
        return Prepare(self.inverse.state_settings, self.damping)

    def hessian(self, task: Task, train: Examples) -> Hessian:
        """The damped Hessian over `train` that the inverse works on."""
        return Hessian(task, train, self.damping, self.inverse.sample, self.inverse.seed)

    def state(self, task: Task, train: Examples) -> State:
        return self.inverse.state(self.hessian(task, train))

    def fitted(self, task: Task, state: State, train: Examples | None) -> Fitted:
        if train is None:
            inverted = self.inverse.invert(_NoProducts(task, self.damping), state)
        else:
            inverted = self.inverse.invert(self.hessian(task, train), state)
        if isinstance(inverted, Bilinear):
            return Embedded(task, inverted)
        return FittedInverse(task, inverted)


class _NoProducts(Hessian):
    """The size and shift of a Hessian, all that an inverse restored from a state needs."""

    def __init__(self, task: Task, damping: float) -> None:
        self.task, self.damping = task, damping
        self.size, self.dtype, self.device = task.size, task.dtype, task.device

    def apply(self, vectors: Tensor, draw: int | None = None) -> Tensor:
        raise MethodError("a Hessian product needs the training examples: give them to `fit`")


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
