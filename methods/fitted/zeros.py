"""Why every score is 0: looked into only after that has happened."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.examples import Examples, chunks
from methods.rows.factored import Rows
from methods.task import Task

log = logging.getLogger(__name__)

DENSE = 128 << 20  # bytes of rows looked at together


class Term(Protocol):
    """An addend of a fitted method's scores."""

    task: Task

    def query_rows(self, examples: Examples) -> Rows: ...

    def train_rows(self, examples: Examples) -> Rows: ...


def refuse(scores: Tensor, terms: Iterable[Term], query: Examples, candidates: Examples) -> None:
    """Refuse scores that are all 0, and say why; without a reason in the model, only say so.

    Queries and candidates that have no parameter in common, such as sentences without a common word
    where only an embedding is differentiated, do have scores of 0.
    """
    if scores[:1].any() or scores.any():
        return
    terms = list(terms)
    left = _largest(query, terms, "query_rows", "query_gradients", "measurement", "queries")
    right = _largest(candidates, terms, "train_rows", "train_gradients", "loss", "candidates")
    if math.isnan(left * right):
        log.warning("every score is 0: no gradient has a part in the few directions: take more")
        return
    dtype = terms[0].task.dtype
    if left * right < torch.finfo(dtype).tiny:
        raise MethodError(
            f"every score is 0: products of numbers up to {left:.1e} and {right:.1e} are too small "
            f"for {str(dtype).removeprefix('torch.')}: give a model in float64, or scale its loss"
        )
    log.warning("every score is 0: no parameter has a gradient both for queries and candidates")


def _largest(
    examples: Examples, terms: list[Term], rows: str, gradients: str, function: str, whose: str
) -> float:
    """The largest absolute number in the rows of some examples; an error if that is 0.

    It is nan if that is for want of directions, such as parameters selected at random.
    """
    largest = max(_size(getattr(term, rows), term.task, examples) for term in terms)
    if largest > 0:
        return largest
    raw = [(getattr(term, gradients), term.task) for term in terms if hasattr(term, gradients)]
    if any(_size(gradient, task, examples) > 0 for gradient, task in raw):
        forms = [getattr(term, "form", None) for term in terms]
        if all(form is not None and form.middle is None for form in forms):  # projected, no more
            return math.nan
        raise MethodError(
            f"every score is 0: the {whose} have gradients, of which the method makes 0: lower "
            "`damping` or `scale`, or give checkpoints whose learning rate is not 0"
        )
    raise MethodError(
        f"every score is 0, because every gradient of the {function} is, over all {whose}: look "
        "for a loss that is saturated or constant, or for parameters that it does not depend on"
    )


def _size(rows: Callable[[Examples], Rows], task: Task, examples: Examples) -> float:
    together = max(1, DENSE // max(1, task.size * task.dtype.itemsize))
    return max(float(rows(some).dense().abs().max()) for some in chunks(examples, together))
