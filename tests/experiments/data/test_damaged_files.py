"""Damaged files of every data set: one line that names the file, or accepted for a reason."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from experiments.data import cifar, cifar100, dbpedia, digits, dtd, flowers, hans, mnli, parallel
from experiments.laboratory.errors import UserError
from tests.experiments.data.idx_files import write_idx
from tests.experiments.data.photo_files import write_dtd, write_flowers

GERMAN = ["Ein Hund ist in der Stadt.", "Wir sind nicht in dem Garten.", "Sie hat auch eine Katze."]
ENGLISH = ["A dog is in the city.", "We are not in the garden.", "She has a cat and it has a toy."]
ROW = {"gold_label": "neutral", "sentence1": "a", "sentence2": "b"}
HANS = "\t".join(hans.COLUMNS) + "\nentailment\ta b\tb\tsubsequence\tx\n"
CLASSES = "".join(f"class {i}\n" for i in range(14))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path))
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(cifar, "N_EXAMPLES", {"train": 2, "test": 2})
    monkeypatch.setattr(cifar100, "N_EXAMPLES", {"train": 2, "test": 2})
    monkeypatch.setattr(digits, "N_EXAMPLES", {"train": 2, "test": 2})
    monkeypatch.setattr(dbpedia, "N_SUBSET", 1)
    monkeypatch.setattr(hans, "N", 1)
    monkeypatch.setitem(mnli.N, "subset", {"train": 2, "dev_matched": 2})
    return tmp_path


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def sentences(*rows: Any) -> str:
    return "".join(json.dumps(ROW | row if isinstance(row, dict) else row) + "\n" for row in rows)


def one_line(load: Callable[[], object], path: Path, *said: str) -> None:
    with pytest.raises(UserError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    for phrase in said:
        assert phrase in message


# --- texts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (sentences({}, {"sentence1": None}), "line 2, is not a pair"),
        (sentences({}, {"sentence2": 3}), "line 2, is not a pair"),
        (sentences({"gold_label": None}, {}), "line 1, is not a pair"),
        (sentences({}, ["neutral", "a", "b"]), "line 2, is not a pair"),
        (sentences({}) + "\n" + sentences({}), "line 2, is not a pair"),
        ("", "line 1, is not a pair"),
        (sentences({}, {}).encode("utf-16"), "is not UTF-8 text (byte 0 has 0xff)"),
        (sentences({}, {}).replace("a", "é").encode("latin-1"), "iconv -f latin1 -t utf-8"),
    ],
)
def test_sentence_pairs_that_are_none(content, said, folder):
    path = put(folder / mnli.FILES["subset"]["train"], content)
    one_line(lambda: mnli.load("subset", "train"), path, said)


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_sentence_pairs_of_another_editor_are_read(end, folder):
    text = sentences({}, {"sentence1": "a\u2028b"}).replace("\n", end).replace("\\u2028", "\u2028")
    put(folder / mnli.FILES["subset"]["train"], "\ufeff" + text)
    assert mnli.load("subset", "train").premise == ["a", "a\u2028b"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (HANS.replace("\tb\tsubsequence\tx", ""), "line 2, has too few cells"),
        (HANS.replace("\tx\n", "\n"), "line 2, has too few cells"),
        (HANS.replace("subsequence\tx", "²\tx"), "heuristic '²'"),
        (HANS.replace("a b", "a\rb"), "is not a table with tabs"),
        (HANS.replace("a b", "x" * 200_000), "is not a table with tabs"),
        ("", "has no column gold_label"),
    ],
)
def test_traps_that_are_none(content, said, folder):
    path = put(folder / "hans" / "heuristics_train_set.txt", content)
    one_line(lambda: hans.load("train"), path, said)
    put(path, HANS.replace("\n", "\r\n"))
    assert hans.load("train").subcase.tolist() == ["x"]


@pytest.mark.parametrize("label", ["²", "٣", "0", "15", "-1", "1.0", ""])
def test_articles_of_no_class(label, folder):
    put(folder / "dbpedia" / "classes.txt", CLASSES)
    path = put(folder / "dbpedia" / "test.subset.csv", f'"{label}","T","C"\n')
    one_line(dbpedia.load_subset, path, "line 1, is not a class from 1 to 14")
    put(path, '"3","T","C"\r\n')
    assert dbpedia.load_subset().label.tolist() == [2]


def write_parallel(folder: Path, de: list[str], en: list[str], end: str = "\n") -> Path:
    for language, lines in (("de", de), ("en", en)):
        text = end.join(lines) + end if lines else ""
        path = put(folder / f"{parallel.FILES['multi30k']}.{language}", text)
    return path


@pytest.mark.parametrize(
    ("de", "en", "said"),
    [
        ([], [], "have no pair of sentences"),
        (["", " "], ["", "a"], "have no pair of sentences"),
        (ENGLISH, GERMAN, "is in the other language"),
        (GERMAN, GERMAN, "train.en is in the other language"),
        (ENGLISH, ENGLISH, "train.de is in the other language"),
        (GERMAN, ENGLISH[:2], "has 3 lines and"),
    ],
)
def test_parallel_files_that_are_no_translations(de, en, said, folder):
    path = write_parallel(folder, de, en)
    one_line(parallel.Corpus("multi30k").load, path.with_suffix(""), said)


def test_parallel_files_of_another_editor_are_read(folder):
    write_parallel(folder, GERMAN, ENGLISH, "\r\n")
    assert parallel.Corpus("multi30k").load() == parallel.Pairs(GERMAN, ENGLISH)


def test_a_large_file_in_another_encoding_is_refused_before_it_is_used(folder):
    path = put(folder / "large.de", "gut\nschön\n".encode("latin-1"))
    one_line(lambda: parallel.marks(path, "large", 1), path, "line 2 has 0xf6", "iconv")
    path.unlink()
    path.mkdir()
    one_line(lambda: parallel.marks(path, "large", 1), path, "is a directory")


# --- pictures ------------------------------------------------------------------------------------


def batch(**changed: Any) -> bytes:
    columns = {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2], "fine_labels": [1, 2]}
    return pickle.dumps(columns | changed, 2)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"data": np.zeros((2, 3072))}, "float64"),
        ({"data": np.zeros((2, 3072), np.int64)}, "int64"),
        ({"labels": [1, 10], "fine_labels": [1, 100]}, "a label"),
        ({"labels": [-1, 1], "fine_labels": [-1, 1]}, "a label"),
        ({"labels": [0.5, 1.0], "fine_labels": [0.5, 1.0]}, "float64"),
        ({"labels": ["²", "1"], "fine_labels": ["²", "1"]}, "label"),
        ({"labels": [1], "fine_labels": [1]}, "images"),
        ({"data": None}, ""),
    ],
)
def test_batches_of_pictures_that_are_none(changed, said, folder):
    path = put(folder / cifar.FOLDERS["original"] / "test_batch", batch(**changed))
    one_line(lambda: cifar.load("original", "test"), path, said)
    path = put(folder / cifar100.FOLDER / "test", batch(**changed))
    one_line(lambda: cifar100.load("test", np.arange(2)), path, said)


def jpeg(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 100, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def bundle(path: Path, streams: list[bytes], **changed: Any) -> Path:
    ends = np.cumsum([0, *map(len, streams)])
    stream = np.frombuffer(b"".join(streams), np.uint8)
    columns = {"jpeg": stream, "offsets": ends, "labels": np.array([1, 2])} | changed
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **columns)
    return path


@pytest.mark.parametrize("size", [(1, 1), (32, 1), (1, 32), (16, 16), (64, 64)])
def test_a_picture_of_another_size_is_not_stretched(size, folder):
    path = bundle(folder / "cifar-10-jpeg" / "test.npz", [jpeg((32, 32)), jpeg(size)])
    one_line(lambda: cifar.load("jpeg", "test"), path, f"image 1 has {size}")


@pytest.mark.parametrize(
    "changed",
    [
        {"offsets": np.array([0.0, 600.0, 1200.0])},
        {"offsets": np.array([5, 600, 1200])},
        {"labels": np.array([0.5, 1.0])},
        {"labels": np.array([1, 10])},
        {"jpeg": np.zeros(10)},
    ],
)
def test_a_bundle_that_is_none(changed, folder):
    streams = [jpeg((32, 32))] * 2
    path = bundle(folder / "cifar-10-jpeg" / "test.npz", streams, **changed)
    one_line(lambda: cifar.load("jpeg", "test"), path)


def test_digits_end_at_nine(folder):
    home = folder / "MNIST" / "raw"
    write_idx(home / "t10k-images-idx3-ubyte", np.zeros((2, 28, 28)))
    write_idx(home / "t10k-labels-idx1-ubyte", np.array([3, 10]))
    path = home / "t10k-labels-idx1-ubyte"
    one_line(lambda: digits.load_mnist("test"), path, "has the label 10, digits end at 9")


@pytest.mark.parametrize("labels", [[0, 1, 2], [1, 2, 103], [1, 2, 1.5]])
def test_flowers_of_no_class(labels, folder, monkeypatch):
    home = write_flowers(folder, 1, monkeypatch)
    savemat(home / "imagelabels.mat", {"labels": [labels]})
    one_line(lambda: flowers.load("train", np.arange(1)), home / "imagelabels.mat")


def test_a_photograph_may_have_any_size_but_no_other_kind(folder, monkeypatch):
    home = write_dtd(folder, 3, monkeypatch)
    path = home / "images" / "banded" / "banded_0000.jpg"
    path.write_bytes(jpeg((1, 1)))  # photographs are resized by those who use them
    assert dtd.load("train", np.arange(1))[0][0].shape == (3, 1, 1)
    path.write_text("no picture")
    one_line(lambda: dtd.load("train", np.arange(1)), path, "not a JPEG")


# --- a folder where a file should be --------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "load"),
    [
        (mnli.FILES["subset"]["train"], lambda: mnli.load("subset", "train")),
        ("hans/heuristics_train_set.txt", lambda: hans.load("train")),
        ("dbpedia/classes.txt", dbpedia.load_subset),
        ("wmt/multi30k.train.de", parallel.Corpus("multi30k").load),
        ("cifar-10-jpeg/test.npz", lambda: cifar.load("jpeg", "test")),
        ("cifar-10-batches-py/test_batch", lambda: cifar.load("original", "test")),
        ("cifar-100-python/test", lambda: cifar100.load("test", np.arange(1))),
    ],
)
def test_a_folder_for_a_file_is_one_line(file, load, folder):
    path = folder / file
    path.mkdir(parents=True)
    one_line(load, path, "is a directory")
