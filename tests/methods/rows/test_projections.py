"""Projections see factored rows as dense ones, and are the same from the same seed."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.random_projection import RandomProjection
from methods.rows import projections
from methods.rows.factored import Rows
from methods.rows.gradients import Gradients
from methods.rows.parts import Dense, Part
from methods.rows.projections import Gaussian, Projection, Rademacher, Select, TwoSided
from methods.task import Examples, Task
from tests.methods import networks

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
KINDS = (Gaussian, Rademacher, Select, TwoSided)
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


class Shift(nn.Module):
    """One parameter without axes."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


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
    whole = torch.cat([kronecker(drawn, name) for name in task.params], dim=1)
    assert whole.shape == (16, task.size)
    torch.testing.assert_close(drawn.apply(rows), rows.dense() @ whole.T, **CLOSE)
    torch.testing.assert_close(drawn.apply(identity(task)), whole.T, **CLOSE)
    torch.testing.assert_close(drawn.apply(rows.scaled(-3.0)), -3 * drawn.apply(rows), **CLOSE)
    with pytest.raises(MethodError, match="no explicit directions"):
        drawn.directions()


def kronecker(drawn: projections.Map, name: str) -> Tensor:
    assert isinstance(drawn, projections._TwoSidedMap)
    return torch.kron(drawn._left[name], drawn._right[name])


def test_two_sided_draws_no_more_for_a_bias_than_for_a_matrix_of_one_column() -> None:
    task = Task.of(networks.built(lambda: nn.Linear(N, M)), networks.nll)
    drawn = TwoSided(25).draw(task)
    assert isinstance(drawn, projections._TwoSidedMap)
    numbers = sum(s.numel() for s in (*drawn._left.values(), *drawn._right.values()))
    assert numbers == 5 * (M + N) + 5 * (M + 1)


def test_two_sided_projects_a_single_number() -> None:
    scalar = Task.of(networks.built(Shift), lambda model, batch: model(batch["x"]))
    rows = Rows.dense_of(torch.tensor([[2.0], [-1.0]], dtype=networks.DOUBLE), {"by": 1})
    sketch = TwoSided(16).draw(scalar).apply(rows)
    assert sketch.shape == (2, 16)
    torch.testing.assert_close(sketch[0], -2 * sketch[1], **CLOSE)


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
    for rows_at_once, expected in [(3, [3, 3, 3, 2]), (0.5, [1] * 11)]:
        limit = int(rows_at_once * task.size * task.dtype.itemsize)
        monkeypatch.setattr("methods.rows.projections.LIMIT", limit)
        cut = method.projection.draw(task)
        assert [part.dim for part in cut.slices()] == expected
        torch.testing.assert_close(cut.apply(rows), whole, **CLOSE)
        torch.testing.assert_close(cut.directions(), directions, **CLOSE)
        torch.testing.assert_close(method.scores(task, case.batch, case.batch), scores, **CLOSE)


@pytest.mark.parametrize(("dim", "squares"), [(10, "9 or 16"), (99, "81 or 100"), (2, "1 or 4")])
def test_two_sided_names_the_nearest_squares(dim: int, squares: str) -> None:
    with pytest.raises(MethodError, match=f"not {dim}: choose {squares}"):
        TwoSided(dim).draw(matrix_task())


def test_select_needs_as_many_parameters() -> None:
    with pytest.raises(MethodError, match=r"13 of 12 parameters: choose dim <= 12"):
        Select(13).draw(matrix_task())


def test_directions_of_another_model_are_an_error() -> None:
    with pytest.raises(MethodError, match="over 15 parameters, but the task has 12"):
        projections.Directions(torch.zeros(2, 15), matrix_task())
