"""Checkpoints as trainings leave them: state dicts, pairs with a learning rate, files."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from methods.checkpoints import Checkpoint
from methods.errors import MethodError
from methods.task import Task
from methods.tracin import TracIn
from methods.unrolling import Unrolling
from tests.methods import networks

TRAIN, QUERY = networks.examples(6, 6), networks.examples(3, 6, seed=1)


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double().eval()


MODEL, STATES = linear(9), [linear(i).state_dict() for i in range(3)]
LRS = (0.5, 0.3, 0.1)
PAIRS = list(zip(STATES, LRS, strict=True))


def task(checkpoints: Any) -> Task:
    return Task.of(MODEL, networks.nll, checkpoints=checkpoints)


def scores(checkpoints: Any, **settings: Any) -> Tensor:
    return TracIn(**settings).fit(task(checkpoints), TRAIN).scores(QUERY, TRAIN)


WANTED = scores([Checkpoint(state, lr) for state, lr in PAIRS])


def test_pairs_of_a_state_and_its_rate_are_checkpoints() -> None:
    assert torch.equal(scores(PAIRS), WANTED)
    assert torch.equal(scores([list(pair) for pair in PAIRS]), WANTED)
    assert torch.equal(scores(iter(PAIRS)), WANTED)


def test_files_are_read_in_every_form_that_trainings_write(tmp_path: Path) -> None:
    optimizer = {"param_groups": [{"lr": 0.3, "params": [0, 1]}]}
    torch.save(STATES[0], tmp_path / "a.pt")
    torch.save(
        {"epoch": 2, "model_state_dict": STATES[1], "optimizer": optimizer}, tmp_path / "b.ckpt"
    )
    save_file(STATES[2], tmp_path / "c.safetensors")
    files = [tmp_path / "a.pt", str(tmp_path / "b.ckpt"), tmp_path / "c.safetensors"]
    assert torch.equal(scores(zip(files, LRS, strict=True)), WANTED)
    mean = scores(files, learning_rates=False)
    assert torch.equal(mean, scores(STATES, learning_rates=False))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module."])
def test_the_prefix_of_a_wrapped_model_is_taken_off(prefix: str) -> None:
    wrapped = [{prefix + n: v for n, v in state.items()} for state in STATES]
    assert torch.equal(scores(zip(wrapped, LRS, strict=True)), WANTED)
    wrapped[1] |= {f"ema.{n}": v for n, v in STATES[0].items()}  # which is meant?
    with pytest.raises(MethodError, match=r"the checkpoint lacks .* \(did you mean ema"):
        scores(zip(wrapped, LRS, strict=True))


def test_without_rates_tracin_asks_for_them_and_the_mean_does_not() -> None:
    with pytest.raises(MethodError, match=r"no learning rate: give it in a pair.*learning_rates="):
        scores([PAIRS[0], STATES[1]])
    method = TracIn(checkpoints=(0,))
    chosen = method.fit(task([PAIRS[0], STATES[1]]), TRAIN).scores(QUERY, TRAIN)
    assert torch.equal(chosen, scores(PAIRS[:1]))
    with pytest.raises(MethodError, match="no learning rate"):
        Unrolling(steps=4, segments=1).fit(task(STATES), TRAIN)


def test_a_fitted_method_without_rates_is_saved_and_restored(tmp_path: Path) -> None:
    method = TracIn(learning_rates=False)
    method.fit(task(STATES), TRAIN).save(tmp_path / "kept")
    restored = method.restore(task(STATES), tmp_path / "kept")
    assert torch.equal(restored.scores(QUERY, TRAIN), scores(STATES, learning_rates=False))
    with pytest.raises(MethodError, match="other checkpoints"):
        method.restore(task(PAIRS), tmp_path / "kept")


BUFFER = {n: v for n, v in STATES[0].items() if "running" not in n}
LONG = {**STATES[0], "0.weight": torch.zeros(4, 7)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a.pt", "checkpoints is a str: give a list of them; of each, give a state dict or the"),
        (STATES[0], "checkpoints is an OrderedDict of 9: give a list"),
        (MODEL, "checkpoint 0 is a Linear: give a state dict"),
        (3, "checkpoints is an int: give a list"),
        ([(0.1, STATES[0])], "checkpoint 0 is a tuple of 2: give a state dict or the path"),
        ([STATES[0], MODEL], "checkpoint 1 is a Sequential: give a state dict"),
        ([{"epoch": 3}], "checkpoint 0 has no tensors: it has epoch; give model.state_dict"),
        ([BUFFER], r"the checkpoint lacks 1\.running_mean"),
        ([LONG], r"0\.weight is \(4, 7\) in the checkpoint and \(4, 6\) in the model"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_the_task_itself(given: Any, message: str) -> None:
    with pytest.raises(MethodError, match=message) as caught:
        task(given)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    for name in ("whole.pt", "epoch1.pt"):
        torch.save(MODEL, tmp_path / name)
    for name in ("cut.pt", "cut.safetensors", "words.bin"):
        (tmp_path / name).write_bytes(b"no tensors here")
    for name in ("whole.pt", "cut.pt", "cut.safetensors", "words.bin"):
        refused(tmp_path / name, f"{name} is damaged, or holds more than tensors, numbers and text")
    refused(tmp_path / "epoch2.pt", r"no checkpoint .*epoch2.pt: did you mean epoch1.pt")
    refused(tmp_path / "none" / "epoch2.pt", "its folder has no checkpoints")
    refused(tmp_path, r"is a folder: give a file in it, such as .*cut\.pt")


def refused(path: Path, message: str) -> None:
    with pytest.raises(MethodError, match=message) as caught:
        task([(path, 0.1)])
    assert "\n" not in str(caught.value)


def test_examples_are_looked_at_before_checkpoints_are_asked_for() -> None:
    bare, words = task(()), cast(Any, ["words"])
    for act in (
        lambda: TracIn().fit(bare, words),
        lambda: TracIn().scores(bare, TRAIN, words),
        lambda: TracIn().self_influence(bare, {"x": torch.ones(3), "y": torch.ones(2)}),
    ):
        with pytest.raises(MethodError, match=r"examples are a dict|columns of different lengths"):
            act()
    with pytest.raises(MethodError, match="no checkpoints to take learning rates from: pass Task"):
        TracIn().scores(bare, TRAIN, QUERY)
