"""Every inverse Hessian against the exact one, and what each does when it cannot work."""

from __future__ import annotations

import pkgutil
from typing import Any

import pytest
import torch
from torch import Tensor

import methods.ihvp
from methods.curvature.exact_hessian import KnownHessian
from methods.curvature.krylov_basis import BFloat16, Disk
from methods.curvature.matrix import Matrix, Operator
from methods.curvature.operators import Hessian
from methods.errors import MethodError
from methods.examples import Examples
from methods.fitted.embedded import Bilinear
from methods.ihvp.arnoldi import Arnoldi, Krylov, StoredKrylov, distill, krylov
from methods.ihvp.cg import CG
from methods.ihvp.cholesky import Cholesky
from methods.ihvp.compressed import Compressed
from methods.ihvp.deflated import Deflated
from methods.ihvp.exact import Exact
from methods.ihvp.inverse import Inverse, largest_eigenvalue
from methods.ihvp.kfac import EKFAC, KFAC
from methods.ihvp.lissa import LiSSA
from methods.ihvp.sketch import Sketch
from methods.ihvp.truncated import Galerkin, Truncated
from methods.influence import Influence
from methods.losses.objective import Params
from methods.rows.projections import Gaussian, Select
from methods.task import Task
from tests.methods.convex import Convex, convex
from tests.methods.networks import DOUBLE, REFERENCE, normal, subclasses

P = 12  # parameters of the convex problem; 8 dimensions hold every gradient
DAMPING = 0.02
FULL = Krylov(iterations=50, sample=None, keep=8)

# settings under which each is an inverse, and the relative error of its scores then
AGREE: list[tuple[Inverse, float]] = [
    (Exact(), 1e-12),
    (CG(tolerance=1e-10), 1e-9),
    (Cholesky(), 1e-12),
    (Truncated(P), 1e-8),
    (LiSSA(depth=120, sample=None), 1e-9),
    (Arnoldi(8, FULL), 1e-9),
    (Deflated(8, FULL), 1e-9),
    (Compressed(Select(P)), 1e-10),
    (KFAC("y", relative_damping=0.0), 0.5),  # whose Fisher matrix is that of few labels drawn
    (EKFAC("y", relative_damping=0.0), 0.5),
    (Sketch(Select(P), steps=500, sample=None), 1e-8),
]
SAMPLED: list[Inverse] = [
    Exact(sample=20),
    EKFAC(sample=20),
    LiSSA(depth=30, sample=5, repeats=2),
    Arnoldi(3, Krylov(iterations=10, sample=20, keep=5)),
    Deflated(3, Krylov(iterations=10, sample=20, keep=5)),
    Compressed(Gaussian(5), sample=20),
    Sketch(Gaussian(3), steps=30, sample=20, lr=0.1),
]


@pytest.fixture(scope="module")
def problem() -> Convex:
    return convex()


def quadratic(*curvatures: float) -> Hessian:
    """The Hessian of mean loss c theta^2 / 2: diagonal, with these entries."""
    return damped(0.0, *curvatures)


def damped(damping: float, *curvatures: float) -> Hessian:
    diagonal = torch.tensor(curvatures, dtype=DOUBLE)

    def loss(params: Params, batch: Examples) -> Tensor:
        return (diagonal * params["theta"].square()).sum() / 2 + 0 * batch["x"]

    task = Task({"theta": torch.ones_like(diagonal)}, loss, loss)
    return KnownHessian(task, {"x": torch.zeros(1, dtype=DOUBLE)}, diagonal.diag(), damping)


def inverted(inverse: Inverse, hessian: Hessian) -> Operator | Bilinear:
    return inverse.invert(hessian, inverse.state(hessian))


def matrix(inverse: Operator | Bilinear) -> Tensor:
    """The whole inverse, (p, p)."""
    if isinstance(inverse, Operator):
        return inverse.dense()
    return inverse.weigh(inverse.left.directions().T) @ inverse.right.directions()


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_every_inverse_is_compared() -> None:
    listed = {type(inverse) for inverse, _ in AGREE}
    assert set(subclasses(methods.ihvp, Inverse)) == listed
    files = {info.name for info in pkgutil.iter_modules(methods.ihvp.__path__)} - {"inverse"}
    assert {kind.__module__.rpartition(".")[2] for kind in listed} == files


@pytest.mark.parametrize(("inverse", "tolerance"), AGREE, ids=lambda v: type(v).__name__)
def test_agrees_with_the_exact_inverse(problem: Convex, inverse: Inverse, tolerance: float) -> None:
    task, train, query = problem.task, problem.train, problem.query
    hessian = Hessian(task, train, DAMPING).dense()
    method, exact = Influence(inverse, DAMPING), Influence(Exact(), DAMPING)
    whole = matrix(inverted(Exact(), exact.hessian(task, train)))
    assert relative(whole @ hessian, torch.eye(P, dtype=DOUBLE)) < 1e-12
    if isinstance(inverse, Arnoldi):  # it keeps damping out: the paper's has none
        method, exact = Influence(inverse), Influence(Exact())
    fitted, right = method.fit(task, train), exact.fit(task, train)
    assert relative(fitted.scores(query, train), right.scores(query, train)) < tolerance
    assert relative(fitted.self_influence(train), right.self_influence(train)) < tolerance


@pytest.mark.parametrize("inverse", [i for i, _ in AGREE[:-1]] + SAMPLED, ids=repr)
def test_a_kept_state_gives_identical_scores(problem: Convex, inverse: Inverse) -> None:
    task, train, query = problem.task, problem.train, problem.query
    method = Influence(inverse, DAMPING)
    state = method.state(task, train)
    before = {name: value.clone() for name, value in state.items()}
    fresh = method.scores(task, train, query)
    for _ in range(2):
        assert method.fit(task, train, state).scores(query, train).equal(fresh)
    assert all(state[name].equal(value) for name, value in before.items())


@pytest.mark.parametrize("seed", range(5))
def test_arnoldi_finds_the_top_of_a_wide_spectrum(seed: int) -> None:
    spectrum = torch.logspace(-2, 2, 100, dtype=DOUBLE)
    turn = torch.linalg.qr(normal(100, 100, seed=seed))[0]
    operator = Matrix(turn @ spectrum.diag() @ turn.T)
    basis, projected = krylov(operator, 50, seed)
    torch.testing.assert_close(basis @ basis.T, torch.eye(50, dtype=DOUBLE), atol=1e-12, rtol=0)
    values, vectors = distill(basis, projected, 10)
    assert float((values - spectrum.flip(0)[:10]).abs().max()) < 1e-8
    assert float((operator.apply(vectors) - values[:, None] * vectors).norm(dim=1).max()) < 1e-3


def test_arnoldi_inverts_only_what_it_kept() -> None:
    hessian, basis = quadratic(-3.0, 2.0, 1.0), Krylov(iterations=3, sample=None)

    def inverse(num_eigen: int, positive_only: bool = False) -> Tensor:
        return matrix(inverted(Arnoldi(num_eigen, basis, positive_only), hessian)).diag()

    def close(values: Tensor, *expected: float) -> None:
        torch.testing.assert_close(values, torch.tensor(expected, dtype=DOUBLE))

    close(inverse(3), -1 / 3, 1 / 2, 1)
    close(inverse(2), -1 / 3, 1 / 2, 0)
    close(inverse(3, positive_only=True), 0, 1 / 2, 1)
    close(inverse(2, positive_only=True), 0, 1 / 2, 0)
    with pytest.raises(MethodError, match="num_eigen"):
        inverse(1, positive_only=True)
    with pytest.raises(MethodError, match="num_eigen=4"):
        inverse(4)


def test_a_pair_that_has_not_converged_is_not_divided_by() -> None:
    """Of p values spread evenly, the last that few products find are anywhere between them."""
    p, few = 200, Krylov(iterations=12, sample=None, keep=12)
    turn, _ = torch.linalg.qr(normal(p, p, seed=6))
    spectrum = torch.linspace(-1, 1, p, dtype=DOUBLE) ** 3
    hessian = KnownHessian(
        quadratic(*([1.0] * p)).task, {"x": torch.zeros(1)}, turn @ spectrum.diag() @ turn.T, 0.0
    )
    state = Arnoldi(12, few).state(hessian)
    values, vectors = state["eigenvalues"], state["eigenvectors"]
    true = (hessian.apply(vectors) - values[:, None] * vectors).norm(dim=1)
    torch.testing.assert_close(state["residuals"], true, rtol=1e-6, atol=1e-8)
    assert (true > values.abs()).any()
    with pytest.raises(MethodError, match=r"has not converged.*to more than twice num_eigen"):
        Arnoldi(12, few).invert(hessian, state)
    assert Arnoldi(2, few).invert(hessian, state)


def test_deflated_refuses_an_eigenvalue_near_minus_the_damping() -> None:
    basis = Krylov(4, None, 0, 4)
    for lowest, refused in ((-0.49, True), (-0.54, True), (-0.4, False), (-0.6, False)):
        hessian = damped(0.5, 8.0, 4.0, 0.1, lowest)
        if refused:
            with pytest.raises(MethodError, match=r"nearly minus the damping of 0\.5"):
                inverted(Deflated(4, basis), hessian)
        else:
            assert inverted(Deflated(4, basis), hessian)


def low_rank(rank: int, p: int = 24) -> tuple[Task, Examples]:
    """A linear model whose Hessian has a known rank, in float32: more eigenvalues are noise."""
    model = torch.nn.Linear(p, 1, bias=False).eval()
    train = {"x": normal(rank, p, seed=3).float(), "y": normal(rank, seed=4).float()}
    return Task.of(model, lambda model, b: (model(b["x"])[:, 0] - b["y"]).square() / 2), train


WIDE = Krylov(24, None, keep=24)


@pytest.mark.parametrize("basis", [WIDE, StoredKrylov(24, None, 0, 24, Disk())], ids=repr)
@pytest.mark.parametrize("kind", [Arnoldi, Deflated])
def test_what_lies_beyond_the_rank_is_not_divided_by(kind: Any, basis: Krylov) -> None:
    task, train = low_rank(5)
    damping = 0.0 if kind is Arnoldi else 1e-3
    right = Influence(kind(5, basis), damping).fit(task, train)
    assert right.scores(train, train).isfinite().all()
    if kind is Arnoldi:
        for beyond in (6, 7, 24):
            with pytest.raises(
                MethodError, match=r"rounding noise.*lower num_eigen to 5, or raise"
            ):
                Influence(kind(beyond, basis)).fit(task, train)
        assert Influence(kind(7, basis), damping=0.1).fit(task, train)
    for small in (1e-12, 1e-7):
        if kind is Deflated:
            with pytest.raises(MethodError, match="rounding noise"):
                Influence(kind(5, basis), small).fit(task, train)


def test_a_basis_in_bfloat16_says_what_it_cannot_resolve(caplog: Any) -> None:
    task, train = low_rank(5)
    for num_eigen, said in ((5, False), (7, True)):
        inverse = Arnoldi(num_eigen, StoredKrylov(24, None, 0, 24, BFloat16()))
        Influence(inverse).fit(task, train)
        assert ("a basis in bfloat16 resolves" in caplog.text) == said


@pytest.mark.parametrize("name", REFERENCE["lissa"])
def test_lissa_reproduces_the_reference(name: str) -> None:
    damp, scale, depth = (
        float(part.lstrip("dampscleJ")) for part in name.replace("_J", "_").split("_")
    )
    hessian = damped(damp * scale, 0.5, 5.0, 40.0)
    lissa = inverted(LiSSA(int(depth), sample=None, scale=scale), hessian)
    estimate = lissa.apply(torch.ones(1, 3, dtype=DOUBLE))[0]
    expected = REFERENCE["lissa"][name]
    torch.testing.assert_close(estimate, torch.tensor(expected["lissa"], dtype=DOUBLE))
    limit = torch.tensor(expected["fixed_point_inv_H_plus_damp_scale"], dtype=DOUBLE)
    torch.testing.assert_close(inverted(Exact(), hessian).matrix.diag(), limit)


def test_lissa_that_diverges_says_which_scale_to_raise() -> None:
    lissa = inverted(LiSSA(100, sample=None, scale=10.0), quadratic(0.5, 5.0, 40.0))
    with pytest.raises(MethodError, match=r"scale.*10"):
        lissa.apply(torch.ones(1, 3, dtype=DOUBLE))


@pytest.mark.parametrize("top", [1e-3, 1.0, 1e3])
def test_lissa_finds_its_own_scale(top: float) -> None:
    hessian = quadratic(0.1 * top, 0.4 * top, top)
    lissa = LiSSA(400, sample=None)
    assert top <= float(lissa.state(hessian)["scale"]) <= 1.2 * top
    diagonal = matrix(inverted(lissa, hessian)).diag()
    torch.testing.assert_close(diagonal * top, torch.tensor([10.0, 2.5, 1.0], dtype=DOUBLE))


def test_lissa_finds_its_own_scale_on_minibatches(problem: Convex) -> None:
    lissa, exact = LiSSA(150, sample=6, repeats=8), Exact()
    method = Influence(lissa)
    hessian = method.hessian(problem.task, problem.train)
    full = Hessian(problem.task, problem.train)
    assert float(lissa.state(hessian)["scale"]) > largest_eigenvalue(full)
    scores = method.scores(problem.task, problem.train, problem.query)
    right = Influence(exact).scores(problem.task, problem.train, problem.query)
    pair = torch.stack([scores.flatten(), right.flatten()])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.95


def test_cg_on_an_indefinite_hessian_asks_for_damping() -> None:
    vectors = torch.ones(2, 3, dtype=DOUBLE)
    with pytest.raises(MethodError, match="damping"):
        inverted(CG(), quadratic(-1.0, 0.2, 0.3)).apply(vectors)
    solved = inverted(CG(), damped(2.0, -1.0, 0.2, 0.3)).apply(vectors)
    torch.testing.assert_close(1 / solved[0], torch.tensor([1.0, 2.2, 2.3], dtype=DOUBLE))


def test_cg_that_runs_out_of_products_says_so() -> None:
    solve = inverted(CG(tolerance=1e-12, max_products=2), quadratic(1.0, 10.0, 100.0))
    with pytest.raises(MethodError, match="max_products"):
        solve.apply(torch.ones(1, 3, dtype=DOUBLE))


def test_cg_of_nothing_is_nothing_beside_other_vectors() -> None:
    vectors = torch.stack([torch.zeros(3), torch.ones(3)]).to(DOUBLE)
    solved = inverted(CG(tolerance=1e-12), quadratic(1.0, 10.0, 100.0)).apply(vectors)
    torch.testing.assert_close(solved[0], vectors[0])
    torch.testing.assert_close(solved[1], torch.tensor([1, 0.1, 0.01], dtype=DOUBLE))


@pytest.mark.parametrize("inverse", [Exact(), Compressed(Select(3))], ids=repr)
def test_a_singular_hessian_asks_for_damping(inverse: Inverse) -> None:
    with pytest.raises(MethodError, match="damping"):
        inverted(inverse, quadratic(0.0, 1.0, 2.0))
    right = torch.tensor([2.0, 1 / 1.5, 0.4], dtype=DOUBLE)
    torch.testing.assert_close(matrix(inverted(inverse, damped(0.5, 0.0, 1.0, 2.0))).diag(), right)


def test_compressed_is_g_transposed_times_the_projected_inverse_times_g(problem: Convex) -> None:
    hessian, projection = Hessian(problem.task, problem.train, DAMPING), Gaussian(5)
    g = projection.draw(problem.task).directions()
    right = g.T @ torch.linalg.inv(g @ hessian.dense() @ g.T) @ g
    assert relative(matrix(inverted(Compressed(projection), hessian)), right) < 1e-10


def test_sketch_is_the_inverse_times_g_transposed(problem: Convex) -> None:
    hessian, projection = Hessian(problem.task, problem.train, DAMPING), Gaussian(4)
    g = projection.draw(problem.task).directions()
    right = torch.linalg.inv(hessian.dense()) @ g.T @ g
    sketch = Sketch(projection, steps=500, sample=None)
    assert relative(matrix(inverted(sketch, hessian)), right) < 1e-8


@pytest.mark.parametrize("settings", [{"lr": 8.0}, {"lr": 3.0, "momentum": 0.0}], ids=str)
def test_a_sketch_with_too_large_a_step_says_so(problem: Convex, settings: Any) -> None:
    with pytest.raises(MethodError, match="lower `lr`"):
        Sketch(Select(P), sample=None, **settings).state(Hessian(problem.task, problem.train))


def test_deflated_is_off_by_the_largest_eigenvalue_left_out() -> None:
    hessian = damped(0.5, 8.0, 4.0, 0.1, -0.2)
    inverse = inverted(Deflated(2, Krylov(4, None, 0, 4)), hessian)
    assert isinstance(inverse, Operator)
    exact = torch.tensor([8.5, 4.5, 0.5, 0.5], dtype=DOUBLE).reciprocal().diag()
    torch.testing.assert_close(inverse.dense(), exact)
    with pytest.raises(MethodError, match="give a positive damping, or use Arnoldi"):
        inverted(Deflated(2, Krylov(4, None, 0, 4)), damped(0.0, 8.0, 4.0, 0.1, -0.2))
    with pytest.raises(MethodError, match="4 eigenvalues for num_eigen=5"):
        inverted(Deflated(5, Krylov(4, None, 0, 5)), hessian)


def test_truncated_solutions_are_galerkin_s_at_every_damping():
    """On the span of v, H v, H^2 v the residual is orthogonal to it, the Hessian indefinite too."""
    hessian = quadratic(5.0, 3.0, -1.0, 0.5, 0.1)
    vectors = torch.stack([torch.ones(5, dtype=DOUBLE), torch.arange(1.0, 6.0, dtype=DOUBLE)])
    shifts = (0.0, 0.3, 2.0)
    matrix = torch.diag(torch.tensor([5.0, 3.0, -1.0, 0.5, 0.1], dtype=DOUBLE))
    for shift, found in zip(shifts, Galerkin(hessian, 3).shifted(vectors, shifts), strict=True):
        for vector, solution in zip(vectors, found, strict=True):
            powers = torch.stack([vector, matrix @ vector, matrix @ matrix @ vector])
            moved = matrix + shift * torch.eye(5, dtype=DOUBLE)
            small = powers @ moved @ powers.T
            weights = torch.linalg.solve(small, powers @ vector)
            torch.testing.assert_close(solution, powers.T @ weights)


def test_a_span_that_ends_early_is_solved_exactly():
    hessian = quadratic(4.0, 4.0, 2.0)
    vectors = torch.tensor([[1.0, 2.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=DOUBLE)
    found = Galerkin(hessian, 3).apply(vectors)
    torch.testing.assert_close(found, vectors / torch.tensor([4.0, 4.0, 2.0], dtype=DOUBLE))


def test_cholesky_refuses_what_damping_does_not_make_definite():
    with pytest.raises(MethodError, match=r"not positive definite: raise .damping., or use Exact"):
        Cholesky().invert(quadratic(2.0, -1.0), Cholesky().state(quadratic(2.0, -1.0)))
