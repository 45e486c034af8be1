"""Fitted methods whose rows are per-example gradients."""

from __future__ import annotations

from methods.examples import Examples
from methods.fitted.scoring import Fitted
from methods.rows.factored import Rows
from methods.rows.gradients import Gradients
from methods.task import Task


class FittedGradients(Fitted):
    """The common part of fitted methods over per-example gradients.

    gradients, measured   those of the training loss and of the measurement: the same object if loss
                          and measurement are the same function
    """

    def __init__(self, task: Task, like: FittedGradients | None = None) -> None:
        self.task = task
        self.gradients: Gradients = Gradients(task, like=like.gradients if like else None)
        shared = task.measurement is task.loss and not self.gradients.decay
        self.measured = self.gradients if shared else Gradients(task, task.measurement)

    def chunk(self, examples: Examples) -> int:
        return self.gradients.chunk(examples)

    def query_chunk(self, examples: Examples) -> int:
        return self.measured.chunk(examples)

    def measuring(self) -> Task:
        return self.measured.task

    def train_gradients(self, examples: Examples) -> Rows:
        return self.gradients.rows(examples)

    def query_gradients(self, examples: Examples) -> Rows:
        return self.measured.rows(examples)

    def sizes(self) -> dict[str, int]:
        return self.gradients.sizes()
