"""CIFAR-10 in three layouts: what is read, what is refused, and the parts taken of it."""

import io
import pickle
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.data import cifar
from experiments.images import cifar_models
from experiments.images.cifar_models import Data, load_data
from experiments.laboratory import data_folder, runs
from experiments.laboratory.errors import UserError
from experiments.models.resnet import ResNet

DRAW = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path))
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(cifar, "N_EXAMPLES", {"train": 10, "test": 4})
    monkeypatch.setattr(cifar, "N_FIRST", 6)
    cifar_models.load_data.cache_clear()
    yield tmp_path
    cifar_models.load_data.cache_clear()


def write_batch(path: Path, n: int) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = DRAW.integers(0, 256, (n, 3072), dtype=np.uint8)
    labels = [int(i % 10) for i in range(n)]
    path.write_bytes(pickle.dumps({b"data": pixels, b"labels": labels, b"filenames": []}, 2))
    return pixels.reshape(n, 3, 32, 32)


@pytest.fixture
def original(folder):
    home = folder / "cifar-10-batches-py"
    parts = [write_batch(home / f"data_batch_{i + 1}", 2) for i in range(5)]
    return np.concatenate(parts), write_batch(home / "test_batch", 4)


def smooth(n: int) -> np.ndarray:
    """Images that JPEG hardly changes, (n, 32, 32, 3)."""
    x, y = np.mgrid[:32, :32] * 4
    each = [np.stack([x + 9 * i, y, 120 + 0 * x], 2) for i in range(n)]
    return np.stack(each).astype(np.uint8)


def write_jpeg(path: Path, n: int) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels, streams = smooth(n), []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=95)
        streams.append(buffer.getvalue())
    ends = np.cumsum([0, *map(len, streams)])
    stream = np.frombuffer(b"".join(streams), np.uint8)
    np.savez(path, jpeg=stream, offsets=ends, labels=np.arange(n, dtype=np.uint8) % 10)
    return pixels


@pytest.fixture
def jpeg(folder):
    home = folder / "cifar-10-jpeg"
    return write_jpeg(home / "train.npz", 10), write_jpeg(home / "test.npz", 4)


def test_the_original_is_read_in_order_as_images_in_the_unit_interval(original):
    train, test = original
    for split, pixels in (("train", train), ("test", test)):
        data = cifar.load("original", split)
        assert data["image"].dtype == torch.float32
        np.testing.assert_allclose(data["image"].numpy() * 255, pixels, atol=1e-4)
        assert data["label"].dtype == torch.int64
    assert cifar.load("original", "train")["label"].tolist() == [0, 1] * 5
    some = cifar.load("original", "train", np.array([7, 0]))
    np.testing.assert_allclose(some["image"].numpy() * 255, train[[7, 0]], atol=1e-4)


def test_the_recompressed_copy_is_decoded_where_asked_and_noted_as_such(jpeg):
    train, _ = jpeg

    def compute(_):
        some = cifar.load("jpeg", "train", np.array([9, 3]))
        got = some["image"].movedim(1, 3).numpy() * 255
        assert np.abs(got - train[[9, 3]]).mean() < 4
        assert np.abs(got - train[[3, 9]]).mean() > 8
        assert some["label"].tolist() == [9, 3]
        assert cifar.load("jpeg", "test")["image"].shape == (4, 3, 32, 32)
        return {}

    noted = runs.once("t", ResNet(), compute).meta["data"]
    assert sorted(noted) == ["cifar-10-jpeg/test.npz", "cifar-10-jpeg/train.npz"]
    assert all(value.startswith("JPEG-recompressed CIFAR-10, md5 ") for value in noted.values())


def test_the_first_images_have_no_test_split(folder):
    pixels = write_batch(folder / "cifar-10-first4000" / "data_batch_1.first4000", 6)
    data = cifar.load("first4000", "train")
    np.testing.assert_allclose(data["image"].numpy() * 255, pixels, atol=1e-4)
    with pytest.raises(UserError, match="has no test split"):
        cifar.load("first4000", "test")
    train, evaluation = load_data(Data("first4000", 4, 2), 0)
    both = torch.cat([train["image"], evaluation["image"]])
    assert len({row.numpy().tobytes() for row in both}) == 6


class Malicious:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8)}),
        pickle.dumps({b"data": np.zeros((2, 3071), np.uint8), b"labels": [0, 1]}),
        pickle.dumps({b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1, 2]}),
        pickle.dumps({b"data": np.zeros((2, 3072)), b"labels": [0, 1]}),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 11]}),
        pickle.dumps([1, 2]),
        pickle.dumps(Malicious()),
    ],
)
def test_a_corrupt_batch_is_one_line_that_names_it(original, folder, content, capsys):
    path = folder / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        cifar.load("original", "train")
    assert f"{path} is truncated or corrupt" in str(caught.value)
    assert f"rm {path}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not capsys.readouterr().out


def test_a_truncated_batch_is_named_wherever_it_ends(original, folder):
    path = folder / "cifar-10-batches-py" / "data_batch_2"
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 12).astype(int):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="data_batch_2 is truncated or corrupt"):
            cifar.load("original", "train")


def test_a_truncated_archive_of_jpegs_is_named_wherever_it_ends(jpeg, folder):
    path = folder / "cifar-10-jpeg" / "train.npz"
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 12).astype(int):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"train\.npz is truncated or corrupt"):
            cifar.load("jpeg", "train")


def test_an_image_that_is_no_jpeg_is_named_with_its_place(jpeg, folder):
    path = folder / "cifar-10-jpeg" / "train.npz"
    with np.load(path) as bundle:
        arrays = {name: bundle[name].copy() for name in bundle}
    arrays["jpeg"][arrays["offsets"][3] : arrays["offsets"][4]] = 0
    np.savez(path, **arrays)
    cifar.load("jpeg", "train", np.array([0, 1, 2]))
    with pytest.raises(UserError, match=r"image 3 is truncated or not a JPEG"):
        cifar.load("jpeg", "train")
    np.savez(path, **{**arrays, "labels": arrays["labels"][1:]})
    with pytest.raises(UserError, match="does not have 10 images"):
        cifar.load("jpeg", "train")


@pytest.mark.parametrize("source", ["jpeg", "first4000"])
def test_a_missing_copy_says_where_it_belongs(source, folder):
    with pytest.raises(UserError) as caught:
        cifar.load(source, "train")
    message = str(caught.value)
    assert str(folder / cifar.FOLDERS[source]) in message
    assert "--data DIR" in message
    assert "\n" not in message


def test_a_missing_original_without_a_network_is_one_line(monkeypatch, folder):
    def refuse(*_, **__):
        raise urllib.request.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(UserError) as caught:
        cifar.load("original", "test")
    message = str(caught.value)
    assert "test_batch is not in " in message
    assert "no server that has it answers" in message
    assert "\n" not in message
    assert not (folder / "cifar-10-batches-py").exists()


def test_a_download_that_fails_or_works_leaves_nothing_half_written(monkeypatch, folder):
    from torchvision import datasets

    home = folder / "cifar-10-batches-py"
    monkeypatch.setattr(data_folder, "reachable", lambda *_: True)

    def broken(root, download):
        raise RuntimeError("File not found or corrupted.")

    broken.url = "https://example.org"
    monkeypatch.setattr(datasets, "CIFAR10", broken)
    with pytest.raises(UserError, match=r"its download failed \(File not found or corrupted"):
        cifar.load("original", "test")
    assert list(home.iterdir()) == []

    def working(root, download):
        write_batch(Path(root) / "cifar-10-batches-py" / "test_batch", 4)

    working.url = "https://example.org"
    monkeypatch.setattr(datasets, "CIFAR10", working)
    assert len(cifar.load("original", "test")["label"]) == 4
    assert [path.name for path in home.iterdir()] == ["test_batch"]


def test_a_run_names_its_data_even_where_an_earlier_one_has_read_it(jpeg):
    noted = [
        runs.once("t", ResNet(width=width), lambda _: load_data(Data("jpeg", 6, 3), 1) and {}).meta
        for width in (2, 4)
    ]
    for meta in noted:
        assert sorted(meta["data"]) == ["cifar-10-jpeg/test.npz", "cifar-10-jpeg/train.npz"]


def test_subsets_are_random_parts_of_both_splits(jpeg):
    train, evaluation = load_data(Data("jpeg", 6, 3), 1)
    assert len(train["label"]) == 6
    assert len(evaluation["label"]) == 3
    assert sorted(train["label"].tolist()) != train["label"].tolist()
    with pytest.raises(UserError, match="do not fit into 10"):
        load_data(Data("jpeg", 11, 3), 1)
