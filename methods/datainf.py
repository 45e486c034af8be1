"""DataInf (Kwon et al., 2024, DataInf: Efficiently Estimating Data Influence in LoRA-tuned LLMs and
Diffusion Models, arXiv:2310.00902, Eq. 4 to 6).

The inverse of a mean over training examples is taken for the mean of their inverses: for each
parameter tensor l, H_l^-1 is (1/n) sum_i (g_il g_il^T + lam_l)^-1, in closed form by Sherman and
Morrison. It is exact for one training example.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from methods import memory
from methods.attributor import Attributor, State
from methods.errors import MethodError
from methods.examples import Examples, chunks, count
from methods.fitted.gradients import FittedGradients
from methods.fitted.scoring import Fitted
from methods.progress import track
from methods.rows.factored import Rows
from methods.rows.gradients import Gradients, repeated
from methods.task import Task

TOGETHER = 128 << 20  # bytes of query rows for which the training examples are read once


@dataclass(frozen=True)
class DataInf(Attributor):
    """<H^-1 grad query, grad candidate>, H^-1 a mean of inverses of single gradients: positive for
    proponents.

    relative_damping  lam_l of a parameter tensor l is this times the mean of |g_il|^2 over the
                      training examples / the size of l (0.1 in the paper)
    damping           one lam for all tensors instead, if it is given

    Each block of queries takes a pass over the training examples. The weight decay is not used.
    """

    relative_damping: float = 0.1
    damping: float | None = None

    def __post_init__(self) -> None:
        given = self.relative_damping if self.damping is None else self.damping
        if not given > 0:
            name = "relative_damping" if self.damping is None else "damping"
            raise MethodError(f"{name} is {given}: give a positive number")

    @property
    def reads_train(self) -> bool:
        return True

    @property
    def state_settings(self) -> MeanSquares:
        return MeanSquares()

    def state(self, task: Task, train: Examples) -> State:
        """The mean of |g_il|^2 over the training examples, for each parameter l, (n_params,)."""

        @repeated
        def squares() -> Tensor:
            gradients = Gradients(task, task.loss)
            total = torch.zeros(len(task.params), dtype=task.dtype, device=task.device)
            for some in _passed(gradients, train):
                total += torch.stack([own.squared_norms().sum() for own in _each(some)])
            return total / count(train)

        return {"squares": squares()}

    def fitted(self, task: Task, state: State, train: Examples | None) -> Fitted:
        if train is None:
            raise MethodError("DataInf needs the training examples: give them to `fit`")
        squares, sizes = state["squares"].tolist(), [v.numel() for v in task.params.values()]
        if len(squares) != len(sizes):
            raise MethodError(
                f"the state is of {len(squares)} parameters, the task has {len(sizes)}: it was "
                "made for another model"
            )
        relative = [self.relative_damping * s / n for s, n in zip(squares, sizes, strict=True)]
        dampings = relative if self.damping is None else [self.damping] * len(sizes)
        return FittedDataInf(task, dict(zip(task.params, dampings, strict=True)), train)


@dataclass(frozen=True)
class MeanSquares:
    """The state depends on no setting."""


class FittedDataInf(FittedGradients):
    """Query rows H^-1 g, one damping for each parameter, candidate rows g."""

    def __init__(self, task: Task, dampings: dict[str, float], train: Examples) -> None:
        super().__init__(task)
        self.dampings, self.train = dampings, train
        self.losses = Gradients(task, task.loss, self.gradients)  # without a regulariser

    def query_chunk(self, examples: Examples) -> int:
        return max(super().query_chunk(examples), self._together())

    def chunk(self, examples: Examples) -> int:
        return min(super().chunk(examples), max(1, self._together()))

    def _together(self) -> int:
        each = self.task.size * self.task.dtype.itemsize
        return memory.temporary(self.task.device, TOGETHER) // each

    def query_rows(self, examples: Examples) -> Rows:
        some = chunks(examples, super().query_chunk(examples))
        return self.inverted(Rows.stacked(self.query_gradients(one).compact() for one in some))

    def train_rows(self, examples: Examples) -> Rows:
        return self.train_gradients(examples)

    def inverted(self, rows: Rows) -> Rows:
        """(q_l - (1/n) sum_i <q_l, g_il> / (lam_l + |g_il|^2) g_il) / lam_l for each q_l, dense."""
        total = {name: own.clone() for name, own in rows.matrices().items()}
        moved = {name: lam for name, lam in self.dampings.items() if lam > 0}  # others have g = 0
        queries = dict(zip(rows.parts, _each(rows), strict=True))
        n = count(self.train)
        for some in _passed(self.losses, self.train):
            for name, own in zip(some.parts, _each(some), strict=True):
                if name in moved:
                    share = queries[name].inner(own) / (moved[name] + own.squared_norms())
                    total[name].addmm_(share, own.dense(), alpha=-1 / n)
        dense = [own * (1 / moved[name] if name in moved else 0.0) for name, own in total.items()]
        return Rows.dense_of(torch.cat(dense, dim=1), self.sizes())


def _each(rows: Rows) -> list[Rows]:
    """The rows of one parameter after the other."""
    return [Rows({name: parts}, rows.count) for name, parts in rows.parts.items()]


def _passed(gradients: Gradients, train: Examples) -> Iterator[Rows]:
    size = gradients.chunk(train)
    for some in track(chunks(train, size), "training gradients", -(-count(train) // size)):
        yield gradients.rows(some)
