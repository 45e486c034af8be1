"""What experiments on the retrieval of wrong labels share: methods, their names, AUC and AP."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.compressed import Compressed
from methods.ihvp.lissa import LiSSA
from methods.influence import Influence
from methods.projections import Gaussian, Select
from methods.random_projection import RandomProjection
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
