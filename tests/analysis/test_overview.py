"""The overview of the report: which row stands for an artifact, and how many claims hold."""

from pathlib import Path

import pytest

from analysis import __main__ as everything
from analysis.numbers.statistics import NONE, Interval
from analysis.numbers.table import claim, curve, from_csv, number, tabulated, to_csv
from analysis.page.tables import headline, tables_of, tally

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "results" / "artifacts").glob("*/*.csv"))
DECLARING = [one for one in everything.artifacts()[0] if any(one.headline)]

ROWS = tabulated(
    [
        curve("TracIn", "time", "s", Interval(3.0, 2.0, 4.0, 5)),
        claim("a − b", "AP", "points", Interval(-1.0, -2.0, 0.5, 5), at_least=0.0),
        number("Loss", "AUC", "x100", Interval(98.0, 97.0, 99.0, 5), float("nan"), 1.0),
        number("LiSSA", "AUC", "x100", NONE, 98.9, 1.0),
        number("Arnoldi 10", "AUC", "x100", Interval(96.0, 94.0, 98.0, 5), 95.0, 1.0),
        claim("a − c", "AP", "points", Interval(7.0, 6.0, 8.0, 5), at_least=0.0),
        claim("a − d", "AP", "points", NONE, at_least=0.0),
    ]
)


def test_the_first_number_that_was_printed_and_measured_stands_for_an_artifact():
    assert headline(ROWS) == {
        "what": "Arnoldi 10, AUC (x100)",
        "paper": "printed 95",
        "ours": "96",
        "interval": "94 to 98",
    }
    claims = ROWS[ROWS["kind"] == "claim"]
    assert headline(claims)["what"] == "a − b, AP (points)"
    assert headline(claims)["paper"] == "claimed > 0"
    assert headline(ROWS[ROWS["kind"] == "curve"]) == {}


def test_an_artifact_may_declare_another_row_and_one_not_measured_is_passed_over():
    assert headline(ROWS, ("a − c", "AP"))["ours"] == "7"
    assert headline(ROWS, ("a − d", "AP"))["what"] == "Arnoldi 10, AUC (x100)"
    assert headline(ROWS, ("TracIn", "time"))["what"] == "Arnoldi 10, AUC (x100)"


def test_claims_that_could_not_be_tested_are_not_counted():
    assert tally(ROWS) == "1 of 2 claims hold"
    assert tally(ROWS[ROWS["kind"] == "number"]) == ""
    assert tally(ROWS.tail(2)) == "1 of 1 claim holds"


def test_rows_are_distinguished_by_the_columns_of_an_artifact():
    seen = Interval(1.0, 0.5, 1.5, 3)
    rows = [
        claim("a − b", "AUC", "points", seen, at_least=0.0, noise=0.1, pixels="x" * 99, extra=5),
        claim("a − b", "AUC", "points", seen, at_least=0.0, noise=0.2, pixels="y" * 99, extra=5),
        curve("a", "AUC", "", seen, noise=0.1),
        curve("a", "AUC", "", seen, noise=0.2, train_part="some"),
    ]
    claims, curves = tables_of(from_csv(to_csv(tabulated(rows))), None)
    assert claims.header[:4] == ["claim", "quantity", "noise", "required"]
    assert [line[2] for line in claims.rows] == ["0.1", "0.2"]
    assert curves.header[:4] == ["method", "quantity", "noise", "train part"]
    assert all(len(line) == len(curves.header) for line in curves.rows)


@pytest.mark.parametrize("artifact", DECLARING, ids=lambda one: one.id)
def test_the_row_an_artifact_declares_is_among_its_committed_numbers(artifact):
    committed = [path for path in COMMITTED if path.stem == artifact.id]
    assert committed
    for path in committed:
        rows = from_csv(path.read_text())
        same = (rows["method"] == artifact.headline[0]) & (rows["quantity"] == artifact.headline[1])
        assert same.any(), f"{path.name} has no {artifact.headline}"
