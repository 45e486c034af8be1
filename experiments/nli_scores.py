"""Influence of every training pair on some pairs, beside that of plain gradients (H = I)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.nli_models import Model, trained
from experiments.problems import UserError
from methods.fastif import FastIF, inverted, query_gradients
from methods.progress import track
from methods.rows import Rows
from methods.task import Examples, MethodError, Task, count, take
from methods.tracin import FittedCheckpoint


def influences(model: Model, query: Examples, settings: FastIF) -> dict[str, np.ndarray]:
    """`scores` and `similarity` (n_query, n_train); positive = proponent; `relative_error` (n,).

    similarity is the inner product of gradients: the score with the identity for the Hessian.
    relative_error is that of s_test by the spread of its repeats, nan if there is one.
    """
    there = trained(model)
    gradients = query_gradients(there.task, query)
    found = inverted(there.task, there.train, gradients, settings)
    both = along(there.task, there.train, torch.cat([found.mean, gradients]))
    scores, similarity = (one.numpy() for one in both.split(len(gradients)))
    error = found.relative_error.numpy()
    return {"scores": scores, "similarity": similarity, "relative_error": error}


def told(settings: FastIF, prefix: str = "") -> dict[str, Any]:
    """J, B, T, damping and scale, by name."""
    lissa = settings.lissa
    return {
        f"{prefix}depth": lissa.depth,
        f"{prefix}sample": lissa.sample,
        f"{prefix}repeats": lissa.repeats,
        f"{prefix}damping": settings.damping,
        f"{prefix}scale": lissa.scale,
    }


def along(task: Task, train: Examples, directions: Tensor) -> Tensor:
    """Inner products of directions (k, p) with the gradients of all examples, (k, n), in one pass.

    Examples go in the order of their column `length`, if they have one.
    """
    fitted = FittedCheckpoint(task, 1.0, None)
    rows, n = Rows.dense_of(directions, fitted.sizes()), count(train)
    order = train["length"].argsort(stable=True) if "length" in train else torch.arange(n)
    step = fitted.chunk(take(train, order[:4]))
    out = torch.empty(len(directions), n, dtype=task.dtype)
    for places in track(list(order.split(step)), "influence of all pairs"):
        out[:, places] = fitted.train_gradients(take(train, places)).inner(rows).T.cpu()
    if not torch.isfinite(out).all():
        raise MethodError("a score is not finite: raise `damping`, or LiSSA's `scale`")
    return out


def check_counts(n: int, **counts: tuple[int, ...]) -> None:
    """Refuse numbers of training pairs that there are not."""
    for name, values in counts.items():
        if not values or not 0 < min(values) <= max(values) <= n:
            asked = ", ".join(f"{value:,}" for value in values) or "nothing"
            raise UserError(
                f"{name} asks for {asked} of {n:,} training pairs: give numbers from 1 to {n:,}"
            )
