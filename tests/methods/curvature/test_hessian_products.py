"""Hessian products equal `jvp(grad)` in double precision, whatever the model does.

One file: the networks that its tests go through are most of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from methods.curvature import products
from methods.curvature.operators import Hessian
from methods.curvature.products import forward_pays
from methods.examples import Examples
from methods.task import Task
from tests.methods import networks
from tests.methods.curvature.test_operators import differences, directions, gradient_at


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
    """A model, its data, and how near its products come to jvp(grad) in double precision."""

    make: Callable[[], nn.Module]
    data: Callable[[int], Examples]
    only: tuple[str, ...] = ()
    tolerance: float = 1e-13
    constant: tuple[str, int] | None = None  # a parameter's row that torch gives no gradient

    def task(self, dtype: torch.dtype = networks.DOUBLE) -> Task:
        return Task.of(networks.built(self.make).to(dtype), networks.nll, only=self.only)

    def batch(self, n: int, dtype: torch.dtype = networks.DOUBLE) -> Examples:
        columns = self.data(n).items()
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in columns}


def vectors(*shape: int) -> Callable[[int], Examples]:
    return lambda n: networks.examples(n, *shape)


PADDING = ("words.weight", 2)
CASES = {
    "convolutions": Case(networks.ConvNet, vectors(2, 6, 7)),
    "weights alone": Case(networks.ConvNet, vectors(2, 6, 7), only=("*.weight",)),
    "torch's encoder layer": Case(networks.Encoder, networks.sentences),
    "a block by hand": Case(networks.Block, networks.sentences),
    "offsets alone": Case(networks.Block, networks.sentences, only=("*.bias",)),
    "a plain network": Case(networks.Mlp, vectors(6)),
    "a layer used twice": Case(networks.Twice, vectors(6)),
    "a parameter of no layer": Case(networks.Outside, vectors(6)),
    "a weight in a raw product": Case(networks.RawWeight, vectors(6)),
    "in place on a sequence": Case(networks.InPlace, vectors(4, 6)),
    "sequence first": Case(networks.SequenceFirst, vectors(4, 6)),
    "padding": Case(networks.Padded, networks.bags, constant=PADDING),
    "normalisations": Case(Norms, vectors(2, 6, 7)),
    "gains alone": Case(Norms, vectors(2, 6, 7), only=("body.0.weight", "body.4.*", "body.5.*")),
    # transformers takes the softmax of attention in single precision, whatever the model's own.
    "layers of transformers": Case(Bert, vectors(5, 8), tolerance=3e-6),
    "its upper half": Case(Bert, vectors(5, 8), only=("layers.1.*", "pool.*"), tolerance=3e-6),
    "torch's encoder": Case(Stack, vectors(5, 8)),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def moving(case: Case, task: Task, n: int) -> Tensor:
    """Random directions that leave at rest what torch gives no gradient."""
    rows = directions(task, n)
    if case.constant:
        name, index = case.constant
        task.unflatten(rows)[name][:, index] = 0
    return rows


def reference(task: Task, batch: Examples, rows: Tensor) -> Tensor:
    """The products of torch.func's `jvp(grad)`, over all examples at once."""
    loss = task.function(task.loss)
    gradient = grad(lambda params: loss(params, batch).mean())
    tangents = (task.unflatten(row) for row in rows)
    return torch.stack([task.flatten(jvp(gradient, (task.params,), (t,))[1]) for t in tangents])


WAYS = {"singly": (False, 1), "three at once": (False, 3), "forward": (True, 3)}


def go(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Let Hessians multiply one way, whatever pays."""
    forward, width = WAYS[way]
    monkeypatch.setattr(products, "CHUNK", 4)  # the last of three chunks is smaller
    monkeypatch.setattr(products, "forward_pays", lambda vectors, n, size: forward)
    monkeypatch.setattr(products, "backward_width", lambda n, size: width)
    monkeypatch.setattr(products, "forward_width", lambda n, size: width)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_products_equal_those_of_jvp_of_grad_each_way(
    case: Case, dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, batch = case.task(dtype), case.batch(9, dtype)
    v = moving(case, task, 4).to(dtype)
    expected = reference(task, batch, v)
    go(monkeypatch, way)
    bound = (case.tolerance if dtype == torch.float64 else 3e-6) * expected.norm()
    assert (Hessian(task, batch).apply(v) - expected).norm() <= bound
    v = directions(task, 4).to(dtype)
    hessian = Hessian(task, batch)
    products = v @ hessian.apply(v).T
    assert (products - products.T).norm() <= bound
    if way == "forward" and case.tolerance < 1e-12:
        assert hessian.forward == (not case.constant), "a padding row moves in forward mode"


class Straight(torch.autograd.Function):
    """A square without a forward derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * slope


def held_still(model: nn.Module, batch: Examples) -> Tensor:
    """A loss with a factor that forward mode moves and backward mode does not."""
    with torch.no_grad():
        weight = model(batch["x"]).square().sum(1)
    return weight.clone().requires_grad_(False) * model(batch["x"]).square().sum(1)


@pytest.mark.parametrize(
    "loss",
    [lambda model, batch: Straight.apply(model(batch["x"])).sum(1), held_still],
    ids=["no forward derivative", "a constant factor"],
)
def test_many_vectors_of_any_loss_have_the_products_of_one(loss: Any) -> None:
    batch = networks.examples(5, 6)
    task = Task.of(networks.built(networks.Mlp), loss)
    v = directions(task, 20)
    assert forward_pays(len(v), 5, task.size)
    hessian = Hessian(task, batch)
    expected = torch.cat([hessian.apply(row[None]) for row in v])
    torch.testing.assert_close(hessian.apply(v), expected, rtol=1e-10, atol=1e-13)


def test_products_equal_central_differences(case: Case) -> None:
    task, batch = case.task(), case.batch(5)
    v = moving(case, task, 1)[0]

    def gradient(params: dict) -> Tensor:
        params = {n: p.detach().requires_grad_() for n, p in params.items()}
        loss = task.function(task.loss)(params, batch).mean()
        rows = torch.autograd.grad(loss, list(params.values()), materialize_grads=True)
        return torch.cat([row.flatten() for row in rows])

    expected = differences(gradient, task, v, 1e-5)
    product = Hessian(task, batch) @ v
    assert (product - expected).norm() <= 1e-6 * expected.norm() + 1e-10


@pytest.mark.parametrize("vectors", [1, 8, 64, 512])
def test_many_vectors_of_a_small_network_go_forward_and_no_others(vectors: int) -> None:
    assert forward_pays(vectors, 1, 1_448) == (vectors >= 16)
    assert not forward_pays(vectors, 64, 1_000_000)


def test_what_is_multiplied_at_once_is_bounded() -> None:
    for n in (1, 8, 64, 4_096):
        for size in (100, 10_000, 10_000_000):
            for width in (products.backward_width(n, size), products.forward_width(n, size)):
                assert width == 1 or n * size * width <= products.NUMBERS


@pytest.mark.parametrize(
    "loss",
    [
        lambda model, batch: model(batch["x"]).sum(1),  # linear in the last layer's weights
        lambda model, batch: batch["x"].sum(1),  # of no parameter
    ],
    ids=["linear", "constant"],
)
def test_what_has_no_second_derivative_has_a_product_of_zeros(loss: Any) -> None:
    batch = networks.examples(5, 6)
    task = Task.of(networks.built(lambda: nn.Linear(6, 3)), loss, weight_decay=0.5)
    v = directions(task, 2)
    torch.testing.assert_close(Hessian(task, batch).apply(v), 0.5 * v)


def test_the_gradient_of_a_product_is_not_kept_nor_the_model_changed() -> None:
    case = CASES["a block by hand"]
    task, batch = case.task(), case.batch(5)
    hessian = Hessian(task, batch)
    before = gradient_at(task, batch)(task.params)
    with torch.no_grad():
        assert not hessian.apply(directions(task, 3)).requires_grad
    assert not hessian.apply(directions(task, 1)).requires_grad
    assert not any(value.requires_grad for value in task.params.values())
    assert torch.equal(gradient_at(task, batch)(task.params), before)


LAYOUTS = {
    "one channel, channels last": torch.empty(4, 1, 3, 3).to(memory_format=torch.channels_last),
    "channels last": torch.empty(4, 2, 3, 3).to(memory_format=torch.channels_last),
    "transposed": torch.empty(5, 3).T,
    "plain": torch.empty(5, 3),
    "a number": torch.empty(()),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_tangents_lie_in_memory_as_their_parameters_do(name: str, lead: tuple[int, ...]) -> None:
    params = {"other": torch.zeros(2), "one": torch.zeros_like(LAYOUTS[name])}
    task = Task(params, lambda p, _: p["one"].sum()[None], lambda p, _: p["one"].sum()[None])
    flat = torch.randn(*lead, task.size)
    tangent = task.tangents(flat)["one"]
    assert tangent.stride()[len(lead) :] == params["one"].stride()
    assert torch.equal(tangent, flat[..., 2:].reshape((*lead, *params["one"].shape)))


def test_a_block_inside_a_block_leaves_the_model_as_the_outer_one_set_it() -> None:
    module = networks.built(networks.Mlp)
    task = Task.of(module, networks.nll)
    moved = replace(task, params={n: 2 * v for n, v in task.params.items()})
    weight, before = module.head.weight, module.head.weight.detach().clone()
    for _ in range(2):
        with task.leaves(task.loss) as (outer, _):
            with task.leaves(task.loss) as (inner, _):
                assert inner["head.weight"] is outer["head.weight"] is weight
            assert weight.data_ptr() == task.params["head.weight"].data_ptr()
            with moved.leaves(moved.loss):
                assert torch.equal(weight, 2 * before)
                with task.leaves(task.loss):
                    assert torch.equal(weight, before)
                assert torch.equal(weight, 2 * before)
            assert weight.data_ptr() == task.params["head.weight"].data_ptr()
        module.head.weight.data = 3 * before
    assert torch.equal(weight, 3 * before)
