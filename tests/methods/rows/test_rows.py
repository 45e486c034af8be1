"""Factored rows are per-example gradients, whatever the model does with its parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from methods.errors import MethodError
from methods.examples import Examples
from methods.rows import gradients
from methods.rows.factored import Rows
from methods.rows.gradients import Gradients
from methods.rows.parts import Outer
from methods.task import Task
from tests.methods import networks

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@dataclass(frozen=True)
class Case:
    """A model, its data, and the patterns of parameters that have no factored form."""

    make: Callable[[], nn.Module]
    data: Callable[..., Examples]
    falls_back: tuple[str, ...] = ()

    def task(self, only: tuple[str, ...] = ()) -> Task:
        return Task.of(networks.built(self.make), networks.nll, only=only)


SHARED = (
    "layer.self_attn.in_proj_weight",
    "layer.self_attn.in_proj_bias",
    "layer.self_attn.out_proj.weight",
    "layer.self_attn.out_proj.bias",
)


def vectors(*shape: int) -> Callable[..., Examples]:
    return lambda n, seed=0: networks.examples(n, *shape, seed=seed)


FLAT = vectors(6)


def wide_convolutions() -> nn.Module:
    """Convolutions whose weights have fewer numbers than their factors, with every option."""
    return nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(16, 3, (3, 2), stride=(1, 2), dilation=(2, 1), padding=(2, 1)),
        nn.Tanh(),
        nn.Conv2d(3, 16, 1, bias=False),
        nn.Tanh(),
        nn.Conv2d(16, 2, (2, 3), padding="same", padding_mode="circular"),
        nn.Flatten(),
        nn.Linear(2 * 24 * 14, 3),
    )


CASES = {
    "convolutions": Case(networks.ConvNet, vectors(2, 6, 7)),
    "wide convolutions": Case(wide_convolutions, vectors(2, 24, 26)),
    "a convolution with one output position": Case(
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3)),
        vectors(2, 3, 3),
    ),
    "torch's encoder layer": Case(networks.Encoder, networks.sentences, SHARED),
    "a block by hand": Case(networks.Block, networks.sentences),
    "a layer used twice": Case(networks.Twice, FLAT),
    "a parameter of no layer": Case(networks.Outside, FLAT, ("gain",)),
    "a weight in a raw product": Case(networks.RawWeight, FLAT, ("middle.weight",)),
    "in place on a sequence": Case(networks.InPlace, vectors(4, 6)),
    "sequence first": Case(networks.SequenceFirst, vectors(4, 6)),
    "sequence first, as long as the probe": Case(
        networks.SequenceFirst, vectors(gradients.PROBE, 6)
    ),
    "padding": Case(networks.Padded, networks.bags),
    "wide layers": Case(lambda: networks.Mlp(40, 30), vectors(40)),
    "long sequences": Case(networks.InPlace, vectors(70, 6)),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def rows_of(task: Task, batch: Examples) -> Rows:
    return Gradients(task, task.loss).rows(batch)


def test_rows_are_the_gradients_of_single_examples(case: Case) -> None:
    task, batch = case.task(), case.data(7)
    expected = networks.gradient_rows(task, task.loss, batch)
    torch.testing.assert_close(rows_of(task, batch).dense(), expected, **CLOSE)


def test_products_norms_and_joins_equal_those_of_dense_rows(case: Case) -> None:
    task = case.task()
    source = Gradients(task, task.loss)
    few, many = source.rows(case.data(4, seed=3)), source.rows(case.data(7))
    other = source.rows(case.data(7, seed=5))
    a, b, c = few.dense(), many.dense(), other.dense()
    for have, want in [
        (few.inner(many), a @ b.T),
        (many.inner(few), b @ a.T),
        (many.inner(many), b @ b.T),
        (many.paired(other), (b * c).sum(1)),
        (many.squared_norms(), b.square().sum(1)),
        (many.scaled(-0.5).dense(), -0.5 * b),
        (many.scaled(2.0).inner(few.scaled(3.0)), 6 * b @ a.T),
        (many.scaled(3.0).squared_norms(), 9 * b.square().sum(1)),
        (many.scaled(2.0).paired(other.scaled(-1.0)), -2 * (b * c).sum(1)),
        (Rows.stacked([few, many]).dense(), torch.cat([a, b])),
        (Rows.stacked([few, many]).inner(other), torch.cat([a, b]) @ c.T),
        (Rows.joined([many, other]).dense(), torch.cat([b, c], 1)),
        (Rows.joined([many, other]).inner(Rows.joined([other, many])), b @ c.T + c @ b.T),
    ]:
        torch.testing.assert_close(have, want, **CLOSE)


def test_rows_meet_dense_directions(case: Case) -> None:
    task, batch = case.task(), case.data(5)
    rows, matrix = rows_of(task, batch), networks.normal(3, task.size, seed=8)
    given = Rows.dense_of(matrix, {n: v.numel() for n, v in task.params.items()})
    torch.testing.assert_close(rows.inner(given), rows.dense() @ matrix.T, **CLOSE)
    torch.testing.assert_close(given.inner(rows), matrix @ rows.dense().T, **CLOSE)
    three = rows_of(task, first_of(batch, 3))
    torch.testing.assert_close(three.paired(given), (three.dense() * matrix).sum(1), **CLOSE)


def first_of(batch: Examples, n: int) -> Examples:
    return {name: column[:n] for name, column in batch.items()}


def test_what_has_no_factored_form_is_named_in_the_log(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    task = case.task()
    source = Gradients(task, task.loss)
    with caplog.at_level("WARNING"):
        source.rows(case.data(4))
    assert set(source.fallback or ()) == set(case.falls_back)
    for name in case.falls_back:
        assert name in caplog.text
    assert bool(caplog.text) == bool(case.falls_back)


def test_coverage_does_not_depend_on_how_many_examples_come_first(case: Case) -> None:
    task, batch = case.task(), case.data(6)
    for first in (1, 2):
        source = Gradients(task, task.loss)
        one = source.rows(first_of(batch, first)).dense()
        expected = networks.gradient_rows(task, task.loss, batch)
        torch.testing.assert_close(one, expected[:first], **CLOSE)
        torch.testing.assert_close(source.rows(batch).dense(), expected, **CLOSE)


@pytest.mark.parametrize("only", [("head.*",), ("*bias",), ("inner.*", "head.weight")])
def test_only_some_parameters_give_their_columns(only: tuple[str, ...]) -> None:
    case = CASES["a layer used twice"]
    task, batch = case.task(only), case.data(5)
    whole = rows_of(case.task(), batch).matrices()
    some = rows_of(task, batch)
    assert list(some.parts) == list(task.params)
    for name, values in some.matrices().items():
        torch.testing.assert_close(values, whole[name], **CLOSE)


def test_only_the_parameters_of_an_attention_layer() -> None:
    case = CASES["torch's encoder layer"]
    task, batch = case.task(("layer.self_attn.*", "words.*")), case.data(5)
    expected = networks.gradient_rows(task, task.loss, batch)
    torch.testing.assert_close(rows_of(task, batch).dense(), expected, **CLOSE)


def test_rows_equal_vmap_of_grad_where_vmap_can_go() -> None:
    for name in ("convolutions", "a block by hand"):
        task, batch = CASES[name].task(), CASES[name].data(5)
        model = task.loss.model  # type: ignore[attr-defined]

        def one(params, example, model=model):
            alone = {k: v[None] for k, v in example.items()}
            return networks.nll(lambda x: functional_call(model, params, (x,)), alone)[0]

        expected = vmap(grad(one), in_dims=(None, 0))(task.params, batch)
        torch.testing.assert_close(rows_of(task, batch).dense(), task.flatten(expected, 1), **CLOSE)


def test_padding_gets_no_gradient() -> None:
    case = CASES["padding"]
    batch = case.data(6)
    assert (batch["x"] == 2).any()
    words = (
        rows_of(case.task(), batch)
        .matrices()["words.weight"]
        .view(6, networks.WORDS, networks.WIDTH)
    )
    assert words[:, 2].abs().max() == 0
    assert words[:, 0].abs().max() > 0


def test_layers_stay_factored() -> None:
    case = CASES["wide layers"]
    rows = rows_of(case.task(), case.data(6))
    assert isinstance(rows.parts["inner.weight"][0], Outer)
    assert rows.elements < rows.dense().numel() / 5


def test_rows_work_under_no_grad_and_leave_no_hook() -> None:
    case = CASES["convolutions"]
    task, batch = case.task(), case.data(4)
    with torch.no_grad():
        rows = rows_of(task, batch)
    torch.testing.assert_close(rows.dense(), rows_of(task, batch).dense())
    assert not rows.dense().requires_grad
    model = task.loss.model  # type: ignore[attr-defined]
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_of_other_parameters_is_an_error() -> None:
    task = CASES["a parameter of no layer"].task(("idle.*",))
    with pytest.raises(MethodError, match=r"does not depend on idle\.weight"):
        rows_of(task, FLAT(4))


def test_a_gradient_that_is_not_finite_is_an_error() -> None:
    case = CASES["padding"]
    model = networks.built(networks.Padded)
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    task = Task.of(model, networks.nll)
    with pytest.raises(MethodError, match="not finite"):
        rows_of(task, case.data(4))


def test_a_residual_that_is_all_rounding_does_not_cost_the_factored_form() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    x = torch.randn(6, 5)
    with torch.no_grad():
        target = model(x)[:, 0]
    target[1:] += 1.0  # the first example is predicted to the last bit, or nearly

    def squared(model: Any, batch: Examples) -> Tensor:
        return (model(batch["x"])[:, 0] - batch["target"]).square()

    batch = {"x": x, "target": target + 1e-7}
    task = Task.of(model.eval(), squared)
    source = Gradients(task, task.loss)
    source.rows(batch)
    assert source.fallback == ()


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("materialised", [(), (0,), (1,), (0, 1)])
def test_rows_of_sentences_of_different_lengths_are_stacked(words, materialised):
    pieces, expected = [], []
    for index, terms in enumerate((7, 3)):
        left = networks.integers(5, 4, terms) if words else networks.normal(4, terms, 5)
        part = Outer(left, networks.normal(4, terms, 3, seed=1), 5, (3,))
        expected.append(part.matrix())
        pieces.append(Rows({"w": (part.dense if index in materialised else part,)}, 4))
    stacked = Rows.stacked(pieces)
    assert stacked.count == 8
    torch.testing.assert_close(stacked.dense(), torch.cat(expected))
    other = Rows.dense_of(networks.normal(2, 15, seed=2), {"w": 15})
    torch.testing.assert_close(stacked.inner(other), torch.cat(expected) @ other.dense().T)
