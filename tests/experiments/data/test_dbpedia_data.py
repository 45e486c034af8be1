"""DBpedia's files and their errors, and the words of its articles."""

import numpy as np
import pytest

from experiments.data import dbpedia
from experiments.data.words import PADDING, UNKNOWN, Vocabulary, jaccard, words
from experiments.laboratory import data_folder, runs
from experiments.laboratory.errors import UserError
from experiments.models.text_classifier import TextClassifier

NAMES = ["Company", "EducationalInstitution", "Artist", "Athlete", "OfficeHolder", "Transport"]
NAMES += ["Building", "NaturalPlace", "Village", "Animal", "Plant", "Album", "Film", "WrittenWork"]
LINES = ['"5","Manuel, the first","He was a ""president""."', '"14","Été","A novel."']


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path))
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(dbpedia, "N_SUBSET", len(LINES))
    place = tmp_path / "dbpedia"
    place.mkdir()
    (place / "classes.txt").write_text("\n".join(NAMES) + "\n")
    (place / "test.subset.csv").write_text("\n".join(LINES) + "\n")
    return place


# --- the files -----------------------------------------------------------------------------------


def test_rows_have_labels_from_zero_and_are_noted(folder):
    def compute(_):
        articles = dbpedia.load_subset()
        assert articles.label.tolist() == [4, 13]
        assert articles.title == ["Manuel, the first", "Été"]
        assert articles.content[0] == 'He was a "president".'
        assert articles.classes[articles.label[0]] == "OfficeHolder"
        return {}

    noted = runs.once("t", TextClassifier(), compute).meta["data"]
    assert sorted(noted) == ["dbpedia/classes.txt", "dbpedia/test.subset.csv"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (LINES[:1], "has 1 of 2 rows"),
        ([LINES[0], '"15","T","C"'], "line 2, is not a class from 1 to 14"),
        ([LINES[0], '"x","T","C"'], "line 2, is not a class"),
        ([LINES[0], '"3","T"'], "line 2, is not a class"),
        ([LINES[0], '"3","T","C'], "is not a table of quoted values"),
    ],
)
def test_a_broken_file_is_one_line_with_the_remedy(folder, lines, message):
    path = folder / "test.subset.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError) as caught:
        dbpedia.load_subset()
    assert message in str(caught.value)
    assert f"rm {path}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_where_it_belongs(folder):
    (folder / "test.subset.csv").unlink()
    with pytest.raises(UserError) as caught:
        dbpedia.load_subset()
    for phrase in ("test.subset.csv is not in ", str(folder), "--data DIR", "RETRACE_DATA"):
        assert phrase in str(caught.value)
    (folder / "classes.txt").write_text("Company\n")
    with pytest.raises(UserError, match="has 1 of 14 names"):
        dbpedia.load_subset()


def test_the_whole_data_set_without_a_network_says_what_to_do(monkeypatch):
    monkeypatch.setattr(data_folder, "reachable", lambda *_: False)
    with pytest.raises(UserError) as caught:
        dbpedia.load_whole("train")
    for phrase in ("fancyzhx/dbpedia_14 is not in ", "does not answer", "--preset small"):
        assert phrase in str(caught.value)


def test_the_whole_data_set_is_asked_of_its_library_and_counted(monkeypatch):
    import datasets

    class Feature:
        names = NAMES

    class Table(dict):
        features = {"label": Feature}  # noqa: RUF012

    rows = Table(label=[4, 13], title=["a", "b"], content=["c", "d"])
    monkeypatch.setattr(data_folder, "reachable", lambda *_: True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    with pytest.raises(UserError, match=r"has 2 of 560,000 rows"):
        dbpedia.load_whole("train")
    monkeypatch.setitem(dbpedia.N_WHOLE, "train", 2)
    assert dbpedia.load_whole("train").classes == tuple(NAMES)


# --- words ---------------------------------------------------------------------------------------


def test_words_are_runs_of_letters_and_digits_in_lower_case():
    assert words("Azaña's 2nd_term—(1931–1933)!") == ["azaña", "s", "2nd", "term", "1931", "1933"]
    assert words(" ... ") == []


def test_a_vocabulary_counts_texts_and_breaks_ties_by_the_alphabet():
    texts = ["the river the the", "the sea", "a river", "once"]
    vocabulary = Vocabulary.build(texts, fewest=2, most=10)
    assert vocabulary.numbers == {"river": 2, "the": 3}
    assert len(vocabulary) == 4
    assert Vocabulary.build(texts, fewest=1, most=2).numbers == {"river": 2, "the": 3}
    assert vocabulary.rarity[2] == pytest.approx(np.log(5 / 3) + 1)
    assert vocabulary.rarity[UNKNOWN] == pytest.approx(np.log(5) + 1)


def test_texts_are_cut_and_padded_at_the_end():
    vocabulary = Vocabulary.build(["the river", "the river"], fewest=2, most=10)
    encoded = vocabulary.encode(["the blue river", "the", "!"], length=2)
    assert encoded.tolist() == [[3, UNKNOWN], [3, PADDING], [UNKNOWN, PADDING]]


def test_likeness_is_the_share_of_words_in_common():
    assert jaccard("A river in France", "a river, in Spain.") == pytest.approx(3 / 5)
    assert jaccard("one", "ONE one") == 1.0
    assert jaccard("one", "two") == 0.0
    assert jaccard("", "!") == 1.0
