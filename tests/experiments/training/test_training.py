"""Training: a kill changes no bit of it, and what cannot go on says so."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from experiments.laboratory.errors import UserError
from experiments.models.mnist_cnn import DigitsCNN, SmallCNN
from experiments.training import loop
from experiments.training.loop import fit, flat_params, load_params
from experiments.training.plans import Adam, AdamW, Fit, Grouped, SharpnessAware, Stepped, Warmed

DRAW = np.random.default_rng(0)
TRAIN = {
    "image": torch.from_numpy(DRAW.random((130, 1, 8, 8), np.float32)),
    "label": torch.from_numpy(DRAW.integers(0, 10, 130)),
}
PLAN = Fit(epochs=3, batch_size=20, lr=0.05, weight_decay=1e-3)
STEPS = 7  # an epoch


class Killed(BaseException):
    """As sudden as a signal: nothing in the training loop catches it."""


def nll(module: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(module(batch["image"]), batch["label"], reduction="none")


def dying(after: int):
    """The loss, until the process dies in that step."""
    left = iter(range(after))

    def loss(module, batch):
        if next(left, None) is None:
            raise Killed
        return nll(module, batch)

    return loss


def noisy() -> nn.Module:
    """A network with dropout and with statistics that are not parameters."""
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.Dropout(0.5), nn.Linear(20, 10)
    return nn.Sequential(*layers)


def digits_network() -> nn.Module:
    return DigitsCNN().build(0)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads cost more than they bring where a step takes a millisecond."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def save_every_step(monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].tobytes() == other[name].tobytes() and one[name].shape == other[name].shape
        for name in one
    )


def test_the_outcome_has_checkpoints_steps_rates_and_losses(tmp_path):
    module = digits_network()
    outcome = fit(module, nll, TRAIN, PLAN, 0, tmp_path)
    assert outcome["params"].shape == (3, 1_448)
    assert outcome["params"].dtype == np.float32
    assert outcome["steps"].tolist() == [7, 14, 21]
    assert outcome["lrs"].tolist() == [0.05] * 3
    assert outcome["train_loss"].shape == (3,)
    assert outcome["train_loss"][2] < outcome["train_loss"][0]
    np.testing.assert_array_equal(outcome["params"][-1], flat_params(module))
    assert not module.training


def test_checkpoints_are_kept_every_so_many_epochs_and_at_the_end(tmp_path):
    plan = Fit(epochs=5, batch_size=20, every=2)
    assert fit(digits_network(), nll, TRAIN, plan, 0, tmp_path)["steps"].tolist() == [14, 28, 35]


def test_training_depends_on_the_seed_alone(tmp_path):
    torch.manual_seed(1)
    (tmp_path / "a").mkdir()
    first = fit(digits_network(), nll, TRAIN, PLAN, 0, tmp_path / "a")
    torch.manual_seed(2)
    (tmp_path / "b").mkdir()
    assert same(first, fit(digits_network(), nll, TRAIN, PLAN, 0, tmp_path / "b"))
    assert not same(first, fit(digits_network(), nll, TRAIN, PLAN, 1, tmp_path / "b"))


@pytest.mark.parametrize(
    ("network", "plan"),
    [(digits_network, PLAN), (noisy, PLAN), (noisy, replace(PLAN, lr=0.01, adam=Adam()))],
)
@pytest.mark.parametrize("deaths", [[1], [6], [7], [8], [20], [3, 3, 3], [1, 9, 2], [21]])
def test_killed_and_restarted_it_ends_with_the_same_bits(network, plan, deaths, tmp_path):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir()
    torn.mkdir()
    expected = fit(network(), nll, TRAIN, plan, 5, whole)
    for after in deaths:
        try:
            fit(network(), dying(after), TRAIN, plan, 5, torn)
        except Killed:
            continue
    calls = []

    def counted(module, batch):
        calls.append(1)
        return nll(module, batch)

    assert same(fit(network(), counted, TRAIN, plan, 5, torn), expected)
    assert len(calls) == max(0, 3 * STEPS - sum(deaths))  # no finished step was made again


def test_states_are_not_saved_at_every_step_by_default(tmp_path, monkeypatch):
    monkeypatch.undo()
    assert loop.SAVE_SECONDS >= 1
    monkeypatch.setattr(loop, "SAVE_SECONDS", 3600.0)  # however slow this machine is
    with pytest.raises(Killed):
        fit(digits_network(), dying(3), TRAIN, PLAN, 0, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_trainings_may_share_a_scratch(tmp_path):
    alone = fit(SmallDigits().build(0), nll, TRAIN, PLAN, 0, tmp_path)
    with pytest.raises(Killed):
        fit(digits_network(), dying(9), TRAIN, PLAN, 0, tmp_path)
    other = {**TRAIN, "label": TRAIN["label"].flip(0)}
    assert not same(alone, fit(SmallDigits().build(0), nll, other, PLAN, 0, tmp_path))
    assert same(alone, fit(SmallDigits().build(0), nll, TRAIN, PLAN, 0, tmp_path))


class SmallDigits:
    def build(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_a_step_is_momentum_on_mean_loss_and_half_the_squared_norm(tmp_path):
    module = SmallDigits().build(0).double()
    train = {"image": TRAIN["image"].double(), "label": TRAIN["label"]}
    params = [value.detach().clone() for value in module.parameters()]
    velocity = [torch.zeros_like(value) for value in params]
    model = SmallDigits().build(0).double()
    for _ in range(3):
        with torch.no_grad():
            for value, new in zip(model.parameters(), params, strict=True):
                value.copy_(new)
        penalty = sum((value**2).sum() for value in model.parameters())
        objective = nll(model, train).mean() + 0.01 / 2 * penalty
        gradients = torch.autograd.grad(objective, list(model.parameters()))
        velocity = [0.8 * v + g for v, g in zip(velocity, gradients, strict=True)]
        params = [p - 0.1 * v for p, v in zip(params, velocity, strict=True)]
    plan = Fit(epochs=3, batch_size=130, lr=0.1, momentum=0.8, weight_decay=0.01)
    outcome = fit(module, nll, train, plan, 0, tmp_path)
    expected = torch.cat([value.reshape(-1) for value in params]).numpy()
    np.testing.assert_allclose(outcome["params"][-1], expected, rtol=1e-12, atol=1e-14)


def test_a_diverging_training_names_epoch_step_and_rate(tmp_path):
    with pytest.raises(UserError) as caught:
        fit(digits_network(), lambda m, b: nll(m, b) * 1e30, TRAIN, PLAN, 0, tmp_path)
    said = str(caught.value)
    assert "training diverged: the loss is " in said
    assert "in epoch 1, step " in said
    assert "lower lr, which is 0.05, for instance to 0.02" in said
    assert "\n" not in said
    assert not any("nan" in path.name for path in tmp_path.iterdir())


def test_the_step_that_is_named_is_the_first_bad_one(tmp_path):
    calls = iter(range(100))

    def loss(module, batch):
        return nll(module, batch) * (float("nan") if next(calls) == 10 else 1.0)

    with pytest.raises(UserError, match="the loss is nan in epoch 2, step 4:"):
        fit(digits_network(), loss, TRAIN, PLAN, 0, tmp_path)


def test_parameters_go_back_into_the_same_architecture_only():
    source, target = DigitsCNN().build(0), DigitsCNN().build(1)
    flat = flat_params(source)
    flat.flags.writeable = False  # as an array mapped from disk
    assert load_params(target, flat) is target
    np.testing.assert_array_equal(flat_params(target), flat)
    with pytest.raises(UserError, match=r"checkpoint has 1,448 parameters, Sequential has 2,616"):
        load_params(SmallCNN().build(0), flat)
    with pytest.raises(UserError, match=r"shape \(2, 724\)"):
        load_params(target, flat.reshape(2, 724))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (Fit, {"epochs": [0, -1], "batch_size": [0], "every": [0], "lr": [0.0, -1.0, NAN, INF]}),
        (Fit, {"momentum": [1.0, -0.1, NAN], "weight_decay": [-1e-4, NAN, INF]}),
        (Stepped, {"factor": [0.0, INF], "drops": [(0.5, 1.5)], "lr": [-0.1]}),
        (Grouped, {"pool": [0], "momentum": [2.0]}),
        (SharpnessAware, {"rho": [0.0, NAN], "warmup": [-0.1, 1.0]}),
        (Warmed, {"warmup": [-1.0, INF], "pool": [0]}),
        (Adam, {"beta1": [2.0, 1.0, NAN], "beta2": [-0.1, 2.0]}),
        (AdamW, {"beta2": [1.0]}),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_where_it_is_set(make, settings):
    assert make()
    for name, values in settings.items():
        for value in values:
            with pytest.raises(UserError, match=rf"fit\.(adam\.)?{name} is .*: give"):
                make(**{name: value})


def test_columns_of_different_lengths_are_refused(tmp_path):
    with pytest.raises(UserError, match="one length"):
        fit(digits_network(), nll, {**TRAIN, "label": TRAIN["label"][1:]}, PLAN, 0, tmp_path)
