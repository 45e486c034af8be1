"""Networks trained in a stack: as if alone, and a kill changes no bit."""

import numpy as np
import pytest
import torch
from torch import nn

from experiments.laboratory.errors import UserError
from experiments.models.digits_mlp import DigitsMLP
from experiments.models.mnist_cnn import DigitsCNN
from experiments.training import loop
from experiments.training.loop import fit, flat_buffers, flat_params
from experiments.training.plans import Adam, Fit, Grouped, cross_entropy
from experiments.training.stacked import Stack, fit_stack, rows_of
from methods.ensembles.masks import draw_masks
from methods.task import take
from tests.experiments.training.test_training import TRAIN, Killed, same

PLAN = Fit(epochs=3, batch_size=20, lr=0.05, weight_decay=1e-3)
SEEDS = (4, 9, 0)
MASKS = draw_masks(3, 130, 91, seed=0)
STEPS = 5 * 3


def mlp(seed: int) -> nn.Module:
    return DigitsMLP((12,), (1, 8, 8)).build(seed)


def cnn(seed: int) -> nn.Module:
    return DigitsCNN().build(seed)


def normalised(seed: int) -> nn.Module:
    """With statistics that are not parameters."""
    torch.manual_seed(seed)
    # A bias before the normalisation has no gradient but rounding, of which Adam would make steps.
    first = nn.Conv2d(1, 4, 3, bias=False)
    layers = first, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    return nn.Sequential(*layers)


NETWORKS = [mlp, cnn, normalised]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stack_of(network) -> Stack:
    return Stack([network(seed) for seed in SEEDS])


def trained(network, scratch, loss=cross_entropy, plan=PLAN):
    stack = stack_of(network)
    return stack, fit_stack(stack, loss, TRAIN, MASKS, plan, SEEDS, scratch)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("plan", [PLAN, Fit(3, 20, 0.01, adam=Adam())])
def test_a_member_is_the_network_trained_alone_on_its_examples(network, plan, tmp_path):
    stack, outcome = trained(network, tmp_path, plan=plan)
    for place, (seed, mask) in enumerate(zip(SEEDS, MASKS, strict=True)):
        alone = network(seed)
        subset = take(TRAIN, torch.from_numpy(mask))
        (tmp_path / str(seed)).mkdir()
        expected = fit(alone, cross_entropy, subset, plan, seed, tmp_path / str(seed))
        for name in ("params", *(["buffers"] if "buffers" in expected else [])):
            found = outcome[name][:, place]
            np.testing.assert_allclose(found, expected[name], rtol=1e-3, atol=2e-5)
        np.testing.assert_allclose(
            outcome["train_loss"][:, place], expected["train_loss"], rtol=1e-4
        )
        assert outcome["lrs"].tolist() == expected["lrs"].tolist()
        assert outcome["steps"].tolist() == expected["steps"].tolist()
        member = stack.at(place)
        np.testing.assert_array_equal(flat_params(member), outcome["params"][-1, place])
        if flat_buffers(member).size:
            np.testing.assert_array_equal(flat_buffers(member), outcome["buffers"][-1, place])
        logits = member(TRAIN["image"])
        torch.testing.assert_close(logits, alone(TRAIN["image"]), rtol=1e-3, atol=1e-4)


def test_in_double_precision_the_two_are_the_same(tmp_path):
    train = {"image": TRAIN["image"].double(), "label": TRAIN["label"]}
    stack = Stack([cnn(seed).double() for seed in SEEDS])
    outcome = fit_stack(stack, cross_entropy, train, MASKS, PLAN, SEEDS, tmp_path)
    for place, (seed, mask) in enumerate(zip(SEEDS, MASKS, strict=True)):
        subset = take(train, torch.from_numpy(mask))
        expected = fit(cnn(seed).double(), cross_entropy, subset, PLAN, seed, tmp_path)["params"]
        np.testing.assert_allclose(outcome["params"][:, place], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("deaths", [[1], [4], [5, 6], [STEPS]])
def test_killed_and_restarted_it_ends_with_the_same_bits(network, deaths, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir()
    torn.mkdir()
    _, expected = trained(network, whole)

    def dying(after):
        left = iter(range(after))

        def loss(module, batch):
            if next(left, None) is None:
                raise Killed
            return cross_entropy(module, batch)

        return loss

    for after in deaths:
        try:
            trained(network, torn, dying(after))
        except Killed:
            continue
    stack, outcome = trained(network, torn)
    assert same(outcome, expected)
    np.testing.assert_array_equal(flat_params(stack.at(2)), expected["params"][-1, 2])


def test_members_on_shared_examples_are_the_networks_themselves():
    stack = stack_of(normalised).eval()
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    with torch.no_grad():
        together = stack.shared(cross_entropy, TRAIN)
    for place, seed in enumerate(SEEDS):
        alone = cross_entropy(normalised(seed).eval(), TRAIN)
        torch.testing.assert_close(together[place], alone, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in stack.state_dict().items())


def test_another_mask_or_seed_is_another_training(tmp_path):
    _, first = trained(mlp, tmp_path)
    other = fit_stack(stack_of(mlp), cross_entropy, TRAIN, MASKS[::-1], PLAN, SEEDS, tmp_path)
    again = fit_stack(stack_of(mlp), cross_entropy, TRAIN, MASKS, PLAN, (4, 9, 1), tmp_path)
    assert not same(first, other)
    np.testing.assert_array_equal(again["params"][:, 0], first["params"][:, 0])
    assert not np.array_equal(again["params"][:, 2], first["params"][:, 2])


def test_a_member_that_diverges_is_named(tmp_path):
    stack = stack_of(mlp)
    with torch.no_grad():
        next(stack.parameters())[1] *= 1e30
    with pytest.raises(
        UserError, match=r"the loss of network 1 of the stack is (nan|inf) in epoch"
    ):
        fit_stack(stack, cross_entropy, TRAIN, MASKS, PLAN, SEEDS, tmp_path)


GROUPED = Grouped(2, 13, 0.05, pool=3)
WITH_LENGTH = {**TRAIN, "length": torch.arange(130) % 7}


def test_batches_of_examples_alike_are_each_member_s_own(tmp_path):
    outcome = fit_stack(stack_of(mlp), cross_entropy, WITH_LENGTH, MASKS, GROUPED, SEEDS, tmp_path)
    subset = take(WITH_LENGTH, torch.from_numpy(MASKS[1]))
    expected = fit(mlp(SEEDS[1]), cross_entropy, subset, GROUPED, SEEDS[1], tmp_path)["params"]
    np.testing.assert_allclose(outcome["params"][:, 1], expected, rtol=1e-3, atol=2e-5)


MISTAKES = {
    "batches of different sizes for the networks": lambda folder: fit_stack(
        stack_of(mlp), cross_entropy, WITH_LENGTH, MASKS, Grouped(1, 20, 0.1), SEEDS, folder
    ),
    "of one architecture": lambda folder: Stack([mlp(0), cnn(0)]),
    "masks have 90 to 91 examples": lambda folder: rows_of(MASKS & (np.arange(130) != 1)),
    "has 2 masks and 3 seeds": lambda folder: fit_stack(
        stack_of(mlp), cross_entropy, TRAIN, MASKS[:2], PLAN, SEEDS, folder
    ),
    "has 3 masks and 1 seeds": lambda folder: fit_stack(
        stack_of(mlp), cross_entropy, TRAIN, MASKS, PLAN, (1,), folder
    ),
}


@pytest.mark.parametrize("said", MISTAKES)
def test_what_does_not_fit_is_named(said, tmp_path):
    with pytest.raises(UserError) as caught:
        MISTAKES[said](tmp_path)
    assert said in str(caught.value)
