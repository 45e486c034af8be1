"""Representer points (Yeh et al., 2018, arXiv:1811.09720; TracIn, Sec. A.2, Eq. 4).

The last layer is refitted with an L2 term, by softmax regression on its inputs. At the stationary
point its logits are a sum over the training examples, sum_i alpha_i (f_i . f) with
alpha_i = -d loss_i / d logits / (2 lam n). Eq. 4 as printed takes that derivative at the test
point; the theorem needs the training point, which Yeh et al. and this file take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.attributor import Attributor, State
from methods.errors import MethodError, at_least, within
from methods.examples import Examples, chunks, count, sourced
from methods.fitted.gradients import FittedGradients
from methods.fitted.scoring import Fitted
from methods.progress import track
from methods.rows.factored import Rows
from methods.rows.gradients import Gradients
from methods.rows.last_layer import Head
from methods.rows.parts import Outer
from methods.task import Task

ARMIJO = 1e-4  # share of the decrease predicted by the slope that a step must reach
HALVINGS = 30  # of a step along a Newton direction, at most


@dataclass(frozen=True)
class Representer(Attributor):
    """alpha_ic (f_i . f): what a training example adds to the query's logit of one class c.

    The class c of a query is the one whose logit lowers the query's measurement most as it rises:
    with minus the largest logit as measurement, the class the refitted model predicts (Yeh et al.);
    with the loss, the query's label. A bias is the weight of a feature that is 1, also in the L2
    term.

    lam         weight of the term lam |head|^2 added to the mean loss; the task's own weight decay
                is not used
    labels      column of the classes to refit to; None is the model's own softmax (Yeh et al.)
    tolerance   stop at this share of the gradient's norm at the model's own head: the sum may then
                differ from the logits by that share of |head| |f| (Yeh et al. stop at 1/200)
    """

    lam: float = 3e-3
    labels: str | None = None
    tolerance: float = 1e-10
    max_steps: int = 100

    def __post_init__(self) -> None:
        within("(0, inf)", lam=self.lam)
        within("(0, 1)", tolerance=self.tolerance)
        at_least(1, max_steps=self.max_steps)

    @property
    def reads_train(self) -> bool:
        return True

    @property
    def state_settings(self) -> Representer:
        return self

    def state(self, task: Task, train: Examples) -> State:
        """The refitted `head` (classes, features) in float64; a bias is its last column."""
        layer = Head(task, train)
        read = []
        for some in chunks(train, layer.chunk):
            own = layer.features(some)
            read.append((own, self.targets(layer, own, some)))
        features, targets = (torch.cat(blocks) for blocks in zip(*read, strict=True))
        head = solve(features, targets, self.lam, layer.weights, self.tolerance, self.max_steps)
        return {"head": head}

    def fitted(self, task: Task, state: State, train: Examples | None) -> Fitted:
        if train is None:
            raise MethodError("Representer needs the training examples: give them to `fit`")
        return FittedRepresenter(self, task, Head(task, train), state["head"], count(train))

    def targets(self, layer: Head, features: Tensor, examples: Examples) -> Tensor:
        """The class probabilities the head is refitted to, (b, classes)."""
        if self.labels is None:
            return (features @ layer.weights.T).softmax(1)
        label, classes = examples.get(self.labels), len(layer.weights)
        if label is None or label.is_floating_point() or label.ndim != 1:
            raise MethodError(
                f"labels={self.labels!r} is not a column of classes: the columns are "
                f"{', '.join(examples)}"
            )
        least, most = torch.stack(label.aminmax()).tolist()
        if not 0 <= least <= most < classes:
            raise MethodError(f"labels={self.labels!r} does not fit the head's {classes} logits")
        return nn.functional.one_hot(label.to(features.device), classes).to(features)


class FittedRepresenter(FittedGradients):
    """Candidate rows alpha (x) f and query rows one-hot (x) f of the last layer, kept factored."""

    def __init__(
        self, method: Representer, task: Task, layer: Head, head: Tensor, n_train: int
    ) -> None:
        self.method, self.task, self.layer, self.n_train = method, task, layer, n_train
        self.gradients = layer.gradients
        self.measured = Gradients(layer.refitted(head), task.measurement, layer.gradients)
        self.head = head.to(layer.weights)

    def coefficients(self, examples: Examples) -> Tensor:
        """alpha (b, classes), float64: minus the loss's derivative by the logits / (2 lam n)."""
        return self._coefficients(self.layer.features(examples), examples)

    def _coefficients(self, features: Tensor, examples: Examples) -> Tensor:
        targets = self.method.targets(self.layer, features, examples)
        derivative = (features @ self.head.T).softmax(1) - targets
        return -derivative / (2 * self.method.lam * self.n_train)

    def classes(self, examples: Examples) -> Tensor:
        """The class c of each query, (b,)."""
        examples = sourced(examples)
        some = chunks(examples, self.query_chunk(examples))
        return torch.cat([self._factors_and_classes(part)[1] for part in some])

    def logits(self, examples: Examples) -> Tensor:
        """Logits of the refitted model, (b, classes), float64: what scores add up to."""
        some = chunks(sourced(examples), self.layer.chunk)
        return torch.cat([self.layer.features(part) @ self.head.T for part in some])

    def _factors_and_classes(self, examples: Examples) -> tuple[Outer, Tensor]:
        part = self.layer.outer(self.query_gradients(examples))
        by_logit = part.left[:, 0]
        if not (by_logit != 0).any(1).all():
            raise MethodError(
                "a query's measurement does not change with any logit: measure minus the logit of "
                "the class you ask about"
            )
        return part, by_logit.argmin(1)

    def query_rows(self, examples: Examples) -> Rows:
        part, classes = self._factors_and_classes(examples)
        one_hot = nn.functional.one_hot(classes, part.m)
        return self._rows(one_hot, self.layer.extended(part))

    def train_rows(self, examples: Examples) -> Rows:
        features = self.layer.features(examples)
        return self._rows(self._coefficients(features, examples), features)

    def _rows(self, left: Tensor, right: Tensor) -> Rows:
        left, right = left.to(self.task.dtype)[:, None], right.to(self.task.dtype)[:, None]
        outer = Outer(left, right, left.shape[2], right.shape[2:])
        return Rows({self.layer.weight: [outer]}, len(left))


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
        step = -_newton_direction(features, probabilities, gradient, lam, min(0.1, size / first))
        head = head + _step_length(value, head, step, float((gradient * step).sum())) * step
    raise MethodError(
        f"the last layer's gradient fell to {size / first:.1e} of the first in {max_steps} Newton "
        f"steps, wanted {tolerance:.1e}: raise `max_steps`, `tolerance` or `lam`"
    )


def _step_length(
    value: Callable[[Tensor], Tensor], head: Tensor, step: Tensor, slope: float
) -> float:
    """The first of 1, 1/2, 1/4, ... that lowers the value enough for its slope (Armijo)."""
    before = float(value(head))
    noise = 10 * torch.finfo(head.dtype).eps * abs(before)  # of a difference of two values
    for halving in range(HALVINGS):
        length = 0.5**halving
        if float(value(head + length * step)) <= before + ARMIJO * length * slope + noise:
            return length
    raise MethodError("no step along a Newton direction lowers the loss: raise `tolerance`")


def _newton_direction(
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
