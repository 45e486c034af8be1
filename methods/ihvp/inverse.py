"""The interface of an inverse Hessian, and the largest eigenvalue that several of them need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from methods.attributor import Bilinear, State
from methods.curvature.operators import Hessian, Operator
from methods.errors import MethodError
from methods.randomness import torch_generator

NOT_FINITE = (
    "a Hessian product is not finite: look for NaN in the data or parameters, or for a loss that "
    "overflows"
)


class Inverse(ABC):
    """A frozen dataclass of hyper-parameters, interchangeable in `Influence`."""

    sample: int | None = None  # examples a Hessian product is taken over; None is all of them
    seed: int = 0
    reads_train: ClassVar[bool] = False  # whether the inverse of a state takes Hessian products

    @property
    def state_settings(self) -> Any:
        """The settings that `state` depends on: all of them, or a part."""
        return self

    def state(self, hessian: Hessian) -> State:
        """The expensive once-per-model work, as arrays for `invert`."""
        return {}

    @abstractmethod
    def invert(self, hessian: Hessian, state: State) -> Operator | Bilinear:
        """The inverse of the damped Hessian, to multiply by or as two embeddings."""


def largest_eigenvalue(
    operator: Hessian, seed: int = 0, iterations: int = 20, draws: int = 1
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


def norms(vectors: Tensor) -> Tensor:
    """Row norms that are never zero, to divide by."""
    return vectors.norm(dim=1).clamp_min(torch.finfo(vectors.dtype).tiny)
