"""Dominant eigenvectors inverted, and the damping alone outside their span.

Outside the span Arnoldi's inverse (Schioppa et al., 2022) is zero. The inverse of the damped
Hessian is 1 / damping there, up to the eigenvalues left out. Hataya & Yamada (2023,
arXiv:2302.09726) have the same inverse with Nystroem's low-rank curvature. Scores lie between a
plain inner product of gradients (damping far above the spectrum) and those of Arnoldi's inverse
(far below it); one basis serves every damping.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.attributor import State
from methods.curvature.curvature import Curvature
from methods.curvature.matrix import Operator
from methods.errors import MethodError
from methods.ihvp.arnoldi import Dominant

NEAR = 0.1  # of the damping: an eigenvalue no further from minus the damping is refused


@dataclass(frozen=True)
class Deflated(Dominant):
    """(V L V^T + damping)^-1 with the `num_eigen` eigenvalues largest in absolute value, undamped.

    Its error is at most the largest eigenvalue left out, relative to the damping.
    """

    num_eigen: int = 100

    def state(self, hessian: Curvature) -> State:
        """Eigenvalues (k,) and eigenvectors (k, p) with the weight decay, undamped."""
        state = super().state(hessian)
        return {**state, "eigenvalues": state["eigenvalues"] - hessian.damping}

    def invert(self, hessian: Curvature, state: State) -> Operator:
        values, vectors = (part.to(hessian.device, hessian.dtype) for part in self.leading(state))
        if not hessian.shift > 0:
            raise MethodError(
                f"damping is {hessian.shift:g}, and the inverse outside the eigenvectors is its "
                "reciprocal: give a positive damping, or use Arnoldi"
            )
        damped, largest = values + hessian.damping, float(state["eigenvalues"].abs().max())
        self.check(damped, largest, hessian)
        near = (damped.abs() < NEAR * hessian.shift).nonzero()
        if len(near):
            value = float(damped[near[0, 0]]) - hessian.shift
            raise MethodError(
                f"an eigenvalue is {value:.3g}, nearly minus the damping of {hessian.shift:.3g}: "
                f"its inverse would be over {1 / NEAR:g} times that of every direction outside the "
                f"eigenvectors. Raise `damping`, to {-2 * value:.2g} for instance"
            )
        noise = torch.finfo(hessian.dtype).eps * largest
        if hessian.shift <= noise:
            raise MethodError(
                f"damping is {hessian.shift:g}, and what lies outside the eigenvectors is divided "
                f"by it: give more than {noise:.1e}, the rounding noise next to an eigenvalue of "
                f"{largest:.1e}, or use Arnoldi"
            )
        return _Completed(1 / damped - 1 / hessian.shift, vectors, 1 / hessian.shift)


class _Completed(Operator):
    """V^T diag(weights) V + outside I, with V given by its rows."""

    def __init__(self, weights: Tensor, vectors: Tensor, outside: float) -> None:
        self.weights, self.vectors, self.outside = weights, vectors, outside
        self.size, self.dtype, self.device = vectors.shape[1], vectors.dtype, vectors.device

    def apply(self, vectors: Tensor) -> Tensor:
        inside = (vectors @ self.vectors.T) * self.weights
        return torch.addmm(vectors, inside, self.vectors, beta=self.outside)
