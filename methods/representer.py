"""Representer points (Yeh et al., 2018, arXiv:1811.09720; 001, Sec. A.2, Eq. 4).

The last layer, refitted with an L2 term, is at a stationary point, so that its logits are a sum
over the training examples, sum_i alpha_i (f_i . f) with alpha_i = -d loss_i / d logits / (2 lam n).
Eq. 4 as printed takes that derivative at the test point; the theorem needs the training point, and
Yeh et al. and this file take it there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.attributor import Attributor, Fitted, FittedGradients, Prepared
from methods.errors import MethodError
from methods.progress import track
from methods.rows.gradients import Gradients
from methods.rows.last_layer import Head
from methods.rows.parts import Outer
from methods.rows.rows import Rows
from methods.task import Examples, Task, chunks, count

# Softmax regression on fixed features with an L2 term, solved to a stated gradient.


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


@dataclass(frozen=True)
class Representer(Attributor):
    """alpha_ic (f_i . f): what a training example adds to the query's logit of one class c.

    The class asked for is the one whose logit the query's measurement most wants raised: with minus
    the largest logit as measurement, the class the refitted model predicts (Yeh et al.); with the
    loss, the query's label. A bias is the weight of a feature that is 1, in the L2 term too.

    lam         lambda of the term lam |head|^2 beside the mean loss; the task's own weight decay
                plays no part
    labels      column of the classes to refit to; None is the model's own softmax (Yeh et al.)
    tolerance   stop at this share of the gradient's norm at the model's own head, above which the
                logits miss their sum by up to that share of |head| |f| (Yeh et al. stop at 1/200)
    """

    lam: float = 3e-3
    labels: str | None = None
    tolerance: float = 1e-10
    max_steps: int = 100

    @property
    def preparation(self) -> Representer:
        return self

    def prepare(self, task: Task, train: Examples) -> Prepared:
        """The refitted `head` (classes, features) in float64; a bias is its last column."""
        for name in ("lam", "tolerance"):
            if not getattr(self, name) > 0:
                raise MethodError(f"{name} is {getattr(self, name)}: give a positive number")
        there = Head(task, train)
        features = torch.cat([there.features(some) for some in chunks(train, there.chunk)])
        targets = self.targets(there, features, train)
        head = solve(features, targets, self.lam, there.weights, self.tolerance, self.max_steps)
        return {"head": head}

    def fit(self, task: Task, train: Examples, prepared: Prepared | None = None) -> Fitted:
        prepared = self.prepare(task, train) if prepared is None else prepared
        return FittedRepresenter(self, Head(task, train), task, count(train), prepared["head"])

    def targets(self, there: Head, features: Tensor, examples: Examples) -> Tensor:
        """The class probabilities the head is refitted to, (b, classes)."""
        if self.labels is None:
            return (features @ there.weights.T).softmax(1)
        label, classes = examples.get(self.labels), len(there.weights)
        if label is None or label.is_floating_point() or label.ndim != 1:
            raise MethodError(
                f"labels={self.labels!r} is no column of classes: there are {', '.join(examples)}"
            )
        if not 0 <= int(label.min()) <= int(label.max()) < classes:
            raise MethodError(f"labels={self.labels!r} does not fit the head's {classes} logits")
        return nn.functional.one_hot(label.to(features.device), classes).to(features)


class FittedRepresenter(FittedGradients):
    """Candidate rows alpha (x) f, query rows one-hot (x) f, of one layer and kept factored."""

    def __init__(
        self, method: Representer, there: Head, task: Task, n_train: int, head: Tensor
    ) -> None:
        self.task, self.gradients, self.there, self.method = task, there.gradients, there, method
        self.measured = Gradients(there.refitted(head), task.measurement, there.gradients)
        self.head, self.n_train = head.to(there.weights), n_train

    def coefficients(self, examples: Examples) -> Tensor:
        """alpha (b, classes), float64: minus the loss's derivative by the logits / (2 lam n)."""
        return self._coefficients(self.there.features(examples), examples)

    def _coefficients(self, features: Tensor, examples: Examples) -> Tensor:
        wrong = (features @ self.head.T).softmax(1) - self.method.targets(
            self.there, features, examples
        )
        return -wrong / (2 * self.method.lam * self.n_train)

    def classes(self, examples: Examples) -> Tensor:
        """The class that each query's measurement asks for, (b,)."""
        pieces = [self._asked(some)[1] for some in chunks(examples, self.query_chunk(examples))]
        return torch.cat(pieces)

    def logits(self, examples: Examples) -> Tensor:
        """Those of the refitted model, (b, classes), float64: what scores add up to."""
        some = chunks(examples, self.there.chunk)
        return torch.cat([self.there.features(part) @ self.head.T for part in some])

    def _asked(self, examples: Examples) -> tuple[Outer, Tensor]:
        part = self.there.outer(self.query_gradients(examples))
        wanted = part.left[:, 0]
        if not (wanted != 0).any(1).all():
            raise MethodError(
                "a query's measurement does not change with any logit: measure minus the logit of "
                "the class you ask about"
            )
        return part, wanted.argmin(1)

    def query_rows(self, examples: Examples) -> Rows:
        part, classes = self._asked(examples)
        one_hot = nn.functional.one_hot(classes, part.m)
        return self._rows(one_hot, self.there.extended(part))

    def train_rows(self, examples: Examples) -> Rows:
        features = self.there.features(examples)
        return self._rows(self._coefficients(features, examples), features)

    def _rows(self, left: Tensor, right: Tensor) -> Rows:
        left, right = left.to(self.task.dtype)[:, None], right.to(self.task.dtype)[:, None]
        outer = Outer(left, right, left.shape[2], right.shape[2:])
        return Rows({self.there.weight: [outer]}, len(left))
