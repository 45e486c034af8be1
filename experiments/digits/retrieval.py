"""What experiments on the retrieval of wrong labels share: methods, their names, AUC and AP."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from experiments.digits.models import Blocks, Model, load_data, mean_hessian
from experiments.laboratory import runs
from methods.attributor import Attributor, Prepared
from methods.curvature.exact_hessian import KnownHessian
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.compressed import Compressed
from methods.ihvp.exact import Exact
from methods.ihvp.lissa import LiSSA
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.rows.projections import Gaussian, Select
from methods.task import Examples, Task, take


@dataclass(frozen=True)
class Loss:
    """The control every attribution method must beat: the training loss itself."""


@torch.no_grad()
def losses(task: Task, examples: Examples) -> Tensor:
    """The loss of every example, (n,), on the CPU."""
    size = len(examples["label"])
    pieces = [take(examples, slice(i, i + 500)) for i in range(0, size, 500)]
    return torch.cat([task.loss(task.all_params, task.move(some)).cpu() for some in pieces])


def quality(corrupted: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """AUC and AP of scores (n,) for what is corrupted (n,), and the AP of scores without sense."""
    return {
        "auc": float(roc_auc_score(corrupted, scores)),
        "ap": float(average_precision_score(corrupted, scores)),
        "chance_ap": float(corrupted.mean()),
    }


def negative_share(values: Tensor) -> float:
    """The share of negative eigenvalues in the sum of |eigenvalue|."""
    return float(values.clamp_max(0).abs().sum() / values.abs().sum())


def randproj(dim: int, seed: int) -> RandomProjection:
    return RandomProjection(Gaussian(dim, seed))


def randselect(dim: int, seed: int) -> RandomProjection:
    return RandomProjection(Select(dim, seed))


def arnoldi(num_eigen: int, basis: Krylov, positive_only: bool = False) -> Influence:
    return Influence(Arnoldi(num_eigen, basis, positive_only))


def display(method: Any) -> str:
    """The name in tables and figures of a method that is not TracIn."""
    if isinstance(method, RandomProjection):
        kind = {"Gaussian": "RandProj", "Select": "RandSelect"}
        name = type(method.projection).__name__
        return f"{kind.get(name, name)} {method.projection.dim}"
    if isinstance(method, Influence):
        inverse = method.inverse
        if isinstance(inverse, LiSSA):
            return f"LiSSA r={inverse.depth}"
        if isinstance(inverse, Arnoldi):
            positive = " positive" if inverse.positive_only else ""
            return f"Arnoldi {inverse.num_eigen}{positive}"
        if isinstance(inverse, Compressed):
            return f"GHG^T {inverse.projection.dim}"
        return type(inverse).__name__
    return type(method).__name__


def dimension(method: Any) -> int:
    """The numbers a gradient is projected to; 0 where it is not."""
    if isinstance(method, RandomProjection):
        return method.projection.dim
    inverse = getattr(method, "inverse", None)
    if isinstance(inverse, Arnoldi):
        return inverse.num_eigen
    return inverse.projection.dim if isinstance(inverse, Compressed) else 0


# The once-per-model work on the digit networks, kept as runs, and the spectrum it shows.


@dataclass(frozen=True)
class Part:
    """Which parameters influence is computed on: `units` of the widest layer, and the last."""

    units: int = 25


@dataclass(frozen=True)
class Preparation:
    """What the once-per-model work depends on: a run of its own, shared by the cells."""

    model: Model
    part: Part | None
    preparation: Any


def prepare(
    model: Model, part: Part | None, method: Attributor, task: Task, train: Examples
) -> tuple[Prepared, dict[str, Any]]:
    """What a method's `fit` is given, and `fit_seconds` with what it says of the spectrum."""
    if method.preparation is None:
        return {}, {"fit_seconds": 0.0}
    if isinstance(method, Influence) and isinstance(method.inverse, Compressed):
        return _compressed(model, method, method.inverse, task, train)
    if isinstance(method, Influence) and method.inverse == Exact():
        return _exact(model, method, task)

    def compute(_scratch: Path) -> dict[str, Any]:
        load_data(model.data, model.seed)  # noted as this run's data
        started = time.perf_counter()
        arrays = method.prepare(task, train)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, **{k: v.cpu().numpy() for k, v in arrays.items()}}

    wanted = Preparation(model, part, method.preparation)
    kept = runs.once("digit_preparation", wanted, compute)
    prepared = {name: torch.from_numpy(np.array(a)) for name, a in kept.arrays().items()}
    found: dict[str, Any] = {"fit_seconds": kept.metrics["seconds"]}
    if isinstance(method, Influence):
        found |= _spectrum(method, prepared, task)
    return prepared, found


def _exact(model: Model, method: Influence, task: Task) -> tuple[Prepared, dict[str, Any]]:
    """The exact Hessian, the mean over blocks whose Hessians are a run of several experiments."""
    matrix, seconds = mean_hessian(Blocks(model))
    prepared = {"hessian": matrix}
    found: dict[str, Any] = {"fit_seconds": seconds}
    return prepared, found | _spectrum(method, prepared, task)


def _compressed(
    model: Model, method: Influence, inverse: Compressed, task: Task, train: Examples
) -> tuple[Prepared, dict[str, Any]]:
    """G H G^T from the exact Hessian, which is a run: draws of G then cost a product each."""
    matrix, _ = mean_hessian(Blocks(model))
    started = time.perf_counter()
    known = KnownHessian(task, train, matrix, method.damping)
    prepared = inverse.prepare(known)
    found: dict[str, Any] = {"fit_seconds": time.perf_counter() - started}
    return prepared, found | _spectrum(method, prepared, task)


def _spectrum(method: Influence, prepared: Prepared, task: Task) -> dict[str, Any]:
    """What the inverse knows of the Hessian's eigenvalues, weight decay included."""
    shift = task.weight_decay
    inverse = method.inverse
    if isinstance(inverse, LiSSA):
        return {name: float(prepared[name]) for name in ("scale", "effective_damping")}
    if isinstance(inverse, Exact):
        values = torch.linalg.eigvalsh(prepared["hessian"].double()) + shift
    elif isinstance(inverse, Arnoldi):
        values = prepared["eigenvalues"].double()[: inverse.num_eigen]
    elif isinstance(inverse, Compressed):
        values = _ritz(prepared["projected"].double(), prepared["gram"].double())
    else:
        return {}
    values = values[values.abs().argsort(descending=True)]
    return {"eigenvalues": values.numpy(), "negative_share": negative_share(values)}


def _ritz(projected: Tensor, gram: Tensor) -> Tensor:
    """Eigenvalues of H restricted to the image of G: of G H G^T in an orthonormal basis of it.

    Those of G H G^T itself grow with p/dim, since the rows of G are not orthonormal.
    """
    root = torch.linalg.cholesky(gram)
    half = torch.linalg.solve_triangular(root, projected, upper=False)
    return torch.linalg.eigvalsh(torch.linalg.solve_triangular(root, half.T, upper=False))
