"""A second-order end of training: full-batch, preconditioned L-BFGS to a stated gradient norm.

It replaces the hundreds of thousands of SGD steps that papers spend for the same purpose. Each
round computes the Hessian over some of the examples and works in coordinates in which its absolute
value is the identity; in the original coordinates L-BFGS is slow along flat valleys.
"""

import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from experiments.laboratory import disk, process
from experiments.laboratory.errors import UserError
from experiments.training.loop import flat_params, load_params
from experiments.training.plans import Loss
from methods.curvature.exact_hessian import exact_hessian
from methods.progress import track
from methods.randomness import Purpose, numpy_generator
from methods.task import Task

log = logging.getLogger(__name__)

CHUNK = 500


@dataclass(frozen=True)
class Finish:
    """Rounds of L-BFGS on mean loss + weight_decay/2 |params|^2, summed in float64.

    They end where |gradient|_2 <= `tolerance`, or after `rounds` rounds of `iterations` each. The
    preconditioner is the Hessian over `sample` examples. A killed job loses at most one round.
    """

    rounds: int = 5
    iterations: int = 40
    sample: int = 500
    tolerance: float = 1e-4


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

    Returns the minimum, (p,) float64, and its |gradient|_2.
    """
    count = len(next(iter(train.values())))
    state = scratch / "converge.npz"
    point = flat_params(module).astype(np.float64)
    first = 0
    if state.exists():
        with np.load(state) as saved:
            point, first = saved["point"], int(saved["round"])

    for number in track(range(first, plan.rounds), "converging"):
        value, gradient = _objective(module, loss, train, weight_decay, point)
        if not np.isfinite(value):
            raise UserError(f"the loss is {value} after minibatch training: lower fit.lr")
        if np.linalg.norm(gradient) <= plan.tolerance:
            break
        order = numpy_generator(seed, Purpose.PRECONDITION, number).permutation(count)
        some = {k: v[torch.from_numpy(order[: plan.sample])] for k, v in train.items()}
        scale = _preconditioner(module, loss, some, weight_decay, point)
        point = _descend(module, loss, train, weight_decay, point, scale, plan)
        content = io.BytesIO()
        np.savez(content, point=point, round=number + 1)
        disk.write_file(state, content.getvalue())
        process.stop_if_requested()
    _, gradient = _objective(module, loss, train, weight_decay, point)
    norm = float(np.linalg.norm(gradient))
    if norm > plan.tolerance:
        log.warning(
            "not at a minimum: |gradient| is %.2g after %d rounds of %d iterations, above the "
            "tolerance of %.2g",
            norm,
            plan.rounds,
            plan.iterations,
            plan.tolerance,
        )
    return point, norm


def gradient_norm(
    module: nn.Module, loss: Loss, train: dict[str, Tensor], weight_decay: float
) -> float:
    """|gradient|_2 of mean loss + weight_decay/2 |params|^2 at the module's parameters."""
    point = flat_params(module).astype(np.float64)
    return float(np.linalg.norm(_objective(module, loss, train, weight_decay, point)[1]))


def _preconditioner(
    module: nn.Module,
    loss: Loss,
    examples: dict[str, Tensor],
    weight_decay: float,
    point: np.ndarray,
) -> np.ndarray:
    """|H + weight_decay|^(-1/2), (p, p), of the Hessian over some examples; eigenvalues floored."""
    _put(module, point)
    task = Task.of(module, loss)
    hessian = exact_hessian(task, examples).double().numpy()
    values, vectors = np.linalg.eigh(hessian)
    floor = max(weight_decay, 1e-6 * float(np.abs(values).max()))
    return (vectors * np.maximum(np.abs(values + weight_decay), floor) ** -0.5) @ vectors.T


def _descend(
    module: nn.Module,
    loss: Loss,
    columns: dict[str, Tensor],
    weight_decay: float,
    start: np.ndarray,
    scale: np.ndarray,
    plan: Finish,
) -> np.ndarray:
    """One round of L-BFGS over y, where params = start + scale y."""

    def objective(y: np.ndarray) -> tuple[float, np.ndarray]:
        at = start + scale @ y
        value, gradient = _objective(module, loss, columns, weight_decay, at)
        return value, scale @ gradient

    options = {"maxiter": plan.iterations, "gtol": 0.0, "maxcor": 30, "ftol": 0.0}
    origin = np.zeros_like(start)
    minimum = minimize(objective, origin, jac=True, method="L-BFGS-B", options=options)
    return start + scale @ minimum.x


def _objective(
    module: nn.Module, loss: Loss, columns: dict[str, Tensor], weight_decay: float, at: np.ndarray
) -> tuple[float, np.ndarray]:
    _put(module, at)
    params = list(module.parameters())
    count = len(next(iter(columns.values())))
    value, gradient = 0.0, torch.zeros(len(at), dtype=torch.float64)
    for start in range(0, count, CHUNK):
        batch = {k: v[start : start + CHUNK] for k, v in columns.items()}
        total = loss(module, batch).double().sum() / count
        value += float(total.detach())
        grads = torch.autograd.grad(total, params)
        gradient += torch.cat([g.reshape(-1) for g in grads])
    value += 0.5 * weight_decay * float(at @ at)
    return value, gradient.numpy() + weight_decay * at


def _put(module: nn.Module, at: np.ndarray) -> None:
    load_params(module, at.astype(np.float32))
