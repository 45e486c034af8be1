"""Gradient similarity (H = I) on projected gradients: RandProj and RandSelect."""

from __future__ import annotations

from dataclasses import dataclass

from methods.attributor import Attributor, Bilinear, Embedded, Fitted, State
from methods.rows.projections import Gaussian, Projection
from methods.task import Examples, Task


@dataclass(frozen=True)
class RandomProjection(Attributor):
    """<G grad query, G grad candidate> at the final parameters, E[G^T G] = I.

    `projection` is Gaussian (RandProj), Rademacher, Select (RandSelect) or TwoSided.
    """

    projection: Projection = Gaussian(100)

    def fitted(self, task: Task, state: State, train: Examples | None) -> Fitted:
        drawn = self.projection.draw(task)
        return Embedded(task, Bilinear(drawn, drawn))
