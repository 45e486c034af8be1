"""The whole Hessian of a small network, computed by block rows of one layer each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from methods.curvature.operators import Hessian
from methods.errors import MethodError, one_line
from methods.examples import Examples, chunks, count
from methods.losses.failures import FAILURES, explained, is_out_of_memory
from methods.losses.objective import Params, PerExample
from methods.losses.proofs import hold_independent, resolution
from methods.memory import examples_at_once
from methods.precision import full_precision
from methods.progress import track
from methods.randomness import numpy_generator
from methods.task import Task

log = logging.getLogger(__name__)

CHUNK = 32  # examples at a time: more are no faster
TANGENTS = 3 << 12  # examples x tangents at a time; both grow with a device's memory
COPIES = 8  # of a forward pass's graph, held for each example and tangent
LIMIT = 20_000  # parameters: 3.2 GB in float64


@full_precision()
def exact_hessian(task: Task, examples: Examples) -> Tensor:
    """The Hessian of the mean loss over `examples`, undamped, (p, p).

    By the forward derivative of the gradient, and held against one product by double backward. What
    forward mode cannot do, or does otherwise, goes by double backward, one product a row.
    """
    if task.size > LIMIT:
        raise MethodError(
            f"an exact Hessian of {task.size:,} parameters needs "
            f"{task.size**2 * task.dtype.itemsize / 1e9:,.0f} GB: use Arnoldi, LiSSA or CG"
        )
    hessian = Hessian(replace(task, weight_decay=0.0), examples)
    try:
        matrix = _by_blocks(task, hessian.examples)
        if not torch.isfinite(matrix).all():
            return matrix
        probe = numpy_generator(0, "exact Hessian").standard_normal(task.size)
        vector = torch.from_numpy(probe).to(task.device, task.dtype)[None]
        exact = hessian.apply(vector)
        eps = resolution(task, task.loss, hessian.examples)
        if (vector @ matrix - exact).norm() <= eps**0.6 * exact.norm():
            return matrix
        reason = "forward mode moves what a backward pass holds still"
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        reason = one_line(error)
    log.warning("the exact Hessian goes by double backward, about 5 times as slow: %s", reason)
    matrix = hessian.dense()
    return (matrix + matrix.T) / 2


def _by_blocks(task: Task, examples: Examples) -> Tensor:
    """The Hessian by block rows of one layer each.

    Tangents start at one layer and the reverse pass stops there, so only blocks on and above the
    diagonal are computed, and copied below it. Layers are taken in the order of the parameters.
    """
    names = list(task.params)
    loss, n = task.function(task.loss), count(examples)
    total = torch.zeros(task.size, task.size, dtype=task.dtype, device=task.device)
    together = examples_at_once(task, task.loss, examples, TANGENTS, COPIES)
    batches = list(chunks(examples, max(1, CHUNK * together // TANGENTS)))
    for batch in track(batches, "exact Hessian"):
        with explained(task, task.loss, batch):
            hold_independent(task, task.loss, batch)
        start = done = 0
        for own in _layers(names):
            later = names[done:]
            product = _row_product(task, loss, batch, own, later)
            size = sum(task.params[m].numel() for m in own)
            calls = min(size, -(-size * count(batch) // together))
            first = start
            unit = torch.eye(size, dtype=task.dtype, device=task.device)
            for tangents in unit.split(-(-size // calls)):
                with explained(task, task.loss, batch):
                    rows = vmap(product)(_shaped(task, own, tangents))
                flat = torch.cat([rows[m].reshape(len(rows[m]), -1) for m in later], dim=1)
                into = total[first : first + len(flat), start:]
                into.add_(flat, alpha=count(batch) / n)
                first += len(flat)
            start, done = start + size, done + len(own)
    upper = total.triu()
    return upper + upper.triu(1).T


class KnownHessian(Hessian):
    """A Hessian whose matrix (p, p) is known, as an operator."""

    def __init__(self, task: Task, examples: Examples, matrix: Tensor, damping: float) -> None:
        super().__init__(task, examples, damping)
        self.matrix = matrix.to(task.device, task.dtype)

    def apply(self, vectors: Tensor, draw: int | None = None) -> Tensor:
        return vectors @ self.matrix + self.shift * vectors


def _layers(names: list[str]) -> list[list[str]]:
    """Names of the parameters in order, grouped by layer."""
    return [list(group) for _, group in groupby(names, lambda name: name.rpartition(".")[0])]


def _shaped(task: Task, own: list[str], tangents: Tensor) -> Params:
    """Flat tangents (t, size) of the parameters in `own`, by name and shape."""
    values = [task.params[name] for name in own]
    parts = tangents.split([value.numel() for value in values], dim=1)
    return {
        name: part.reshape(-1, *value.shape).to(value.dtype)
        for name, part, value in zip(own, parts, values, strict=True)
    }


def _row_product(
    task: Task, loss: PerExample, batch: Examples, own: list[str], later: list[str]
) -> Callable[[Params], Params]:
    """The map from tangents of a layer's parameters `own` to tangents of the gradients of `later`.

    `later` are those parameters and the ones of all layers after.
    """
    fixed = {m: v for m, v in task.params.items() if m not in later}
    rest = {m: task.params[m] for m in later if m not in own}

    def gradient(moved: Params) -> Params:
        def mean_loss(params: Params) -> Tensor:
            return loss({**fixed, **params}, batch).mean()

        return grad(mean_loss)({**moved, **rest})

    at = {m: task.params[m] for m in own}
    return lambda tangent: jvp(gradient, (at,), (tangent,))[1]
