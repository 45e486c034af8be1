"""How training is fed on a GPU: from its memory or from the host, without waiting for either."""

import numpy as np
import pytest
import torch
from torch import nn

from experiments.data.photos import Photos
from experiments.laboratory.tensors import Feed
from experiments.training.augmentation import CropAndFlip, Photographed, augmented
from experiments.training.loop import LOOK_STEPS, fit
from experiments.training.plans import Fit, cross_entropy

DRAW = torch.Generator().manual_seed(0)
TRAIN = {
    "image": torch.rand(40, 3, 6, 6, generator=DRAW),
    "label": torch.randint(0, 4, (40,), generator=DRAW),
}
ROWS = [torch.tensor([3, 0, 7]), torch.tensor([1, 2])]


def trained(tmp_path, device, batch_size=8, epochs=2) -> np.ndarray:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(108, 4)).to(device)
    loss, plan = augmented(cross_entropy, CropAndFlip(2)), Fit(epochs, batch_size, 0.1)
    return fit(module, loss, TRAIN, plan, 0, tmp_path)["params"]


@pytest.mark.parametrize("free", [70 << 30, 1_000], ids=["fits", "streamed"])
def test_a_set_of_any_size_trains_a_gpu_as_the_cpu(free, tmp_path, pretend_gpu):
    pretend_gpu.free = free
    there = trained(tmp_path, "cuda")
    np.testing.assert_allclose(there, trained(tmp_path, "cpu"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("free", [70 << 30, 1_000], ids=["fits", "streamed"])
def test_batches_are_on_the_gpu_and_what_the_host_needs_is_not(free, pretend_gpu):
    pretend_gpu.free, gpu = free, torch.device("cuda", 0)
    feed = Feed(TRAIN, gpu, on_host=("label",))
    assert feed.columns["image"].device.type == ("cuda" if free > 1_000 else "cpu")
    with pretend_gpu.counting() as counts:
        batches = list(feed.batches(ROWS))
    assert not counts.syncs
    for rows, batch in zip(ROWS, batches, strict=True):
        assert batch["image"].device == gpu
        assert batch["label"].device.type == "cpu"
        assert torch.equal(batch["image"].cpu(), TRAIN["image"][rows])
        assert torch.equal(batch["label"], TRAIN["label"][rows])
    stacked = torch.tensor([[3, 0], [1, 2]])
    (batch,) = feed.batches([stacked])
    assert torch.equal(batch["image"].cpu(), TRAIN["image"][stacked])


def test_the_host_waits_for_the_gpu_once_in_many_steps_and_not_for_augmentation(
    tmp_path, pretend_gpu
):
    waits = {}
    for size in (20, 1):  # examples of a batch: 2 and 40 steps an epoch
        with pretend_gpu.counting() as counts:
            trained(tmp_path, "cuda", size, epochs=1)
        waits[size] = counts.syncs.total()
        assert not any("augmentation" in line for line in counts.syncs)
    assert waits[1] - waits[20] <= 40 // LOOK_STEPS


def test_photographs_are_resized_in_as_many_operations_as_there_are_groups(pretend_gpu):
    launches, colours = {}, {"dtype": torch.uint8, "generator": DRAW}
    for n in (4, 40):
        photos = Photos.of([torch.randint(256, (3, 20 + i % 7, 30), **colours) for i in range(n)])
        there, view = photos.to(torch.device("cuda", 0)), Photographed(16, 20)
        with pretend_gpu.counting() as counts:
            torch.manual_seed(0)
            moved = view.moved(there.take(list(range(n)), there.pixels.device))
        launches[n] = counts.launches.total()
        assert not counts.syncs
        torch.manual_seed(0)
        torch.testing.assert_close(moved.cpu(), view.moved(photos), rtol=0, atol=2e-5)
    assert launches[4] == launches[40] < 80
