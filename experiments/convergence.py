"""The second-order end of training: full-batch L-BFGS until the gradient is as small as asked.

It stands in for the hundreds of thousands of SGD steps that papers spend for the same purpose.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from experiments import scratch as disk
from experiments.problems import UserError
from experiments.training import Loss
from methods.progress import track

CHUNK = 500


@dataclass(frozen=True)
class Finish:
    """Rounds of L-BFGS on mean loss + weight_decay/2 |params|^2, in float64.

    `tolerance` bounds the largest entry of the gradient; it ends there or after `rounds` rounds
    of `iterations` each. A killed job loses at most a round.
    """

    rounds: int = 20
    iterations: int = 50
    tolerance: float = 1e-5


def converge(
    module: nn.Module,
    loss: Loss,
    train: dict[str, Tensor],
    weight_decay: float,
    plan: Finish,
    scratch: Path,
) -> tuple[np.ndarray, float]:
    """Minimise from the module's parameters on; return them, (p,) float64, and |gradient|_2.

    The module is left in float32 at the minimum.
    """
    module.double()
    columns = {k: v.double() if v.is_floating_point() else v for k, v in train.items()}
    state = scratch / "converge.npz"
    point = parameters_to_vector(module.parameters()).detach().numpy().copy()
    first = 0
    if state.exists():
        with np.load(state) as saved:
            point, first = saved["point"], int(saved["round"])

    def value_and_gradient(at: np.ndarray) -> tuple[float, np.ndarray]:
        return _objective(module, loss, columns, weight_decay, at)

    for number in track(range(first, plan.rounds), "L-BFGS to convergence"):
        value, gradient = value_and_gradient(point)
        if not np.isfinite(value):
            raise UserError(f"the loss is {value} where SGD ended: lower fit.lr")
        if np.abs(gradient).max() <= plan.tolerance:
            break
        options = {"maxiter": plan.iterations, "gtol": plan.tolerance, "maxcor": 50, "ftol": 0.0}
        found = minimize(value_and_gradient, point, jac=True, method="L-BFGS-B", options=options)
        point = found.x
        content = io.BytesIO()
        np.savez(content, point=point, round=number + 1)
        disk.write(state, content.getvalue())
    _, gradient = value_and_gradient(point)
    vector_to_parameters(torch.from_numpy(point), module.parameters())
    module.float()
    return point, float(np.linalg.norm(gradient))


def _objective(
    module: nn.Module, loss: Loss, columns: dict[str, Tensor], weight_decay: float, at: np.ndarray
) -> tuple[float, np.ndarray]:
    vector_to_parameters(torch.from_numpy(at), module.parameters())
    params = list(module.parameters())
    count = len(next(iter(columns.values())))
    value, gradient = 0.0, torch.zeros(len(at), dtype=torch.float64)
    for start in range(0, count, CHUNK):
        batch = {k: v[start : start + CHUNK] for k, v in columns.items()}
        total = loss(module, batch).sum() / count
        value += float(total.detach())
        gradient += parameters_to_vector(torch.autograd.grad(total, params))
    value += 0.5 * weight_decay * float(at @ at)
    return value, gradient.numpy() + weight_decay * at
