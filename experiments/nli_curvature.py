"""How curved a classifier's training loss is, and what follows for LiSSA; asked once a model.

The rule for the damping sees training pairs alone: twice the size of the lowest eigenvalue that
Lanczos finds. So H + damping is positive definite with a margin, which LiSSA needs to converge,
and no query and no evaluation slice has a say.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import runs
from experiments.nli_models import Model, Simulator, trained
from experiments.problems import UserError
from methods.fastif import FastIF
from methods.ihvp.arnoldi import krylov
from methods.ihvp.inverse import largest_eigenvalue
from methods.ihvp.lissa import MARGIN, LiSSA
from methods.operators import Hessian
from methods.randomness import numpy_generator
from methods.task import Examples, Task, count, take

CONVERGED = 3.0  # J scale/damping-lengths: what is left of the slowest direction is exp(-3), 5%


@dataclass(frozen=True)
class Curvature:
    """Lanczos over `n` random training pairs; largest eigenvalues of `draws` minibatches of B."""

    model: Model | Simulator
    n: int = 256
    steps: int = 16
    sample: int = 1
    draws: int = 16


@dataclass(frozen=True)
class Plan:
    """FastIF's settings with what is left out found from the model's curvature.

    depth    J; None: so many steps that what is left of the slowest direction is 5%
    damping  None: twice the size of the lowest eigenvalue
    scale    None: 1.1 times the largest eigenvalue of minibatches of B
    """

    k: int | None = 1_000
    depth: int | None = None
    sample: int = 1
    repeats: int = 1
    damping: float | None = None
    scale: float | None = None
    seed: int = 0

    def settle(self, model: Model | Simulator) -> FastIF:
        """The settings in numbers; a model's curvature is measured only if they need it."""
        given = self.damping is not None and self.scale is not None
        return self.settled({} if given else curvature(model, self.sample).metrics)

    def settled(self, found: Mapping[str, Any]) -> FastIF:
        """The same by a curvature that was measured: its `damping`, and `scale` at this B."""
        damping = found["damping"] if self.damping is None else self.damping
        scale = max(found["scale"], MARGIN * damping) if self.scale is None else self.scale
        depth = ceil(CONVERGED * scale / damping) if self.depth is None else self.depth
        lissa = LiSSA(depth, self.sample, scale, self.repeats, self.seed)
        return FastIF(self.k, lissa, damping)


def curvature(model: Model | Simulator, sample: int = 1) -> runs.Run:
    """The run with `largest`, `lowest`, `damping` and, for minibatches of `sample`, `scale`."""
    config = Curvature(model, sample=sample)

    def compute(_: Path) -> dict[str, Any]:
        there = trained(model)
        return measure(there.task, there.train, config)

    return runs.once("nli_curvature", config, compute)


def measure(task: Task, train: Examples, config: Curvature) -> dict[str, Any]:
    """`largest`, `lowest`, `damping`, `scale` and `ritz` (steps,) of any task's training loss."""
    chosen = numpy_generator(0, "curvature of a classifier").permutation(count(train))[: config.n]
    pairs = take(train, torch.from_numpy(np.sort(chosen)))
    bare = Hessian(replace(task, weight_decay=0.0), pairs)
    _, projected = krylov(bare, config.steps, seed=0)
    values = np.linalg.eigvalsh(((projected + projected.T) / 2).double().numpy())
    batches = Hessian(task, train, sample=config.sample)
    batches_largest = largest_eigenvalue(batches, iterations=8, draws=config.draws)
    lowest = float(values[0])
    if lowest >= 0:
        raise UserError(
            f"the lowest eigenvalue found is {lowest:.2g}: the training loss is convex here, so "
            "the rule for the damping does not apply; give damping"
        )
    return {
        "largest": float(values[-1]),
        "lowest": lowest,
        "damping": -2 * lowest,
        "scale": MARGIN * batches_largest,
        "ritz": values,
    }
