"""Representer points: the sum over training examples is the refitted logit, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.examples import Examples, take
from methods.losses.objective import Objective
from methods.representer import Representer, solve
from methods.rows.last_layer import Head
from methods.task import Task
from methods.tracin import TracIn
from tests.methods import networks

TRAIN, QUERY = networks.examples(40, 6), networks.examples(9, 6, seed=20)
CLASSES = 3


class NoBias(networks.Mlp):
    """A head without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, CLASSES, bias=False)


@pytest.fixture(params=[networks.Mlp, NoBias])
def model(request: pytest.FixtureRequest) -> Any:
    return networks.built(request.param)


def features(model: Any, batch: Examples) -> Tensor:
    with torch.no_grad():
        f = model.middle(model.inner(batch["x"].to(model.inner.weight)).tanh()).tanh()
    return f if model.head.bias is None else torch.cat([f, f.new_ones(len(f), 1)], dim=1)


def own_softmax(model: Any, batch: Examples) -> Tensor:
    with torch.no_grad():
        return model(batch["x"]).softmax(1)


def logit_of(c: int) -> Any:
    return lambda model, batch: -model(batch["x"])[:, c]


def predicted(model: Any, batch: Examples) -> Tensor:
    return -model(batch["x"]).amax(1)


def test_examples_without_a_loss_may_come_first(model: Any) -> None:
    def weighed(model: Any, batch: Examples) -> Tensor:
        return batch["weight"] * networks.nll(model, batch)

    weight = (torch.arange(40) > 4).to(networks.DOUBLE)
    scores = [
        Representer().fit(Task.of(model, loss, logit_of(0)), train).scores(QUERY, train)
        for loss, train in ((weighed, {**TRAIN, "weight": weight}), (networks.nll, TRAIN))
    ]
    torch.testing.assert_close(*scores)


def test_scores_sum_to_the_logits_of_the_refitted_model(model: Any) -> None:
    for lam in (3e-3, 0.1):
        state = Representer(lam).state(Task.of(model, networks.nll), TRAIN)
        logits = features(model, QUERY) @ state["head"].T
        for c in range(CLASSES):
            task = Task.of(model, networks.nll, logit_of(c))
            total = Representer(lam).fit(task, TRAIN).scores(QUERY, TRAIN).sum(1)
            torch.testing.assert_close(total, logits[:, c], rtol=1e-8, atol=1e-8)


def test_scores_sum_to_the_logits_in_single_precision() -> None:
    model = networks.built(networks.Mlp).float()
    fitted = Representer().fit(Task.of(model, networks.nll, predicted), TRAIN)
    total = fitted.scores(QUERY, TRAIN).sum(1)
    assert total.dtype == torch.float32
    logits = features(model, QUERY).double() @ fitted.head.T
    torch.testing.assert_close(total.double(), logits.amax(1), rtol=1e-5, atol=1e-5)


def test_yehs_own_stopping_rule_misses_the_sum_by_what_the_docstring_says() -> None:
    model = networks.built(networks.Mlp)
    task, loose = Task.of(model, networks.nll, predicted), Representer(tolerance=1 / 200)
    fitted = loose.fit(task, TRAIN)
    f = features(model, QUERY)
    gap = (fitted.scores(QUERY, TRAIN).sum(1) - (f @ fitted.head.T).amax(1)).abs()
    own = torch.cat([model.head.weight, model.head.bias[:, None]], dim=1).norm()
    assert float(gap.max()) > 1e-9
    assert bool((gap <= loose.tolerance * own * f.norm(dim=1)).all())


def test_alpha_is_the_derivative_of_the_last_layers_loss_at_the_training_point(model: Any) -> None:
    """-(p_i - y_i) / (2 lam n), from autograd's own derivative of the refitted loss."""
    for method, targets in (
        (Representer(0.01), own_softmax(model, TRAIN)),
        (Representer(0.01, labels="y"), nn.functional.one_hot(TRAIN["y"], CLASSES).double()),
    ):
        fitted = method.fit(Task.of(model, networks.nll), TRAIN)
        f = features(model, TRAIN)
        p = (f @ fitted.head.T).softmax(1)
        alpha = fitted.coefficients(TRAIN)
        torch.testing.assert_close(alpha, -(p - targets) / (2 * 0.01 * 40))
        head = fitted.head.clone().requires_grad_()
        losses = -(targets * (f @ head.T).log_softmax(1)).sum(1)
        (gradient,) = torch.autograd.grad(losses.sum(), head)
        torch.testing.assert_close(-alpha.T @ f * (2 * 0.01 * 40), gradient)
        torch.testing.assert_close(alpha.T @ f, fitted.head, rtol=1e-7, atol=1e-8)


def test_with_labels_it_is_tracin_on_the_last_layer_at_the_refitted_head(model: Any) -> None:
    """-d logit . alpha (x) f = the logit's gradient . the loss's gradient / (2 lam n)."""
    method = Representer(0.01, labels="y")
    task = Task.of(model, networks.nll, predicted)
    fitted = method.fit(task, TRAIN)
    refitted = Head(task, TRAIN).refitted(fitted.head)
    last = TracIn(learning_rates=False).fit(refitted, TRAIN).scores(QUERY, TRAIN)
    torch.testing.assert_close(fitted.scores(QUERY, TRAIN), last / (2 * 0.01 * 40))


def test_the_class_asked_for_is_the_measurements(model: Any) -> None:
    of_label = Representer().fit(Task.of(model, networks.nll), TRAIN)
    assert torch.equal(of_label.classes(QUERY), QUERY["y"])
    fitted = Representer().fit(Task.of(model, networks.nll, predicted), TRAIN)
    unlabelled = {"x": QUERY["x"]}
    wanted = (features(model, QUERY) @ fitted.head.T).argmax(1)
    assert torch.equal(fitted.classes(unlabelled), wanted)
    assert fitted.scores(unlabelled, TRAIN).shape == (9, 40)


def test_a_proponent_raises_the_logit_it_is_asked_about(model: Any) -> None:
    """Refitting with an example counted twice moves the logit the way its score says."""
    task = Task.of(model, networks.nll, logit_of(1))
    method = Representer(lam=1.0)  # a step so stiff that the other examples hardly answer
    scores = method.fit(task, TRAIN).scores(QUERY, TRAIN)
    f, targets = features(model, TRAIN), own_softmax(model, TRAIN)
    start = torch.zeros(CLASSES, f.shape[1], dtype=f.dtype)
    before = solve(f, targets, 1.0, start, 1e-12, 50)
    for i in range(0, 40, 7):
        # lam n/(n+1) leaves the other examples' and the L2 term's weights in proportion.
        twice = [torch.cat([part, part[i : i + 1]]) for part in (f, targets)]
        after = solve(*twice, 40 / 41, start, 1e-12, 50)
        moved = (features(model, QUERY) @ (after - before).T)[:, 1]
        torch.testing.assert_close(moved, scores[:, i], rtol=0.25, atol=2e-4)


def test_the_solver_stops_where_it_says_from_anywhere() -> None:
    f, targets = networks.normal(30, 4), networks.normal(30, 3, seed=1).softmax(1)
    ends = []
    for start in (torch.zeros(3, 4, dtype=f.dtype), 40 * networks.normal(3, 4, seed=2)):
        head = solve(f, targets, 1e-2, start, 1e-11, 200)
        gradient = ((f @ head.T).softmax(1) - targets).T @ f / 30 + 2e-2 * head
        assert float(gradient.norm()) < 1e-9
        ends.append(head)
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-8)
    with pytest.raises(MethodError, match="in 1 Newton steps"):
        solve(f, targets, 1e-2, start, 1e-11, 1)


def test_a_state_of_another_model_is_refused(model: Any) -> None:
    other = networks.built(lambda: networks.Mlp(hidden=7))
    state = Representer().state(Task.of(other, networks.nll), TRAIN)
    with pytest.raises(MethodError, match="another model"):
        Representer().fit(Task.of(model, networks.nll), TRAIN, state)


class Tanh(networks.Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh()


class TwiceHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.head(x).tanh())


def two_calls(model: Any, batch: Examples) -> Tensor:
    return networks.nll(model, batch) + networks.nll(model, batch)


@pytest.mark.parametrize(
    ("make", "loss", "message"),
    [
        (Tanh, networks.nll, "output of Tanh is not that of an nn.Linear"),
        (TwiceHead, networks.nll, "used more than once"),
        (networks.Mlp, two_calls, "called its model 2 times"),
    ],
)
def test_a_model_without_a_linear_last_layer_is_refused(make: Any, loss: Any, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        Representer().fit(Task.of(networks.built(make), loss), TRAIN)


def test_more_than_one_vector_an_example_is_refused() -> None:
    model = networks.built(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)))
    batch = {"x": networks.normal(5, 7, 4), "y": networks.integers(2, 5, 7)}

    def loss(model: Any, batch: Examples) -> Tensor:
        scores = model(batch["x"]).mT
        return nn.functional.cross_entropy(scores, batch["y"], reduction="none").mean(1)

    with pytest.raises(MethodError, match="more than one vector an example"):
        Representer().fit(Task.of(model, loss), batch)


def test_bad_settings_are_refused() -> None:
    model = networks.built(networks.Mlp)
    task = Task.of(model, networks.nll)
    for name in ("lam", "tolerance"):
        with pytest.raises(MethodError, match=f"{name} is 0.0: give a positive"):
            replace(Representer(), **{name: 0.0}).fit(task, TRAIN)
    for labels, message in (("z", "the columns are x, y"), ("x", "not a column of classes")):
        with pytest.raises(MethodError, match=message):
            Representer(labels=labels).fit(task, TRAIN)
    with pytest.raises(MethodError, match="does not fit the head's 3 logits"):
        Representer(labels="wide").fit(task, {**TRAIN, "wide": TRAIN["y"] + 1})
    with pytest.raises(MethodError, match=r"head\.weight is not among the parameters"):
        Representer().fit(task.only(["inner.*"]), TRAIN)
    with pytest.raises(MethodError, match="Newton steps"):
        Representer(max_steps=1).fit(task, TRAIN)
    bare = replace(task, loss=lambda params, examples: task.loss(params, examples))
    with pytest.raises(MethodError, match=r"Task\.of"):
        Representer().fit(bare, TRAIN)


def test_a_measurement_of_no_logit_is_refused() -> None:
    model = networks.built(networks.Mlp)
    task = Task.of(model, networks.nll)
    flat = Objective(model, lambda model, batch: 0.0 * model(batch["x"]).sum(1))
    fitted = Representer().fit(replace(task, measurement=flat), TRAIN)
    with pytest.raises(MethodError, match="does not change with any logit"):
        fitted.scores(QUERY, TRAIN)


def test_other_candidates_are_scored_by_their_own_derivative(model: Any) -> None:
    """Examples that the head was not fitted on have a value too, with the n of the fitted ones."""
    fitted = Representer().fit(Task.of(model, networks.nll), TRAIN)
    others = networks.examples(4, 6, seed=50)
    p = (features(model, others) @ fitted.head.T).softmax(1)
    alpha = (own_softmax(model, others) - p) / (2 * 3e-3 * 40)
    kernel = features(model, QUERY) @ features(model, others).T
    expected = alpha[:, QUERY["y"]].T * kernel
    torch.testing.assert_close(fitted.scores(QUERY, others), expected)
    torch.testing.assert_close(fitted.scores(QUERY, take(others, slice(1, 2))), expected[:, 1:2])
