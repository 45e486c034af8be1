"""How an experiment runs an attribution method: work once per model, its settings, a control.

Separate from `runs`, which analysis imports without any method.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.laboratory import runs
from experiments.laboratory.clock import wall
from methods.attributor import Attributor, State
from methods.examples import Examples, chunks
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.compressed import Compressed
from methods.ihvp.lissa import LiSSA
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.rows.projections import Gaussian, Select
from methods.task import Task


@dataclass(frozen=True)
class Loss:
    """The control that every attribution method must beat: the training loss itself."""


@torch.no_grad()
def losses(task: Task, examples: Examples, chunk: int = 500) -> Tensor:
    """The loss of every example, (n,), on the CPU; `chunk` examples in a forward pass."""
    some = [task.loss(task.all_params, task.move(part)).cpu() for part in chunks(examples, chunk)]
    return torch.cat(some)


def stored_state(
    name: str,
    config: Any,
    method: Attributor,
    load: Callable[[], tuple[Task, Examples]],
    now: Callable[[], float] | None = None,
) -> tuple[State, float]:
    """The once-per-model work of `method`, and its seconds: the run `name` of `config`.

    `load` gives the task and the training examples; it is called only if no run has the arrays.
    The clock is `now`, or the one on the wall.
    """

    def compute(_scratch: Path) -> dict[str, Any]:
        task, train = load()
        clock = now or partial(wall, task.device)
        started = clock()
        arrays = method.state(task, train)
        seconds = clock() - started
        return {"seconds": seconds, **{name: array.cpu().numpy() for name, array in arrays.items()}}

    run = runs.once(name, config, compute)
    arrays = {name: torch.from_numpy(np.array(array)) for name, array in run.arrays().items()}
    return arrays, float(run.metrics.get("seconds", np.nan))


def randproj(dim: int, seed: int) -> RandomProjection:
    """Gradients on random directions."""
    return RandomProjection(Gaussian(dim, seed))


def randselect(dim: int, seed: int) -> RandomProjection:
    """Gradients at randomly chosen parameters."""
    return RandomProjection(Select(dim, seed))


def arnoldi(num_eigen: int, basis: Krylov, positive_only: bool = False) -> Influence:
    """Influence on the dominant eigenvectors of the Hessian."""
    return Influence(Arnoldi(num_eigen, basis, positive_only))


def family(method: Any) -> str:
    """The method's name without its dimension, such as RandProj, Arnoldi or TracIn."""
    if isinstance(method, RandomProjection):
        kind = type(method.projection).__name__
        return {"Gaussian": "RandProj", "Select": "RandSelect"}.get(kind, kind)
    if isinstance(method, Influence):
        kind = type(method.inverse).__name__
        return {"Compressed": "GHG^T"}.get(kind, kind)
    return type(method).__name__


def dimension(method: Any) -> int:
    """How many numbers a gradient is projected to; 0 where it is not."""
    inverse = getattr(method, "inverse", None)
    if isinstance(inverse, Arnoldi):
        return inverse.num_eigen
    projection = _projection(method)
    return 0 if projection is None else int(projection.dim)


def settings(method: Any) -> dict[str, Any]:
    """`family`, `dim` and `draw` (the seed of a random projection; 0 without one), as metrics."""
    projection = _projection(method)
    draw = 0 if projection is None else projection.seed
    return {"family": family(method), "dim": dimension(method), "draw": draw}


def display(method: Any) -> str:
    """The method's name in tables and figures, such as `Arnoldi 10 positive`."""
    name, dim = family(method), dimension(method)
    inverse = getattr(method, "inverse", None)
    if isinstance(inverse, LiSSA):
        return f"{name} r={inverse.depth}"
    positive = " positive" if isinstance(inverse, Arnoldi) and inverse.positive_only else ""
    return f"{name} {dim}{positive}" if dim else name


def _projection(method: Any) -> Any:
    if isinstance(method, RandomProjection):
        return method.projection
    inverse = getattr(method, "inverse", None)
    return inverse.projection if isinstance(inverse, Compressed) else None


def quality(corrupted: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """AUC and AP of scores (n,) for what is corrupted (n,), and the AP of random scores."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    return {
        "auc": float(roc_auc_score(corrupted, scores)),
        "ap": float(average_precision_score(corrupted, scores)),
        "chance_ap": float(corrupted.mean()),
    }


def negative_share(values: Tensor) -> float:
    """The share of negative eigenvalues in the sum of |eigenvalue|."""
    return float(values.clamp_max(0).abs().sum() / values.abs().sum())
