"""A few products for each vector: where conjugate gradients would be after as many iterations.

The solution is the one in the span of v, H v, ..., H^(m-1) v whose residual is orthogonal to it,
by Lanczos' iteration with full re-orthogonalisation. Conjugate gradients from zero are there after
m iterations; this does not break down where the Hessian is indefinite, and one span serves every
damping. It is an approximation, and is not judged: `CG` goes on to a tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.attributor import State
from methods.curvature.curvature import Curvature
from methods.curvature.matrix import Operator
from methods.errors import MethodError, at_least
from methods.ihvp.inverse import NOT_FINITE, Inverse, norms


@dataclass(frozen=True)
class Truncated(Inverse):
    """The solution in each vector's own span of `products` Hessian products, over all examples."""

    products: int = 10

    reads_train = True

    def __post_init__(self) -> None:
        at_least(1, products=self.products)

    def invert(self, hessian: Curvature, state: State) -> Galerkin:
        return Galerkin(hessian, self.products)


class Galerkin(Operator):
    """The inverse on the span of each vector's powers, and what it is at other dampings."""

    def __init__(self, hessian: Curvature, products: int) -> None:
        self.hessian, self.products = hessian, products
        self.size, self.dtype, self.device = hessian.size, hessian.dtype, hessian.device

    def apply(self, vectors: Tensor) -> Tensor:
        return self.shifted(vectors, (0.0,))[0]

    def shifted(self, vectors: Tensor, shifts: Sequence[float]) -> list[Tensor]:
        """Solutions (k, p) with each of several numbers added to the Hessian's diagonal."""
        basis, diagonal, beside = self._lanczos(vectors)
        projected = torch.diag_embed(diagonal)
        for offset in (1, -1):
            projected = projected + torch.diag_embed(beside, offset=offset)
        first = torch.zeros_like(diagonal)
        first[:, 0] = norms(vectors)
        known = basis.abs().amax(2).T > 0
        found = []
        for shift in shifts:
            moved = projected + shift * torch.eye(diagonal.shape[1], device=self.device)
            # Beyond the end of a span that is shorter, the matrix is the identity.
            moved = torch.where(torch.diag_embed(~known), torch.ones_like(moved), moved)
            weights, flaws = torch.linalg.solve_ex(moved, first)
            if bool(flaws.any()) or not bool(weights.isfinite().all()):
                raise MethodError(
                    f"the Hessian is singular on a span of {self.products} products: raise "
                    "`damping`"
                )
            found.append(torch.einsum("mkp,km->kp", basis, weights.to(self.dtype)))
        return found

    def _lanczos(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Orthonormal bases (m, k, p), and the matrices between them: diagonals (k, m) and what is
        beside them (k, m - 1), in float64; 0 from where a span has ended."""
        m = min(self.products, self.size)
        basis = torch.zeros(m, *vectors.shape, dtype=self.dtype, device=self.device)
        diagonal = torch.zeros(len(vectors), m, dtype=torch.float64, device=self.device)
        beside = torch.zeros(len(vectors), m - 1, dtype=torch.float64, device=self.device)
        basis[0] = vectors / norms(vectors)[:, None]
        for i in range(m):
            moved = self.hessian.apply(basis[i])
            before = norms(moved)
            if not bool(before.isfinite().all()):
                raise MethodError(NOT_FINITE)
            diagonal[:, i] = (moved * basis[i]).sum(1)
            if i + 1 == m:
                break
            for _ in range(2):
                along = torch.einsum("mkp,kp->mk", basis[: i + 1], moved)
                moved = moved - torch.einsum("mkp,mk->kp", basis[: i + 1], along)
            left = moved.norm(dim=1)
            goes_on = left > 100 * torch.finfo(self.dtype).eps * before
            beside[:, i] = torch.where(goes_on, left, 0.0)
            basis[i + 1] = torch.where(goes_on[:, None], moved / norms(moved)[:, None], 0.0)
        return basis, diagonal, beside
