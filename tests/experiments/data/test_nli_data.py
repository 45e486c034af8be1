"""Sentence pairs: labels, traps and full stops, and the errors of their files."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.data import generated_pairs, hans, mnli
from experiments.data.pairs import THREE, TWO
from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path / "data"))
    return tmp_path


def test_two_labels_join_neutral_and_contradiction():
    pairs = generated_pairs.mnli(30, 0)
    two = pairs.two_way()
    assert (pairs.classes, two.classes) == (THREE, TWO)
    np.testing.assert_array_equal(two.label == 0, pairs.label == 0)
    assert two.two_way() is two


def test_final_stops_go_and_other_words_stay():
    pairs = generated_pairs.mnli(1, 0)
    pairs = replace(pairs, premise=["It is so. "], hypothesis=["Mr. X did ."])
    assert pairs.without_stops().premise == ["It is so"]
    assert pairs.without_stops().hypothesis == ["Mr. X did"]


def test_traps_have_full_overlap_and_both_labels():
    pairs = generated_pairs.hans(60, 0)
    for premise, hypothesis in zip(pairs.premise, pairs.hypothesis, strict=True):
        assert set(hypothesis.split()) <= set(premise.split())
    assert sorted(set(pairs.part)) == sorted(hans.SLICES)
    assert pairs.label.mean() == 0.5


def write(folder, lines):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "multinli_1.0_train.subset.jsonl"
    path.write_text("\n".join(lines))
    return path


GOOD = json.dumps({"gold_label": "neutral", "sentence1": "a", "sentence2": "b"})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GOOD, "{"], "line 2, is not a pair"),
        ([GOOD.replace("neutral", "maybe")], "line 1, has the label 'maybe'"),
        ([GOOD], r"has 1 of 12,808 labelled pairs"),
    ],
)
def test_a_file_that_is_not_multinli_is_one_line(store, lines, message):
    write(store / "data" / "multinli", lines)
    with pytest.raises(UserError, match=message):
        mnli.load("subset", "train")


def test_missing_data_names_file_and_place(monkeypatch):
    with pytest.raises(UserError, match=r"subset.jsonl is not in .*multinli"):
        mnli.load("subset", "train")
    monkeypatch.setattr(data_folder, "reachable", lambda *_: False)
    with pytest.raises(UserError, match=r"neither in .*multinli_1.0 nor in"):
        mnli.load("whole", "train")
    with pytest.raises(UserError, match=r"heuristics_train_set.txt is neither in"):
        hans.load("train")


def test_a_hans_file_without_its_columns_is_one_line(store):
    folder = store / "data" / "hans_regenerated"
    folder.mkdir(parents=True)
    (folder / "heuristics_train_set.txt").write_text("gold_label\tsentence1\n")
    with pytest.raises(UserError, match="has no column sentence2"):
        hans.load("train")
    assert hans.regenerated("train")
