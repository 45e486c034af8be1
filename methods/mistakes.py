"""A loss that fails on the user's examples, told from a fault of what is done with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from methods.task import Examples, MethodError, PerExample, Task, take
from methods.wording import columns

FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def explained(
    task: Task, of: PerExample, examples: Examples, given: Examples | None = None
) -> Iterator[None]:
    """Say what a loss was given where that makes it fail; any other error passes unchanged.

    Nothing is tried beforehand: only after an error is `of` called once more, plainly, on the
    examples and on the first of them. `given` is what they were taken from, if that is to be named.
    """
    try:
        yield
    except FAILURES as error:
        if _of_memory(error):
            raise
        for some in (examples, take(examples, slice(0, 1))):
            if own := _failure(task, of, some):
                whole = some if given is None or some is not examples else given
                what = "loss" if of is task.loss else "measurement"
                raise MethodError(
                    f"the {what} fails on examples with {columns(whole)}: {own}"
                ) from error
        raise


def _failure(task: Task, of: PerExample, examples: Examples) -> str | None:
    """One line about the error of a plain call, or None if there is none."""
    try:
        with torch.no_grad():
            of(task.all_params, examples)
    except FAILURES as error:
        if _of_memory(error):
            return None
        kind, text = type(error).__name__, str(error).strip()
        line = text.splitlines()[0] if text else ""
        return line if line and not isinstance(error, KeyError) else f"{kind}: {line}".rstrip(": ")
    return None


def _of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
