"""The whole Hessian of a small network, computed by block rows of one layer each."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from methods.curvature.operators import Hessian
from methods.errors import MethodError
from methods.progress import track
from methods.task import Examples, Params, PerExample, Task, chunks, count, explained

CHUNK = 32  # examples at a time: more are no faster
TANGENTS = 3 << 12  # examples x tangents at a time
LIMIT = 20_000  # parameters: 3.2 GB in float64


def exact_hessian(task: Task, examples: Examples) -> Tensor:
    """The Hessian of the mean loss over `examples`, undamped, (p, p).

    Tangents start at one layer and the reverse pass stops there, so only blocks on and above the
    diagonal are computed, and copied below it. Layers are taken in the order of the parameters.
    """
    if task.size > LIMIT:
        raise MethodError(
            f"an exact Hessian of {task.size:,} parameters needs "
            f"{task.size**2 * task.dtype.itemsize / 1e9:,.0f} GB: use Arnoldi, LiSSA or CG"
        )
    names = list(task.params)
    loss, n = task.function(task.loss), count(examples)
    total = torch.zeros(task.size, task.size, dtype=task.dtype, device=task.device)
    batches = list(chunks(task.move(examples), CHUNK))
    for batch in track(batches, "exact Hessian"):
        start = done = 0
        for own in _layers(names):
            later = names[done:]
            product = _row_product(task, loss, batch, own, later)
            size = sum(task.params[m].numel() for m in own)
            calls = -(-size * count(batch) // TANGENTS)
            first = start
            unit = torch.eye(size, dtype=task.dtype, device=task.device)
            for tangents in unit.split(-(-size // calls)):
                with explained(task, task.loss, batch):
                    rows = vmap(product)(_shaped(task, own, tangents))
                flat = torch.cat([rows[m].flatten(1) for m in later], dim=1)
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
        name: part.reshape(-1, *value.shape)
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
