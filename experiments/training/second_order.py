"""A second-order end of training: full-batch, preconditioned L-BFGS to a stated gradient norm.

It replaces the hundreds of thousands of SGD steps that papers spend for the same purpose. Each
round computes the Hessian over some of the examples and works in coordinates in which its absolute
value is the identity; in the original coordinates L-BFGS is slow along flat valleys.
"""

import copy
import io
import itertools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from experiments.laboratory import disk, process
from experiments.laboratory.errors import UserError
from experiments.training.loop import flat_params, load_params
from experiments.training.plans import Loss
from methods.curvature.exact_hessian import exact_hessian
from methods.precision import full_precision
from methods.progress import track
from methods.randomness import Purpose, numpy_generator
from methods.task import Task

log = logging.getLogger(__name__)

CHUNK = 500


@dataclass(frozen=True)
class Finish:
    """Rounds of L-BFGS on mean loss + weight_decay/2 |params|^2, in double precision.

    They end where |gradient|_2 <= `tolerance`, or after `rounds` rounds of `iterations` each. The
    preconditioner is the Hessian over `sample` examples. A killed job loses at most one round.
    """

    rounds: int = 10
    iterations: int = 40
    sample: int = 500
    tolerance: float = 1e-4
    precision: Literal["float64"] = "float64"
    """In float32 the search ends at a gradient of about 1e-2: steps that are right look wrong."""


@dataclass(frozen=True)
class _Objective:
    """Mean loss + weight_decay/2 |params|^2 of a network's training set, in double precision."""

    module: nn.Module
    loss: Loss
    train: dict[str, Tensor]
    weight_decay: float

    @classmethod
    def of(
        cls, module: nn.Module, loss: Loss, train: dict[str, Tensor], weight_decay: float
    ) -> "_Objective":
        """The same of a copy of the network in double precision, the training set beside it."""
        place, double = next(module.parameters()).device, copy.deepcopy(module).double()
        columns = {name: _double(column.to(place)) for name, column in train.items()}
        return cls(double, loss, columns, weight_decay)

    def __call__(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """The value and the gradient, (p,), at parameters (p,), which the module then has."""
        load_params(self.module, point)
        params, count = list(self.module.parameters()), len(next(iter(self.train.values())))
        value = torch.zeros((), dtype=torch.float64, device=params[0].device)
        gradient = value.repeat(len(point))
        for start in range(0, count, CHUNK):
            batch = {k: v[start : start + CHUNK] for k, v in self.train.items()}
            total = self.loss(self.module, batch).sum() / count
            value += total.detach()
            grads = torch.autograd.grad(total, params)
            gradient += torch.cat([g.reshape(-1) for g in grads])
        penalty = 0.5 * self.weight_decay * float(point @ point)
        return float(value) + penalty, gradient.cpu().numpy() + self.weight_decay * point

    def preconditioner(self, point: np.ndarray, rows: Tensor) -> np.ndarray:
        """|H + weight_decay|^(-1/2), (p, p), of the Hessian over some rows; eigenvalues floored."""
        module = load_params(copy.deepcopy(self.module).float(), point)
        some = {name: _single(column[rows]) for name, column in self.train.items()}
        hessian = exact_hessian(Task.of(module, self.loss), some).double().cpu().numpy()
        values, vectors = np.linalg.eigh(hessian)
        floor = max(self.weight_decay, 1e-6 * float(np.abs(values).max()))
        sizes = np.maximum(np.abs(values + self.weight_decay), floor)
        return (vectors * sizes**-0.5) @ vectors.T

    def descend(self, start: np.ndarray, scale: np.ndarray, iterations: int) -> np.ndarray:
        """One round of L-BFGS over y, where params = start + scale y."""

        def scaled(y: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = self(start + scale @ y)
            return value, scale @ gradient

        options = {"maxiter": iterations, "gtol": 0.0, "maxcor": 30, "ftol": 0.0}
        origin = np.zeros_like(start)
        minimum = minimize(scaled, origin, jac=True, method="L-BFGS-B", options=options)
        return start + scale @ minimum.x


def _double(column: Tensor) -> Tensor:
    return column.double() if column.is_floating_point() else column


def _single(column: Tensor) -> Tensor:
    return column.float() if column.is_floating_point() else column


@full_precision()
def converge(
    module: nn.Module,
    loss: Loss,
    train: dict[str, Tensor],
    weight_decay: float,
    plan: Finish,
    seed: int,
    scratch: Path,
) -> tuple[np.ndarray, float]:
    """Minimise, starting at the module's parameters, and leave the module at the minimum.

    Returns the minimum, (p,) float64, and its |gradient|_2. The module has it rounded to its own
    precision.
    """
    objective = _Objective.of(module, loss, train, weight_decay)
    count = len(next(iter(train.values())))
    state, point, first = scratch / "converge.npz", flat_params(module).astype(np.float64), 0
    for _, saved_bytes in itertools.islice(disk.intact(state), 1):
        with np.load(io.BytesIO(saved_bytes)) as saved:
            point, first = saved["point"], int(saved["round"])
    for number in track(range(first, plan.rounds), "converging"):
        value, gradient = objective(point)
        if not np.isfinite(value):
            raise UserError(f"the loss is {value} after minibatch training: lower fit.lr")
        if np.linalg.norm(gradient) <= plan.tolerance:
            break
        order = numpy_generator(seed, Purpose.PRECONDITION, number).permutation(count)
        scale = objective.preconditioner(point, torch.from_numpy(order[: plan.sample]))
        point = objective.descend(point, scale, plan.iterations)
        content = io.BytesIO()
        np.savez(content, point=point, round=number + 1)
        disk.write_sealed(state, content.getvalue(), keep=True)
        process.stop_if_requested()
    norm = float(np.linalg.norm(objective(point)[1]))
    if norm > plan.tolerance:
        log.warning(
            f"not at a minimum: |gradient| is {norm:.2g} after {plan.rounds} rounds of "
            f"{plan.iterations} iterations, above the tolerance of {plan.tolerance:.2g}"
        )
    load_params(module, point)
    return point, norm


@full_precision()
def gradient_norm(
    module: nn.Module, loss: Loss, train: dict[str, Tensor], weight_decay: float
) -> float:
    """|gradient|_2 of mean loss + weight_decay/2 |params|^2 at the module's parameters.

    It is computed in double precision.
    """
    objective = _Objective.of(module, loss, train, weight_decay)
    return float(np.linalg.norm(objective(flat_params(module).astype(np.float64))[1]))
