"""Models that users bring, each a kind: every score is what plain autograd gives, one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, rnn, weight_norm
from torch.utils.checkpoint import checkpoint

from methods.checkpoints import Checkpoint
from methods.errors import MethodError
from methods.examples import Examples
from methods.ihvp.cg import CG
from methods.ihvp.exact import Exact
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.rows import gradients
from methods.rows.projections import Gaussian
from methods.task import Task
from methods.tracin import TracIn
from tests.methods import networks

N, DAMPING = 11, 6.0
CLOSE = {"rtol": 1e-8, "atol": 1e-9}


def nll(model: Any, batch: Examples) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def lengths_nll(model: Any, batch: Examples) -> Tensor:
    logits = model(batch["x"], batch["length"])
    return F.cross_entropy(logits, batch["y"], reduction="none")


class Words(nn.Module):
    """A mean of words, of which subclasses do something unusual."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(6, 3, **settings), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x).mean(1).tanh())


class Sorting(Words):
    """Sorts its batch by length inside, and restores the order."""

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        order = length.argsort(descending=True, stable=True)
        x, length = x[order], length[order]
        keep = (torch.arange(x.shape[1]) < length[:, None])[..., None]
        mean = (self.words(x).tanh() * keep).sum(1) / length[:, None]
        return self.head(mean)[order.argsort()]


class Packed(nn.Module):
    """A recurrent network over packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.cells = nn.Embedding(6, 2), nn.GRU(2, 2, batch_first=True)
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        packed = rnn.pack_padded_sequence(self.words(x), length, True, enforce_sorted=False)
        return self.head(self.cells(packed)[1][-1])


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.cells, self.head = kind(2, 2, batch_first=True), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x.unflatten(1, (2, 2)))[0][:, -1])


class Own(nn.Module):
    """Two layers; subclasses compute with them in their own ways."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inside(x))

    def inside(self, x: Tensor) -> Tensor:
        return self.inner(x).tanh()


class Turned(Own):
    """The examples in another order inside of the model."""

    def inside(self, x: Tensor) -> Tensor:
        return self.inner(x.flip(0)).tanh().flip(0)


class Saving(Own):
    """Activations that are computed again in the backward pass."""

    def __init__(self, reentrant: bool = False) -> None:
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        inside = self.inside(x)
        kept = checkpoint(lambda h: h.square().tanh(), inside, use_reentrant=self.reentrant)
        return checkpoint(self.head, kept, use_reentrant=self.reentrant)


class Routed(Own):
    """Experts, each of some of the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(4, 3) for _ in range(2)])

    def inside(self, x: Tensor) -> Tensor:
        out = x.new_zeros(len(x), 3)
        for k, expert in enumerate(self.experts):
            chosen = (x[:, 0] > 0) == bool(k)
            out[chosen] = expert(x[chosen]).tanh()
        return out


class Referring(Own):
    """A parameter that is also held outside of its module's attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.held = [self.inner.weight]

    def inside(self, x: Tensor) -> Tensor:
        return (self.inner(x) + x @ self.held[0].T).tanh()


class Branching(Own):
    """Control flow by the data."""

    def inside(self, x: Tensor) -> Tensor:
        return torch.stack([self.inner(v).tanh() if v[0].item() > 0 else v[:3] for v in x])


class Cube(torch.autograd.Function):
    """A function with a backward pass of its own, which `torch.func` does not know."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * grads[0]


class Custom(Own):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))

    def inside(self, x: Tensor) -> Tensor:
        return Cube.apply(self.inner(x) * self.scale).tanh()


class Same(nn.Conv2d):
    """A convolution that pads by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


class ByCosine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1), self.bias)


class LastAxis(nn.LayerNorm):
    """A LayerNorm over channels that come first."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Adapted(nn.Linear):
    """A frozen layer with a trained update of low rank."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.a, self.b = nn.Parameter(torch.ones(1, 4)), nn.Parameter(torch.ones(3, 1))
        self.weight.requires_grad_(False)
        self.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.a.T @ self.b.T


class Quantised(Own):
    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.empty(0))  # `built` adds noise to every parameter

    def inside(self, x: Tensor) -> Tensor:
        return (self.inner(x) + x @ (self.codes.to(x.dtype) * 0.1 - 0.5).T).tanh()


class Drifting(Own):
    """A buffer that every pass changes, and computes with."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.ones(()))

    def inside(self, x: Tensor) -> Tensor:
        before = self.steps.clone()
        self.steps.mul_(0.9)
        return (self.inner(x) * before).tanh()


class Numbered(Own):
    """The same by another tensor in its place, which is not in `state_dict`."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.ones(()), persistent=False)

    def inside(self, x: Tensor) -> Tensor:
        before, self.calls = self.calls, self.calls + 1
        return (self.inner(x) / before).tanh()


class Spectral(Own):
    """Complex numbers inside, whose parameters are their real and imaginary parts."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.ones(3, 2))

    def inside(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x) * torch.view_as_complex(self.filter)
        return self.inner(torch.fft.irfft(spectrum, n=4)).tanh()


class Hollow(Own):
    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.ones(0, 3))

    def inside(self, x: Tensor) -> Tensor:
        return self.inner(x).tanh() + self.nothing.sum()


def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)))


def with_slopes(model: Any, batch: Examples) -> Tensor:
    """A loss that holds derivatives by its inputs."""
    x = batch["x"].clone().requires_grad_()
    logits = model(x)
    slopes = torch.autograd.grad(logits.square().sum(), x, create_graph=True)[0]
    return F.cross_entropy(logits, batch["y"], reduction="none") + 0.1 * slopes.square().sum(1)


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(6, 3, mode="mean", sparse=True), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x).tanh())


def reshaped() -> nn.Module:
    layer = nn.Linear(2, 7)
    layer.weight.data, layer.bias.data = torch.rand(3, 4), torch.rand(3)
    return layer


def pruned() -> nn.Module:
    layer = nn.Linear(4, 3)
    prune.l1_unstructured(layer, "weight", 0.4)
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 3))


def wrapped(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(wrap(nn.Linear(4, 3)), nn.Tanh(), nn.Linear(3, 3))


class Meeting(nn.Module):
    """Checkpoints an input that asks for a gradient of its own, as adapters have it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        start = x.detach().requires_grad_()
        return self.head(checkpoint(lambda h: self.first(h).tanh(), start, use_reentrant=True))


def repeated() -> nn.Module:
    """A layer and an activation with a parameter, each under two names."""
    layer, slope = nn.Linear(4, 4), nn.PReLU(init=0.3)
    return nn.Sequential(layer, slope, layer, slope, nn.Linear(4, 3))


def lines(n: int = N) -> Examples:
    return {**texts(n), "y": networks.integers(3, n, 4, seed=8)}


def in_one_line(model: Any, batch: Examples) -> Tensor:
    """Labels of all tokens end to end, by `view`, which only takes a batch laid out as one."""
    labels = batch["y"]
    each = F.cross_entropy(model(batch["x"]).view(-1, 3), labels.view(-1), reduction="none")
    return each.view(labels.shape).mean(1)


def images(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    ends = (nn.Tanh, lambda: nn.AdaptiveAvgPool2d(1), nn.Flatten, lambda: nn.Linear(2, 3))
    return lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 2)), *(f() for f in (*layers, *ends)))


def vectors(n: int = N) -> Examples:
    return networks.examples(n, 4)


def texts(n: int = N) -> Examples:
    length = networks.integers(4, n, seed=5) + 1
    return {"x": networks.integers(6, n, 4), "y": networks.integers(3, n, seed=1), "length": length}


def of_targets(loss: Any) -> Any:
    def each(model: Any, batch: Examples) -> Tensor:
        return loss(model(batch["x"]), batch["x"][:, :3].sign(), reduction="none").mean(1)

    return each


@dataclass(frozen=True)
class Kind:
    make: Callable[[], nn.Module]
    data: Callable[..., Examples] = vectors
    loss: Any = nll
    second: bool | None = True  # whether it has second derivatives; None if torch's are wrong


KINDS = {
    "sorts its batch": Kind(Sorting, texts, lengths_nll),
    "turns its batch": Kind(Turned),
    "packed sequences": Kind(Packed, texts, lengths_nll),
    "GRU": Kind(lambda: Recurrent(nn.GRU)),
    "LSTM": Kind(lambda: Recurrent(nn.LSTM)),
    "RNN": Kind(lambda: Recurrent(nn.RNN)),
    "padding": Kind(lambda: Words(padding_idx=1), texts),
    "sparse": Kind(lambda: Words(sparse=True), texts),
    "bags": Kind(Bags, texts, second=False),
    "activation checkpoints": Kind(Saving),
    "reentrant checkpoints": Kind(lambda: Saving(True), second=False),
    "reentrant checkpoints of a leaf": Kind(Meeting, second=False),
    "a layer in two places": Kind(repeated),
    "labels in one line": Kind(
        lambda: nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 3)), lines, in_one_line
    ),
    "experts": Kind(Routed),
    "a parameter held elsewhere": Kind(Referring),
    "control flow": Kind(Branching),
    "a function of its own": Kind(Custom),
    "weight norm": Kind(wrapped(parametrizations.weight_norm), second=None),
    "older weight norm": Kind(wrapped(weight_norm), second=None),
    "spectral norm": Kind(wrapped(parametrizations.spectral_norm)),
    "orthogonal": Kind(wrapped(parametrizations.orthogonal)),
    "pruned": Kind(pruned),
    "a convolution that pads": Kind(images(lambda: Same(1, 2, 3))),
    "a norm of other axes": Kind(images(lambda: nn.Conv2d(1, 2, 1), lambda: LastAxis(2))),
    "a cosine layer": Kind(lambda: nn.Sequential(ByCosine(4, 3), nn.Tanh(), nn.Linear(3, 3))),
    "another shape": Kind(reshaped),
    "adapters": Kind(lambda: nn.Sequential(Adapted(), nn.Tanh(), nn.Linear(3, 3))),
    "quantised": Kind(Quantised),
    "complex numbers inside": Kind(Spectral),
    "a parameter of nothing": Kind(Hollow),
    "a scripted module": Kind(scripted),
    "a penalty of slopes": Kind(Own, loss=with_slopes),
    "huber": Kind(Own, loss=of_targets(F.huber_loss)),
    "soft margin": Kind(Own, loss=of_targets(F.soft_margin_loss)),
}


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def rows(model: nn.Module, loss: Any, data: Examples) -> Tensor:
    """The gradients of single examples by plain autograd, (n, p)."""
    out = []
    for i in range(N):
        for p in trained(model):
            p.grad = None
        loss(model, {k: v[i : i + 1] for k, v in data.items()}).sum().backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained(model)]
        out.append(torch.cat([g.to_dense().flatten() for g in grads]))
    for p in trained(model):
        p.grad = None
    return torch.stack(out)


def hessian(model: nn.Module, loss: Any, data: Examples) -> Tensor:
    """The Hessian of the mean loss by double backward, (p, p)."""
    for part in model.modules():
        if getattr(part, "sparse", False):
            part.sparse = False  # of the same gradients, but differentiable
    total = sum(loss(model, {k: v[i : i + 1] for k, v in data.items()}).sum() / N for i in range(N))
    params = trained(model)
    settings: Any = {"allow_unused": True, "materialize_grads": True}
    grads = torch.autograd.grad(total, params, create_graph=True, **settings)
    flat = torch.cat([g.flatten() for g in grads])
    lines = [torch.autograd.grad(v, params, retain_graph=True, **settings) for v in flat]
    return torch.stack([torch.cat([g.flatten() for g in line]) for line in lines])


def by_differences(model: nn.Module, loss: Any, data: Examples) -> Tensor:
    """The same by differences of gradients, extrapolated: right to about 1e-10."""
    lines = []
    for p in trained(model):
        flat = p.detach().view(-1)  # shares the parameter's memory
        for j in range(p.numel()):
            slopes, before = [], float(flat[j])
            for step in (2e-3, 1e-3, 5e-4):
                sides = []
                for sign in (1, -1):
                    flat[j] = before + sign * step
                    sides.append(rows(model, loss, data).mean(0))
                slopes.append((sides[0] - sides[1]) / (2 * step))
            flat[j] = before
            first, second = ((4 * b - a) / 3 for a, b in pairwise(slopes))
            lines.append((16 * second - first) / 15)
    return torch.stack(lines)


@pytest.fixture(params=KINDS, ids=lambda name: name.replace(" ", "-"))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def made(kind: Kind) -> Any:
    model = networks.built(kind.make)
    if isinstance(model, Quantised):
        codes = torch.arange(12).view(3, 4).to(torch.uint8)
        model.codes = nn.Parameter(codes, requires_grad=False)
    return model


def equal(have: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(have, want, **CLOSE)


def test_scores_are_those_of_plain_autograd(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "CHUNK", 4)
    monkeypatch.setattr(gradients, "MOST", 4)
    model, data = made(kind), kind.data()
    g, task = rows(model, kind.loss, data), Task.of(model, kind.loss)
    before = copy.deepcopy(model.state_dict())
    equal(TracIn(False).scores(task, data, data), g @ g.T)
    equal(TracIn(False).self_influence(task, data), g.square().sum(1))
    projected = g @ Gaussian(8).draw(task).directions().T
    equal(RandomProjection(Gaussian(8)).scores(task, data, data), projected @ projected.T)
    inverses = Influence(CG(1e-13), DAMPING), Influence(Exact(), DAMPING)
    if kind.second is not False:
        matrix = (hessian if kind.second else by_differences)(model, kind.loss, data)
        expected = g @ torch.linalg.solve(matrix + DAMPING * torch.eye(len(matrix)).to(g), g.T)
        for method in inverses:
            equal(method.scores(task, data, data), expected)
    else:
        for method in inverses:
            with pytest.raises(MethodError, match=r"needs second derivatives[^\n]*$"):
                method.scores(task, data, data)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("make", [Drifting, Numbered])
def test_every_pass_begins_with_the_buffers_that_the_task_was_made_with(make: Any) -> None:
    still, data = networks.built(Own), vectors()
    expected = rows(still, nll, data) @ rows(still, nll, data).T
    model = networks.built(make)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    task = Task.of(model, nll)
    for _ in range(2):
        equal(TracIn(False).scores(task, data, data), expected)
    assert {n: float(b) for n, b in model.named_buffers()} == dict.fromkeys(before, 1.0)
    matrix = hessian(still, nll, data) + DAMPING * torch.eye(task.size).double()
    influence = Influence(CG(1e-13), DAMPING).scores(task, data, data)
    equal(influence, rows(still, nll, data) @ torch.linalg.solve(matrix, rows(still, nll, data).T))


def test_a_gradient_that_is_scaled_by_the_batch_is_refused() -> None:
    task = Task.of(networks.built(lambda: Words(scale_grad_by_freq=True)), nll)
    with pytest.raises(MethodError, match=r"words has scale_grad_by_freq=True.*set it to False"):
        TracIn(False).self_influence(task, texts())


def test_scores_at_checkpoints_are_those_of_a_model_that_has_their_parameters(kind: Kind) -> None:
    model, data = made(kind), kind.data()
    other = made(kind)
    with torch.no_grad():
        for p in trained(other):
            p.add_(0.1 * networks.normal(p.numel(), seed=7).view_as(p))
    moments = [Checkpoint(each.state_dict(), lr) for each, lr in ((other, 0.5), (model, 0.2))]
    g, h = rows(model, kind.loss, data), rows(other, kind.loss, data)
    task = Task.of(model, kind.loss, checkpoints=moments)
    equal(TracIn().scores(task, data, data), 0.2 * g @ g.T + 0.5 * h @ h.T)
