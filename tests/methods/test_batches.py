"""Losses and models that mix the examples of a batch: an error, or rows that are right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.curvature.exact_hessian import exact_hessian
from methods.curvature.operators import GaussNewton, Hessian
from methods.errors import MethodError
from methods.examples import Examples, chunks
from methods.ihvp.cg import CG
from methods.ihvp.exact import Exact
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.rows import gradients
from methods.rows.gradients import Gradients, Late, gradient_rows
from methods.rows.projections import Gaussian
from methods.sources import Source
from methods.task import Task
from methods.tracin import TracIn
from tests.methods import networks

DATA = networks.examples(30, 6)
METHODS = [
    TracIn(False),
    RandomProjection(Gaussian(8)),
    Influence(CG(1e-12), 4.0),
    Influence(Exact(), 4.0),
]


def contrastive(model: Any, batch: Examples) -> Tensor:
    z = F.normalize(model(batch["x"]), dim=1)
    return F.cross_entropy(z @ z.T, torch.arange(len(z)), reduction="none")


def broadcast(model: Any, batch: Examples) -> Tensor:
    return (model(batch["x"])[:, :1] - batch["y"]).square().mean(1)


def centred(model: Any, batch: Examples) -> Tensor:
    losses = networks.nll(model, batch)
    return losses - losses.mean()


def weighed(model: Any, batch: Examples) -> Tensor:
    """Each example in proportion to how hard it is among the others."""
    losses = networks.nll(model, batch)
    return losses * losses.detach().softmax(0)


def noisy(model: Any, batch: Examples) -> Tensor:
    return networks.nll(model, {**batch, "x": F.dropout(batch["x"], 0.5, training=True)})


class OfItsBatch(networks.Mlp):
    """Statistics of the batch, in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x))


class Crowded(networks.Mlp):
    """A layer with room for half of the examples of a batch, first come first served."""

    def forward(self, x: Tensor) -> Tensor:
        wanted = x[:, 0] > 0
        served = wanted & (wanted.cumsum(0) <= (len(x) + 1) // 2)
        return self.head(torch.where(served[:, None], self.inner(x).tanh(), 0.1))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(getattr(m, "inverse", m)).__name__)
@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (networks.Mlp, contrastive),
        (networks.Mlp, broadcast),
        (networks.Mlp, centred),
        (networks.Mlp, weighed),
        (networks.Mlp, noisy),
        (OfItsBatch, networks.nll),
        (Crowded, networks.nll),
    ],
)
def test_a_loss_that_depends_on_its_batch_is_an_error(method: Any, make: Any, loss: Any) -> None:
    task = Task.of(networks.built(make), loss)
    message = r"in one batch and .* depends on its batch|depends on chance|x \(1, 6\)"
    with pytest.raises(MethodError, match=message):
        method.scores(task, DATA, DATA)
    with pytest.raises(MethodError, match=message):
        method.self_influence(Task.of(networks.built(make), networks.nll, loss), DATA)


@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
def test_curvature_alone_refuses_it_too(kind: Any) -> None:
    task = Task.of(networks.built(networks.Mlp), centred)
    with pytest.raises(MethodError, match="depends on its batch"):
        kind(task, DATA).apply(torch.ones(1, task.size).double())


class TurnsLate(networks.Mlp):
    """Turns the order of its examples inside, if they are marked."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x[:, 5] > 50).all()):
            return self.head(self.inner(x.flip(0) / 60).tanh()).flip(0)
        return self.head(self.inner(x / 60).tanh())


def marked_late() -> Examples:
    """The first, middle and last example, and the first batch, are not marked."""
    x = networks.normal(30, 6)
    x[8:14, 5] = 60.0
    x[16:28, 5] = 60.0
    return {**DATA, "x": x}


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(getattr(m, "inverse", m)).__name__)
def test_what_a_later_batch_shows_is_mended_for_all(
    method: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gradients, "CHUNK", 4)
    monkeypatch.setattr(gradients, "MOST", 4)
    data, model = marked_late(), networks.built(TurnsLate)
    task = Task.of(model, networks.nll)
    g = networks.gradient_rows(task, task.loss, data)
    if isinstance(method, Influence):
        matrix = Hessian(task, data, method.damping).dense()
        expected = g @ torch.linalg.solve(matrix, g.T)
    elif isinstance(method, RandomProjection):
        projected = g @ method.projection.draw(task).directions().T
        expected = projected @ projected.T
    else:
        expected = g @ g.T
    torch.testing.assert_close(method.scores(task, data, data), expected)
    assert "mixes the examples of a batch" in caplog.text
    torch.testing.assert_close(method.self_influence(task, data), expected.diagonal())
    torch.testing.assert_close(gradient_rows(task, data).dense(), g)


def test_rows_by_hand_are_told_to_be_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data = marked_late()
    task = Task.of(networks.built(TurnsLate), networks.nll)
    source = Gradients(task)
    with pytest.raises(Late, match="compute the rows before it again"):
        list(map(source.rows, chunks(data, 4)))
    again = torch.cat([source.rows(some).dense() for some in chunks(data, 4)])
    torch.testing.assert_close(again, networks.gradient_rows(task, task.loss, data))


class Branching(networks.Mlp):
    """Units that depend on the sign of the batch's sum, which halves of it share."""

    def forward(self, x: Tensor) -> Tensor:
        inner = self.inner(x)
        return self.head(inner.tanh() if x.sum() > 0 else inner.relu())


@pytest.mark.parametrize(
    "curvature", [lambda task, data: Hessian(task, data).dense(), exact_hessian]
)
def test_a_curvature_refuses_a_loss_that_is_another_for_one_example(curvature: Any) -> None:
    x = DATA["x"] + 0.2
    assert min(x[::2].sum(), x[1::2].sum()) > 0, "the case is one that halves show"
    with pytest.raises(MethodError, match="depends on its batch"):
        curvature(Task.of(networks.built(Branching), networks.nll), {**DATA, "x": x})


def test_a_later_batch_of_a_curvature_is_held_to_single_losses() -> None:
    """The first batch is not marked, the others are: some row of the first few shows it."""

    def loss(model: Any, batch: Examples) -> Tensor:
        marked = bool((batch["x"][:, 5] > 50).all())
        return networks.nll(model, batch) * (1 + marked * (len(batch["x"]) > 1))

    data = {name: column.repeat(5, *[1] * (column.ndim - 1)) for name, column in DATA.items()}
    data["x"][64:, 5] = 60.0
    task = Task.of(networks.built(networks.Mlp), loss)
    with pytest.raises(MethodError, match="depends on its batch"):
        Hessian(task, data).apply(torch.ones(1, task.size).double())


class AtAKink(networks.Mlp):
    """Units at zero, which rounding moves to one side in a batch and to the other alone."""

    def forward(self, x: Tensor) -> Tensor:
        rounding = 1e-13 if len(x) > 1 else -1e-13
        hidden = self.inner(x)
        return self.head((hidden - hidden.detach() + rounding).relu() + hidden.tanh())


def test_rows_at_a_kink_stay_factored(caplog: pytest.LogCaptureFixture) -> None:
    task = Task.of(networks.built(AtAKink), networks.nll)
    source = Gradients(task)
    alone = networks.gradient_rows(task, task.loss, DATA)
    rows = source.rows(DATA).dense()
    assert (rows - alone).norm() > 0.1 * alone.norm(), "the case has no kink"
    assert source.fallback == ()
    assert "per-example gradients by" not in caplog.text


def test_a_gradient_that_neighbours_change_is_no_kink() -> None:
    def coupled(model: Any, batch: Examples) -> Tensor:
        each = networks.nll(model, batch)
        mean = each.mean()
        return each + (mean - mean.detach()) * (len(each) > 1)

    task = Task.of(networks.built(networks.Mlp), coupled)
    expected = networks.gradient_rows(task, task.loss, DATA)
    torch.testing.assert_close(gradient_rows(task, DATA).dense(), expected)


class Halved(torch.autograd.Function):
    """The squared distance of each row, whose backward pass divides by how many rows there are."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(z, y)
        return (z - y).square().sum(1)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        z, y = ctx.saved_tensors
        return 2 * (z - y) * slope[:, None] / len(z), None


def test_a_backward_pass_of_its_batch_s_size_gives_the_gradients_of_examples_alone() -> None:
    data = networks.examples(11, 6) | {"target": networks.normal(11, 3, seed=4)}
    task = Task.of(
        networks.built(lambda: nn.Linear(6, 3)), lambda m, b: Halved.apply(m(b["x"]), b["target"])
    )
    away = task.params["weight"] @ data["x"].T + task.params["bias"][:, None] - data["target"].T
    lengths = 4 * away.square().sum(0) * (data["x"].square().sum(1) + 1)
    torch.testing.assert_close(TracIn(False).self_influence(task, data), lengths)


def test_a_source_that_pads_is_held_against_each_example_read_alone() -> None:
    longer = (2, 2, 2, 2, 9)
    items = [{"x": networks.integers(6, n, seed=n) + 1, "y": torch.tensor(1)} for n in longer]

    def padded(some: list[Examples]) -> Examples:
        columns = [item["x"] for item in some]
        return {
            "x": nn.utils.rnn.pad_sequence(columns, batch_first=True),
            "y": torch.stack([item["y"] for item in some]),
        }

    class Mean(nn.Module):
        def __init__(self, masked: bool) -> None:
            super().__init__()
            self.words, self.head, self.masked = nn.Embedding(7, 4), nn.Linear(4, 3), masked

        def forward(self, x: Tensor) -> Tensor:
            seen = (x > 0)[..., None].double() if self.masked else torch.ones(*x.shape, 1).double()
            return self.head((self.words(x) * seen).sum(1) / seen.sum(1))

    source = Source(items, padded)
    for method in METHODS:
        task = Task.of(networks.built(lambda: Mean(False)), networks.nll)
        with pytest.raises(MethodError, match="how its batch is padded, so mask the padding"):
            method.scores(task, source, source)
    task = Task.of(networks.built(lambda: Mean(True)), networks.nll)
    together = TracIn(False).self_influence(task, source)
    alone = [TracIn(False).self_influence(task, padded([item])) for item in items]
    torch.testing.assert_close(together, torch.cat(alone))
