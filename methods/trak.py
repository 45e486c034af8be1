"""TRAK: tracing with the randomly projected after-kernel (Park et al., 2023, arXiv:2303.14186).

The model is taken for linear in its parameters, with the gradients of its output function, the
margin log(p / (1 - p)) of the right answer, as features; these are projected at random, and the
logistic regression on them is attributed by one Newton step (Eq. 12 to 17). Of several models the
paper averages the weights (1 - p) apart from the products of features (Algorithm 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from methods.attributor import Attributor, State
from methods.errors import MethodError
from methods.examples import Examples, chunks, parts
from methods.fitted.embedded import Bilinear, Embedded
from methods.fitted.scoring import Fitted
from methods.losses.failures import explained
from methods.randomness import stream
from methods.rows.factored import Rows
from methods.rows.gradients import repeated
from methods.rows.projections import Projection, Rademacher
from methods.rows.weighted import reciprocal
from methods.task import Task


@dataclass(frozen=True)
class TRAK(Attributor):
    """<G grad query, K^-1 phi> (1 - p), K = sum of phi phi^T: positive for proponents.

    projection   G, drawn anew for each model
    damping      added to the diagonal of K (the paper: 0); K is singular with as many dimensions as
                 training examples, or more
    margin       the loss is -log p of the right answer, and phi = G grad log(p / (1 - p)), which is
                 -G grad loss / (1 - p). If false, phi is the loss's own gradient, without weights
    checkpoints  which of the task's are the models of the ensemble, by position; None is all of
                 them, and the task's own parameters where it has none

    Queries have the gradient of the task's measurement. The paper's scores are those of minus the
    margin; of the loss they are these times (1 - p) of the query.
    """

    projection: Projection = Rademacher(2048)
    damping: float = 0.0
    margin: bool = True
    checkpoints: tuple[int, ...] | None = None

    @property
    def state_settings(self) -> TRAK:
        return replace(self, damping=0.0)

    def state(self, task: Task, train: Examples) -> State:
        """K of each model, undamped, (n_models, dim, dim)."""

        @repeated
        def kernel(model: Model) -> Tensor:
            total: Tensor | None = None
            for some in model.cut(train):
                phi = model.features(some)[0]
                product = phi.T @ phi
                total = product if total is None else total.add_(product)
            if total is None:
                raise MethodError("train has no examples: give one at least")
            return total

        return {"kernels": torch.stack([kernel(model) for model in self._models(task)])}

    def fitted(self, task: Task, state: State, train: Examples | None) -> Fitted:
        models, kernels = self._models(task), state["kernels"]
        if kernels.shape != (len(models), self.projection.dim, self.projection.dim):
            raise MethodError(
                f"the state has kernels {tuple(kernels.shape)} for {len(models)} models and "
                f"{self.projection.dim} dimensions: it was made for another model"
            )
        for model, kernel in zip(models, kernels, strict=True):
            model.inverse = self._inverted(kernel).to(task.device, task.dtype)
        return FittedTRAK(task, models)

    def _inverted(self, kernel: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(kernel.double())
        least, most = torch.stack([values[0], values[-1]]).tolist()
        resolution = torch.finfo(kernel.dtype).eps * most
        if not least + self.damping > resolution:
            raise MethodError(
                f"the kernel of {len(kernel)} dimensions is singular: raise `damping` above "
                f"{resolution:.1e}, or lower the projection's `dim` below the number of examples"
            )
        return (vectors / (values + self.damping)) @ vectors.T

    def _models(self, task: Task) -> list[Model]:
        saved, own = task.checkpoints, replace(task, checkpoints=())
        places = range(len(saved)) if self.checkpoints is None else self.checkpoints
        wrong = [i for i in places if not -len(saved) <= i < len(saved)]
        if wrong:
            raise MethodError(
                f"checkpoint {wrong[0]} of {len(saved)}: choose from 0 to {len(saved) - 1}"
            )
        tasks = [task.at(saved[i]) for i in places] or [own]
        return [Model(each, self, i) for i, each in enumerate(tasks)]


class Model(Embedded):
    """One model of the ensemble: projected gradients, features and weights."""

    def __init__(self, task: Task, method: TRAK, index: int) -> None:
        seed = int(stream(method.projection.seed, "trak", index).generate_state(1)[0])
        drawn = replace(method.projection, seed=seed).draw(task)
        super().__init__(task, Bilinear(drawn, drawn))
        self.margin, self.inverse = method.margin, torch.empty(0)

    def cut(self, examples: Examples, size: int | None = None) -> Iterator[Examples]:
        return parts(examples, self.chunk(examples) if size is None else size)

    def features(self, examples: Examples) -> tuple[Tensor, Tensor]:
        """-phi (n, dim), and the weights 1 - p, (n,); gradients of the loss, and ones."""
        gradients = self.embed(examples, self.form.right, self.gradients)
        if not self.margin:
            return gradients, gradients.new_ones(len(gradients))
        weights = self._weights(examples)
        return gradients * reciprocal(weights)[:, None], weights

    def _weights(self, examples: Examples) -> Tensor:
        task, found = self.task, []
        with torch.enable_grad():  # for a loss that holds derivatives by its inputs
            for some in chunks(examples, self.gradients.projected_chunk(examples)):
                batch = task.move(some)
                with explained(task, task.loss, batch):
                    found.append(task.loss(task.all_params, batch).detach().to(task.dtype))
        losses = torch.cat(found)
        if bool((losses < 0).any()):
            raise MethodError(
                "a loss is negative, so it is not -log p of the right answer: take margin=False"
            )
        return -torch.expm1(-losses)


class FittedTRAK(Fitted):
    """Rows of all models end to end: the weights of candidates are means over the models."""

    def __init__(self, task: Task, models: list[Model]) -> None:
        self.task, self.models = task, models

    def chunk(self, examples: Examples) -> int:
        return max(1, min(model.chunk(examples) for model in self.models) // len(self.models))

    def query_chunk(self, examples: Examples) -> int:
        most = min(model.query_chunk(examples) for model in self.models)
        return max(1, most // len(self.models))

    def cut(self, examples: Examples, size: int) -> Iterator[Examples]:
        return parts(examples, size)

    def measuring(self) -> Task:
        return self.models[0].measuring()

    def query_rows(self, examples: Examples) -> Rows:
        own = [model.embed(examples, model.form.left, model.measured) for model in self.models]
        weighed = [rows @ m.inverse for rows, m in zip(own, self.models, strict=True)]
        return Rows.dense_of(torch.cat(weighed, dim=1) / len(self.models))

    def train_rows(self, examples: Examples) -> Rows:
        features, weights = zip(*(model.features(examples) for model in self.models), strict=True)
        mean = torch.stack(weights).mean(0)
        return Rows.dense_of(torch.cat(features, dim=1) * mean[:, None])
