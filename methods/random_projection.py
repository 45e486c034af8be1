"""Gradient similarity (H = I) on projected gradients: RandProj and RandSelect."""

from __future__ import annotations

from dataclasses import dataclass

from methods.attributor import Attributor, State
from methods.examples import Examples
from methods.fitted.embedded import Bilinear, Embedded
from methods.fitted.scoring import Fitted
from methods.rows.projections import Gaussian, Projection
from methods.task import Task


@dataclass(frozen=True)
class RandomProjection(Attributor):
    """<G grad query, G grad candidate> at the final parameters, E[G^T G] = I.

    `projection` is Gaussian (RandProj), Rademacher, SJLT, Select (RandSelect) or TwoSided.
    """

    projection: Projection = Gaussian(100)

    def fitted(self, task: Task, state: State, train: Examples | None) -> Fitted:
        drawn = self.projection.draw(task)
        return Embedded(task, Bilinear(drawn, drawn))
