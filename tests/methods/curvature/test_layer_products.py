"""Hessian products at layers equal `jvp(grad)`, whatever the model does with its parameters."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from methods.curvature import layer_products, operators
from methods.curvature.layer_passes import Passes
from methods.curvature.moving_activations import BLOCK, Gelu, Softmax
from methods.curvature.operators import Hessian
from methods.task import Examples, Task
from tests.methods import networks
from tests.methods.curvature.test_operators import differences, directions, gradient_at
from tests.methods.rows.test_coverage import Called, late, weighed, weighed_elsewhere


class Bert(nn.Module):
    """Two encoder layers of transformers on hidden states, in eager attention."""

    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        config._attn_implementation = "eager"
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(2))
        self.pool, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = layer(h)
            h = h[0] if isinstance(h, tuple) else h
        return self.head(self.pool(h[:, 0]).tanh())


class Stack(nn.Module):
    """torch's own encoder of two layers; attention has raw weights."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8), enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return self.head(self.encoder(x).mean(1))


class Norms(nn.Module):
    """Every normalisation, with and without an offset, over one axis and over two."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(2),
            nn.Conv2d(2, 4, 3),
            nn.GroupNorm(2, 4),
            nn.Tanh(),
            nn.BatchNorm2d(4),
            nn.LayerNorm([4, 5], bias=False),
            nn.Tanh(),
            nn.Flatten(2),
            nn.BatchNorm1d(4),
            nn.Linear(20, 3),
            nn.LayerNorm(3),
            nn.Tanh(),
            nn.Flatten(),
        )
        self.head = nn.Linear(12, 3, bias=False)
        for layer in self.body:
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.running_mean.uniform_(-1, 1)
                layer.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@dataclass(frozen=True)
class Case:
    """A model, its data, and the parameters that must be differentiated themselves."""

    make: Callable[[], nn.Module]
    data: Callable[[int], Examples]
    falls_back: tuple[str, ...] = ()
    unproven: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    exact: float = 1e-13  # how near to jvp(grad) in double precision
    symmetric: bool = True

    def task(self, dtype: torch.dtype = networks.DOUBLE) -> Task:
        return Task.of(networks.built(self.make).to(dtype), networks.nll, only=self.only)

    def batch(self, n: int, dtype: torch.dtype = networks.DOUBLE) -> Examples:
        columns = self.data(n).items()
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in columns}


def vectors(*shape: int) -> Callable[[int], Examples]:
    return lambda n: networks.examples(n, *shape)


ATTENTION = tuple(
    f"self_attn.{name}"
    for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
)
UNUSED = ("middle.weight", "middle.bias", "idle.weight", "idle.bias")
CASES = {
    "convolutions": Case(networks.ConvNet, vectors(2, 6, 7)),
    "weights alone": Case(networks.ConvNet, vectors(2, 6, 7), only=("*.weight",)),
    "torch's encoder layer": Case(
        networks.Encoder, networks.sentences, tuple(f"layer.{name}" for name in ATTENTION)
    ),
    "a block by hand": Case(networks.Block, networks.sentences),
    "offsets alone": Case(networks.Block, networks.sentences, only=("*.bias",)),
    "a plain network": Case(networks.Mlp, vectors(6)),
    "a layer used twice": Case(networks.Twice, vectors(6)),
    "a parameter of no layer": Case(networks.Outside, vectors(6), ("gain",), UNUSED),
    "a weight in a raw product": Case(networks.RawWeight, vectors(6), ("middle.weight",)),
    "in place on a sequence": Case(networks.InPlace, vectors(4, 6)),
    "sequence first": Case(networks.SequenceFirst, vectors(4, 6)),
    # torch gives a padding word no gradient, so that its row is zero and its column is not.
    "padding": Case(networks.Padded, networks.bags, symmetric=False),
    "normalisations": Case(Norms, vectors(2, 6, 7)),
    "gains alone": Case(Norms, vectors(2, 6, 7), only=("body.0.weight", "body.4.*", "body.5.*")),
    # transformers takes the softmax of attention in single precision, whatever the model's own.
    "layers of transformers": Case(Bert, vectors(5, 8), exact=3e-6),
    "its upper half": Case(Bert, vectors(5, 8), only=("layers.1.*", "pool.*"), exact=3e-6),
    "torch's encoder": Case(
        Stack,
        vectors(5, 8),
        tuple(f"encoder.layers.{i}.{name}" for i in range(2) for name in ATTENTION),
    ),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def reference(hessian: Hessian, vectors: Tensor) -> Tensor:
    """The products of `jvp(grad)`, over all examples at once."""
    return hessian._multiplied(hessian.examples, vectors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_products_equal_those_of_jvp_of_grad_singly_and_in_blocks(
    case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, batch = case.task(dtype), case.batch(9, dtype)
    hessian, v = Hessian(task, batch), directions(task, 4).to(dtype)
    expected = reference(hessian, v)
    monkeypatch.setattr(operators, "CHUNK", 4)  # so that a buffer is met again
    bound = (case.exact if dtype == torch.float64 else 3e-6) * expected.norm()
    singly = torch.cat([hessian.apply(one[None]) for one in v])
    for products in (hessian.apply(v), singly):
        assert (products - expected).norm() <= bound
    products = v @ hessian.apply(v).T
    assert not case.symmetric or (products - products.T).norm() <= bound
    layers = hessian._layers
    assert (set(layers.fallback or ()), set(layers.unproven), layers.in_blocks) == (
        set(case.falls_back),
        set(case.unproven),
        True,
    )


def test_products_equal_central_differences(case: Case) -> None:
    task, batch = case.task(), case.batch(5)
    v = directions(task, 1)[0]

    def gradient(params: dict) -> Tensor:
        params = {n: p.detach().requires_grad_() for n, p in params.items()}
        loss = task.function(task.loss)(params, batch).mean()
        found = torch.autograd.grad(loss, list(params.values()), materialize_grads=True)
        return torch.cat([g.flatten() for g in found])

    expected = differences(gradient, task, v, 1e-5)
    product = Hessian(task, batch) @ v
    assert (product - expected).norm() <= 1e-6 * expected.norm() + 1e-10


def test_what_falls_back_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    case = CASES["a weight in a raw product"]
    hessian = Hessian(case.task(), case.batch(5))
    v = directions(hessian.task, 2)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            hessian.apply(v)
    assert caplog.messages == ["Hessian products by jvp(grad) for: middle.weight"]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(
    ("make", "loss", "falls_back"),
    [
        (networks.RawWeight, weighed, {"middle.weight"}),
        (networks.Mlp, weighed, set()),
        (Called, weighed_elsewhere, set()),
    ],
    ids=["a weight in a raw product", "layers alone", "a layer called without examples"],
)
def test_coverage_is_not_concluded_from_products_that_are_zero(
    make: Callable[[], nn.Module],
    loss: Any,
    falls_back: set[str],
    k: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operators, "CHUNK", 3)  # of which the first has no curvature
    task = Task.of(networks.built(make), loss)
    hessian = Hessian(task, late(8))
    v = directions(task, k)
    expected = reference(hessian, v)
    for _ in range(2):
        torch.testing.assert_close(hessian.apply(v), expected, rtol=1e-10, atol=1e-12)
    assert set(hessian._layers.fallback or ()) == falls_back
    assert hessian._layers.unproven == ()


def test_blocks_are_as_wide_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["a plain network"]
    task, batch = case.task(), case.batch(5)
    widths: list[int] = []
    along_all = Passes.along_all

    def noted(self: Passes, batch: Examples, vectors: Tensor, *args: Any) -> Any:
        widths.append(len(vectors))
        return along_all(self, batch, vectors, *args)

    hessian = Hessian(task, batch)
    v = directions(task, 7)
    expected = hessian.apply(v)
    monkeypatch.setattr(Passes, "along_all", noted)
    # 5 examples, each with inputs and outputs of 6 + 5, 5 + 5 and 5 + 3 elements.
    for limit, expected_widths in ((5 * 29 * 7, [7]), (5 * 29 * 4, [4, 3]), (5 * 29, [])):
        widths.clear()
        monkeypatch.setattr(layer_products, "VECTORS", limit)
        torch.testing.assert_close(hessian.apply(v), expected, rtol=1e-12, atol=1e-14)
        assert widths == expected_widths


@pytest.mark.parametrize("broken", [("along_all",), ("along_one", "along_all")])
def test_a_model_that_layers_cannot_follow_goes_by_jvp_of_grad(
    broken: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError("no rule for this")

    for name in broken:
        monkeypatch.setattr(Passes, name, refuse)
    case = CASES["a plain network"]
    hessian = Hessian(case.task(), case.batch(5))
    v = directions(hessian.task, 3)
    with caplog.at_level(logging.INFO):
        products = hessian.apply(v)
    torch.testing.assert_close(products, reference(hessian, v), rtol=1e-12, atol=1e-14)
    assert any("no rule for this" in message for message in caplog.messages)
    alone = set() if broken == ("along_all",) else set(hessian.task.params)
    assert set(hessian._layers.fallback or ()) == alone


def test_the_gradient_of_a_product_is_not_kept_nor_the_model_changed() -> None:
    case = CASES["a block by hand"]
    task, batch = case.task(), case.batch(5)
    model: Any = task.loss.model  # type: ignore[attr-defined]
    hessian = Hessian(task, batch)
    assert not hessian.apply(directions(task, 1)).requires_grad
    assert not hessian.apply(directions(task, 3)).requires_grad
    for layer in model.modules():
        assert not layer._forward_hooks
        assert "forward" not in vars(layer)
    before = gradient_at(task, batch)(task.params)
    hessian.apply(directions(task, 1))
    assert torch.equal(gradient_at(task, batch)(task.params), before)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("rest", [True, False], ids=["and a moving gradient", "alone"])
@pytest.mark.parametrize("moves", [True, False], ids=["moving", "at rest"])
def test_a_softmax_in_blocks_is_torch_s_with_its_second_derivative(axis, rest, moves):
    numbers = torch.Generator().manual_seed(0)
    shape = 30, 61, BLOCK // 900
    x, dx, g, dg = (torch.randn(*shape, generator=numbers, dtype=torch.double) for _ in range(4))
    step, turn = dx if moves else torch.zeros_like(dx), dg if rest else torch.zeros_like(dg)
    site = Softmax(nn.Softmax(axis), (x, dx if moves else None))

    def back(at: Tensor, along: Tensor) -> Tensor:
        return torch.func.vjp(partial(torch.softmax, dim=axis), at)[1](along)[0]

    wanted, moved = torch.func.jvp(partial(torch.softmax, dim=axis), (x,), (step,))
    torch.testing.assert_close(site.output, wanted)
    torch.testing.assert_close(torch.zeros_like(x) if not moves else site.tangent, moved)
    wanted, moved = torch.func.jvp(back, (x, g), (step, turn))
    value, slope = site.back((g, dg if rest else None))
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(torch.zeros_like(x) if slope is None else slope, moved)


@pytest.mark.parametrize("moves", [True, False])
def test_a_gelu_in_blocks_is_torch_s_with_its_second_derivative(moves):
    numbers = torch.Generator().manual_seed(0)
    shape = 150, BLOCK // 100  # of more than a block, and of no whole number of them
    x, dx, g, dg = (torch.randn(*shape, generator=numbers, dtype=torch.double) for _ in range(4))
    x = (3 * x).T.contiguous().T
    tangent = dx if moves else torch.zeros_like(dx)
    site = Gelu(nn.GELU(), (x, dx if moves else None))
    wanted, moved = torch.func.jvp(F.gelu, (x,), (tangent,))
    torch.testing.assert_close(site.output, wanted)
    if moves:
        torch.testing.assert_close(site.tangent, moved)

    def back(at: Tensor, along: Tensor) -> Tensor:
        return torch.func.vjp(F.gelu, at)[1](along)[0]

    wanted, moved = torch.func.jvp(back, (x, g), (tangent, dg))
    value, slope = site.back((g, dg))
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(slope, moved)
