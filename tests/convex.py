"""A convex problem at its minimum: where influence functions are right, and inverses agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.task import Examples, Task
from tests.tiny import built, examples, nll, normal


@dataclass(frozen=True)
class Convex:
    """Softmax regression at the minimum of its regularised loss, and its curvature."""

    task: Task
    train: Examples
    query: Examples


def convex(n: int = 60, n_in: int = 3, classes: int = 3, decay: float = 0.05) -> Convex:
    """Softmax regression trained to its minimum in float64."""
    train = examples(n, n_in, classes=classes)
    train["y"] = (train["x"] @ normal(n_in, classes, seed=5) + normal(n, classes, seed=6)).argmax(1)
    model = built(lambda: nn.Linear(n_in, classes))
    minimise(model, nll, train, decay)
    return Convex(
        Task.of(model, nll, weight_decay=decay), train, examples(7, n_in, classes=classes, seed=9)
    )


def minimise(
    model: nn.Module, loss: Any, batch: Examples, decay: float, weights: Tensor | None = None
) -> None:
    """Newton's method on the weighted mean loss plus decay/2 |params|^2, to a zero gradient."""
    values = list(model.parameters())
    for _ in range(30):
        losses = loss(model, batch)
        weighted = losses.mean() if weights is None else (weights * losses).sum()
        objective = weighted + decay / 2 * sum(v.square().sum() for v in values)
        grads = torch.autograd.grad(objective, values, create_graph=True)
        flat = torch.cat([g.flatten() for g in grads])
        if flat.norm() < 1e-12:
            return
        rows = [torch.autograd.grad(entry, values, retain_graph=True) for entry in flat]
        hessian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        step = torch.linalg.solve(hessian, flat.detach())
        with torch.no_grad():
            for value, move in zip(values, step.split([v.numel() for v in values]), strict=True):
                value.sub_(move.view_as(value))
    raise AssertionError("Newton's method did not reach a zero gradient")
