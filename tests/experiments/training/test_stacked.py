"""Networks trained in a stack: as if alone, and a kill changes no bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from experiments.laboratory.errors import UserError
from experiments.models.digits_mlp import DigitsMLP
from experiments.models.mnist_cnn import DigitsCNN
from experiments.models.resnet import ResNet
from experiments.training import loop
from experiments.training.augmentation import moved
from experiments.training.loop import fit, flat_buffers, flat_params
from experiments.training.plans import Adam, Fit, Grouped, cross_entropy
from experiments.training.stacked import Apart, Members, Stack, fit_stack, rows_of, together, way
from methods.ensembles.masks import draw_masks
from methods.examples import take
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


def stack_of(network, kind: type[Members] = Stack) -> Members:
    return kind([network(seed) for seed in SEEDS])


def trained(network, scratch, loss=cross_entropy, plan=PLAN, kind: type[Members] = Stack, **more):
    stack = stack_of(network, kind)
    return stack, fit_stack(stack, loss, TRAIN, MASKS, plan, SEEDS, scratch, **more)


both_ways = pytest.mark.parametrize("kind", [Stack, Apart])


@both_ways
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("plan", [PLAN, Fit(3, 20, 0.01, adam=Adam())])
def test_a_member_is_the_network_trained_alone_on_its_examples(network, plan, kind, tmp_path):
    stack, outcome = trained(network, tmp_path, plan=plan, kind=kind)
    for place, (seed, mask) in enumerate(zip(SEEDS, MASKS, strict=True)):
        alone = network(seed)
        subset = take(TRAIN, torch.from_numpy(mask))
        (tmp_path / str(seed)).mkdir()
        expected = fit(alone, cross_entropy, subset, plan, seed, tmp_path / str(seed))
        for name in ("params", *(["buffers"] if "buffers" in expected else [])):
            found = outcome[name][:, place]
            exact = {"rtol": 0, "atol": 0} if kind is Apart else {"rtol": 1e-3, "atol": 2e-5}
            np.testing.assert_allclose(found, expected[name], **exact)
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


def moving(batch):
    return {**batch, "image": moved(batch["image"], 1, mirror=True)}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_either_way_the_same_seeds_give_the_same_networks(network, alike, precision, tmp_path):
    plan = replace(PLAN, precision=precision, channels_last=precision == "bf16")
    seeds, masks = ((4,) * 3, MASKS[[0] * 3]) if alike else (SEEDS, MASKS)
    shapes, ends = set(), []
    for kind in (Stack, Apart):

        def seen(batch):
            shapes.add(tuple(batch["image"].shape))
            return moving(batch)

        networks = stack_of(network, kind)
        given = networks, cross_entropy, TRAIN, masks, plan, seeds, tmp_path
        ends.append(fit_stack(*given, seen=seen))
        parts = np.stack([flat_params(networks.at(place)) for place in range(3)])
        np.testing.assert_array_equal(parts, ends[-1]["params"][-1])
    assert shapes == ({(20, 1, 8, 8), (11, 1, 8, 8)} if alike else {(60, 1, 8, 8), (33, 1, 8, 8)})
    start = np.stack([flat_params(network(seed)) for seed in SEEDS])
    path = ends[0]["params"][-1] - start
    apart = ends[0]["params"][-1] - ends[1]["params"][-1]
    # Roundings, of 0.4% in bfloat16, grow with the steps.
    error = np.linalg.norm(apart, axis=1) / np.linalg.norm(path, axis=1)
    assert error.max() < (1e-4 if precision == "float32" else 0.1)
    close = 1e-4 if precision == "float32" else 0.01
    np.testing.assert_allclose(ends[0]["train_loss"], ends[1]["train_loss"], rtol=close)
    assert ends[0]["train_loss"].shape == (3, 3)


def test_in_double_precision_the_two_are_the_same(tmp_path):
    train = {"image": TRAIN["image"].double(), "label": TRAIN["label"]}
    stack = Stack([cnn(seed).double() for seed in SEEDS])
    outcome = fit_stack(stack, cross_entropy, train, MASKS, PLAN, SEEDS, tmp_path)
    for place, (seed, mask) in enumerate(zip(SEEDS, MASKS, strict=True)):
        subset = take(train, torch.from_numpy(mask))
        expected = fit(cnn(seed).double(), cross_entropy, subset, PLAN, seed, tmp_path)["params"]
        np.testing.assert_allclose(outcome["params"][:, place], expected, rtol=1e-9, atol=1e-12)


@both_ways
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("deaths", [pytest.param([1], marks=pytest.mark.long), [5, 6], [STEPS]])
def test_killed_and_restarted_it_ends_with_the_same_bits(
    network, deaths, kind, tmp_path, monkeypatch
):
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir()
    torn.mkdir()
    _, expected = trained(network, whole, kind=kind)

    def dying(after):
        left = iter(range(after * (3 if kind is Apart else 1)))  # the loss is called for each

        def loss(module, batch):
            if next(left, None) is None:
                raise Killed
            return cross_entropy(module, batch)

        return loss

    for after in deaths:
        try:
            trained(network, torn, dying(after), kind=kind)
        except Killed:
            continue
    stack, outcome = trained(network, torn, kind=kind)
    assert same(outcome, expected)
    np.testing.assert_array_equal(flat_params(stack.at(2)), expected["params"][-1, 2])


@both_ways
def test_members_on_shared_examples_are_the_networks_themselves(kind):
    stack = stack_of(normalised, kind).eval()
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


@both_ways
def test_a_member_that_diverges_is_named(kind, tmp_path):
    networks = [mlp(seed) for seed in SEEDS]
    with torch.no_grad():
        next(networks[1].parameters()).mul_(1e30)
    stack = kind(networks)
    with pytest.raises(
        UserError, match=r"the loss of network 1 of the stack is (nan|inf) in epoch"
    ):
        fit_stack(stack, cross_entropy, TRAIN, MASKS, PLAN, SEEDS, tmp_path)


class Shifting(nn.Module):
    """With a buffer that is not in the state, drawn by the seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.inner, draw = mlp(seed), torch.Generator().manual_seed(seed)
        self.register_buffer("shift", torch.rand(1, 1, 8, 8, generator=draw), persistent=False)

    def forward(self, image):
        return self.inner(image - self.shift)


@both_ways
def test_buffers_outside_of_the_state_are_each_member_s_own_and_move_along(kind):
    stack = stack_of(Shifting, kind)
    stack.double()
    images = TRAIN["image"].double()
    outputs = stack.shared(lambda network, batch: network(batch["image"])[:, 0], {"image": images})
    for place, seed in enumerate(SEEDS):
        assert torch.equal(stack.at(place).shift, Shifting(seed).double().shift)
        alone = Shifting(seed).double()(images)[:, 0]
        torch.testing.assert_close(outputs[place], alone, rtol=1e-12, atol=1e-12)
    assert "shift" not in " ".join(stack.state_dict())
    there = stack.to("meta").at(1)
    assert {v.device.type for v in [*there.parameters(), *there.buffers()]} == {"meta"}


RULE = {
    (False, 5_000, "cpu"): "stacked",
    (True, 9_226, "cpu"): "stacked",
    (False, 814_090, "cpu"): "apart",
    (True, 75_290, "cpu"): "apart",
    (False, 814_090, "cuda"): "stacked",
    (True, 9_226, "cuda"): "apart",
    (True, 1_681_444, "cuda"): "apart",
}


@pytest.mark.parametrize("case", RULE)
def test_convolutions_are_never_stacked_on_a_gpu_nor_large_networks_on_a_cpu(case):
    assert way(*case) == RULE[case]


def test_the_environment_chooses_the_way_and_otherwise_the_rule(monkeypatch):
    device = torch.device("cpu")
    assert isinstance(together([cnn(0)], device), Stack)
    assert isinstance(together([ResNet(8).build(0)], device), Apart)
    for name, kind in (("stacked", Stack), ("apart", Apart), ("auto", Stack)):
        monkeypatch.setenv("RETRACE_NETWORKS", name)
        assert type(together([cnn(0)], device)) is kind
    monkeypatch.setenv("RETRACE_NETWORKS", "vmap")
    with pytest.raises(UserError, match="RETRACE_NETWORKS is 'vmap': give auto, stacked or apart"):
        together([cnn(0)], device)


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
    "of 2 networks: give one or more, of one architecture": lambda _: Stack([mlp(0), cnn(0)]),
    "of 3 networks: give one or more, of one": lambda _: Apart([mlp(0), mlp(1), cnn(0)]),
    "of 0 networks": lambda _: together([], torch.device("cpu")),
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
