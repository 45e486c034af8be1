"""LoGra: low-rank gradient projection (Choe et al., 2024, What is Your Data Worth to GPT?,
arXiv:2405.13954, Sec. 3.1, Eq. 5 and 6).

The gradient of a layer, sum_t g_t a_t^T, is projected on both sides before it is formed, which
costs what a narrow layer would. The Fisher matrix of the projected gradients is inverted layer by
layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from methods import memory
from methods.attributor import Attributor, State
from methods.curvature.kronecker import Fisher, covariances, laid_out
from methods.errors import MethodError, at_least
from methods.examples import Examples, chunks, count, parts
from methods.finite import finite
from methods.fitted.embedded import EMBEDDED
from methods.fitted.gradients import FittedGradients
from methods.fitted.scoring import Fitted
from methods.randomness import numpy_generator
from methods.rows.blocks import Block, blocks_of, kept_blocks, narrowed, projected
from methods.rows.factored import Rows
from methods.rows.gradients import CHUNK, Gradients, repeated
from methods.task import Task


@dataclass(frozen=True)
class LoGra(Attributor):
    """<F^-1 P grad query, P grad candidate>, P two-sided for each layer: positive for proponents.

    rows, columns     dimensions that a layer's matrix keeps of its outputs and inputs (of a Conv1D:
                      inputs and outputs), or all that it has if they are fewer
    initial           "pca": the directions of most variance of the outputs' gradients and of the
                      inputs; "random": Gaussian
    relative_damping  of each layer: this times the mean eigenvalue of its Fisher matrix is added to
                      the diagonal
    damping           one number for all layers instead, if it is given

    Layers are Linear, Conv2d and Conv1D, the bias in its layer's matrix. Other parameters count as
    frozen; the log names them. The Fisher matrix is the empirical one, the mean over the training
    examples; the weight decay is not used.
    """

    rows: int = 32
    columns: int = 32
    initial: Literal["pca", "random"] = "pca"
    relative_damping: float = 0.1
    damping: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, rows=self.rows, columns=self.columns)
        at_least(0, seed=self.seed)
        if self.initial not in ("pca", "random"):
            raise MethodError(f'initial is {self.initial!r}: give "pca" or "random"')
        given = self.relative_damping if self.damping is None else self.damping
        if not given > 0:
            name = "relative_damping" if self.damping is None else "damping"
            raise MethodError(f"{name} is {given}: give a positive number")

    @property
    def state_settings(self) -> Projections:
        return Projections(self.rows, self.columns, self.initial, self.seed)

    def state(self, task: Task, train: Examples) -> State:
        """For each layer its projections, as columns, and the Fisher matrix of what they leave."""
        sides = self._by_pca(task, train) if self.initial == "pca" else self._drawn(task, train)
        state: State = {}
        for block, pair in sides.items():
            state[f"left.{block.weight}"], state[f"right.{block.weight}"] = pair

        @repeated
        def fishers() -> State:
            fitted = Projecting(task, state)
            gradients = Gradients(fitted.task, task.loss)  # without a regulariser
            totals: dict[str, Tensor] = {}
            for some in chunks(train, gradients.projected_chunk(train)):
                for name, own in fitted.each(some, gradients).items():
                    product = own.T @ own
                    totals[name] = totals[name] + product if name in totals else product
            return {f"fisher.{name}": total / count(train) for name, total in totals.items()}

        return {**state, **fishers()}

    def fitted(self, task: Task, state: State, train: Examples | None) -> Fitted:
        fitted = Projecting(task, state)
        names = [block.weight for block in fitted.blocks]
        fitted.inverses = {name: self._inverted(state[f"fisher.{name}"], task) for name in names}
        return fitted

    def _inverted(self, fisher: Tensor, task: Task) -> Tensor:
        fisher = fisher.double().clone(memory_format=torch.contiguous_format)
        mean = fisher.diagonal().mean()
        damping = self.relative_damping * mean if self.damping is None else self.damping
        if not finite([fisher]):
            raise MethodError("a Fisher matrix is not finite: look for NaN in the data")
        if float(mean) == 0:  # no example moves the layer
            return torch.zeros_like(fisher).to(task.device, task.dtype)
        eye = torch.eye(len(fisher), dtype=fisher.dtype, device=fisher.device)
        return torch.linalg.inv(fisher + damping * eye).to(task.device, task.dtype)

    def _by_pca(self, task: Task, train: Examples) -> dict[Block, list[Tensor]]:
        sides = {}
        for block, pair in covariances(task, train, Fisher()).items():
            dims = (self.rows, self.columns)
            vectors = [torch.linalg.eigh(each).eigenvectors for each in pair]
            sides[block] = [v[:, -d:].contiguous() for v, d in zip(vectors, dims, strict=True)]
        return sides

    def _drawn(self, task: Task, train: Examples) -> dict[Block, list[Tensor]]:
        sides = {}
        for i, block in enumerate(blocks_of(task, train)):
            generator, own = numpy_generator(self.seed, "logra", i), []
            for size, dim in ((block.rows, self.rows), (block.columns, self.columns)):
                d = min(size, dim)
                drawn = torch.from_numpy(generator.standard_normal((size, d))) / d**0.5
                own.append(drawn.to(task.device, task.dtype))
            sides[block] = own
        return sides


@dataclass(frozen=True)
class Projections:
    """What a state depends on, the damping not among it."""

    rows: int
    columns: int
    initial: str
    seed: int


class Projecting(FittedGradients):
    """Projected gradients, layer after layer; those of queries times the inverse Fisher matrix."""

    def __init__(self, task: Task, state: State) -> None:
        kept = [key.removeprefix("left.") for key in state if key.startswith("left.")]
        sizes = {n: (len(state[f"left.{n}"]), len(state[f"right.{n}"])) for n in kept}
        self.blocks = kept_blocks(task, sizes)
        super().__init__(narrowed(task, (n for block in self.blocks for n in block.names)))
        self.sides = {
            name: tuple(laid_out(state[f"{side}.{name}"], task) for side in ("left", "right"))
            for name in kept
        }
        self.dim = sum(left.shape[1] * right.shape[1] for left, right in self.sides.values())
        self.inverses: dict[str, Tensor] = {}

    def chunk(self, examples: Examples) -> int:
        return self._embedded()

    def query_chunk(self, examples: Examples) -> int:
        return self._embedded()

    def cut(self, examples: Examples, size: int) -> Iterator[Examples]:
        return parts(examples, size)

    def _embedded(self) -> int:
        row = self.dim * self.task.dtype.itemsize
        return max(CHUNK, memory.temporary(self.task.device, EMBEDDED) // row)

    def each(self, examples: Examples, gradients: Gradients) -> dict[str, Tensor]:
        """The projected gradients of each layer, (n, rows x columns)."""
        rows = gradients.rows(examples)
        return {
            block.weight: projected(block.gradients(rows), *self.sides[block.weight]).flatten(1)
            for block in self.blocks
        }

    def query_rows(self, examples: Examples) -> Rows:
        return self._weighed(self._all(examples, self.measured))

    def train_rows(self, examples: Examples) -> Rows:
        return Rows.dense_of(torch.cat(list(self._all(examples, self.gradients).values()), dim=1))

    def own_rows(self, examples: Examples) -> tuple[Rows, Rows]:
        if self.measured is not self.gradients:
            return super().own_rows(examples)
        own = self._all(examples, self.gradients)
        return self._weighed(own), Rows.dense_of(torch.cat(list(own.values()), dim=1))

    def _weighed(self, own: dict[str, Tensor]) -> Rows:
        weighed = [rows @ self.inverses[name] for name, rows in own.items()]
        return Rows.dense_of(torch.cat(weighed, dim=1))

    def _all(self, examples: Examples, gradients: Gradients) -> dict[str, Tensor]:
        some = chunks(examples, gradients.projected_chunk(examples))
        found = [self.each(one, gradients) for one in some]
        return {name: torch.cat([own[name] for own in found]) for name in found[0]}
