"""The interface of an inverse Hessian, and the largest eigenvalue that several of them need."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from methods.attributor import State
from methods.curvature.curvature import Curvature
from methods.curvature.matrix import Operator
from methods.errors import MethodError
from methods.fitted.embedded import Bilinear
from methods.precision import FullPrecision
from methods.randomness import torch_generator

NOT_FINITE = (
    "a Hessian product is not finite: look for NaN in the data or parameters, or for a loss that "
    "overflows"
)
MARGIN = 1.2  # of a damping above what the estimate of the smallest eigenvalue needs


class Inverse(FullPrecision, ABC):
    """A frozen dataclass of hyper-parameters, interchangeable in `Influence`."""

    sample: int | None = None  # examples a Hessian product is taken over; None is all of them
    seed: int = 0
    reads_train: ClassVar[bool] = False  # whether the inverse of a state takes Hessian products

    @property
    def state_settings(self) -> Any:
        """The settings that `state` depends on: all of them, or a part."""
        return self

    def state(self, hessian: Curvature) -> State:
        """The expensive once-per-model work, as arrays for `invert`."""
        return {}

    @abstractmethod
    def invert(self, hessian: Curvature, state: State) -> Operator | Bilinear:
        """The inverse of the damped Hessian, to multiply by or as two embeddings."""


def largest_eigenvalue(
    operator: Curvature, seed: int = 0, iterations: int = 20, draws: int = 1
) -> float:
    """The largest |eigenvalue| by power iteration; over `draws` minibatches if it is sampled.

    With minibatches it is the largest on any one of them: LiSSA is bounded by that.
    """
    largest = 0.0
    for draw in range(draws):
        generator = torch_generator(seed, "power iteration", draw)
        vector = torch.randn(1, operator.size, generator=generator, dtype=operator.dtype)
        vector = vector.to(operator.device)
        value = 0.0
        with operator.held():
            for _ in range(iterations):
                vector = vector / vector.norm()
                product = operator.apply(vector, draw)
                before, value = value, float(product.norm())
                if not value < float("inf"):
                    raise MethodError(NOT_FINITE)
                if value == 0.0 or abs(value - before) <= 1e-3 * value:
                    break
                vector = product
        largest = max(largest, value)
    return largest


@dataclass(frozen=True)
class Smallest:
    """An estimate of the smallest eigenvalue, and how far from one the estimate can be."""

    value: float
    error: float

    @property
    def damping(self) -> float:
        """What to add to the diagonal so that every eigenvalue is positive, with a margin."""
        needed = MARGIN * (self.error - self.value)
        if needed <= 0:
            return 0.0
        digit: float = 10.0 ** (math.floor(math.log10(needed)) - 1)
        return math.ceil(needed / digit) * digit


def smallest_eigenvalue(operator: Operator, seed: int = 0, iterations: int = 60) -> Smallest:
    """The smallest eigenvalue by Lanczos iteration, which keeps three vectors.

    Without orthogonalising again, so that eigenvalues may repeat, and the smallest is the same. It
    ends where the residual is a twentieth of the estimate (Golub & Van Loan, Sec. 10.1 and 10.3).
    """
    draw = torch_generator(seed, "lanczos start", 0)
    vector = torch.randn(1, operator.size, generator=draw, dtype=operator.dtype)
    vector = (vector / vector.norm()).to(operator.device)
    before, offset = torch.zeros_like(vector), 0.0
    diagonal, beside = list[float](), list[float]()
    found = Smallest(0.0, math.inf)
    for _ in range(min(iterations, operator.size)):
        product = operator.apply(vector).sub_(before, alpha=offset)
        diagonal.append(float((product * vector).sum()))
        product.sub_(vector, alpha=diagonal[-1])
        offset = float(product.norm())
        if not offset < math.inf:
            raise MethodError(NOT_FINITE)
        values, vectors = eigh_tridiagonal(diagonal, beside, select="i", select_range=(0, 0))
        found = Smallest(float(values[0]), offset * abs(float(vectors[-1, 0])))
        if found.error <= 0.05 * abs(found.value):
            break
        beside.append(offset)
        before, vector = vector, product / offset
    return found


def norms(vectors: Tensor) -> Tensor:
    """Row norms that are never zero, to divide by."""
    return vectors.norm(dim=1).clamp_min(torch.finfo(vectors.dtype).tiny)
