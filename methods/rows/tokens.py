"""Single tokens of sequences as examples: the gradient of each token's own measurement."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.examples import Examples, chunks, take
from methods.losses.failures import explained
from methods.losses.objective import TOKEN, Objective
from methods.randomness import numpy_generator
from methods.task import Task

SEQUENCES = 16  # whose graph is kept at a time


class Tokens:
    """Tokens of sequences as a table that a `Source` reads.

    where (m, 2) are the sequence and the place in it of each. A row is the whole sequence and, in
    the column TOKEN, the place: the measurement of such a row is that of the token.
    """

    def __init__(self, examples: Examples, where: Tensor) -> None:
        self.examples, self.where = examples, where

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, index: slice) -> Examples:
        sequence, token = self.where[index].unbind(1)
        return {**take(self.examples, sequence), TOKEN: token}


def with_gradient(task: Task, examples: Examples) -> Tensor:
    """Which tokens of sequences have a gradient of their measurement, (n, t).

    One without has the value 0, as padding has that a loss ignores, and a random mixture of the
    gradients of such tokens is exactly 0.
    """
    return torch.cat(list(_moved(task, examples)))


def _moved(task: Task, examples: Examples) -> Iterator[Tensor]:
    measurement = task.measurement
    if not isinstance(measurement, Objective):
        raise MethodError("scores of tokens need a task made by Task.of(module, loss)")
    for some in chunks(examples, SEQUENCES):
        batch = task.move(some)
        with explained(task, measurement, batch), task.leaves(measurement) as (leaves, _):
            values = measurement.tokens(batch)
            idle = values == 0
            mixed = values[idle]
            if not values.requires_grad:
                raise MethodError(f"the loss does not depend on {', '.join(leaves)}")
            drawn = numpy_generator(0, "tokens").standard_normal(len(mixed))
            total = (mixed * torch.from_numpy(drawn).to(mixed)).sum()
            grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        if any(own is not None and bool((own != 0).any()) for own in grads):
            idle = torch.zeros_like(idle)
        yield ~idle.cpu()
