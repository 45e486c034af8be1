"""Networks with running statistics: training that keeps and resumes them, and moved images."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.models.resnet import ResNet
from experiments.training import loop
from experiments.training.augmentation import CropAndFlip, augmented
from experiments.training.loop import fit, flat_buffers, load_buffers, load_params
from experiments.training.plans import Fit, Stepped

DRAW = np.random.default_rng(0)
TRAIN = {
    "image": torch.from_numpy(DRAW.random((90, 3, 8, 8), np.float32)),
    "label": torch.from_numpy(DRAW.integers(0, 10, 90)),
}
PLAN = Stepped(4, 30, lr=0.05, weight_decay=1e-3)


def nll(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(module(batch["image"]), batch["label"], reduction="none")


LOSS = augmented(nll, CropAndFlip(1))


@pytest.fixture
def one_thread(monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_training_returns_the_statistics_and_the_rate_of_every_checkpoint(tmp_path, one_thread):
    module = ResNet(8, 2).build(0)
    outcome = fit(module, LOSS, TRAIN, PLAN, 0, tmp_path)
    assert outcome["lrs"].tolist() == pytest.approx([0.05, 0.05, 0.005, 0.0005])
    size = flat_buffers(module).size
    assert outcome["buffers"].shape == (4, size)
    assert size == 2 * sum(m.num_features for m in module.modules() if hasattr(m, "running_mean"))
    np.testing.assert_array_equal(outcome["buffers"][-1], flat_buffers(module))
    assert not np.array_equal(outcome["buffers"][0], outcome["buffers"][-1])
    back = load_params(ResNet(8, 2).build(1), outcome["params"][-1])
    load_buffers(back, outcome["buffers"][-1])
    torch.testing.assert_close(back(TRAIN["image"]), module(TRAIN["image"]), rtol=0, atol=0)
    with pytest.raises(UserError, match="another architecture"):
        load_buffers(back, outcome["buffers"][-1][1:])


@pytest.mark.parametrize("deaths", [[1], [4], [5, 3]])
def test_killed_and_restarted_it_ends_with_the_same_bits(deaths, tmp_path, one_thread):
    class Killed(BaseException):
        pass

    def dying(after: int):
        left = iter(range(after))

        def loss(module, batch):
            if next(left, None) is None:
                raise Killed
            return LOSS(module, batch)

        return loss

    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir(), torn.mkdir()
    expected = fit(ResNet(8, 2).build(0), LOSS, TRAIN, PLAN, 5, whole)
    for after in deaths:
        with pytest.raises(Killed):
            fit(ResNet(8, 2).build(0), dying(after), TRAIN, PLAN, 5, torn)
    outcome = fit(ResNet(8, 2).build(0), LOSS, TRAIN, PLAN, 5, torn)
    assert outcome.keys() == expected.keys()
    for name, value in expected.items():
        assert outcome[name].tobytes() == value.tobytes(), name


def test_a_model_without_buffers_trains_and_is_named_as_before(tmp_path, one_thread):
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    assert "buffers" not in fit(module, nll, TRAIN, Fit(1, 30), 0, tmp_path)
    assert runs.key(Fit()) == "a044b58701073fb1"
    assert runs.describe(PLAN)["type"] == "Stepped"


def test_a_rate_that_never_drops_trains_like_a_plain_plan(tmp_path, one_thread):
    plain = Fit(2, 30, lr=0.05)
    outcomes = []
    for i, plan in enumerate((plain, Stepped(2, 30, lr=0.05, drops=()))):
        (tmp_path / str(i)).mkdir()
        outcomes.append(fit(ResNet(8, 2).build(0), nll, TRAIN, plan, 0, tmp_path / str(i)))
    for name, value in outcomes[0].items():
        np.testing.assert_array_equal(value, outcomes[1][name])


def test_crops_move_by_at_most_the_padding_and_flips_mirror():
    image = torch.arange(2 * 3 * 5 * 5.0).view(2, 3, 5, 5) + 1
    move = CropAndFlip(1)
    padded = F.pad(image, (1, 1, 1, 1))
    windows = {
        (top, left, flip): padded[:, :, top : top + 5, left : left + 5].flip(3 if flip else ())
        for top in range(3)
        for left in range(3)
        for flip in (False, True)
    }
    seen = set()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(200):
            moved = move(image)
            for i in range(2):
                fits = [k for k, window in windows.items() if torch.equal(moved[i], window[i])]
                assert len(fits) == 1
                seen.add((i, *fits[0]))
    assert len(seen) == 2 * len(windows), "every crop, mirrored and not, for each image on its own"
