"""Projections see factored rows as dense ones, and are the same from the same seed."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from methods import memory
from methods.errors import MethodError
from methods.examples import Examples
from methods.random_projection import RandomProjection
from methods.rows import digits, maps, matmul
from methods.rows.drawn import blocks, entries, hashed, signs
from methods.rows.drawn.sides import Sides
from methods.rows.factored import Rows
from methods.rows.gradients import Gradients
from methods.rows.parts import Dense, Outer, Part
from methods.rows.projections import SJLT, Gaussian, Projection, Rademacher, Select, TwoSided
from methods.rows.room import Room
from methods.task import Task
from tests.methods import networks

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
KINDS = (Gaussian, Rademacher, SJLT, Select, TwoSided)
DENSE = (Gaussian, Rademacher)
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


@pytest.mark.parametrize("kind", DENSE)
def test_more_dimensions_extend_fewer(kind: type[Projection]) -> None:
    task = matrix_task()
    few, more = (kind(dim, 3).draw(task).directions() * dim**0.5 for dim in (5, 12))
    torch.testing.assert_close(more[:5], few, **CLOSE)
    assert len(more) == 12
    assert len(more.unique(dim=0)) == 12  # no direction twice
    if kind is Rademacher:
        assert set(more.flatten().round(decimals=9).tolist()) == {-1.0, 1.0}


def test_cases_cover_every_form_of_part(case: Case) -> None:
    task, rows = case.rows()
    have: set[str] = set()
    for name, parts in rows.parts.items():
        have |= set().union(*(kinds(p, task.params[name].shape) for p in parts))
    assert case.kinds <= have


@pytest.mark.parametrize("kind", [*DENSE, SJLT, Select])
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
    with pytest.raises(MethodError, match="no explicit directions: choose Gaussian"):
        drawn.directions()


def kronecker(drawn: maps.Map, name: str) -> Tensor:
    assert isinstance(drawn, Sides)
    return torch.kron(drawn.left[name], drawn.right[name])


def test_two_sided_draws_no_more_for_a_bias_than_for_a_matrix_of_one_column() -> None:
    task = Task.of(networks.built(lambda: nn.Linear(N, M)), networks.nll)
    drawn = TwoSided(25).draw(task)
    assert isinstance(drawn, Sides)
    numbers = sum(s.numel() for s in (*drawn.left.values(), *drawn.right.values()))
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


@pytest.mark.parametrize("kind", DENSE)
def test_slices_equal_the_whole(kind: type[Projection], monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["strided"]
    task, rows = case.rows()
    method = RandomProjection(kind(11, 5))
    drawn = method.projection.draw(task)
    whole, directions = drawn.apply(rows), drawn.directions()
    assert [part.dim for part in drawn.slices()] == [11]
    scores = method.scores(task, case.batch, case.batch)
    for rows_at_once, expected in [(3, [3, 3, 3, 2]), (0.5, [1] * 11)]:
        limit = int(rows_at_once * method.projection.bytes(task) / 11)
        monkeypatch.setattr(memory, "held", lambda device, least, limit=limit: limit)
        cut = method.projection.draw(task)
        assert [part.dim for part in cut.slices()] == expected
        torch.testing.assert_close(cut.apply(rows), whole, **CLOSE)
        torch.testing.assert_close(cut.directions(), directions, **CLOSE)
        torch.testing.assert_close(method.scores(task, case.batch, case.batch), scores, **CLOSE)


@pytest.mark.parametrize("dim", [1, 2, 7, 12, 13])
def test_two_sided_keeps_the_first_of_the_products_of_its_sides(dim: int) -> None:
    case = CASES["strided"]
    task, rows = case.rows()
    drawn = TwoSided(dim, 1).draw(task)
    whole = torch.cat([kronecker(drawn, name) for name in task.params], dim=1)
    assert 0 <= len(whole) - dim < len(whole) ** 0.5
    seen = drawn.apply(rows)
    assert seen.shape == (rows.count, dim)
    expected = rows.dense() @ whole[:dim].T * (len(whole) / dim) ** 0.5
    torch.testing.assert_close(seen, expected, **CLOSE)


def test_sjlt_has_its_nonzeros_in_each_range_of_dimensions() -> None:
    task = CASES["strided"].rows()[0]
    entries = SJLT(11, 2, nonzeros=3).draw(task).directions() * 3**0.5
    for first, last in [(0, 3), (3, 7), (7, 11)]:
        assert (entries[first:last] != 0).sum(0).eq(1).all()
    assert set(entries.flatten().round(decimals=9).tolist()) == {-1.0, 0.0, 1.0}
    assert (entries != 0).any(1).all()


@pytest.mark.parametrize("dim", [16, 64, 512])
def test_a_sparse_map_adds_as_often_whatever_its_dimension(
    dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """s additions a coordinate, and at most one more for every eight."""
    seen: dict[str, int] = {"added": 0, "ends": 0}
    sums = hashed.Table.sums

    def counted(table: hashed.Table, values: Tensor) -> Tensor:
        seen["added"] += len(table.order)
        seen["ends"] += len(table.ends) - 1
        return sums(table, values)

    monkeypatch.setattr(hashed, "GROUP", 1)
    monkeypatch.setattr(hashed.Table, "sums", counted)
    task = matrix_task(300, 64)
    rows = Rows.dense_of(networks.normal(2, task.size), {"weight": task.size})
    SJLT(dim, nonzeros=4).draw(task).apply(rows)
    assert seen["added"] == 4 * task.size
    assert seen["ends"] <= task.size / 8 + dim


def test_sjlt_needs_as_many_dimensions_as_nonzeros() -> None:
    with pytest.raises(MethodError, match="4 nonzeros of 3 dimensions: choose nonzeros <= 3"):
        SJLT(3)


@pytest.mark.parametrize("kind", [Rademacher, SJLT])
@pytest.mark.parametrize("numbers", [1, 40, 300])
def test_the_size_of_blocks_changes_nothing(
    case: Case, kind: type[Projection], numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, rows = case.rows()
    whole = kind(12, 1).draw(task).apply(rows)
    for room, name, size in (
        (entries, "CACHED", 4), (entries, "FORMED", 8),
        (entries, "LEAST", 1), (entries, "NUMBERS", 8),
        (hashed, "GROUP", 1), (hashed, "CACHED", 160), (blocks, "TOKENS", 1),
    ):  # fmt: skip
        monkeypatch.setattr(room, name, size * numbers)
    monkeypatch.setattr(entries, "WIDTH", 5)
    torch.testing.assert_close(kind(12, 1).draw(task).apply(rows), whole, **CLOSE)


@pytest.mark.parametrize("n", [1, 31, 32, 33, 70, 256, 300])
def test_signs_unpack_alike_to_every_type(n: int) -> None:
    words = torch.randint(-(1 << 31), 1 << 31, (3, 2, -(-n // 32))).int()
    width = words.shape[-1]
    bits = [(words[..., j % width] >> (31 - j // width)) & 1 for j in range(n)]
    expected = 1 - 2 * torch.stack(bits, -1).float()
    for kind in (torch.float32, torch.bfloat16):
        packed = torch.from_numpy(signs.apart(words.numpy(), kind.itemsize))
        seen = signs.unpacked(packed, n, kind, Room())
        assert seen.dtype == kind
        assert torch.equal(seen.float(), expected)
    packed = torch.from_numpy(signs.apart(words.numpy(), 1))
    seen = signs.unpacked_bytes(packed, Room()).float() / digits.SIGN
    assert seen.abs().eq(1).all()
    values = networks.normal(2, n).float()
    torch.testing.assert_close(
        torch.einsum("qk,drk->qdr", signs.by_bit(values).flatten(1), seen),
        torch.einsum("qn,drn->qdr", values, expected),
    )


def test_pieces_in_bfloat16_sum_to_float32() -> None:
    values = networks.normal(4, 500).float() * torch.logspace(-12, 12, 500)
    assert torch.equal(sum(piece.double() for piece in matmul.pieces(values)), values.double())


def single(name: str) -> tuple[Task, Rows]:
    """A case's task in float32, and its rows rounded to that."""
    case = CASES[name]
    rows = case.rows()[1]
    parts = {key: [part.to(torch.float32) for part in own] for key, own in rows.parts.items()}
    task = Task.of(networks.built(case.make).float(), networks.nll)
    return task, Rows(parts, rows.count)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "digits"])
@pytest.mark.parametrize("name", CASES)
def test_signs_times_float32_rows_are_those_of_float64(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-6 of a row's length, in the type of every kind of device."""
    monkeypatch.setattr(signs, "takes_digits", lambda device: kind == "digits")
    monkeypatch.setattr(signs, "takes_bfloat16", lambda device: kind == "bfloat16")
    monkeypatch.setattr(matmul, "_summed", lambda a, b: a.float() @ b.float().T)
    task, rows = single(name)
    drawn = Rademacher(64, 3).draw(task)
    expected = rows.dense().double() @ drawn.directions().double().sign().T / 8
    seen = drawn.apply(rows)
    assert seen.dtype == torch.float32
    assert ((seen - expected).norm(dim=1) < 1e-6 * rows.dense().norm(dim=1)).all()
    exact = Rademacher(64, 3).draw(CASES[name].rows()[0]).directions()
    torch.testing.assert_close(drawn.directions().double(), exact, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(("kind", "largest"), [("bfloat16", 1.0), ("digits", 30.0)])
def test_signs_times_fewer_bits_are_off_by_as_much_as_is_said(
    kind: str, largest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of digits, times the largest number of a row over a typical one."""
    monkeypatch.setattr(signs, "takes_digits", lambda device: kind == "digits")
    monkeypatch.setattr(signs, "takes_bfloat16", lambda device: kind == "bfloat16")
    monkeypatch.setattr(matmul, "_summed", lambda a, b: a.float() @ b.float().T)
    task, rows = single("strided")
    length = rows.dense().norm(dim=1)
    for bits in (16, 8):
        drawn = Rademacher(64, 3, bits=bits).draw(task)
        expected = rows.dense().double() @ drawn.directions().double().sign().T / 8
        error = ((drawn.apply(rows) - expected).norm(dim=1) / length).max()
        assert 2.0 ** -(bits + 4) < error < largest * 2.0**-bits
    with pytest.raises(MethodError, match="12 bits of a number: choose 8, 16 or 24"):
        Rademacher(64, bits=12)


def test_normal_numbers_times_float32_rows_are_those_of_float64() -> None:
    task, rows = single("strided")
    expected = Gaussian(64, 3).draw(CASES["strided"].rows()[0]).directions()
    seen = Gaussian(64, 3).draw(task).apply(rows)
    error = seen - rows.dense().double() @ expected.T
    assert (error.norm(dim=1) < 1e-6 * rows.dense().norm(dim=1)).all()


needs_integers = pytest.mark.skipif(
    matmul.integer_product() is None, reason="this torch has no product of 8-bit integers"
)


@needs_integers
def test_digits_are_rows_to_22_bits_of_their_largest_number() -> None:
    rows = networks.normal(5, 300).float() * torch.logspace(-9, 9, 5)[:, None]
    rows[0, :7] *= 1e6
    rows[1] = 0.0
    rows[2, 0] = -rows[2].abs().max() * 2
    made = digits.Digits.of(rows, digits.largest_of(rows), Room())
    weights = torch.tensor([1 << 16, 1 << 8, 1]).double()
    back = torch.einsum("dnk,d->nk", made.digits.double(), weights) * made.unit.double()
    assert ((back - rows).abs().amax(1) <= 2.6 * 2**-24 * rows.abs().amax(1)).all()
    signs = 64 * (2 * torch.randint(0, 2, (9, 300)) - 1).to(torch.int8)
    seen = made.product(signs, Room())
    torch.testing.assert_close(seen.double(), back @ signs.double().T / 64, rtol=1e-6, atol=1e-9)


@needs_integers
def test_long_rows_of_digits_do_not_overflow() -> None:
    n = (1 << 18) + 5
    made = digits.Digits.of(torch.full((1, n), -3.0), torch.tensor([[3.0]]), Room())
    seen = made.product(torch.full((1, n), digits.SIGN, dtype=torch.int8), Room())
    assert float(seen) == pytest.approx(-3.0 * n, rel=1e-6)


def test_digits_keep_what_is_no_number() -> None:
    rows = torch.tensor([[1.0, float("nan")], [float("inf"), 1.0], [1.0, 1.0]])
    if digits.takes_digits(rows.device):
        signs = torch.full((1, 2), digits.SIGN, dtype=torch.int8)
        seen = digits.Digits.of(rows, digits.largest_of(rows), Room()).product(signs, Room())
        assert seen.isfinite().flatten().tolist() == [False, False, True]


@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize("dim", [7, 41])
def test_factors_of_one_term_are_contracted_where_they_move_less(
    kind: type[Projection], dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways agree; the rule counts r dim sums against r n numbers."""
    task = matrix_task(5, 40)
    part = Outer(networks.normal(6, 1, 5), networks.normal(6, 1, 40, seed=1), 5, (40,), None, -2.0)
    rows = Rows({"weight": [part]}, 6)
    assert entries.contracts(part, dim) is (dim <= 40)
    seen = []
    for way in (True, False):
        monkeypatch.setattr(entries, "contracts", lambda part, dim, way=way: way)
        seen.append(kind(dim).draw(task).apply(rows))
    torch.testing.assert_close(*seen, **CLOSE)
    torch.testing.assert_close(seen[0], rows.dense() @ kind(dim).draw(task).directions().T, **CLOSE)


def test_select_needs_as_many_parameters() -> None:
    with pytest.raises(MethodError, match=r"13 of 12 parameters: choose dim <= 12"):
        Select(13).draw(matrix_task())


def test_directions_of_another_model_are_an_error() -> None:
    with pytest.raises(MethodError, match="over 15 parameters, but the task has 12"):
        maps.Directions(torch.zeros(2, 15), matrix_task())
