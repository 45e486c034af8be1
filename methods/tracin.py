"""TracIn (Pruthi et al., 2020): inner products of gradients along training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from methods.attributor import Attributor, Fitted, FittedGradients, Prepared
from methods.rows import Rows
from methods.task import Checkpoint, Examples, MethodError, Task


@dataclass(frozen=True)
class TracIn(Attributor):
    """TracInCP: sum over checkpoints of lr <grad query, grad candidate>.

    learning_rates  weigh by each checkpoint's lr (TracIn); else the plain mean over checkpoints,
                    as in Schioppa et al.
    checkpoints     which, by position (-1 is the last); None is all of them. A task without
                    checkpoints is its own only one.
    layers          shell patterns of parameter names; empty is all of them
    """

    learning_rates: bool = True
    checkpoints: tuple[int, ...] | None = None
    layers: tuple[str, ...] = ()

    def fit(self, task: Task, train: Examples, prepared: Prepared | None = None) -> Fitted:
        chosen = self._chosen(task)
        narrowed = task.only(self.layers) if self.layers else task
        terms: list[FittedCheckpoint] = []
        for checkpoint in chosen:
            weight = checkpoint.lr if self.learning_rates else 1 / len(chosen)
            like = terms[0] if terms else None
            terms.append(FittedCheckpoint(narrowed.at(checkpoint), weight, like))
        return FittedTracIn(terms)

    def _chosen(self, task: Task) -> list[Checkpoint]:
        there = task.checkpoints
        if not there:
            if self.learning_rates and self.checkpoints is None:
                raise MethodError(
                    "the task has no checkpoints to take learning rates from: pass "
                    "Task.of(..., checkpoints=...) or learning_rates=False"
                )
            there = (Checkpoint(task.all_params, 1.0),)
        if self.checkpoints is None:
            return list(there)
        wrong = [i for i in self.checkpoints if not -len(there) <= i < len(there)]
        if wrong:
            raise MethodError(
                f"checkpoint {wrong[0]} of {len(there)}: choose from 0 to {len(there) - 1}"
            )
        return [there[i] for i in self.checkpoints]


class FittedCheckpoint(FittedGradients):
    """The gradients of one checkpoint, times the root of its weight on both sides."""

    def __init__(self, task: Task, weight: float, like: FittedCheckpoint | None) -> None:
        super().__init__(task, like)
        self.root = weight**0.5

    def query_rows(self, examples: Examples) -> Rows:
        return self.query_gradients(examples).scaled(self.root)

    def train_rows(self, examples: Examples) -> Rows:
        return self.train_gradients(examples).scaled(self.root)

    def own_rows(self, examples: Examples) -> tuple[Rows, Rows]:
        if self.measured is not self.gradients:
            return super().own_rows(examples)
        rows = self.train_rows(examples)
        return rows, rows


class FittedTracIn(Fitted):
    """The concatenation over checkpoints; scores are summed one checkpoint at a time."""

    def __init__(self, terms: list[FittedCheckpoint]) -> None:
        self.checkpoints, self.task = terms, terms[0].task

    def query_rows(self, examples: Examples) -> Rows:
        return Rows.joined(term.query_rows(examples) for term in self.checkpoints)

    def train_rows(self, examples: Examples) -> Rows:
        return Rows.joined(term.train_rows(examples) for term in self.checkpoints)

    def terms(self) -> Iterable[Fitted]:
        return self.checkpoints
