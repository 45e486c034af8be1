"""Normalised networks: exact rows, and a checkpoint's own statistics."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

from experiments.laboratory.errors import UserError
from experiments.models.resnet import ResNet
from methods.checkpoints import Checkpoint
from methods.curvature.operators import Hessian
from methods.errors import MethodError
from methods.rows import convolutions, layers
from methods.rows.gradients import Gradients
from methods.rows.parts import Dense, Outer
from methods.task import Task, floating_buffers
from methods.tracin import TracIn
from tests.methods import networks

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


class Normalised(nn.Module):
    """Every kind of normalisation with a factored form, one of them without an offset."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.batch = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3)
        self.group = nn.GroupNorm(2, 6)
        self.along = nn.BatchNorm1d(6)
        self.inner = nn.Linear(6, 5)
        self.flat = nn.BatchNorm1d(5, eps=1e-3)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.batch(self.first(x)), inplace=True)
        x = self.group(self.second(x)).tanh().flatten(2)
        return self.head(self.flat(self.inner(self.along(x).square().mean(2))).tanh())


def normalised(seed: int = 0) -> nn.Module:
    """In float64, evaluation mode, with statistics that are not the initial ones."""
    model = networks.built(Normalised, seed)
    for i, value in enumerate(floating_buffers(model).values()):
        value.copy_(networks.normal(*value.shape, seed=20 * seed + i).square() + 0.5)
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    named = {**dict(model.named_parameters()), **floating_buffers(model)}
    return {name: value.detach().clone() for name, value in named.items()}


def by_vmap(task: Task, batch: dict[str, Tensor]) -> Tensor:
    def one(params, example):
        alone = {k: v[None] for k, v in example.items()}
        return task.loss({**task.frozen, **params}, alone)[0]

    return task.flatten(vmap(grad(one), in_dims=(None, 0))(task.params, batch), 1)


def test_rows_of_normalised_networks_equal_vmap_of_grad_and_no_layer_falls_back():
    task, batch = Task.of(normalised(), networks.nll), networks.examples(7, 2, 6, 6)
    source = Gradients(task, task.loss)
    torch.testing.assert_close(source.rows(batch).dense(), by_vmap(task, batch), **CLOSE)
    assert source.fallback == ()


def test_rows_at_a_checkpoint_use_its_own_statistics():
    model, batch = normalised(), networks.examples(5, 2, 6, 6)
    early = state(normalised(seed=1))
    task = Task.of(model, networks.nll).at(Checkpoint(early, 0.1))
    result = Gradients(task, task.loss).rows(batch).dense()
    torch.testing.assert_close(result, by_vmap(task, batch), **CLOSE)
    classifier = Task.of(normalised(seed=1), networks.nll)
    torch.testing.assert_close(
        result, networks.gradient_rows(classifier, classifier.loss, batch), **CLOSE
    )
    mixed = {**early, **floating_buffers(model)}
    other = Task.of(model, networks.nll).at(Checkpoint(mixed, 0.1))
    assert (Gradients(other, other.loss).rows(batch).dense() - result).norm() > 0.01 * result.norm()


def test_tracin_sums_over_checkpoints_each_with_its_own_statistics():
    model, batch = normalised(), networks.examples(6, 2, 6, 6)
    moments = [(normalised(seed=s), lr) for s, lr in ((1, 0.3), (2, 0.1))]
    checkpoints = [Checkpoint(state(m), lr) for m, lr in moments]
    task = Task.of(model, networks.nll, checkpoints=checkpoints)
    want = torch.zeros(6, 6, dtype=torch.float64)
    for one, lr in moments:
        rows = by_vmap(Task.of(one, networks.nll), batch)
        want += lr * rows @ rows.T
    torch.testing.assert_close(TracIn().scores(task, batch, batch), want, **CLOSE)


def test_a_checkpoint_without_buffers_is_refused_not_mixed():
    model = normalised()
    params = {n: v for n, v in state(model).items() if n in dict(model.named_parameters())}
    with pytest.raises(MethodError, match=r"lacks batch\.running_mean .*: .* lacks buffers"):
        Task.of(model, networks.nll).at(Checkpoint(params, 0.1))


def test_buffers_are_no_parameters_and_constants_stay_inside():
    task = Task.of(normalised(), networks.nll)
    assert sorted(task.frozen) == sorted(
        f"{layer}.running_{what}"
        for layer in ("along", "batch", "flat")
        for what in ("mean", "var")
    )
    assert not set(task.frozen) & set(task.params)
    narrowed = task.only(("head.*",))
    assert set(task.frozen) < set(narrowed.frozen)
    assert "mean" not in floating_buffers(ResNet(8, 4).build(0)), "constants are not kept in state"
    assert Task.of(networks.built(networks.Mlp), networks.nll).frozen is None


def test_statistics_of_the_batch_have_no_factored_form():
    assert not layers.builder(nn.BatchNorm1d(3, track_running_stats=False).eval())
    assert not layers.builder(nn.BatchNorm2d(3, affine=False).eval())
    assert not layers.builder(nn.BatchNorm2d(3).train())
    assert not layers.builder(nn.GroupNorm(1, 3, affine=False))


def test_hessian_products_through_normalisation_are_right():
    task, batch = Task.of(normalised(), networks.nll), networks.examples(6, 2, 6, 6)
    vector = networks.normal(task.size, seed=4)
    product = Hessian(task, batch) @ vector
    whole = task.flatten(task.params)
    step = 1e-5

    def gradient(point: Tensor) -> Tensor:
        moved = replace(task, params=task.unflatten(point))
        return Gradients(moved, task.loss).rows(batch).dense().mean(0)

    ahead, behind = gradient(whole + step * vector), gradient(whole - step * vector)
    torch.testing.assert_close(product, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


def test_convolutions_materialised_at_once_in_pieces_have_the_same_rows(monkeypatch):
    task, batch = Task.of(networks.built(networks.ConvNet), networks.nll), None
    batch = networks.examples(7, 2, 6, 7)
    monkeypatch.setattr(convolutions, "PATCHES", 100)  # a few examples at a time
    lazy = Gradients(task, task.loss).rows(batch)
    monkeypatch.setattr(convolutions, "FACTORS", 0)
    eager = Gradients(task, task.loss).rows(batch)
    assert isinstance(lazy.parts["body.2.weight"][0], Outer)
    assert isinstance(eager.parts["body.2.weight"][0], Dense)
    torch.testing.assert_close(eager.dense(), lazy.dense(), **CLOSE)
    compact = lazy.compact()
    assert isinstance(compact.parts["body.2.weight"][0], Dense)
    assert compact.elements < lazy.elements
    torch.testing.assert_close(compact.scaled(2.0).inner(eager), 2 * lazy.inner(lazy), **CLOSE)


@pytest.mark.parametrize(
    ("network", "count"),
    [(ResNet(), 853_018), (ResNet(8), 75_290), (ResNet(20), 269_722)],  # 0.85M and 0.27M printed
)
def test_residual_networks_have_the_printed_sizes_and_depend_on_the_seed_alone(network, count):
    module, again, other = network.build(0), network.build(0), network.build(1)
    assert sum(value.numel() for value in module.parameters()) == count
    weights = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in module.modules())
    assert weights == network.depth
    assert not module.training
    image = torch.rand(2, *network.image_shape)
    torch.testing.assert_close(module(image), again(image), rtol=0, atol=0)
    assert not torch.equal(module(image), other(image))
    torch.testing.assert_close(module.head(module.features(image)), module(image))


@pytest.mark.parametrize("depth", [2, 9, 0])
def test_a_depth_that_is_no_residual_network_is_refused(depth):
    with pytest.raises(UserError, match=r"give 6 n \+ 2"):
        ResNet(depth).build(0)
