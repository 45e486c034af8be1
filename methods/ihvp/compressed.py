"""Compatible projections (Schioppa et al., Sec. 4): invert G H G^T instead of H.

This is exact where the image of G is H-invariant, as it is for eigenvectors. The image of a random
G is not, and Figure 1 of the paper shows the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from methods.attributor import State
from methods.curvature.curvature import Curvature
from methods.errors import MethodError, at_least
from methods.finite import finite
from methods.fitted.embedded import Bilinear
from methods.ihvp.inverse import NOT_FINITE, Inverse
from methods.progress import track
from methods.rows.projections import Gaussian, Projection


@dataclass(frozen=True)
class Compressed(Inverse):
    """G^T (G H G^T)^-1 G for any seeded projection G, with `sample` examples a Hessian product."""

    projection: Projection = Gaussian(100)
    sample: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, sample=self.sample)
        at_least(0, seed=self.seed)

    def state(self, hessian: Curvature) -> State:
        """G H G^T, (d, d), of the Hessian with its weight decay, undamped."""
        projection = self.projection.draw(hessian.task)
        directions = projection.directions()
        rows = [
            hessian.apply(some) @ directions.T
            for some in track(directions.split(8), "projected Hessian")
        ]
        if not finite(rows):
            raise MethodError(NOT_FINITE)
        matrix = torch.cat(rows) - hessian.damping * (directions @ directions.T)
        return {"projected": (matrix + matrix.T) / 2, "gram": directions @ directions.T}

    def invert(self, hessian: Curvature, state: State) -> Bilinear:
        matrix = state["projected"].double() + hessian.damping * state["gram"].double()
        values, vectors = torch.linalg.eigh(matrix)
        tiny = torch.finfo(hessian.dtype).eps * float(values.abs().max())
        if float(values.abs().min()) <= tiny:
            raise MethodError(f"G H G^T is singular: raise `damping` above {tiny:.1e}")
        inverse = (vectors / values) @ vectors.T
        projection = self.projection.draw(hessian.task)
        return Bilinear(projection, projection, inverse.to(hessian.device, hessian.dtype))
