"""What a user's loss may raise, and the one line that explains it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from methods.errors import MethodError, columns, one_line
from methods.examples import Examples, take
from methods.losses.objective import PerExample
from methods.task import Task

FAILURES = (  # what a call of a user's loss may raise
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def reentrant(value: torch.Tensor) -> bool:
    """Whether a checkpoint with use_reentrant=True is in the graph of a value.

    `autograd.grad` leaves out the parameters inside, and complains only where the checkpoint's
    input needs no gradient but for parameters.
    """
    seen, left = set(), [value.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        if node.name() == "CheckpointFunctionBackward":
            return True
        seen.add(node)
        left += [source for source, _ in node.next_functions]
    return False


def refuse_reentrant(loss: torch.Tensor) -> None:
    """Raise if a loss cannot be differentiated twice for such a checkpoint."""
    if reentrant(loss):
        raise MethodError(
            "a Hessian product needs second derivatives, and a checkpoint with use_reentrant=True "
            "has none: give it use_reentrant=False"
        )


@contextmanager
def explained(
    task: Task, function: PerExample, examples: Examples, given: Examples | None = None
) -> Iterator[None]:
    """Name the examples' columns in the error of a loss that fails on them; pass others unchanged.

    Only after an error is `function` called once more, plainly, on the examples and on the first of
    them, and differentiated there. `given` are the examples they were taken from, where the message
    is to describe those.
    """
    try:
        yield
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        what = "loss" if function is task.loss else "measurement"
        for some in (examples, take(examples, slice(0, 1))):
            if own := _failure(task, function, some):
                whole = some if given is None or some is not examples else given
                raise MethodError(
                    f"the {what} fails on examples with {columns(whole)}: {own}"
                ) from error
        if own := _backward_failure(task, function, take(examples, slice(0, 1))):
            raise MethodError(
                f"the {what} has no gradient: its backward pass fails: {own}"
            ) from error
        raise


def _failure(task: Task, function: PerExample, examples: Examples) -> str | None:
    """One line about the error of a plain call, or None if it succeeds."""
    try:
        with torch.enable_grad():  # for a loss that holds derivatives by its inputs
            function(task.all_params, examples)
    except FAILURES as error:
        if is_out_of_memory(error):
            return None
        return one_line(error)
    return None


def _backward_failure(task: Task, function: PerExample, examples: Examples) -> str | None:
    """One line about the error of plain autograd, or None if it succeeds."""
    try:
        with task.leaves(function) as (leaves, call):
            total = call(examples).sum()
            if total.requires_grad:
                torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    except FAILURES as error:
        known = is_out_of_memory(error) or "use_reentrant" in str(error)  # it goes by `backward`
        return None if known else one_line(error)
    return None


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
