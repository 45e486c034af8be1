"""The sketched inverse Hessian H^-1 G^T by two-minibatch gradients (TracIn, Sec. A.1, Eq. 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.attributor import State
from methods.curvature.curvature import Curvature
from methods.errors import MethodError, at_least, within
from methods.fitted.embedded import Bilinear
from methods.ihvp.inverse import Inverse, largest_eigenvalue
from methods.progress import track
from methods.rows.maps import Directions
from methods.rows.projections import Gaussian, Projection


@dataclass(frozen=True)
class Sketch(Inverse):
    """S minimising |H S - G^T|_F^2 with gradient 2 H_1 (H_2 S - G^T) on two minibatches.

    steps     number of gradient steps
    lr        step size in units of 1 / (2 L^2), L the largest eigenvalue on any minibatch tried;
              above 1 the iteration may diverge
    momentum  heavy-ball coefficient; 0 is the plain procedure of the paper
    average   share of the last steps whose iterates are averaged (Polyak); 0 keeps the last
    """

    projection: Projection = Gaussian(16)
    steps: int = 1000
    sample: int | None = 256
    lr: float = 0.5
    momentum: float = 0.9
    average: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps, sample=self.sample)
        within("(0, inf)", lr=self.lr)
        within("[0, 1)", momentum=self.momentum)
        within("[0, 1]", average=self.average)
        at_least(0, seed=self.seed)

    def state(
        self, hessian: Curvature, watch: Callable[[int, Tensor], None] | None = None
    ) -> State:
        """S^T and G, (d, p) both; `watch(step, S^T)` is called after every step."""
        target = self.projection.draw(hessian.task).directions()
        draws = 1 if hessian.sample is None else 8
        largest = largest_eigenvalue(hessian, self.seed, draws=draws)
        step_size = self.lr / largest**2
        sketch, velocity = torch.zeros_like(target), torch.zeros_like(target)
        mean, counted = torch.zeros_like(target), 0
        for step in track(range(self.steps), "sketching the inverse"):
            residual = hessian.apply(sketch, draw=1000 + 2 * step).sub_(target)
            gradient = hessian.apply(residual, draw=1001 + 2 * step)
            velocity.mul_(self.momentum).sub_(gradient, alpha=step_size)
            sketch.add_(velocity)
            if step >= self.steps * (1 - self.average):
                counted += 1
                mean.add_((sketch - mean) / counted)
            if watch is not None:
                watch(step + 1, mean if counted else sketch)
            if step % 10 == 9 and not float(sketch.norm()) < 1e6 * float(target.norm()) / largest:
                raise MethodError(
                    f"the sketch diverged at step {step + 1}: lower `lr` below {self.lr:g} "
                    f"(try {self.lr / 4:g}) or raise `sample` or `damping`"
                )
        return {"sketch": mean if counted else sketch, "directions": target}

    def invert(self, hessian: Curvature, state: State) -> Bilinear:
        left, right = (
            Directions(state[name].to(hessian.device, hessian.dtype), hessian.task)
            for name in ("sketch", "directions")
        )
        return Bilinear(left, right)
