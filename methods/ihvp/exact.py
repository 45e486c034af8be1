"""The inverse of the whole Hessian: for networks of a few thousand parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from methods.attributor import Prepared
from methods.exact_hessian import exact_hessian
from methods.ihvp.inverse import Inverse
from methods.operators import Hessian, Matrix
from methods.task import MethodError


@dataclass(frozen=True)
class Exact(Inverse):
    """Eigen-decompose the Hessian in float64 and invert every eigenvalue, negative ones too.

    sample  examples the Hessian is the mean over, drawn once; None is all of them
    """

    sample: int | None = None
    seed: int = 0

    def prepare(self, hessian: Hessian) -> Prepared:
        """Return the undamped Hessian of the mean loss (p, p)."""
        return {"hessian": exact_hessian(hessian.task, hessian.batch(0))}

    def invert(self, hessian: Hessian, prepared: Prepared) -> Matrix:
        matrix = prepared["hessian"].double().to(hessian.device)
        values, vectors = torch.linalg.eigh(matrix)
        values = values + hessian.shift
        tiny = torch.finfo(hessian.dtype).eps * float(values.abs().max())
        if float(values.abs().min()) <= tiny:
            raise MethodError(
                f"the Hessian is singular: an eigenvalue of {float(values.abs().min()):.1e} beside "
                f"{float(values.abs().max()):.1e}; raise `damping` above {tiny:.1e}"
            )
        inverse = (vectors / values) @ vectors.T
        return Matrix(inverse.to(hessian.dtype))
