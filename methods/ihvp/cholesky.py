"""The inverse of a whole Hessian that damping makes positive definite, by its Cholesky factor.

`Exact` decomposes by eigenvectors, which takes ten times as long and inverts any Hessian.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.attributor import State
from methods.curvature.curvature import Curvature
from methods.curvature.matrix import Operator
from methods.errors import MethodError
from methods.ihvp.exact import Exact


class Cholesky(Exact):
    """`Exact` for a positive definite Hessian: the same numbers, in float64."""

    def invert(self, hessian: Curvature, state: State) -> Factored:  # type: ignore[override]
        matrix = state["hessian"].double().to(hessian.device, copy=True)
        matrix.diagonal().add_(hessian.shift)
        factor, flaw = torch.linalg.cholesky_ex(matrix)
        if int(flaw) or not bool(factor.diagonal().isfinite().all()):
            raise MethodError(
                f"the Hessian with {hessian.shift:g} on its diagonal is not positive definite: "
                "raise `damping`, or use Exact"
            )
        return Factored(factor, hessian.dtype)


class Factored(Operator):
    """The inverse of L L^T, by two triangular solves in float64."""

    def __init__(self, factor: Tensor, dtype: torch.dtype) -> None:
        self.factor, self.size = factor, len(factor)
        self.dtype, self.device = dtype, factor.device

    def apply(self, vectors: Tensor) -> Tensor:
        solved: Tensor = torch.cholesky_solve(vectors.double().T, self.factor)
        return solved.T.to(vectors.dtype)
