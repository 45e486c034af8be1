"""Conjugate gradients on a block of vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.attributor import State
from methods.curvature.operators import Hessian, Operator
from methods.errors import MethodError, at_least
from methods.ihvp.inverse import NOT_FINITE, Inverse, norms
from methods.progress import track


@dataclass(frozen=True)
class CG(Inverse):
    """Solve to |residual| <= tolerance * |v|, with the Hessian over all training examples."""

    tolerance: float = 1e-6
    max_products: int = 1000

    reads_train = True

    def __post_init__(self) -> None:
        at_least(1, max_products=self.max_products)

    def invert(self, hessian: Hessian, state: State) -> Operator:
        return _Solve(self, hessian)


class _Solve(Operator):
    def __init__(self, settings: CG, hessian: Hessian) -> None:
        self.settings, self.hessian = settings, hessian
        self.size, self.dtype, self.device = hessian.size, hessian.dtype, hessian.device

    def apply(self, vectors: Tensor) -> Tensor:
        solution = torch.zeros_like(vectors)
        residual, direction = vectors.clone(), vectors.clone()
        energy = residual.square().sum(1)
        goal = self.settings.tolerance * norms(vectors)
        unsolved = residual.norm(dim=1) > goal
        for _ in track(range(self.settings.max_products), "conjugate gradients"):
            if not unsolved.any():
                return solution
            step_in = direction[unsolved]
            product = self.hessian.apply(step_in)
            curvature = (step_in * product).sum(1)
            if not torch.isfinite(curvature).all():
                raise MethodError(NOT_FINITE)
            if not (curvature > 0).all():
                worst = float((curvature / step_in.square().sum(1)).min())
                raise MethodError(
                    f"CG met curvature {worst:.2e} in an indefinite Hessian: raise `damping` by "
                    f"more than {max(0.0, -worst):.1e}, or use Arnoldi or Exact"
                )
            length = (energy[unsolved] / curvature)[:, None]
            solution[unsolved] += length * step_in
            residual[unsolved] -= length * product
            new = residual.square().sum(1)
            ratio = (new / energy.clamp_min(torch.finfo(self.dtype).tiny))[:, None]
            direction = residual + ratio * direction
            energy = new
            unsolved = residual.norm(dim=1) > goal
        if unsolved.any():
            reached = float((residual.norm(dim=1) / norms(vectors)).max())
            raise MethodError(
                f"CG reached a relative residual of {reached:.1e} in {self.settings.max_products} "
                f"products, wanted {self.settings.tolerance:.1e}: raise `damping`, `tolerance` or "
                "`max_products`"
            )
        return solution
