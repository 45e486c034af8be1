"""LiSSA (Agarwal et al., 2017): the inverse as a truncated Neumann series on minibatches."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.attributor import State
from methods.curvature.curvature import Curvature
from methods.curvature.matrix import Operator
from methods.errors import MethodError, at_least, within
from methods.ihvp.inverse import Inverse, largest_eigenvalue, norms

log = logging.getLogger(__name__)

MARGIN = 1.1  # automatic scale: this times the largest eigenvalue seen
DIVERGED = 10.0  # |h| may not pass this times depth * |v|, the bound of a contraction


@dataclass(frozen=True)
class LiSSA(Inverse):
    """h <- v + h - (H + damping) h / scale, `depth` times; h / scale, averaged over `repeats`.

    depth    J, number of products
    sample   B, examples a product; None is all of them
    scale    None: 1.1 times the largest |eigenvalue| that power iteration finds on minibatches of B
    repeats  T, independent estimates

    `damping` is the number added to the Hessian's diagonal; the released code of FastIF states it
    divided by `scale`. Truncation damps too: eigenvalues below scale/depth are not inverted.
    The minibatches depend on seed and step alone, so they are the same for every vector.
    """

    depth: int = 100
    sample: int | None = 1
    scale: float | None = None
    repeats: int = 1
    seed: int = 0

    reads_train = True

    def __post_init__(self) -> None:
        at_least(1, depth=self.depth, sample=self.sample, repeats=self.repeats)
        at_least(0, seed=self.seed)
        within("(0, inf)", scale=self.scale)

    def state(self, hessian: Curvature) -> State:
        """The scale, found by power iteration unless given, and the effective damping."""
        scale = self.scale
        if scale is None:
            draws = 1 if hessian.sample is None else 32
            scale = MARGIN * largest_eigenvalue(hessian, self.seed, draws=draws)
        log.info(
            "LiSSA: scale %.3g, effective damping %.3g, truncation at %.3g",
            scale,
            hessian.shift,
            scale / self.depth,
        )
        return {
            "scale": torch.tensor(scale, dtype=torch.float64),
            "effective_damping": torch.tensor(hessian.shift, dtype=torch.float64),
        }

    def invert(self, hessian: Curvature, state: State) -> Recursion:
        return Recursion(self, hessian, float(state["scale"]))


class Recursion(Operator):
    """The inverse by LiSSA's recursion, at a known scale."""

    def __init__(self, settings: LiSSA, hessian: Curvature, scale: float) -> None:
        self.settings, self.hessian, self.scale = settings, hessian, scale
        self.size, self.dtype, self.device = hessian.size, hessian.dtype, hessian.device

    def apply(self, vectors: Tensor) -> Tensor:
        repeats = self.settings.repeats
        total = torch.zeros_like(vectors)
        for repeat in range(repeats):
            total += self.estimate(vectors, repeat)
        return total.mul_(1 / repeats)

    def estimate(self, vectors: Tensor, repeat: int) -> Tensor:
        """The estimate of one repeat, (k, p), which does not depend on the order of repeats."""
        for _, h in self.along(vectors, repeat, (self.settings.depth,)):
            return h
        raise MethodError("LiSSA needs depth >= 1")

    def along(
        self, vectors: Tensor, repeat: int, depths: Iterable[int]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield each of several depths, ascending, and what one repeat would return there."""
        bound = DIVERGED * self.settings.depth * norms(vectors)
        h, other, begin = vectors.clone(), torch.empty_like(vectors), 0
        for end in sorted(set(depths)):
            with self.hessian.held():
                for step in range(begin, end):
                    self._step(h, vectors, repeat, step, other)
                    h, other = other, h
                    if step % 10 == 9 or step + 1 == end:
                        self._bounded(h, vectors, bound, step)
            begin = end
            yield end, h / self.scale

    def _step(self, h: Tensor, vectors: Tensor, repeat: int, step: int, out: Tensor) -> None:
        """Write v + h - (H + shift) h / scale to `out`, with one pass over memory beside H's."""
        torch.add(vectors, h, alpha=1 - self.hessian.shift / self.scale, out=out)
        draw = repeat * self.settings.depth + step
        self.hessian.add_products(out, h, -1 / self.scale, draw=draw)

    def _bounded(self, h: Tensor, vectors: Tensor, bound: Tensor, step: int) -> None:
        """Refuse an h of a recursion that diverges."""
        size = h.norm(dim=1)
        if not (size <= bound).all():
            raise MethodError(
                f"LiSSA diverged at step {step + 1} of {self.settings.depth}: |h| is "
                f"{float((size / norms(vectors)).max()):.1e} |v|; raise `scale` above "
                f"{self.scale:.3g}, say to {4 * self.scale:.3g}, or `sample`, or `damping`"
            )
