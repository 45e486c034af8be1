"""The precision of training: a field of the plan, set for the training alone, and resumable."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import backends, nn

from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.models.resnet import ResNet
from experiments.models.strided_cnn import StridedCNN
from experiments.training import loop
from experiments.training.loop import fit, flat_params
from experiments.training.plans import (
    Adam,
    Fit,
    Grouped,
    SharpnessAware,
    Stepped,
    cross_entropy,
    ending,
)
from experiments.training.stacked import Stack, fit_stack
from methods.ensembles.masks import draw_masks
from tests.experiments.training.test_training import Killed, same

DRAW = np.random.default_rng(0)
TRAIN = {
    "image": torch.from_numpy(DRAW.random((90, 3, 8, 8), np.float32)),
    "label": torch.from_numpy(DRAW.integers(0, 10, 90)),
}
PLAN = Fit(2, 30, lr=0.05, weight_decay=1e-3)
LOW = replace(PLAN, precision="bf16", channels_last=True)
PLANS = {
    "momentum": LOW,
    "adam": replace(LOW, lr=0.01, adam=Adam()),
    "sharpness": SharpnessAware(2, 30, 0.05, precision="bf16", channels_last=True),
    "tf32": replace(PLAN, precision="tf32"),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr("os.fsync", lambda _: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network() -> nn.Module:
    return ResNet(8, 4).build(0)


def test_a_plan_has_the_key_it_had_before_until_another_precision_is_asked_for():
    assert {"precision", "channels_last"}.isdisjoint(runs.describe(Stepped()))
    assert runs.describe(LOW)["precision"] == "bf16"
    assert runs.describe(LOW)["channels_last"] is True
    assert ending(LOW, 0.5).precision == "bf16"
    assert Grouped(1, 2, 0.1, 0.9, 0.0, 1, None, 7).pool == 7  # not the precision


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("deaths", [[1], [2, 2]])
def test_killed_and_restarted_it_ends_with_the_same_bits(name, deaths, tmp_path):
    whole, torn, plan = tmp_path / "whole", tmp_path / "torn", PLANS[name]
    whole.mkdir()
    torn.mkdir()
    expected = fit(network(), cross_entropy, TRAIN, plan, 3, whole)
    for after in deaths:
        left = iter(range(after * (1 + (name == "sharpness"))))

        def dying(module, batch, left=left):
            if next(left, None) is None:
                raise Killed
            return cross_entropy(module, batch)

        with pytest.raises(Killed):
            fit(network(), dying, TRAIN, plan, 3, torn)
    assert same(fit(network(), cross_entropy, TRAIN, plan, 3, torn), expected)
    assert expected["params"].dtype == np.float32


def test_bf16_computes_in_bfloat16_and_keeps_parameters_and_state_in_float32(tmp_path, monkeypatch):
    module, seen, made = network(), set(), []
    module.first.register_forward_hook(lambda _, inputs, output: seen.add(output.dtype))
    optimizer = loop._optimizer
    monkeypatch.setattr(loop, "_optimizer", lambda *a: made.append(optimizer(*a)) or made[0])
    low = fit(module, cross_entropy, TRAIN, LOW, 0, tmp_path)
    assert seen == {torch.bfloat16}
    state = [v for one in made[0].state.values() for v in one.values() if v is not None]
    assert {value.dtype for value in [*state, *module.parameters()]} == {torch.float32}
    assert module.first.weight.is_contiguous(memory_format=torch.channels_last)
    assert low["params"].dtype == np.float32


def test_bf16_is_float32_to_its_rounding(tmp_path):
    build = StridedCNN((4, 8), (3, 8, 8)).build
    low, full = (fit(build(0), cross_entropy, TRAIN, plan, 0, tmp_path) for plan in (LOW, PLAN))
    assert not same(low, full)
    np.testing.assert_allclose(low["train_loss"], full["train_loss"], rtol=2e-3)
    moved = full["params"][-1] - flat_params(build(0))
    error = low["params"][-1] - full["params"][-1]
    assert np.linalg.norm(error) < 0.06 * np.linalg.norm(moved)


def test_channels_last_changes_rounding_alone(tmp_path):
    def plain() -> nn.Module:
        return StridedCNN((4, 8), (3, 8, 8)).build(0).to(memory_format=torch.contiguous_format)

    module = plain()
    assert not module[0].weight.is_contiguous(memory_format=torch.channels_last)
    last = fit(module, cross_entropy, TRAIN, replace(PLAN, channels_last=True), 0, tmp_path)
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last)
    first = fit(plain(), cross_entropy, TRAIN, PLAN, 0, tmp_path)
    np.testing.assert_allclose(last["params"], first["params"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("precision", "kind"), [("float32", "ieee"), ("bf16", "ieee"), ("tf32", "tf32")]
)
def test_the_user_s_settings_hold_before_and_after_but_not_within(precision, kind, tmp_path):
    def setting() -> tuple[str, str]:
        return backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision

    before, within = setting(), []

    def watched(module, batch):
        within.append(setting())
        if len(within) == 2:
            raise Killed
        return cross_entropy(module, batch)

    with torch.autocast("cpu", torch.bfloat16), pytest.raises(Killed):
        fit(network(), watched, TRAIN, replace(PLAN, precision=precision), 0, tmp_path)
    assert set(within) == {(kind, kind)}
    assert setting() == before


def test_float32_is_not_changed_by_an_autocast_around_it(tmp_path):
    (tmp_path / "a").mkdir()
    with torch.autocast("cpu", torch.bfloat16):
        inside = fit(network(), cross_entropy, TRAIN, PLAN, 0, tmp_path / "a")
    assert same(inside, fit(network(), cross_entropy, TRAIN, PLAN, 0, tmp_path))


def test_a_loss_with_an_autocast_of_its_own_sees_every_step_s_parameters(tmp_path):
    def own(module, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return cross_entropy(module, batch)

    (tmp_path / "own").mkdir()
    found = fit(network(), own, TRAIN, replace(LOW, precision="float32"), 0, tmp_path / "own")
    assert same(found, fit(network(), cross_entropy, TRAIN, LOW, 0, tmp_path))


@pytest.mark.parametrize("what", ["the loss", "a parameter"])
def test_what_is_not_finite_in_bf16_is_found(what, tmp_path):
    def loss(module, batch):
        values = cross_entropy(module, batch)
        # Finite, with a gradient that is not.
        return values * float("inf") if what == "the loss" else values + (values * 0).sqrt()

    with pytest.raises(UserError, match=rf"training diverged: {what} is (nan|inf) in epoch 1"):
        fit(network(), loss, TRAIN, replace(LOW, epochs=1, batch_size=90), 0, tmp_path)


def test_a_stack_in_bf16_is_its_networks_in_bf16(tmp_path):
    masks, build = draw_masks(2, 90, 60, 0), StridedCNN((4, 8), (3, 8, 8)).build
    stack = Stack([build(seed) for seed in (0, 1)])
    together = fit_stack(stack, cross_entropy, TRAIN, masks, LOW, (0, 1), tmp_path)["params"][-1]
    for place, mask in enumerate(masks):
        subset = {name: column[torch.from_numpy(mask)] for name, column in TRAIN.items()}
        alone = fit(build(place), cross_entropy, subset, LOW, place, tmp_path)["params"][-1]
        moved = alone - flat_params(build(place))
        error = np.linalg.norm(together[place] - alone) / np.linalg.norm(moved)
        assert error < 0.06


def test_an_unknown_precision_is_refused():
    with pytest.raises(UserError, match=r"fit\.precision is 'fp16': give float32 or tf32 or bf16"):
        replace(PLAN, precision="fp16")
