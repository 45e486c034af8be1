"""The sketched inverse Hessian by two minibatches, compared with the exact one.

Reproduces Sec. A.1, Eq. 3 of TracIn's appendix (Pruthi et al., 2020) on the small network of
mnist_mislabel, whose Hessian fits in memory. Minibatches are the blocks of one random partition:
their Hessians are computed once, and thousands of steps cost only products of matrices. Each step
draws its two blocks independently.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.digits import models
from experiments.digits.models import SMALL, SMOKE, Blocks, block_hessians, trained
from experiments.laboratory.experiment import Experiment, sweep
from experiments.laboratory.work import Step, Work
from methods.curvature.operators import Hessian
from methods.examples import Examples
from methods.ihvp.sketch import Sketch
from methods.randomness import numpy_generator
from methods.rows.projections import Gaussian
from methods.task import Task

POINTS = 40  # steps at which the error is recorded, evenly on a log scale


@dataclass(frozen=True)
class Config:
    blocks: Blocks = Blocks(SMALL)
    sketch: Sketch = Sketch()
    damping: float = 0.1


class BlockHessian(Hessian):
    """A Hessian that draws one of the blocks at random for each product."""

    def __init__(
        self, task: Task, examples: Examples, blocks: Tensor, damping: float, seed: int
    ) -> None:
        super().__init__(task, examples, damping, sample=1, seed=seed)
        self.blocks = blocks

    def apply(self, vectors: Tensor, draw: int | None = None) -> Tensor:
        if draw is None:
            draw, self.products = self.products, self.products + 1
        chosen = numpy_generator(self.seed, "block", draw).integers(len(self.blocks))
        return vectors @ self.blocks[chosen] + self.shift * vectors


def run(config: Config, scratch: Path) -> dict[str, Any]:
    learned = trained(config.blocks.model)
    task, train = learned.task, learned.train.examples
    stored = block_hessians(config.blocks)
    blocks = torch.from_numpy(np.array(stored.array("hessians"))).to(task.device)
    hessian = BlockHessian(task, train, blocks, config.damping, config.sketch.seed)
    exact = blocks.double().mean(0)
    exact.diagonal().add_(hessian.shift)
    values = torch.linalg.eigvalsh(exact)
    target = config.sketch.projection.draw(task).directions()
    goal = torch.linalg.solve(exact, target.double().T).T
    steps = np.unique(np.geomspace(1, config.sketch.steps, POINTS).round().astype(int))
    wanted, errors = set(steps.tolist()), []

    def watch(step: int, estimate: Tensor) -> None:
        if step in wanted:
            errors.append(float((estimate.double() - goal).norm() / goal.norm()))

    config.sketch.state(hessian, watch)
    return {
        "steps": steps,
        "error": np.array(errors),
        "error_last": errors[-1],
        "damping": config.damping,
        "largest_eigenvalue": float(values.abs().max()),
        "smallest_eigenvalue": float(values.abs().min()),
        "negative_eigenvalues": int((values < 0).sum()),
        "fit_seconds": stored.metrics["seconds"],
    }


def work(config: Config) -> Work:
    """What a cell takes: the exact inverse, and steps of two products with stored matrices."""
    size, sketch = models.unit(config.blocks.model).size, config.sketch
    step = Step(2 * 2 * sketch.projection.dim * float(size) ** 2, 12, sketch.steps)
    inverse = Step(10 * float(size) ** 3)  # eigenvalues, and the solution of a linear system
    memory = 4.0 * size**2 * (config.blocks.count + 4)
    return Work("sketch", (step, inverse), (models.blocks_work(config.blocks),), memory=memory)


BASE = Config(Blocks(SMALL), Sketch(Gaussian(16), steps=2_000, lr=0.5, momentum=0.9))
DAMPING = (0.0, 1.0, 10.0, 100.0)
SMOKE_BASE = Config(
    Blocks(replace(SMOKE, data=replace(SMOKE.data, n_train=100)), 5),
    replace(BASE.sketch, steps=200),
)


def cells(base: Config, seeds: int, damping: tuple[float, ...]) -> list[Config]:
    """Every damping on every seed, which model, directions and minibatches share."""
    made = []
    for seed in range(seeds):
        blocks = replace(base.blocks, model=replace(base.blocks.model, seed=seed))
        sketch = replace(base.sketch, projection=replace(base.sketch.projection, seed=seed))
        at = replace(base, blocks=blocks, sketch=replace(sketch, seed=seed))
        made += sweep(at, damping=damping)
    return made


PRESETS: dict[str, list[Config]] = {
    "smoke": cells(SMOKE_BASE, 2, (1.0,)),
    "small": cells(replace(BASE, sketch=replace(BASE.sketch, steps=1_000)), 2, DAMPING),
    "paper": cells(BASE, 5, DAMPING),
}

EXPERIMENT = Experiment(
    "mnist_sketch",
    run,
    PRESETS,
    summary="H^-1 G^T by two-minibatch gradients: error against steps, the exact Hessian known",
    columns=("damping", "error_last", "smallest_eigenvalue", "largest_eigenvalue"),
    seconds={"smoke": 7},
    gpu=True,
    work=work,
)

if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
