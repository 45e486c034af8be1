"""Influence functions of a Gauss-Newton matrix, and what is said of a Hessian without inverse."""

import re
from typing import Any

import pytest
import torch

from methods.curvature.matrix import Matrix
from methods.curvature.operators import GaussNewton, Hessian
from methods.errors import MethodError
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.cg import CG
from methods.ihvp.compressed import Compressed
from methods.ihvp.deflated import Deflated
from methods.ihvp.exact import Exact
from methods.ihvp.inverse import smallest_eigenvalue
from methods.ihvp.kfac import EKFAC
from methods.ihvp.lissa import LiSSA
from methods.influence import Influence
from methods.rows.projections import Gaussian
from methods.task import Task
from tests.methods import networks

TRAIN, QUERY, DAMPING = networks.examples(9, 6), networks.examples(4, 6, seed=3), 4.0
KRYLOV = Krylov(200, sample=None, keep=100)


@pytest.mark.parametrize(
    "inverse",
    [CG(1e-13), Exact(), LiSSA(400, sample=None), Arnoldi(83, KRYLOV), Deflated(83, KRYLOV)],
    ids=lambda inverse: type(inverse).__name__,
)
def test_every_inverse_inverts_the_curvature_that_is_given(inverse: Any) -> None:
    task = Task.of(networks.built(networks.Mlp), networks.nll, weight_decay=0.1)
    size = task.size
    g, q = (networks.gradient_rows(task, task.loss, some) for some in (TRAIN, QUERY))
    matrix = GaussNewton(task, TRAIN).dense() + DAMPING * torch.eye(size).double()
    method = Influence(inverse, DAMPING, curvature=GaussNewton)
    scores = method.scores(task, TRAIN, QUERY)
    torch.testing.assert_close(scores, q @ torch.linalg.solve(matrix, g.T), rtol=1e-6, atol=1e-8)
    other = Influence(inverse, DAMPING).scores(task, TRAIN, QUERY)
    assert float((other - scores).norm()) > 1e-3 * float(scores.norm())


def test_gauss_newton_is_by_definition_what_it_says() -> None:
    task = Task.of(networks.built(networks.Mlp), networks.nll)
    model, total = task.loss.model, 0.0  # type: ignore[attr-defined]
    for i in range(9):
        logits = model(TRAIN["x"][i])
        slopes = [torch.autograd.grad(z, model.parameters(), retain_graph=True) for z in logits]
        jacobian = torch.stack([torch.cat([s.flatten() for s in each]) for each in slopes])
        p = logits.detach().softmax(0)
        total = total + jacobian.T @ (p.diag() - p[:, None] * p) @ jacobian / 9
    torch.testing.assert_close(GaussNewton(task, TRAIN).dense(), total)


def test_states_of_another_curvature_are_not_taken(tmp_path: Any) -> None:
    task = Task.of(networks.built(networks.Mlp), networks.nll)
    for inverse in (Exact(), Arnoldi(3, Krylov(8, None, keep=5)), Compressed(Gaussian(6))):
        own, other = Influence(inverse, DAMPING, curvature=GaussNewton), Influence(inverse, DAMPING)
        assert own.state_settings != other.state_settings
        folder = tmp_path / type(inverse).__name__
        own.fit(task, TRAIN).save(folder)
        with pytest.raises(MethodError, match="is of another method"):
            other.restore(task, folder)


def test_the_factors_of_ekfac_stand_for_either_curvature() -> None:
    task = Task.of(networks.built(networks.Mlp), networks.nll)
    own = Influence(EKFAC(), curvature=GaussNewton).scores(task, TRAIN, QUERY)
    torch.testing.assert_close(own, Influence(EKFAC()).scores(task, TRAIN, QUERY))


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (
            {"curvature": EKFAC()},
            r"curvature is EKFAC, which is an inverse: Influence\(EKFAC\(\)\)",
        ),
        ({"curvature": CG}, "curvature is CG: give a class, Hessian or GaussNewton"),
        ({"curvature": "gauss-newton"}, "curvature is a str: give a class"),
        ({"inverse": GaussNewton}, "inverse is GaussNewton: give one of methods.ihvp"),
    ],
)
def test_what_is_no_curvature_or_inverse_is_told_at_once(settings: Any, found: str) -> None:
    with pytest.raises(MethodError, match=found):
        Influence(**settings)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_where_cg_fails_it_names_a_damping_that_holds(weight_decay: float) -> None:
    task = Task.of(networks.built(networks.Mlp), networks.nll, weight_decay=weight_decay)
    least = float(torch.linalg.eigvalsh(Hessian(task, TRAIN).dense())[0])
    assert least < 0
    with pytest.raises(MethodError, match="CG met negative curvature") as failed:
        Influence(CG(1e-10)).scores(task, TRAIN, QUERY)
    assert "curvature=GaussNewton" in str(failed.value)
    named = float(re.search(r"damping=(\S+),", str(failed.value))[1])  # type: ignore[index]
    assert -least < named < -2 * least
    Influence(CG(1e-10), named).scores(task, TRAIN, QUERY)


def test_the_smallest_eigenvalue_is_that_of_the_matrix() -> None:
    draw = torch.Generator().manual_seed(0)
    for least in (-3.0, -0.2, 0.5):
        values = torch.linspace(1.0, 9.0, 30, dtype=torch.float64)
        values[4] = least
        basis = torch.linalg.qr(torch.randn(30, 30, generator=draw, dtype=torch.float64)).Q
        found = smallest_eigenvalue(Matrix(basis @ values.diag() @ basis.T))
        assert abs(found.value - least) <= found.error + 1e-9
        assert found.damping == 0 if least > 0 else -least < found.damping < -1.5 * least


def test_one_product_tells_a_matrix_that_is_its_diagonal() -> None:
    found = smallest_eigenvalue(Matrix(-2.0 * torch.eye(5, dtype=torch.float64)))
    assert found.value == pytest.approx(-2.0)
    assert found.damping == pytest.approx(2.4)
