"""Textures and flowers in torchvision's layout: read, labelled, and refused where they are not."""

import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from experiments.data import dtd, flowers, photos
from experiments.laboratory import data_folder, runs
from experiments.laboratory.errors import UserError
from tests.experiments.data.photo_files import CLASSES, write_dtd, write_flowers


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path))
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    return tmp_path


@pytest.fixture
def textures(folder, monkeypatch):
    return write_dtd(folder, 6, monkeypatch)


@pytest.fixture
def plants(folder, monkeypatch):
    return write_flowers(folder, 4, monkeypatch)


def test_torchvision_reads_the_same_textures(textures, folder):
    from torchvision.datasets import DTD

    theirs = DTD(folder, split="test", download=False)
    ours, labels = dtd.load("test", np.array([4, 0]))
    for at, position in enumerate((4, 0)):
        image, label = theirs[position]
        np.testing.assert_array_equal(ours[at].permute(1, 2, 0).numpy(), np.asarray(image))
        assert labels[at] == label
    assert ours[0].dtype == torch.uint8
    assert labels.dtype == torch.int64


def test_torchvision_reads_the_same_flowers(plants, folder, monkeypatch):
    from torchvision.datasets import Flowers102

    monkeypatch.setattr(Flowers102, "_check_integrity", lambda self: True)
    for split in ("train", "val", "test"):
        theirs = Flowers102(folder, split=split, download=False)
        ours, labels = flowers.load(split, np.arange(4))
        assert [theirs[i][1] for i in range(4)] == labels.tolist()
        np.testing.assert_array_equal(ours[3].permute(1, 2, 0).numpy(), np.asarray(theirs[3][0]))


def test_splits_share_no_photograph_and_a_run_names_what_it_read(textures):
    def compute(_):
        parts = [dtd.load(split, np.arange(6))[0] for split in ("train", "val", "test")]
        assert len({photo.numpy().tobytes() for part in parts for photo in part}) == 18
        return {}

    noted = runs.once("t", photos_config(), compute).meta["data"]
    assert sorted(noted) == ["dtd test", "dtd train", "dtd val"]
    assert all(text.startswith("6 photographs, md5 ") for text in noted.values())


def photos_config():
    from experiments.training.augmentation import Photographed

    return Photographed()


def test_photographs_are_decoded_once_for_all_and_anew_where_a_file_has_changed(
    textures, folder, monkeypatch
):
    first, _ = dtd.load("train", np.arange(2))
    opened = []
    true = Image.open
    monkeypatch.setattr(Image, "open", lambda file: opened.append(1) or true(file))
    again, _ = dtd.load("train", np.arange(2))
    assert not opened
    assert len(again) == 2
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    image = folder / "dtd" / "dtd" / "images" / CLASSES[0] / f"{CLASSES[0]}_0000.jpg"
    Image.fromarray(np.full((9, 7), 100, np.uint8)).save(image)
    changed, _ = dtd.load("train", np.arange(2))
    assert len(opened) == 2
    assert {tuple(photo.shape) for photo in changed} >= {(3, 9, 7)}
    none, labels = dtd.load("val", np.arange(0))
    assert len(none) == len(labels) == len(opened) - 2 == 0


def test_some_photographs_are_taken_as_they_are_wherever_they_lie(textures):
    every, _ = dtd.load("train", np.arange(6))
    there = torch.device("meta")
    assert every.to(there).take([1], there)[0].device == there
    for device in (torch.device("cpu"), there):
        some = every.take([4, 0, 4], device)
        assert [some[i].shape for i in range(3)] == [every[i].shape for i in (4, 0, 4)]
    some = every.take([4, 0, 4], torch.device("cpu"))
    assert all(torch.equal(some[i], every[j]) for i, j in enumerate((4, 0, 4)))


@pytest.mark.parametrize("module", [dtd, flowers])
def test_missing_photographs_without_a_network_are_one_line(module, folder, monkeypatch):
    def refuse(*_, **__):
        raise urllib.request.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(UserError) as caught:
        module.load("train", np.arange(2))
    message = str(caught.value)
    assert f"{module.FOLDER} is not in {folder}" in message
    assert "no server that has it answers" in message
    assert "--data DIR" in message
    assert "\n" not in message
    assert list(folder.iterdir()) == []


def test_a_download_that_fails_or_works_leaves_nothing_half_written(folder, monkeypatch):
    monkeypatch.setattr(data_folder, "reachable", lambda *_: True)

    def broken(draft):
        (Path(draft) / "dtd").mkdir()
        raise RuntimeError("File not found or corrupted.")

    with pytest.raises(UserError, match=r"its download failed \(File not found or corrupted"):
        photos.downloaded("dtd", "https://example.org", broken, "the archive")
    assert list(folder.iterdir()) == []
    home = photos.downloaded(
        "dtd", "https://example.org", lambda draft: (Path(draft) / "dtd").mkdir(), "the archive"
    )
    assert home == folder / "dtd"
    assert [path.name for path in folder.iterdir()] == ["dtd"]


def test_what_is_broken_is_named(textures, plants, folder):
    image = folder / "dtd" / "dtd" / "images" / CLASSES[0] / f"{CLASSES[0]}_0000.jpg"
    whole = image.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"no photograph"):
        image.write_bytes(content)
        with pytest.raises(UserError, match=rf"{image} is truncated or not a JPEG"):
            dtd.load("train", np.arange(6))
    image.unlink()
    with pytest.raises(UserError, match=rf"cannot read {image} \(no such file"):
        dtd.load("train", np.arange(6))
    listing = folder / "dtd" / "dtd" / "labels" / "train1.txt"
    listing.write_text("one/one.jpg\n")
    with pytest.raises(UserError, match=r"train1.txt lists 1 photographs of 1 classes, not 6"):
        dtd.load("train", np.arange(1))
    listing.unlink()
    with pytest.raises(UserError, match=r"cannot read .*train1.txt"):
        dtd.load("train", np.arange(1))
    numbers = folder / "flowers-102" / "setid.mat"
    savemat(numbers, {"trnid": np.array([[99, 1, 2, 3]]), "valid": [[1]], "tstid": [[1]]})
    with pytest.raises(UserError, match=r"setid.mat lists 4 photographs for train, not 4 of 12"):
        flowers.load("train", np.arange(2))
    numbers.write_bytes(b"no matrix")
    with pytest.raises(UserError, match=r"cannot read .*setid.mat"):
        flowers.load("train", np.arange(2))
    with pytest.raises(UserError, match="position 7 of 4"):
        photos.positions(4, np.array([7]), folder)


def test_grey_photographs_have_three_channels(textures, folder):
    image = folder / "dtd" / "dtd" / "images" / CLASSES[0] / f"{CLASSES[0]}_0000.jpg"
    Image.fromarray(np.full((9, 7), 100, np.uint8)).save(image)
    result, _ = dtd.load("train", np.arange(6))
    assert result[0].shape == (3, 9, 7)
