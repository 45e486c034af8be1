"""Queries are measured by whatever the user says, which need not be the training loss."""

from typing import Any

import pytest
import torch
from torch import Tensor

from methods.attributor import Attributor
from methods.examples import Examples
from methods.ihvp.cg import CG
from methods.ihvp.exact import Exact
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.rows.projections import Gaussian
from methods.task import Task
from methods.tracin import TracIn
from tests.methods import networks

METHODS = [
    TracIn(learning_rates=False),
    RandomProjection(Gaussian(6)),
    Influence(Exact(), damping=40.0),
    Influence(CG(tolerance=1e-12), damping=40.0),
]


def margin(model: Any, batch: Examples) -> Tensor:
    scores = model(batch["x"])
    return scores[:, 1] - scores[:, 0]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_queries_may_lack_what_only_the_training_loss_reads(method: Attributor) -> None:
    task = Task.of(networks.built(networks.Mlp), networks.nll, measurement=margin)
    train, query = networks.examples(9, 6), {"x": networks.normal(4, 6, seed=7)}
    fitted = method.fit(task, train)
    scores = fitted.scores(query, train)
    left = networks.gradient_rows(task, task.measurement, query)
    rows = fitted.query_rows(query).inner(fitted.train_rows(train))
    torch.testing.assert_close(scores, rows)
    if isinstance(method, TracIn):
        right = networks.gradient_rows(task, task.loss, train)
        torch.testing.assert_close(scores, left @ right.T)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_one_query_at_a_time_scores_the_same(method: Attributor) -> None:
    model = networks.built(networks.Encoder)
    task = Task.of(model, networks.nll, only=["places.*", "words.*"])
    train, query = networks.sentences(6), networks.sentences(3, seed=4)
    fitted = method.fit(task, train)
    together = fitted.scores(query, train)
    for i in range(3):
        one = {name: column[i : i + 1] for name, column in query.items()}
        alone = method.fit(task, train).scores(one, train)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-8, atol=1e-10)


def test_random_projection_is_a_product_of_projected_gradients() -> None:
    task = Task.of(networks.built(networks.Mlp), networks.nll, measurement=margin)
    train, query = networks.examples(9, 6), networks.examples(4, 6, seed=7)
    directions = Gaussian(6).draw(task).directions()
    left = networks.gradient_rows(task, task.measurement, query) @ directions.T
    right = networks.gradient_rows(task, task.loss, train) @ directions.T
    scores = RandomProjection(Gaussian(6)).scores(task, train, query)
    torch.testing.assert_close(scores, left @ right.T)
