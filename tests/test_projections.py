"""Projections are unbiased, as noisy as theory says, and see factored rows as dense ones."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from methods import projections
from methods.gradients import Gradients
from methods.projections import Gaussian, Projection, Rademacher, Select, TwoSided
from methods.random_projection import RandomProjection
from methods.rows import Dense, Part, Rows
from methods.task import Examples, MethodError, Task
from tests import networks

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
KINDS = (Gaussian, Rademacher, Select, TwoSided)
DRAWS = 2500
M, N = 4, 3  # a matrix-shaped parameter


class Strided(nn.Module):
    """A convolution with stride and bias, another onto one position, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=1),
            nn.Tanh(),
            nn.Conv2d(3, 4, (3, 5)),
            nn.Tanh(),
            nn.Flatten(),
        )
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    batch: Examples
    kinds: frozenset[str]  # the forms of parts it must cover

    def rows(self) -> tuple[Task, Rows]:
        task = Task.of(networks.built(self.make), networks.nll)
        return task, Gradients(task, task.loss).rows(self.batch)


CASES = {
    "strided": Case(
        Strided,
        networks.examples(6, 2, 5, 4),
        frozenset({"permuted outer", "permuted outer of one term", "outer of one term", "dense"}),
    ),
    "grouped": Case(
        networks.ConvNet, networks.examples(5, 2, 6, 7), frozenset({"permuted dense", "outer"})
    ),
    "embedding": Case(networks.Block, networks.sentences(5), frozenset({"one-hot", "outer"})),
    "fallback": Case(
        networks.Encoder, networks.sentences(4), frozenset({"one-hot", "outer", "matrix by vmap"})
    ),
    "bag": Case(networks.Padded, networks.bags(6), frozenset({"one-hot", "outer of one term"})),
}


def kinds(part: Part, shape: torch.Size) -> set[str]:
    permuted = "" if part.order is None else "permuted "
    if isinstance(part, Dense):
        by_vmap = part.order is None and len(shape) > 1
        return {"matrix by vmap"} if by_vmap else {f"{permuted}dense"}
    if part.one_hot:
        return {"one-hot"}
    return {f"{permuted}outer of one term"} if part.terms == 1 else {f"{permuted}outer", "outer"}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def identity(task: Task) -> Rows:
    sizes = {n: v.numel() for n, v in task.params.items()}
    return Rows.dense_of(torch.eye(task.size, dtype=task.dtype), sizes)


def matrix_task(m: int = M, n: int = N) -> Task:
    return Task.of(networks.built(lambda: nn.Linear(n, m, bias=False)), networks.nll)


def products(kind: type[Projection], dim: int, task: Task, pair: Tensor) -> Tensor:
    """<Gu, Gv> over draws of G, for the two rows of `pair`."""
    rows = Rows.dense_of(pair, {n: v.numel() for n, v in task.params.items()})
    out = []
    for seed in range(DRAWS):
        left, right = kind(dim, seed).draw(task).apply(rows)
        out.append(torch.dot(left, right))
    return torch.stack(out)


def assert_moments(sample: Tensor, mean: float, variance: float) -> None:
    """Mean and variance of a sample within four of their own standard errors of the given."""
    n, centred = len(sample), sample - sample.mean()
    assert abs(float(sample.mean()) - mean) < 4 * (variance / n) ** 0.5
    spread = float(centred.square().std()) / n**0.5
    assert abs(float(sample.var()) - variance) < 4 * spread
    assert spread < variance / 5  # else the interval says nothing


def one_sided(a: Tensor, b: Tensor, dim: int) -> float:
    return float(a @ a * (b @ b) + (a @ b) ** 2) / dim


def two_sided(a: Tensor, x: Tensor, b: Tensor, y: Tensor, side: int) -> float:
    """Variance of the factorised <G(a x^T), G(b y^T)>."""
    first, second = float(a @ b) ** 2, float(x @ y) ** 2
    whole = (first + one_sided(a, b, side)) * (second + one_sided(x, y, side))
    return whole - first * second


def test_moments_of_dense_and_selected_inner_products() -> None:
    task = matrix_task()
    u, v = pair = networks.normal(2, task.size, seed=1)
    v += u
    true, both, p = float(u @ v), u * v, task.size
    gaussian = one_sided(u, v, 6)
    assert_moments(products(Gaussian, 6, task, pair), true, gaussian)
    signs = gaussian - 2 * float(both @ both) / 6
    assert_moments(products(Rademacher, 6, task, pair), true, signs)
    without_replacement = p**2 / 6 * (1 - 6 / p) * float(both.var())
    assert_moments(products(Select, 6, task, pair), true, without_replacement)


def test_moments_of_factorised_inner_products() -> None:
    a, b = networks.normal(2, M, seed=2)
    x, y = networks.normal(2, N, seed=3)
    b, y = a + b / 2, x + y / 2
    pair = torch.stack([torch.outer(a, x).flatten(), torch.outer(b, y).flatten()])
    sample = products(TwoSided, 25, matrix_task(), pair)
    assert_moments(sample, float(a @ b * (x @ y)), two_sided(a, x, b, y, 5))


@pytest.mark.parametrize(("kind", "name"), [(Gaussian, "dense"), (TwoSided, "factorised")])
def test_moments_for_aligned_unit_vectors_are_the_reference(
    kind: type[Projection], name: str
) -> None:
    for dim, values in networks.REFERENCE["jl"]["unit_aligned"].items():
        one, side = torch.ones(1), int(dim) ** 0.5
        dense, factorised = one_sided(one, one, int(dim)), two_sided(one, one, one, one, int(side))
        assert dense == pytest.approx(values["dense"])
        assert factorised == pytest.approx(values["factorised"])
        assert factorised / dense == pytest.approx(values["ratio"])
    u = torch.zeros(M * N, dtype=networks.DOUBLE)
    u[4] = 1.0
    sample = products(kind, 64, matrix_task(), torch.stack([u, u]))
    assert_moments(sample, 1.0, networks.REFERENCE["jl"]["unit_aligned"]["64"][name])


@pytest.mark.parametrize("kind", KINDS)
def test_unbiased_over_several_parameters(kind: type[Projection]) -> None:
    task = Task.of(networks.built(lambda: networks.Mlp(3, 2, 2)), networks.nll)
    pair = networks.normal(2, task.size, seed=4)
    pair[1] += pair[0]
    sample = products(kind, 9, task, pair)
    error = float(sample.std()) / DRAWS**0.5
    assert abs(float(sample.mean() - pair[0] @ pair[1])) < 4 * error


@pytest.mark.parametrize("kind", [Gaussian, Rademacher])
def test_more_dimensions_extend_fewer(kind: type[Projection]) -> None:
    task = matrix_task()
    few, more = (kind(dim, 3).draw(task).directions() * dim**0.5 for dim in (5, 12))
    torch.testing.assert_close(more[:5], few, **CLOSE)
    assert len(more) == 12
    assert torch.linalg.matrix_rank(more) == 12  # no direction twice
    if kind is Rademacher:
        assert set(more.flatten().round(decimals=9).tolist()) == {-1.0, 1.0}


def test_cases_cover_every_form_of_part(case: Case) -> None:
    task, rows = case.rows()
    have: set[str] = set()
    for name, parts in rows.parts.items():
        have |= set().union(*(kinds(p, task.params[name].shape) for p in parts))
    assert case.kinds <= have


@pytest.mark.parametrize("kind", [Gaussian, Rademacher, Select])
def test_projected_rows_are_dense_rows_times_directions(case: Case, kind: type[Projection]) -> None:
    task, rows = case.rows()
    drawn = kind(49, 1).draw(task)
    directions = drawn.directions()
    assert directions.shape == (49, task.size)
    torch.testing.assert_close(drawn.apply(rows), rows.dense() @ directions.T, **CLOSE)
    torch.testing.assert_close(drawn.apply(identity(task)), directions.T, **CLOSE)
    scaled = drawn.apply(rows.scaled(-3.0))
    torch.testing.assert_close(scaled, -3 * drawn.apply(rows), **CLOSE)


@pytest.mark.parametrize("dim", [1, 40, None])
def test_select_picks_coordinates(case: Case, dim: int | None) -> None:
    task, rows = case.rows()
    dim = task.size if dim is None else dim
    drawn = Select(dim, 2).draw(task)
    chosen = drawn.directions().nonzero()[:, 1]
    assert len(set(chosen.tolist())) == dim
    expected = rows.dense()[:, chosen] * (task.size / dim) ** 0.5
    torch.testing.assert_close(drawn.apply(rows), expected, **CLOSE)


def test_two_sided_is_a_kronecker_product(case: Case) -> None:
    task, rows = case.rows()
    drawn = TwoSided(16, 1).draw(task)
    whole = torch.cat([kronecker(drawn, name, v.ndim) for name, v in task.params.items()], dim=1)
    assert whole.shape == (16, task.size)
    torch.testing.assert_close(drawn.apply(rows), rows.dense() @ whole.T, **CLOSE)
    torch.testing.assert_close(drawn.apply(identity(task)), whole.T, **CLOSE)
    torch.testing.assert_close(drawn.apply(rows.scaled(-3.0)), -3 * drawn.apply(rows), **CLOSE)
    with pytest.raises(MethodError, match="no explicit directions"):
        drawn.directions()


def kronecker(drawn: projections.Map, name: str, axes: int) -> Tensor:
    assert isinstance(drawn, projections._TwoSidedMap)
    if axes < 2:
        return drawn._left[name]
    return torch.kron(drawn._left[name], drawn._right[name])


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_fixes_the_map(kind: type[Projection]) -> None:
    task, rows = CASES["strided"].rows()
    first, again = (kind(25, 7).draw(task).apply(rows) for _ in range(2))
    other = kind(25, 8).draw(task).apply(rows)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    torch.manual_seed(0)
    torch.rand(3)
    assert torch.equal(first, kind(25, 7).draw(task).apply(rows))  # no global state


@pytest.mark.parametrize("kind", [Gaussian, Rademacher])
def test_slices_equal_the_whole(kind: type[Projection], monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["strided"]
    task, rows = case.rows()
    method = RandomProjection(kind(11, 5))
    drawn = method.projection.draw(task)
    whole, directions = drawn.apply(rows), drawn.directions()
    assert [part.dim for part in drawn.slices()] == [11]
    scores = method.scores(task, case.batch, case.batch)
    for held, expected in [(3, [3, 3, 3, 2]), (0.5, [1] * 11)]:
        limit = int(held * task.size * task.dtype.itemsize)
        monkeypatch.setattr("methods.projections.LIMIT", limit)
        cut = method.projection.draw(task)
        assert [part.dim for part in cut.slices()] == expected
        torch.testing.assert_close(cut.apply(rows), whole, **CLOSE)
        torch.testing.assert_close(cut.directions(), directions, **CLOSE)
        torch.testing.assert_close(method.scores(task, case.batch, case.batch), scores, **CLOSE)


@pytest.mark.parametrize(("dim", "squares"), [(10, "9 and 16"), (99, "81 and 100"), (2, "1 and 4")])
def test_two_sided_names_the_nearest_squares(dim: int, squares: str) -> None:
    with pytest.raises(MethodError, match=f"{dim} is none, {squares} are"):
        TwoSided(dim).draw(matrix_task())


def test_select_needs_as_many_parameters() -> None:
    with pytest.raises(MethodError, match=r"13 of 12 parameters: choose dim <= 12"):
        Select(13).draw(matrix_task())


def test_directions_of_another_model_are_an_error() -> None:
    with pytest.raises(MethodError, match="over 15 parameters, but the task has 12"):
        projections.Directions(torch.zeros(2, 15), matrix_task())
