"""The once-per-model work on the digit networks, kept as runs, and the spectrum it shows."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import retrieval, runs
from experiments.digit_models import Blocks, Model, load_data, mean_hessian
from methods.attributor import Attributor, Prepared
from methods.exact_hessian import KnownHessian
from methods.ihvp.arnoldi import Arnoldi
from methods.ihvp.compressed import Compressed
from methods.ihvp.exact import Exact
from methods.ihvp.lissa import LiSSA
from methods.influence import Influence
from methods.task import Examples, Task


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
    return {"eigenvalues": values.numpy(), "negative_share": retrieval.negative_share(values)}


def _ritz(projected: Tensor, gram: Tensor) -> Tensor:
    """Eigenvalues of H restricted to the image of G: of G H G^T in an orthonormal basis of it.

    Those of G H G^T itself grow with p/dim, since the rows of G are not orthonormal.
    """
    root = torch.linalg.cholesky(gram)
    half = torch.linalg.solve_triangular(root, projected, upper=False)
    return torch.linalg.eigvalsh(torch.linalg.solve_triangular(root, half.T, upper=False))
