"""K-FAC and EK-FAC inverses (Grosse et al., 2023, Studying Large Language Model Generalization with
Influence Functions, arXiv:2308.03296, Sec. 3.1 and Eq. 20 to 22).

`Influence(EKFAC())` is the influence function of that paper: block-diagonal by layer, the bias in
its layer's block, of the Linear, Conv2d and Conv1D layers alone. Other parameters count as frozen,
as they do there; the log names them. The Fisher matrix stands for the Gauss-Newton matrix, which it
is for losses that are minus a log-likelihood, whatever curvature the influence function has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.attributor import State
from methods.curvature.curvature import Curvature
from methods.curvature.kronecker import (
    Fisher,
    KroneckerFunction,
    covariances,
    eigenbasis,
    variances,
)
from methods.errors import MethodError, at_least
from methods.ihvp.inverse import Inverse


@dataclass(frozen=True)
class KFAC(Inverse):
    """The inverse of a Kronecker product for each layer: one pass over the examples.

    labels            column of class labels, to be drawn from the model's softmax (the Fisher
                      matrix of the paper); None keeps the data's (the empirical Fisher matrix)
    relative_damping  of each block: this times the mean of its eigenvalues is added to them, to the
                      damping of the influence function and to the weight decay (0.1 in the paper)
    rank              singular values kept of each Linear layer's query vector (32 in the paper, for
                      queries in number); None keeps all, exactly
    sample            examples the factors are means over, drawn once; None is all of them
    """

    labels: str | None = None
    relative_damping: float = 0.1
    rank: int | None = None
    sample: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, sample=self.sample, rank=self.rank)
        at_least(0, seed=self.seed)
        if not self.relative_damping >= 0:
            raise MethodError(f"relative_damping is {self.relative_damping}: give 0 or more")

    @property
    def state_settings(self) -> Factors:
        return Factors(type(self).__name__, self.labels, self.sample, self.seed)

    def state(self, hessian: Curvature) -> State:
        """The eigenvectors of both factors of each layer's block, and its eigenvalues."""
        factors = covariances(hessian.task, hessian.batch(0), self._fisher)
        return eigenbasis(factors)

    def invert(self, hessian: Curvature, state: State) -> KroneckerFunction:
        def inverse(values: Tensor) -> Tensor:
            damped = values + (hessian.shift + self.relative_damping * values.mean())
            found: Tensor = torch.where(damped > 0, 1 / damped, 0.0)
            return found

        if hessian.shift == 0 == self.relative_damping:
            raise MethodError(
                "Fisher matrices are singular: give a `damping`, or a relative_damping"
            )
        return KroneckerFunction(hessian.task, state, inverse, self.rank)

    @property
    def _fisher(self) -> Fisher:
        return Fisher(self.labels, self.seed)


@dataclass(frozen=True)
class Factors:
    """What a state depends on, the damping not among it."""

    kind: str
    labels: str | None
    sample: int | None
    seed: int


@dataclass(frozen=True)
class EKFAC(KFAC):
    """The same with the exact variances of gradients as eigenvalues: a second pass."""

    def state(self, hessian: Curvature) -> State:
        """The eigenvectors of both factors of each layer's block, and the variances along them."""
        task, examples = hessian.task, hessian.batch(0)
        state = super().state(hessian)
        return {**state, **variances(task, examples, self._fisher, state)}
