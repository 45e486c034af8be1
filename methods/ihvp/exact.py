"""The inverse of the whole Hessian: for networks of a few thousand parameters."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from methods.attributor import State
from methods.curvature.curvature import Curvature
from methods.curvature.exact_hessian import exact_hessian
from methods.curvature.matrix import Matrix
from methods.curvature.operators import Hessian
from methods.errors import MethodError, at_least
from methods.ihvp.inverse import Inverse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exact(Inverse):
    """Eigen-decompose the Hessian in float64 and invert every eigenvalue, negative ones too.

    sample  examples the Hessian is the mean over, drawn once; None is all of them
    """

    sample: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, sample=self.sample)
        at_least(0, seed=self.seed)

    def state(self, hessian: Curvature) -> State:
        """The undamped Hessian of the mean loss (p, p), or another curvature of it."""
        if type(hessian) is Hessian:
            return {"hessian": exact_hessian(hessian.task, hessian.batch(0))}
        eye = torch.eye(hessian.size, dtype=hessian.dtype, device=hessian.device)
        matrix = torch.cat([hessian.apply(rows, 0) for rows in eye.split(256)])
        matrix.diagonal().sub_(hessian.shift)
        return {"hessian": (matrix + matrix.T) / 2}

    def invert(self, hessian: Curvature, state: State) -> Matrix:
        matrix = state["hessian"].double().to(hessian.device)
        if not torch.isfinite(matrix).all():
            raise MethodError("the Hessian is not finite: look for NaN in the parameters or data")
        values, vectors = torch.linalg.eigh(matrix)
        values = values + hessian.shift
        least, most = float(values.abs().min()), float(values.abs().max())
        noise = torch.finfo(hessian.dtype).eps * most  # the resolution of the products' dtype
        if least <= torch.finfo(values.dtype).eps * most:
            raise MethodError(
                f"the Hessian is singular: it has eigenvalues of {least:.1e} and {most:.1e}; "
                f"raise `damping` above {noise:.1e}"
            )
        if least <= noise:
            log.warning(
                "the exact inverse divides by an eigenvalue of %.1e, which is rounding noise "
                "next to %.1e: `damping` above %.1e would bound it",
                least,
                most,
                noise,
            )
        inverse = (vectors / values) @ vectors.T
        return Matrix(inverse.to(hessian.dtype))
