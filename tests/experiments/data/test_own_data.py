"""Data of one's own: every kind of file is read alike, and every mistake in it is one line."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from experiments.data import own
from experiments.digits import models
from experiments.images import cifar_models
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from tests.experiments.data.idx_files import write_idx, write_letters

N = 12
LABELS = ["cat", "dog", "cow"] * 4


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(**columns):
    numbers = np.arange(N, dtype=float)
    return pd.DataFrame({"length": numbers, "label": LABELS} | columns)


def pictures(folder, mode="RGB", side=9):
    for place, word in enumerate(LABELS):
        (folder / word).mkdir(parents=True, exist_ok=True)
        value = 20 * place if mode == "L" else (20 * place, 0, 0)
        Image.new(mode, (side, side + place), value).save(folder / word / f"{place:02}.png")


def refusal(source, **options) -> str:
    with pytest.raises(UserError) as raised:
        own.load(str(source), **options)
    message = str(raised.value)
    assert "\n" not in message
    assert ": " in message, "what was found, then what corrects it"
    return message


# --- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_gives_rows_and_classes_whatever_its_kind(folder, suffix):
    made = table(colour=["red", "blue"] * 6)
    path = folder / f"animals{suffix}"
    {
        ".csv": lambda: made.to_csv(path, index=False),
        ".tsv": lambda: made.to_csv(path, sep="\t", index=False),
        ".jsonl": lambda: made.to_json(path, orient="records", lines=True),
        ".parquet": lambda: made.to_parquet(path),
    }[suffix]()
    read = own.load(str(path))
    assert read.classes == ("cat", "cow", "dog")
    assert [read.classes[place] for place in read.label] == LABELS
    assert read.shape == (3,), "a number, and a column for each of two colours"
    np.testing.assert_allclose(read.inputs.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(read.inputs.std(0, correction=0), 1, atol=1e-5)
    assert read.excerpt(2) == "length 2, colour red"
    assert not read.texts


def test_a_column_of_many_different_words_is_text(folder):
    words = [f"a tale of {number}" for number in range(24)]
    pd.DataFrame({"story": words, "y": ["long", "short"] * 12}).to_csv("tales.csv")
    read = own.load("tales.csv", label="y", columns=["story"])
    assert read.texts == (tuple(words),)
    assert read.shape == (0,)
    assert read.excerpt(3) == "a tale of 3"


def test_better_labels_are_no_inputs_and_share_the_classes(folder):
    table(truth=["dog", *LABELS[1:]]).to_csv("animals.csv", index=False)
    read = own.load("animals.csv", truth="truth")
    assert read.shape == (1,)
    assert (read.truth != read.label).nonzero()[0].tolist() == [0]


def test_numbers_as_labels_are_in_their_order(folder):
    table(label=[10, 9, 2] * 4).to_csv("numbers.csv", index=False)
    assert own.load("numbers.csv").classes == ("2", "9", "10")
    table(label=[10.0, 9.0, 2.0] * 4).to_csv("numbers.csv", index=False)
    assert own.load("numbers.csv").classes == ("2", "9", "10")


def test_an_npz_has_features_or_images(folder):
    grey = np.arange(N * 12, dtype=np.uint8).reshape(N, 4, 3)
    np.savez("grey.npz", picture=grey, label=np.array(LABELS), size=np.arange(N))
    read = own.load("grey.npz")
    assert read.shape == (1, 4, 3)
    np.testing.assert_allclose(read.inputs[:, 0].numpy(), grey / 255, rtol=1e-6)
    np.savez("colour.npz", x=np.zeros((N, 4, 3, 3), np.uint8), y=np.array(LABELS))
    assert own.load("colour.npz", label="y").shape == (3, 4, 3)
    np.savez("rows.npz", x=np.eye(N), label=np.array(LABELS))
    assert own.load("rows.npz").shape == (N,)


def test_a_folder_of_pictures_is_scaled_and_grey_if_all_are(folder):
    pictures(folder / "grey", "L")
    pictures(folder / "red")
    grey, red = own.load("grey", side=6), own.load("red", side=6)
    assert grey.shape == (1, 6, 6)
    assert red.shape == (3, 6, 6)
    assert red.names[:2] == ("cat/00.png", "cat/03.png")
    assert [red.classes[place] for place in red.label] == sorted(LABELS, key=red.classes.index)
    assert float(red.inputs[1, 0].mean()) == pytest.approx(60 / 255)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_read_as_those_of_emnist(folder, suffix):
    label = write_letters(folder / "letters", 60, side=5, suffix=suffix)
    read = own.load("letters")
    assert read.classes == tuple(map(str, range(1, 27)))
    assert read.shape == (1, 5, 5)
    np.testing.assert_array_equal(read.label, label)
    same = torch.corrcoef(read.inputs.flatten(1)[[0, 26, 1]])
    assert same[0, 1] > 0.8 > 0.5 > same[0, 2], "letters of one class have one pattern"


def test_a_data_set_of_hugging_face_has_its_names_of_classes(folder):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    kinds = Features({"length": Value("float32"), "label": ClassLabel(names=["no", "yes"])})
    columns = {"length": np.arange(N), "label": [0, 1] * 6}
    made = Dataset.from_dict(columns, features=kinds)
    made.save_to_disk("hub")
    read = own.load("hub")
    assert read.classes == ("no", "yes")
    np.testing.assert_array_equal(read.label, columns["label"])
    DatasetDict(train=made, test=made).save_to_disk("splits")
    assert "holds test and train: name one" in refusal("splits")
    assert own.load("splits/train").classes == ("no", "yes")


def test_a_data_set_of_hugging_face_may_have_pictures(folder):
    from datasets import Dataset, Features, Value
    from datasets import Image as Picture

    drawn = [Image.new("L", (5, 7), 9 * place) for place in range(N)]
    kinds = Features({"photo": Picture(), "label": Value("string")})
    Dataset.from_dict({"photo": drawn, "label": LABELS}, features=kinds).save_to_disk("photos")
    read = own.load("photos", side=4)
    assert read.shape == (1, 4, 4)
    assert float(read.inputs[3].mean()) == pytest.approx(27 / 255)


def test_the_bundled_digits_know_their_wrong_labels():
    read = own.load("digits")
    assert read.shape == (1, 8, 8)
    assert (read.truth != read.label).mean() == pytest.approx(own.DIGITS_WRONG, abs=1e-3)


def test_a_digest_is_of_the_content_and_not_of_the_place(folder):
    table().to_csv("one.csv", index=False)
    (folder / "data").mkdir()
    table().to_csv("data/other.csv", index=False)
    assert own.digest("one.csv") == own.digest("other.csv"), "found in the data folder"
    table(length=1.0).to_csv("one.csv", index=False)
    assert own.digest("one.csv") != own.digest("other.csv")
    pictures(folder / "a")
    pictures(folder / "b")
    assert own.digest("a") == own.digest("b")
    (folder / "b/cat/00.png").rename(folder / "b/dog/00.png")
    assert own.digest("a") != own.digest("b")


# --- what is refused ------------------------------------------------------------------------------


def test_what_is_not_there_or_of_no_kind_is_one_line(folder):
    assert "there is no data at nowhere.csv" in refusal("nowhere.csv")
    assert "did you mean 'digits'?" in refusal("digit")
    (folder / "notes.txt").write_text("?")
    assert "notes.txt is of no known kind: give .csv" in refusal("notes.txt")


def test_a_missing_column_suggests_the_nearest(folder):
    table().to_csv("animals.csv", index=False)
    assert "no column 'lable': did you mean 'label'?" in refusal("animals.csv", label="lable")
    assert "no column 'lenght'" in refusal("animals.csv", columns=["lenght"])
    assert "no column 'gold'" in refusal("animals.csv", truth="gold")
    table()[["label"]].to_csv("bare.csv", index=False)
    assert "no column beside 'label'" in refusal("bare.csv")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["cat"] * N, "have one class, 'cat': give rows of two classes"),
        ([*LABELS[:-1], "emu"], "a single row of 'emu', which no model"),
        ([1, 2, "cat"] * 4, "of mixed types, such as '1' and 'cat': write all"),
        ([*LABELS[:-1], None], "1 are empty, the first in row 11: fill them or drop"),
        (np.linspace(0, 1, N), "numbers with fractions, such as 0.0: give classes"),
        ([], "have no rows"),
    ],
)
def test_labels_that_are_no_classes_are_one_line(folder, given, told):
    rows = table().iloc[: len(given)].assign(label=given)
    rows.to_csv("animals.csv", index=False)
    assert told in refusal("animals.csv")


def test_features_that_are_no_numbers_are_one_line(folder):
    table(weight=[1.0, np.nan] * 6).to_csv("animals.csv", index=False)
    assert "'weight' of animals.csv has 6 empty or NaN values, the first in row 1: fill" in refusal(
        "animals.csv"
    )
    table(weight=[1.0, np.inf] * 6).to_parquet("animals.parquet")
    assert "NaN or infinite, the first in row 1" in refusal("animals.parquet")
    table(weight=[[1.0]] * N).to_parquet("animals.parquet")
    assert "has values of kind ndarray: give numbers or texts" in refusal("animals.parquet")
    np.savez("rows.npz", x=np.full((N, 2), np.nan), label=np.array(LABELS))
    assert "NaN or infinite, the first in row 0" in refusal("rows.npz")


def test_damaged_files_are_one_line(folder):
    (folder / "animals.parquet").write_bytes(b"PAR1 and no more")
    assert "cannot be read as a .parquet table" in refusal("animals.parquet")
    (folder / "rows.npz").write_bytes(b"PK")
    assert "is no .npz of plain arrays" in refusal("rows.npz")
    np.savez("rows.npz", x=np.eye(N), z=np.eye(N), label=np.array(LABELS))
    assert "2 arrays of 12 rows (x, z) beside 'label': name one" in refusal("rows.npz")
    (folder / "letters").mkdir()
    write_idx(folder / "letters/images-idx3-ubyte", np.zeros((N, 2, 2)))
    assert "has no labels-idx1-ubyte beside it" in refusal("letters")
    (folder / "letters/labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01")
    assert "is no complete idx file of 1 axes: replace it" in refusal("letters")


def test_folders_without_pictures_are_one_line(folder):
    (folder / "empty").mkdir()
    assert "is no folder of pictures by class" in refusal("empty")
    pictures(folder / "photos")
    (folder / "photos/cat/00.png").write_bytes(b"no picture")
    told = refusal("photos")
    assert "1 of 12 pictures cannot be read, the first is " in told
    assert "photos/cat/00.png" in told


# --- sources of other experiments -----------------------------------------------------------------


def test_letters_train_a_network_of_digits_with_as_many_classes(folder, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(folder / "results"))
    write_letters(folder / "data/letters", 60)
    fit = models.Fit(epochs=1, batch_size=20)
    data = models.Data("letters", n_train=40, n_eval=20)
    made = models.trained(models.Model(models.SmallCNN(), data, fit))
    assert made.module(made.train.examples["image"][:2]).shape == (2, 26)
    assert set(made.train.true) | set(made.evaluation.true) == set(range(26))
    wrong = made.train.examples["label"].numpy()[made.train.corrupted]
    assert wrong.max() < 26
    before = runs.key(data)
    write_letters(folder / "data/letters", 61)
    assert runs.key(replace(data)) != before, "other letters in the same place"
    assert runs.key(models.Data()) == runs.key(replace(models.Data(), source="mnist"))


def test_digits_that_are_not_there_are_one_line(folder):
    for source, told in (("nmist", "did you mean 'mnist'?"), ("letters", "give a folder with")):
        with pytest.raises(UserError, match="there are no images at") as raised:
            models.Data(source)
        assert told in str(raised.value)


def test_photographs_of_ones_own_train_a_residual_network(folder, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(folder / "results"))
    pictures(folder / "photos")
    fit = cifar_models.Stepped(1, 4, 0.01)
    data = cifar_models.Data("photos", n_train=8, n_eval=4)
    network = cifar_models.ResNet(depth=8, width=4)
    made = cifar_models.trained(cifar_models.Model(network, data, fit, augment=None))
    assert made.module(made.train["image"][:2]).shape == (2, 3)
    table().to_csv("animals.csv", index=False)
    with pytest.raises(UserError, match=r"animals\.csv has no images: give a folder"):
        cifar_models.load_data(cifar_models.Data("animals.csv"), 0)
