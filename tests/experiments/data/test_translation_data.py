"""Parallel text: lines that are pairs, ranges of a corpus, what is not there, what is generated."""

import numpy as np
import pytest

from experiments.data import parallel
from experiments.data.parallel import Corpus, Lines, Pairs
from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError

GERMAN = ["Ein Hund .", "Zwei Katzen schlafen &quot; gut &quot; .", "Drei ( sehr ) alte Männer ."]
ENGLISH = ["A dog .", "Two cats sleep &quot; well &quot; .", "Three ( very ) old men ."]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path))
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    place = tmp_path / "wmt"
    place.mkdir()
    for stem in ("multi30k.train", "wmt_mix_train10k.tok"):
        (place / f"{stem}.de").write_text("\n".join(GERMAN) + "\n")
        (place / f"{stem}.en").write_text("\n".join(ENGLISH) + "\n")
    return place


def test_lines_are_pairs_and_moses_tokens_are_joined(folder):
    assert Corpus("multi30k").load().source == GERMAN
    joined = Corpus("wmt sample").load()
    assert joined.source[1] == 'Zwei Katzen schlafen " gut ".'
    assert joined.target[2] == "Three (very) old men."
    assert len(Corpus("both").load()) == 6


def test_ranges_of_a_corpus_are_disjoint_and_the_same_every_time():
    parts = [list(Corpus("generated", start, 500).load()) for start in (0, 500, 1_000, 1_500)]
    assert sorted(pair for part in parts for pair in part) == sorted(Corpus("generated").load())
    assert list(Corpus("generated", 500, 500).load()) == parts[1] != parts[0]


def test_an_empty_line_on_either_side_is_no_pair(folder):
    (folder / "multi30k.train.en").write_text("A dog.\n\nThree men.\n")
    assert Corpus("multi30k").load().target == ["A dog.", "Three men."]


def test_files_that_are_not_aligned_or_not_there_are_one_line(folder):
    (folder / "multi30k.train.en").write_text("A dog.\n")
    with pytest.raises(UserError, match=r"multi30k\.train\.de has 3 lines and .*\.en 1: line n"):
        Corpus("multi30k").load()
    (folder / "multi30k.train.en").unlink()
    with pytest.raises(UserError, match=r"train\.en of multi30k is not in .*wmt and has no"):
        Corpus("multi30k").load()
    with pytest.raises(UserError, match=r"pairs 1 to 9 of wmt sample, which has 3: lower start"):
        Corpus("wmt sample", 1, 8).load()
    (folder / "wmt_mix_train10k.tok.de").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        Corpus("wmt sample").load()


def test_wmt17_without_a_network_says_what_to_do(monkeypatch):
    monkeypatch.setattr(data_folder, "reachable", lambda *_: False)
    with pytest.raises(UserError) as caught:
        Corpus("wmt17").load()
    for phrase in ("wmt17/train.de", "does not answer", "--data DIR", "--preset small"):
        assert phrase in str(caught.value)


def test_wmt17_is_asked_of_its_library_where_the_files_are_not(monkeypatch):
    import datasets

    rows = {"translation": [{"de": "Ein Hund.", "en": "A dog."}]}
    monkeypatch.setattr(data_folder, "reachable", lambda *_: True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    assert Corpus("newstest2016").load() == Pairs(["Ein Hund."], ["A dog."])


@pytest.mark.parametrize("stride", [1, 3, 4, 100])
def test_lines_of_a_large_file_are_read_from_marks(folder, stride):
    pairs = Pairs(*parallel.generate(10, 3))
    stem = folder / "large"
    for language, text in (("de", pairs.source), ("en", pairs.target)):
        (folder / f"large.{language}").write_text("\n".join(text) + "\n")
    offsets, counts = {}, set()
    for language in ("de", "en"):
        offsets[language], n = parallel.marks(folder / f"large.{language}", "large", stride)
        counts.add(n)
    assert counts == {10}
    lines = Lines(stem, stride, offsets, 10)
    assert lines.take(2, 7) == pairs.take(range(2, 7))
    assert lines.take(8, 50) == pairs.take([8, 9])
    chosen = np.array([0, 1, 5, 9])
    assert list(lines.chosen(chosen)) == list(pairs.take(chosen))


def test_generated_translations_are_a_function_of_the_seed():
    one, again = (parallel.generate(50, 4) for _ in range(2))
    assert one == again != parallel.generate(50, 5)
    german, english = one
    assert all(text.endswith(".") and "hat" in text for text in german)
    assert all(" has " in text for text in english)
