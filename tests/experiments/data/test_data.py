"""Data sets, wrong labels and the networks that learn them."""

import io
import threading
import urllib.request

import numpy as np
import pytest
import torch

from experiments import mnist_mislabel
from experiments.data import digits, labels
from experiments.digits import models
from experiments.laboratory import data_folder, runs
from experiments.laboratory.errors import UserError
from experiments.models.inception import SmallInception
from experiments.models.mnist_cnn import DigitsCNN, LargeCNN, SmallCNN
from tests.experiments.data.idx_files import write_idx


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path))
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    return tmp_path / "MNIST" / "raw"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise urllib.request.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def five(folder, monkeypatch):
    """A whole MNIST of five training examples."""
    monkeypatch.setattr(digits, "N_EXAMPLES", {"train": 5, "test": 5})
    images = np.arange(5 * 28 * 28).reshape(5, 28, 28) % 256
    write_idx(folder / "train-images-idx3-ubyte", images)
    write_idx(folder / "train-labels-idx1-ubyte", np.array([3, 1, 4, 1, 5]))
    return images


def test_mnist_is_read_as_images_in_the_unit_interval_and_noted(five):
    def compute(_):
        data = digits.load_mnist("train")
        assert data["image"].shape == (5, 1, 28, 28)
        assert data["image"].dtype == torch.float32
        np.testing.assert_allclose(data["image"][:, 0].numpy() * 255, five, atol=1e-4)
        assert data["label"].tolist() == [3, 1, 4, 1, 5]
        assert data["label"].dtype == torch.int64
        return {}

    noted = runs.once("t", SmallCNN(), compute).meta["data"]
    assert sorted(noted) == [
        "MNIST/raw/train-images-idx3-ubyte",
        "MNIST/raw/train-labels-idx1-ubyte",
    ]
    assert all(value.startswith("md5 ") for value in noted.values())


@pytest.mark.parametrize("size", [0, 7, 100, 5 * 784 + 15, 5 * 784 + 17])
def test_a_truncated_file_is_named_with_both_sizes(five, folder, size):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes((path.read_bytes() + b"x")[:size])
    with pytest.raises(UserError) as caught:
        digits.load_mnist("train")
    assert f"{path} has {size:,} of 3,936 bytes" in str(caught.value)
    assert f"rm {path}" in str(caught.value)


def test_the_real_files_are_asked_for_in_their_real_size(folder):
    for name in ("images-idx3", "labels-idx1"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"train-{name}-ubyte").write_bytes(b"short")
    with pytest.raises(UserError, match="has 5 of 47,040,016 bytes"):
        digits.load_mnist("train")


def test_a_file_of_the_right_size_but_another_kind_is_refused(five, folder):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(bytes(len(path.read_bytes())))
    with pytest.raises(UserError, match="is not an idx file"):
        digits.load_mnist("train")


def test_missing_mnist_without_a_network_is_one_line_that_says_what_to_do(no_network, folder):
    with pytest.raises(UserError) as caught:
        digits.load_mnist("test")
    message = str(caught.value)
    assert "\n" not in message
    assert "t10k-images-idx3-ubyte is not in " in message
    assert str(folder) in message
    assert "--data DIR" in message
    assert "RETRACE_DATA" in message
    assert not folder.exists()


def test_a_network_that_never_answers_is_given_up_soon(monkeypatch):
    over, answers = threading.Event(), []

    def never(*_, **__):
        over.wait(60)
        answers.append(io.BytesIO())
        return answers[-1]

    monkeypatch.setattr(urllib.request, "urlopen", never)
    monkeypatch.setattr(data_folder, "PROBE_SECONDS", -0.5)
    with pytest.raises(UserError, match="no server that has it answers"):
        digits.load_mnist("train")
    assert not answers, "given up before any server answered"
    over.set()
    assert data_folder.PROBE_SECONDS < 5


def test_a_failed_download_leaves_nothing_half_written(monkeypatch, folder):
    from torchvision import datasets

    def broken(root, download):
        (data_folder.root() / "MNIST" / "raw").mkdir(exist_ok=True)
        raise RuntimeError("Error downloading train-images")

    broken.mirrors = ["https://example.org/"]
    monkeypatch.setattr(datasets, "MNIST", broken)
    monkeypatch.setattr(data_folder, "reachable", lambda *_: True)
    with pytest.raises(UserError, match=r"its download failed \(Error downloading"):
        digits.load_mnist("train")
    assert list(folder.iterdir()) == []


def test_no_mnist_ends_a_command_in_one_line_and_no_run(no_network, commanded):
    assert "train-images-idx3-ubyte is not in" in commanded()


def test_a_truncated_mnist_ends_a_command_in_one_line_and_no_run(five, folder, commanded):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:100])
    assert f"{path} has 100 of 3,936 bytes" in commanded()


@pytest.fixture
def commanded(tmp_path, monkeypatch, capsys):
    """The one line in which a command on MNIST ends, after which nothing half-written is left."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    models.load_data.cache_clear()

    def command() -> str:
        assert mnist_mislabel.EXPERIMENT.main(["--preset", "paper", "--cell", "0"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        message = [line for line in err.split("\n") if line.startswith("error: ")]
        assert len(message) == 1
        assert err.endswith(f"{message[0]}\n")
        assert list(tmp_path.glob("results/runs/*/*")) == [
            tmp_path / "results/runs/mnist_mislabel/presets"
        ]
        return message[0]

    return command


def test_a_data_folder_that_is_a_file_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path / "file"))
    monkeypatch.setattr(data_folder, "reachable", lambda *_: True)
    with pytest.raises(UserError, match="its download failed"):
        digits.load_mnist("train")


def test_the_bundled_digits_are_real_and_in_the_unit_interval():
    data = digits.load_sklearn()
    assert data["image"].shape == (1797, 1, 8, 8)
    assert data["image"].dtype == torch.float32
    assert (data["image"].min(), data["image"].max()) == (0, 1)
    assert data["label"].dtype == torch.int64
    assert data["label"].bincount().min() > 170


TRUE = np.random.default_rng(0).integers(0, 10, 1_003)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 1 / 3, 1.0])
def test_exactly_the_share_of_labels_is_changed_and_to_another(share):
    given, corrupted = labels.reassign(TRUE, share, 10, seed=1)
    assert corrupted.dtype == bool
    assert corrupted.sum() == round(share * len(TRUE))
    np.testing.assert_array_equal(given != TRUE, corrupted)
    assert set(given) <= set(range(10))


def test_wrong_labels_are_uniform_over_the_wrong_ones():
    true = np.full(90_000, 4)
    given, _ = labels.reassign(true, 1.0, 10, seed=0)
    counts = np.bincount(given, minlength=10)
    assert counts[4] == 0
    assert np.abs(np.delete(counts, 4) - 10_000).max() < 5 * np.sqrt(10_000)


def test_wrong_labels_depend_on_the_seed_alone():
    first, again = (
        labels.reassign(TRUE, 0.2, 10, 3),
        labels.reassign(torch.tensor(TRUE), 0.2, 10, 3),
    )
    np.testing.assert_array_equal(first[0], again[0])
    assert (labels.reassign(TRUE, 0.2, 10, 4)[1] != first[1]).any()


@pytest.mark.parametrize(("share", "classes"), [(-0.1, 10), (1.1, 10), (0.2, 1), (0.2, 9)])
def test_settings_that_do_not_fit_the_labels_are_refused(share, classes):
    with pytest.raises(UserError):
        labels.reassign(TRUE, share, classes, 0)


def test_parts_of_a_split_are_disjoint_and_of_the_sizes_asked():
    parts = labels.split(100, [10, 20, 70], seed=5)
    assert [len(part) for part in parts] == [10, 20, 70]
    assert sorted(np.concatenate(parts)) == list(range(100))
    np.testing.assert_array_equal(labels.split(100, [10], seed=5)[0], parts[0])
    with pytest.raises(UserError, match=r"10 \+ 91 do not fit into 100"):
        labels.split(100, [10, 91], seed=5)


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (SmallCNN(), 2_616),
        (LargeCNN(), 824_458),
        (DigitsCNN(), 1_448),
        (SmallInception(10), 1_651_114),
    ],
)
def test_networks_have_the_parameters_of_the_paper_and_depend_on_the_seed_alone(network, count):
    before = torch.random.get_rng_state()
    module, other = network.build(0), network.build(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(1)  # another state of the global generator
    again = network.build(0)
    assert sum(value.numel() for value in module.parameters()) == count
    assert not module.training
    for name, value in module.named_parameters():
        assert torch.equal(value, again.get_parameter(name))
        assert value.ndim == 1 or not torch.equal(value, other.get_parameter(name))
    output = module(torch.rand(2, *network.image_shape))
    assert output.shape == (2, 10)
    assert output.isfinite().all()


def test_the_large_network_starts_with_lecun_normal_weights():
    weight = dict(LargeCNN().build(0).named_parameters())["7.weight"]
    assert weight.std().item() == pytest.approx((1 / 3136) ** 0.5, rel=0.01)
    assert weight.abs().max().item() <= 2 * (1 / 3136) ** 0.5 / 0.8796
