"""RelatIF: influence relative to what a candidate does to the whole model (Barshan et al., 2020,
arXiv:2003.11630).

Influence functions favour outliers, whose upweighting moves every prediction. Dividing by the size
of that move asks for the most influence at a bounded change: of the parameters (theta, Eq. 7 of the
paper), or of the model's predictions in expectation (l, Eq. 9).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from methods.attributor import Attributor, State
from methods.errors import MethodError
from methods.examples import Examples
from methods.fitted.embedded import Embedded
from methods.fitted.inverted import FittedInverse
from methods.fitted.scoring import Fitted
from methods.influence import Influence
from methods.rows.factored import Rows
from methods.rows.weighted import reciprocal, weighted
from methods.task import Task


@dataclass(frozen=True)
class RelatIF(Attributor):
    """<H^-1 grad query, grad candidate> / size of the candidate's own effect: positive for
    proponents.

    method    an `Influence`, with any inverse and curvature
    relative  "l": the size is sqrt(g H^-1 g), g the candidate's gradient; "theta": it is |H^-1 g|

    The paper has the Fisher matrix for H in the size; here it is the curvature of `method` in both
    places. Candidates are inverted too, so that by CG or LiSSA each costs what a query does.
    """

    method: Influence = Influence()
    relative: Literal["l", "theta"] = "l"

    def __post_init__(self) -> None:
        if self.relative not in ("l", "theta"):
            raise MethodError(f'relative is {self.relative!r}: give "l" or "theta"')

    @property
    def reads_train(self) -> bool:
        return self.method.reads_train

    @property
    def state_settings(self) -> Any:
        return self.method.state_settings

    def state(self, task: Task, train: Examples) -> State:
        return self.method.state(task, train)

    def fitted(self, task: Task, state: State, train: Examples | None) -> Fitted:
        fitted, theta = self.method.fitted(task, state, train), self.relative == "theta"
        if isinstance(fitted, Embedded):
            return FittedEmbeddedRelative(fitted, theta)
        if isinstance(fitted, FittedInverse):
            return FittedRelative(fitted, theta)
        raise MethodError(
            f"RelatIF cannot invert by {type(fitted).__name__}: give an Influence with an inverse"
        )


class FittedRelative(Fitted):
    """Candidate rows of an influence divided by the candidates' own sizes."""

    def __init__(self, base: Any, theta: bool) -> None:
        self.base, self.task, self.theta = base, base.task, theta

    def chunk(self, examples: Examples) -> int:
        return int(self.base.chunk(examples))

    def query_chunk(self, examples: Examples) -> int:
        return int(self.base.query_chunk(examples))

    def cut(self, examples: Examples, size: int) -> Iterator[Examples]:
        found: Iterator[Examples] = self.base.cut(examples, size)
        return found

    def measuring(self) -> Task:
        task: Task = self.base.measuring()
        return task

    def query_rows(self, examples: Examples) -> Rows:
        rows: Rows = self.base.query_rows(examples)
        return rows

    def train_rows(self, examples: Examples) -> Rows:
        return self._both(examples)[1]

    def own_rows(self, examples: Examples) -> tuple[Rows, Rows]:
        if self.base.measured is not self.base.gradients:
            return super().own_rows(examples)
        return self._both(examples)

    def _both(self, examples: Examples) -> tuple[Rows, Rows]:
        """H^-1 g of the candidates' gradients g, and g divided by the candidates' sizes."""
        rows = self.base.train_gradients(examples)
        inverted = self.base.inverted(rows)
        squares = inverted.squared_norms() if self.theta else _positive(inverted.paired(rows))
        return inverted, weighted(rows, reciprocal(squares.sqrt()))


class FittedEmbeddedRelative(FittedRelative):
    """The same of an inverse that is known on a few directions alone."""

    def __init__(self, base: Embedded, theta: bool) -> None:
        super().__init__(base, theta)
        self.gram: Tensor | None = None
        if theta:
            directions = base.form.left.directions()
            self.gram = directions @ directions.T

    def _both(self, examples: Examples) -> tuple[Rows, Rows]:
        form, gradients = self.base.form, self.base.gradients
        right = self.base.embed(examples, form.right, gradients)
        one = form.left is form.right
        weighed = form.weigh(right if one else self.base.embed(examples, form.left, gradients))
        if self.gram is None:
            squares = _positive((weighed * right).sum(1))
        else:
            pulled = _pulled(right, form.middle)
            squares = ((pulled @ self.gram) * pulled).sum(1).clamp_min(0)
        scale = reciprocal(squares.sqrt())
        return Rows.dense_of(weighed), Rows.dense_of(right * scale[:, None])


def _pulled(right: Tensor, middle: Tensor | None) -> Tensor:
    """The coefficients of H^-1 g on the left directions, (n, d), of g's on the right ones."""
    if middle is None:
        return right
    return right * middle if middle.ndim == 1 else right @ middle.T


def _positive(squares: Tensor) -> Tensor:
    """The numbers g H^-1 g, or an error where one is negative beyond rounding."""
    least, most = torch.stack(squares.aminmax()).tolist()
    if least < -(torch.finfo(squares.dtype).eps ** 0.5) * max(most, -least):
        raise MethodError(
            f"g H^-1 g is {least:.1e} for a candidate, so the curvature is not positive definite "
            'and l-RelatIF is not defined: raise `damping`, or take relative="theta", or an '
            "Influence with curvature=GaussNewton"
        )
    return squares.clamp_min(0)
