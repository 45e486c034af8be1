"""The whole Hessian of a small network, block row by block row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from methods.operators import Hessian
from methods.progress import track
from methods.task import Examples, MethodError, Params, PerExample, Task, chunks, count

CHUNK = 32  # examples at a time: more only moves memory
TANGENTS = 3 << 12  # examples x tangents in flight
LIMIT = 20_000  # parameters: 3.2 GB in float64


def exact_hessian(task: Task, examples: Examples) -> Tensor:
    """Return the Hessian of the mean loss over `examples`, undamped, (p, p).

    Tangents of a parameter start at its own layer and the reverse pass stops there, so only
    blocks on and above the diagonal are computed; parameters are taken in the order of the
    model. The result is symmetric by construction, whatever that order.
    """
    if task.size > LIMIT:
        raise MethodError(
            f"an exact Hessian of {task.size:,} parameters needs "
            f"{task.size**2 * task.dtype.itemsize / 1e9:,.0f} GB: use Arnoldi, LiSSA or CG"
        )
    names = list(task.params)
    starts = dict(zip(names, _starts(task), strict=True))
    loss, n = task.function(task.loss), count(examples)
    total = torch.zeros(task.size, task.size, dtype=task.dtype, device=task.device)
    batches = list(chunks(task.move(examples), CHUNK))
    for batch in track(batches, "exact Hessian"):
        for k, name in enumerate(names):
            product = _row_product(task, loss, batch, names[k:], names[:k])
            size, shape = task.params[name].numel(), task.params[name].shape
            eye = torch.eye(size, dtype=task.dtype, device=task.device)
            first = starts[name]
            calls = -(-size * count(batch) // TANGENTS)
            for tangents in eye.split(-(-size // calls)):
                rows = vmap(product)(tangents.view(-1, *shape))
                flat = torch.cat([rows[m].flatten(1) for m in names[k:]], dim=1)
                into = total[first : first + len(flat), starts[name] :]
                into.add_(flat, alpha=count(batch) / n)
                first += len(flat)
    upper = total.triu()
    return upper + upper.triu(1).T


class KnownHessian(Hessian):
    """A Hessian of the mean loss that has been written out, as an operator like any other."""

    def __init__(self, task: Task, examples: Examples, matrix: Tensor, damping: float) -> None:
        super().__init__(task, examples, damping)
        self.matrix = matrix.to(task.device, task.dtype)

    def apply(self, vectors: Tensor, draw: int | None = None) -> Tensor:
        return vectors @ self.matrix + self.shift * vectors


def _starts(task: Task) -> list[int]:
    sizes = torch.tensor([0, *(v.numel() for v in task.params.values())])
    return sizes.cumsum(0)[:-1].tolist()


def _row_product(
    task: Task, loss: PerExample, batch: Examples, later: list[str], earlier: list[str]
) -> Callable[[Tensor], Params]:
    """The map from a tangent of later[0] to the tangents of the gradients of all `later`."""
    fixed = {m: task.params[m] for m in earlier}
    rest = {m: task.params[m] for m in later[1:]}

    def gradient(own: Tensor) -> Params:
        def mean_loss(params: Params) -> Tensor:
            return loss({**fixed, **params}, batch).mean()

        return grad(mean_loss)({later[0]: own, **rest})

    return lambda tangent: jvp(gradient, (task.params[later[0]],), (tangent,))[1]
