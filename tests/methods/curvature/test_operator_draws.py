"""Operators: their draws, their diagonal, and their refusals."""

import pytest
import torch
from torch import Tensor, nn

from methods.curvature.curvature import Curvature
from methods.curvature.matrix import Matrix
from methods.curvature.operators import GaussNewton, Hessian
from methods.errors import MethodError
from methods.examples import Examples
from methods.task import Task
from tests.methods import networks
from tests.methods.curvature.test_operators import OPERATORS, directions


class Counted(Curvature):
    """The mean of the first column of the examples drawn, on the diagonal."""

    def _add(self, total: Tensor, batch: Examples, vectors: Tensor, share: float) -> None:
        total.add_(vectors * batch["x"][:, 0].mean(), alpha=share)


def test_fresh_minibatches_are_reproducible() -> None:
    task, batch = Task.of(networks.built(networks.Mlp), networks.nll), networks.examples(50, 6)
    v = directions(task, 1)
    first, again = (Hessian(task, batch, sample=8, seed=3) for _ in range(2))
    products = [first.apply(v) for _ in range(3)]
    for product in products:
        assert torch.equal(product, again.apply(v))
    assert not torch.allclose(products[0], products[1])
    assert torch.equal(first.apply(v, draw=1), products[1])
    other = Hessian(task, batch, sample=8, seed=4)
    assert not torch.allclose(other.apply(v), products[0])
    torch.testing.assert_close(first.apply(v.repeat(3, 1), draw=2)[1:2], products[2])
    assert torch.equal(Hessian(task, batch, sample=50).apply(v), Hessian(task, batch).apply(v))


def test_minibatches_are_unbiased_and_without_repeats() -> None:
    task, batch = Task.of(networks.built(networks.Mlp), networks.nll), networks.examples(50, 6)
    operator = Counted(task, batch, sample=8)
    drawn = torch.stack([operator.batch(i)["x"][:, 0] for i in range(400)])
    assert all(len(row.unique()) == 8 for row in drawn)
    spread = batch["x"][:, 0].std() / (400 * 8) ** 0.5
    assert (drawn.mean() - batch["x"][:, 0].mean()).abs() < 4 * spread


def test_weight_decay_and_damping_are_on_the_diagonal() -> None:
    task = Task.of(networks.built(networks.Mlp), networks.nll, weight_decay=0.3)
    batch = networks.examples(9, 6)
    bare = Hessian(Task.of(networks.built(networks.Mlp), networks.nll), batch).dense()
    for name, make in OPERATORS.items():
        gap = make(task, batch, 0.2).dense() - make(task, batch).dense()
        torch.testing.assert_close(gap, 0.2 * torch.eye(task.size).double(), msg=name)
    torch.testing.assert_close(
        Hessian(task, batch, 0.2).dense(), bare + 0.5 * torch.eye(task.size).double()
    )


def test_a_matrix_multiplies_rows_and_columns() -> None:
    matrix = networks.normal(4, 4)
    operator = Matrix(matrix + matrix.T)
    columns = networks.normal(4, 3)
    torch.testing.assert_close(operator @ columns, operator.matrix @ columns)
    torch.testing.assert_close(operator @ columns[:, 0], operator.matrix @ columns[:, 0])
    torch.testing.assert_close(operator.dense(block=3), operator.matrix)
    with pytest.raises(MethodError, match="vector of 3"):
        operator @ columns.T


def test_a_hessian_needs_examples_and_linearising_fixed_ones() -> None:
    task, batch = Task.of(networks.built(networks.Mlp), networks.nll), networks.examples(9, 6)
    with pytest.raises(MethodError, match="no examples"):
        Hessian(task, networks.examples(0, 6))
    with pytest.raises(MethodError, match="drop `sample`"):
        Hessian(task, batch, sample=4).linearized()


@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
def test_a_sampled_curvature_moves_and_checks_what_it_draws_alone(
    kind: type[Curvature], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, batch = Task.of(networks.built(networks.Mlp), networks.nll), networks.examples(50, 6)
    operator = kind(task, batch, sample=8)
    drawn = operator.batch(0)["x"]
    inside = next(i for i in range(50) if (batch["x"][i] == drawn).all(1).any())
    outside = next(i for i in range(50) if not (batch["x"][i] == drawn).all(1).any())
    expected = operator.apply(directions(task, 1), draw=0)

    def with_nan(row: int) -> Examples:
        x = batch["x"].clone()
        x[row, 2] = torch.nan
        return {**batch, "x": x}

    moved: list[int] = []
    move = Task.move
    monkeypatch.setattr(Task, "move", lambda t, b: moved.append(len(b["x"])) or move(t, b))
    lenient = kind(task, with_nan(outside), sample=8)
    assert torch.equal(lenient.apply(directions(task, 1), draw=0), expected)
    assert moved == [8]
    strict = kind(task, with_nan(inside), sample=8)
    with pytest.raises(MethodError, match="column x has 1 of 48 numbers not finite"):
        strict.apply(directions(task, 1), draw=0)
    with pytest.raises(MethodError, match="column x has 1 of 300 numbers not finite"):
        kind(task, with_nan(outside))


class Doubled(Hessian):
    """A curvature that says in `apply` what it is: twice the Hessian, damped as ever."""

    def apply(self, vectors: Tensor, draw: int | None = None) -> Tensor:
        return 2 * super().apply(vectors, draw) - self.shift * vectors


@pytest.mark.parametrize("kind", [Hessian, GaussNewton, Counted, Doubled])
def test_products_are_added_in_place_to_what_there_is(kind: type[Curvature]) -> None:
    task = Task.of(networks.built(networks.Mlp), networks.nll, weight_decay=0.3)
    operator = kind(task, networks.examples(50, 6), 0.2, sample=8)
    before, v = directions(task, 2), networks.normal(2, task.size, seed=5)
    total = before.clone()
    operator.add_products(total, v, -0.7, draw=4)
    undamped = operator.apply(v, draw=4) - 0.5 * v
    torch.testing.assert_close(total, before - 0.7 * undamped)


@pytest.mark.parametrize("sample", [1, 2, 8])
def test_a_loss_is_proved_once_however_few_examples_a_product_takes(sample: int) -> None:
    calls: list[int] = []

    def counted(model: nn.Module, batch: Examples) -> Tensor:
        calls.append(len(batch["x"]))
        return networks.nll(model, batch)

    task = Task.of(networks.built(networks.Mlp), counted)
    operator, v = Hessian(task, networks.examples(50, 6), sample=sample), directions(task, 1)
    for _ in range(8):  # one example of batches 2, 4 and 8 is held against its loss alone
        operator.apply(v)
    calls.clear()
    for _ in range(3):
        operator.apply(v)
    assert calls == [sample] * 3


def test_a_loss_that_was_proved_of_examples_alone_is_proved_again_of_several() -> None:
    def coupled(model: nn.Module, batch: Examples) -> Tensor:
        values = networks.nll(model, batch)
        return values + values.std(correction=0)  # nothing among copies of one example

    task, batch = Task.of(networks.built(networks.Mlp), coupled), networks.examples(50, 6)
    v = directions(task, 1)
    Hessian(task, batch, sample=1).apply(v)
    with pytest.raises(MethodError, match="depends on its batch"):
        Hessian(task, batch, sample=4).apply(v)
