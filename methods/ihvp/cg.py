"""Conjugate gradients on a block of vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.attributor import State
from methods.curvature.curvature import Curvature
from methods.curvature.matrix import Operator
from methods.curvature.operators import Hessian
from methods.errors import MethodError, at_least, within
from methods.ihvp.inverse import NOT_FINITE, Inverse, Smallest, norms, smallest_eigenvalue
from methods.progress import track


@dataclass(frozen=True)
class CG(Inverse):
    """Solve to |residual| <= tolerance * |v|, with the Hessian over all training examples."""

    tolerance: float = 1e-6
    max_products: int = 1000

    reads_train = True

    def __post_init__(self) -> None:
        within("(0, 1)", tolerance=self.tolerance)
        at_least(1, max_products=self.max_products)

    def invert(self, hessian: Curvature, state: State) -> Operator:
        return _Solve(self, hessian)


class _Solve(Operator):
    def __init__(self, settings: CG, hessian: Curvature) -> None:
        self.settings, self.hessian = settings, hessian
        self.size, self.dtype, self.device = hessian.size, hessian.dtype, hessian.device

    def apply(self, vectors: Tensor) -> Tensor:
        solution = torch.zeros_like(vectors)
        residual, direction = vectors.clone(), vectors.clone()
        energy = residual.square().sum(1)
        goal = self.settings.tolerance * norms(vectors)
        unsolved = (residual.norm(dim=1) > goal).nonzero()[:, 0]
        for _ in track(range(self.settings.max_products), "conjugate gradients"):
            if not len(unsolved):
                return solution
            step_in = direction[unsolved]
            product = self.hessian.apply(step_in)
            curvature = (step_in * product).sum(1)
            length = (energy[unsolved] / curvature)[:, None]
            solution[unsolved] += length * step_in
            residual[unsolved] -= length * product
            new = residual.square().sum(1)
            ratio = (new / energy.clamp_min(torch.finfo(self.dtype).tiny))[:, None]
            direction = residual + ratio * direction
            energy = new
            # The one look at the device a product.
            bad = torch.stack([curvature.isfinite().logical_not().any(), (curvature <= 0).any()])
            *remain, broken, indefinite = torch.cat([residual.norm(dim=1) > goal, bad]).tolist()
            if broken:
                raise MethodError(NOT_FINITE)
            if indefinite:
                worst = float((curvature / step_in.square().sum(1)).min())
                raise MethodError(_indefinite(self.hessian, worst))
            unsolved = torch.tensor(remain).nonzero()[:, 0].to(self.device)
        if len(unsolved):
            reached = float((residual.norm(dim=1) / norms(vectors)).max())
            raise MethodError(
                f"CG reached a relative residual of {reached:.1e} in {self.settings.max_products} "
                f"products, wanted {self.settings.tolerance:.1e}: raise `damping`, `tolerance` or "
                "`max_products`"
            )
        return solution


def _indefinite(hessian: Curvature, met: float) -> str:
    """What to do about negative curvature: a damping that holds, from some more products."""
    name = "Hessian" if type(hessian) is Hessian else type(hessian).__name__
    found = smallest_eigenvalue(hessian)
    if found.value > met:
        found = Smallest(met, found.error)
    cures = [f"give damping={hessian.damping + found.damping:.3g}"]
    if isinstance(hessian, Hessian):
        cures.append("curvature=GaussNewton, which has no negative eigenvalues for a convex loss")
    return (
        f"CG met negative curvature in an indefinite {name}, whose smallest eigenvalue is about "
        f"{found.value - hessian.shift:.2g} without the {hessian.shift:.2g} on its diagonal: "
        f"{', or '.join(cures)}, or use Arnoldi or Exact"
    )
