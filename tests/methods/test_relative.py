"""Scores relative to a size, by their definitions: cosines, and RelatIF with dense matrices."""

from typing import Any

import pytest
import torch
from torch import Tensor

from methods.curvature.operators import GaussNewton, Hessian
from methods.errors import MethodError
from methods.gradcos import GradCos
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.exact import Exact
from methods.ihvp.sketch import Sketch
from methods.influence import Influence
from methods.relatif import RelatIF
from methods.rows.gradients import gradient_rows
from methods.rows.projections import Gaussian
from methods.rows.weighted import weighted
from methods.task import Task
from tests.methods import networks

TRAIN, QUERY, DAMPING = networks.examples(9, 6), networks.examples(4, 6, seed=3), 4.0
CLOSE: Any = {"rtol": 1e-7, "atol": 1e-9}


def the_task() -> Task:
    return Task.of(networks.built(networks.Mlp), networks.nll, weight_decay=0.1)


def gradients(task: Task) -> tuple[Tensor, Tensor]:
    q, g = (networks.gradient_rows(task, task.loss, some) for some in (QUERY, TRAIN))
    return q, g


def test_cosines_are_cosines_of_gradients_by_autograd() -> None:
    task = the_task()
    q, g = gradients(task)
    wanted = torch.cosine_similarity(q[:, None], g[None], dim=2)
    fitted = GradCos().fit(task, TRAIN)
    torch.testing.assert_close(fitted.scores(QUERY, TRAIN), wanted)
    torch.testing.assert_close(fitted.self_influence(TRAIN), torch.ones(9).double())


def test_a_gradient_of_zero_has_no_cosine_and_no_relative_influence() -> None:
    def some(model: Any, batch: Any) -> Tensor:
        return networks.nll(model, batch) * (batch["y"] > 0)

    task = Task.of(networks.built(networks.Mlp), some)
    still = TRAIN["y"] == 0
    assert still.any()
    for method in (GradCos(), RelatIF(Influence(Exact(), 1.0, curvature=GaussNewton))):
        scores = method.scores(task, TRAIN, QUERY)
        assert torch.equal((scores == 0).all(0), still)


def test_rows_times_their_weights_are_those_of_the_dense_matrix() -> None:
    for make, batch in ((networks.ConvNet, (5, 2, 7, 7)), (networks.Mlp, (5, 6))):
        task = Task.of(networks.built(make), networks.nll)
        rows, weights = gradient_rows(task, networks.examples(*batch)), networks.normal(5)
        wanted = rows.dense() * weights[:, None]
        torch.testing.assert_close(weighted(rows, weights).dense(), wanted)
        torch.testing.assert_close(weighted(rows.compact(), weights).dense(), wanted)
        scaled = rows.scaled(2.0)
        torch.testing.assert_close(weighted(scaled, weights).dense(), 2 * wanted)


@pytest.mark.parametrize("curvature", [Hessian, GaussNewton])
def test_relatif_is_the_influence_over_the_size_of_the_candidate_s_effect(curvature: Any) -> None:
    task = the_task()
    q, g = gradients(task)
    matrix = curvature(task, TRAIN, DAMPING).dense()
    inverted = torch.linalg.solve(matrix, g.T)  # columns H^-1 g
    influence = q @ inverted
    sizes: dict[Any, Tensor] = {"l": (g.T * inverted).sum(0).sqrt(), "theta": inverted.norm(dim=0)}
    for relative, size in sizes.items():
        fitted = RelatIF(Influence(Exact(), DAMPING, curvature=curvature), relative).fit(
            task, TRAIN
        )
        torch.testing.assert_close(fitted.scores(QUERY, TRAIN), influence / size, **CLOSE)
        own = (g.T * inverted).sum(0) / size
        torch.testing.assert_close(fitted.self_influence(TRAIN), own, **CLOSE)


def test_of_an_inverse_on_few_directions_the_sizes_are_those_of_that_inverse() -> None:
    task = the_task()
    q, g = gradients(task)
    eye = torch.eye(task.size).double()
    for inverse in (
        Arnoldi(3, Krylov(8, sample=None, keep=5)),
        Sketch(Gaussian(6), steps=20, sample=8),
    ):
        form = inverse.invert(Hessian(task, TRAIN, DAMPING), inverse.state(Hessian(task, TRAIN, 4)))
        left, right = form.left.directions(), form.right.directions()
        matrix = left.T @ form.weigh(eye[: len(left), : len(left)]) @ right
        inverted = matrix @ g.T
        state = inverse.state(Hessian(task, TRAIN, DAMPING))
        method = RelatIF(Influence(inverse, DAMPING), "theta")
        scores = method.fit(task, TRAIN, state).scores(QUERY, TRAIN)
        torch.testing.assert_close(scores, q @ inverted / inverted.norm(dim=0), **CLOSE)


def test_relatif_needs_a_positive_curvature_and_a_known_size() -> None:
    concave = Task.of(networks.built(networks.Mlp), lambda m, b: -networks.nll(m, b))
    with pytest.raises(MethodError, match=r"not positive definite.*raise `damping`"):
        RelatIF(Influence(Exact(), 1e-6, curvature=GaussNewton)).scores(concave, TRAIN, QUERY)
    with pytest.raises(MethodError, match='give "l" or "theta"'):
        RelatIF(relative="L")  # type: ignore[arg-type]
