"""Mistakes with one's own model, loss and examples: one MethodError that says what to give."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.checkpoints import Checkpoint
from methods.curvature.exact_hessian import exact_hessian
from methods.curvature.operators import GaussNewton, Hessian
from methods.errors import MethodError
from methods.examples import Examples, take
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.cg import CG
from methods.ihvp.exact import Exact
from methods.ihvp.lissa import LiSSA
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.representer import Representer
from methods.rows.projections import Gaussian
from methods.task import Task
from methods.tracin import TracIn, descent, measure, watch
from tests.methods import networks

TRAIN = networks.examples(80, 6)  # more than one probe, and than one chunk
X, Y = TRAIN["x"], TRAIN["y"]
METHODS = [
    TracIn(False),
    RandomProjection(Gaussian(3)),
    Influence(CG(), 4.0),
    Influence(LiSSA(2, sample=80, scale=20.0), 4.0),
    Influence(Arnoldi(2, Krylov(4, None)), 4.0),
    Influence(Exact(sample=None), 4.0),
    Representer(),
]


def the_task(loss: Any = networks.nll, **settings: Any) -> Task:
    return Task.of(networks.built(networks.Mlp), loss, **settings)


@pytest.fixture(params=METHODS, ids=lambda m: type(getattr(m, "inverse", m)).__name__)
def method(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (X, "found a tensor of shape (80, 6); give"),
        ((X, Y), 'found a tuple of 2; give {"image": ..., "label": ...}'),
        ({"x": X, "y": Y.tolist()}, "found y: a list of 80; give"),
        ({"x": X, "y": torch.tensor(1)}, "found y: a tensor of shape (); give"),
        ({}, "found a dict of 0; give"),
        ({"x": X, "y": Y[:7]}, "columns of different lengths: {'x': 80, 'y': 7}; give one row"),
    ],
)
def test_examples_are_a_dict_of_tensors(method: Any, given: Any, message: str) -> None:
    fitted = method.fit(the_task(), TRAIN)
    for act in (
        lambda: method.self_influence(the_task(), given),
        lambda: fitted.scores(given, TRAIN),
        lambda: fitted.scores(TRAIN, given),
        lambda: fitted.self_influence(given),
        lambda: measure(the_task(), given),
    ):
        with pytest.raises(MethodError, match=re.escape(message)):
            act()


LAST_WRONG = Y.index_fill(0, torch.tensor(79), 5)
FAILING = {
    "shape": ({"x": X[:, :4], "y": Y}, "x (N, 4) float64, y (N,) int64: mat1 and mat2"),
    "column": ({"image": X, "y": Y}, "image (N, 6) float64, y (N,) int64: KeyError: 'x'"),
    "label": ({"x": X, "y": LAST_WRONG}, "x (N, 6) float64, y (N,) int64: Target 5 is out of"),
    "dtype": ({"x": X.to(torch.uint8), "y": Y}, "x (N, 6) uint8, y (N,) int64: mat1 and mat2"),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_loss_that_fails_is_told_with_what_it_was_given(method: Any, name: str) -> None:
    given, message = FAILING[name]
    pattern = re.escape(f"the loss fails on examples with {message}").replace("N", r"(80|64|32|16)")
    fitted = method.fit(the_task(), TRAIN)
    for act in (
        lambda: method.self_influence(the_task(), given),
        lambda: fitted.scores(TRAIN, given),
        lambda: fitted.self_influence(given),
    ):
        with pytest.raises(MethodError, match=f"^{pattern}[^\n]*$") as caught:
            act()
        assert isinstance(caught.value.__cause__, RuntimeError | LookupError)


@pytest.mark.parametrize(
    "act",
    [
        exact_hessian,
        lambda task, given: Hessian(task, given).apply(torch.ones(1, task.size)),
        lambda task, given: GaussNewton(task, given).apply(torch.ones(1, task.size)),
        lambda task, given: Hessian(task, given).linearized(),
        lambda task, given: descent(task, given, 0.1),
        measure,
        lambda task, given: watch(task, given, task.params),
    ],
)
def test_other_ways_to_a_loss_tell_the_same(act: Callable[[Task, Examples], Any]) -> None:
    given = take(FAILING["shape"][0], slice(0, 5)) | {"y": Y[:5]}
    with pytest.raises(MethodError, match=r"fails on examples with x \(5, 4\) float64, y \(5,\)"):
        act(the_task(), given)


def test_a_measurement_is_called_one() -> None:
    task = the_task(measurement=lambda model, batch: networks.nll(model, {"x": batch["q"]}))
    with pytest.raises(MethodError, match=r"the measurement fails on examples with x .*: KeyError"):
        TracIn(False).scores(task, TRAIN, TRAIN)


def raising(error: BaseException) -> Any:
    def loss(_model: nn.Module, _batch: Examples) -> Tensor:
        raise error

    return loss


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), Exception("mine"), KeyboardInterrupt(), MethodError()]
)
def test_what_is_no_mistake_with_examples_passes_unchanged(method: Any, error: Any) -> None:
    with pytest.raises(type(error)) as caught:
        method.self_influence(the_task(raising(error)), TRAIN)
    assert caught.value is error


def test_what_fails_only_under_vmap_goes_example_by_example(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def loss(model: nn.Module, batch: Examples) -> Tensor:
        scale = [1.0 if x.item() > 0 else 2.0 for x in batch["x"][:, 0]]
        logits = batch["x"] @ model.inner.weight.T  # not by its layer
        return torch.tensor(scale, dtype=X.dtype) * logits.square().sum(1)

    task = the_task(loss, only=["inner.weight"])
    own = TracIn(False).self_influence(task, TRAIN)
    truth = networks.gradient_rows(task, task.loss, TRAIN)
    torch.testing.assert_close(own, truth.square().sum(1))
    assert "by a pass for each example, many times as slow, for: inner.weight (vmap" in caplog.text


def test_a_loss_is_called_as_often_as_is_said() -> None:
    """For the types it computes in, for the probe of three alone and together, for the buffers of
    two (forward only), for the proof that examples are independent (all, each half and three
    alone, forward only), for all, for one of their rows.
    """
    seen: list[int] = []

    def loss(model: nn.Module, batch: Examples) -> Tensor:
        seen.append(len(batch["x"]))
        return networks.nll(model, batch)

    TracIn(False).self_influence(the_task(loss), take(TRAIN, slice(0, 20)))
    assert seen == [3, 1, 1, 1, 3, 2, 20, 10, 10, 1, 1, 1, 20, 1]


def test_a_reduced_loss_is_told_in_words_that_are_true() -> None:
    for value, message in [(0, r"a tensor of shape \(\)"), (None, "None")]:
        task = the_task(lambda m, b, v=value: v if v is None else networks.nll(m, b).mean())
        with pytest.raises(
            MethodError, match=f"returned {message} for a batch of 3 of the examples"
        ):
            TracIn(False).self_influence(task, TRAIN)


def test_swapped_arguments_of_a_task_are_named() -> None:
    message = "first argument is the module, the second its loss.* found a function and a Mlp"
    with pytest.raises(MethodError, match=message):
        Task.of(networks.nll, networks.built(networks.Mlp))  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="found a Mlp and a str"):
        the_task("nll")


def test_training_mode_is_found_later_too(method: Any) -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(6, 3)).double().eval()
    task = Task.of(model, networks.nll)
    fitted = method.fit(task, TRAIN)
    model.train()
    for act in (
        lambda: method.self_influence(task, TRAIN),
        lambda: fitted.self_influence(TRAIN),
        lambda: fitted.scores(TRAIN, TRAIN),
    ):
        with pytest.raises(MethodError, match=r"the model is in training mode: call \.eval\(\)"):
            act()


def test_a_parameter_without_axes_is_a_parameter_like_any_other():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.3))
            self.layer = nn.Linear(3, 2)

        def forward(self, image):
            return self.layer(torch.tanh(image * self.scale))

    torch.manual_seed(0)
    network = Scaled().double().eval()
    examples = {"image": torch.randn(5, 3).double(), "label": torch.tensor([0, 1, 1, 0, 1])}

    def nll(model, batch):
        return nn.functional.cross_entropy(model(batch["image"]), batch["label"], reduction="none")

    task = Task.of(network, nll)
    norms = []
    for row in range(5):
        loss = nll(network, {name: column[[row]] for name, column in examples.items()}).sum()
        grads = torch.autograd.grad(loss, list(network.parameters()))
        norms.append(sum(float(grad.square().sum()) for grad in grads))
    ours = TracIn(learning_rates=False).self_influence(task, examples)
    torch.testing.assert_close(ours, torch.tensor(norms, dtype=torch.float64))
    assert Influence(CG(), damping=1.0).self_influence(task, examples).shape == (5,)


def test_a_checkpoint_and_a_task_are_copies_of_a_model_that_trains_on() -> None:
    def trained(keep: Any) -> Any:
        model, moments = networks.built(networks.Mlp), []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(3):
            networks.nll(model, TRAIN).mean().backward()
            optimizer.step()
            moments.append(Checkpoint(keep(model.state_dict()), 0.5))
        return model, optimizer, moments

    expected = None
    for keep in (copy.deepcopy, lambda state: state):
        model, optimizer, moments = trained(keep)
        task = Task.of(model, networks.nll, checkpoints=moments)
        fitted = [TracIn().fit(task, TRAIN), Influence(Exact(), 4.0).fit(task, TRAIN)]
        scores = [each.scores(TRAIN, TRAIN) for each in fitted]
        networks.nll(model, TRAIN).mean().backward()
        optimizer.step()
        again = [each.scores(TRAIN, TRAIN) for each in fitted]
        torch.testing.assert_close(again, scores, rtol=0, atol=0)
        torch.testing.assert_close(scores, expected or scores)
        expected = scores


def test_what_is_frozen_is_left_out_and_need_not_be_in_a_checkpoint(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = networks.built(networks.Mlp)
    model.inner.requires_grad_(False)
    learnt = {n: p for n, p in model.named_parameters() if p.requires_grad}
    task = Task.of(model, networks.nll, checkpoints=[Checkpoint(learnt, 1.0)])
    assert list(task.params) == list(learnt)
    assert "4 of 6 parameters (48 of 83 numbers) are differentiated" in caplog.text
    rows = networks.gradient_rows(task, task.loss, TRAIN)
    torch.testing.assert_close(TracIn().scores(task, TRAIN, TRAIN), rows @ rows.T)
    chosen = Task.of(model, networks.nll, only=["inner.*"])
    assert list(chosen.params) == ["inner.weight", "inner.bias"]
    assert len(Task.of(model.requires_grad_(False), networks.nll).params) == 6
