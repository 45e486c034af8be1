"""Softmax regression on fixed features with an L2 term, solved to a stated gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from methods.progress import track
from methods.task import MethodError

SLOPE = 1e-4  # share of the predicted decrease that a step must bring (Armijo)
HALVINGS = 30


def solve(
    features: Tensor, targets: Tensor, lam: float, start: Tensor, tolerance: float, max_steps: int
) -> Tensor:
    """Minimise mean cross-entropy + lam |head|^2 over heads (classes, d), in the features' dtype.

    features (n, d); targets (n, classes), rows summing to 1. Newton steps by conjugate gradients
    with backtracking, from `start` until |gradient| <= tolerance * |gradient at start|.
    """
    n, head = len(features), start.clone()

    def value(head: Tensor) -> Tensor:
        logits = features @ head.T
        return (logits.logsumexp(1) - (targets * logits).sum(1)).mean() + lam * head.square().sum()

    first = size = float("inf")
    for _ in track(range(max_steps + 1), "refitting the last layer"):
        probabilities = (features @ head.T).softmax(1)
        gradient = (probabilities - targets).T @ features / n + 2 * lam * head
        size = float(gradient.norm())
        first = min(first, size) if first == float("inf") else first
        if not size < float("inf"):
            raise MethodError(
                "a gradient of the last layer is not finite: look for NaN in the data"
            )
        if size <= tolerance * first:
            return head
        step = -_newton(features, probabilities, gradient, lam, min(0.1, size / first))
        head = head + _length(value, head, step, float((gradient * step).sum())) * step
    raise MethodError(
        f"the last layer's gradient fell to {size / first:.1e} of the first in {max_steps} Newton "
        f"steps, wanted {tolerance:.1e}: raise `max_steps`, `tolerance` or `lam`"
    )


def _length(value: Callable[[Tensor], Tensor], head: Tensor, step: Tensor, slope: float) -> float:
    """The first of 1, 1/2, 1/4, ... that lowers the value as its slope promises."""
    before = float(value(head))
    noise = 10 * torch.finfo(head.dtype).eps * abs(before)  # of a difference of two values
    for halving in range(HALVINGS):
        length = 0.5**halving
        if float(value(head + length * step)) <= before + SLOPE * length * slope + noise:
            return length
    raise MethodError("no step along a Newton direction lowers the loss: raise `tolerance`")


def _newton(
    features: Tensor, probabilities: Tensor, gradient: Tensor, lam: float, accuracy: float
) -> Tensor:
    """Solve H x = gradient by conjugate gradients to a relative residual, (classes, d)."""

    def product(direction: Tensor) -> Tensor:
        change = features @ direction.T
        curved = probabilities * (change - (probabilities * change).sum(1, keepdim=True))
        return curved.T @ features / len(features) + 2 * lam * direction

    solution = torch.zeros_like(gradient)
    residual, direction = gradient.clone(), gradient.clone()
    energy = residual.square().sum()
    goal = accuracy * energy.sqrt()
    for _ in range(10 * gradient.numel()):
        if residual.norm() <= goal:
            break
        along = product(direction)
        length = energy / (direction * along).sum()
        solution += length * direction
        residual -= length * along
        before, energy = energy, residual.square().sum()
        direction = residual + energy / before * direction
    return solution
