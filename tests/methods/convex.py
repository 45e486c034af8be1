"""A convex problem at its minimum: where influence functions are right, and inverses agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.examples import Examples
from methods.task import Task
from tests.methods.networks import built, examples, nll, normal


@dataclass(frozen=True)
class Convex:
    """Softmax regression at the minimum of its regularised loss, with its examples."""

    task: Task
    train: Examples
    query: Examples


def convex(n: int = 60, n_in: int = 3, classes: int = 3, decay: float = 0.05) -> Convex:
    train = examples(n, n_in, classes=classes)
    truth = train["x"] @ normal(n_in, classes, seed=5) + normal(n, classes, seed=6)
    train["y"] = truth.argmax(1)
    model = built(lambda: nn.Linear(n_in, classes))
    minimise(model, nll, train, decay)
    query = examples(7, n_in, classes=classes, seed=9)
    return Convex(Task.of(model, nll, weight_decay=decay), train, query)


def minimise(
    model: nn.Module, loss: Any, batch: Examples, decay: float, weights: Tensor | None = None
) -> None:
    """Newton's method on the (weighted) mean loss plus decay/2 |params|^2, to a zero gradient."""
    values = list(model.parameters())
    sizes = [v.numel() for v in values]
    for _ in range(30):
        losses = loss(model, batch)
        total = losses.mean() if weights is None else weights @ losses
        total = total + decay / 2 * sum(v.square().sum() for v in values)
        grads = torch.autograd.grad(total, values, create_graph=True)
        flat = torch.cat([g.flatten() for g in grads])
        if flat.norm() < 1e-13:
            return
        eye = torch.eye(len(flat), dtype=flat.dtype)
        rows = torch.autograd.grad(flat, values, eye, is_grads_batched=True)
        hessian = torch.cat([r.flatten(1) for r in rows], dim=1)
        steps = torch.linalg.solve(hessian, flat.detach()).split(sizes)
        with torch.no_grad():
            for value, step in zip(values, steps, strict=True):
                value.sub_(step.view_as(value))
    if flat.norm() > 1e-10:
        raise AssertionError(f"Newton's method ended at a gradient of {float(flat.norm()):.1e}")
