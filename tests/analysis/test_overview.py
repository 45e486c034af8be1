"""What the report and the docs say of committed artifacts: rows that stand for them, verdicts."""

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from analysis import __main__ as everything
from analysis.numbers.claims import Claim, Ours, Paper, judge_claims
from analysis.numbers.statistics import NONE, Interval
from analysis.numbers.table import claim, curve, from_csv, number, tabulated, to_csv
from analysis.page.tables import headline, tables_of
from experiments.laboratory.ranges import UNITS

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "results" / "artifacts").glob("*/*.csv"))
KNOWN = {one.id: one for one in everything.artifacts()[0]}
DECLARING = [one for one in KNOWN.values() if any(one.headline)]
each_committed = pytest.mark.parametrize(
    "path", COMMITTED, ids=lambda path: f"{path.parent.name} {path.stem}"
)

BETTER = Claim("better", Paper("a outperforms b", "Sec. 5, of Table 1"), "AP.", null=0.0)
ROWS = tabulated(
    [
        curve("TracIn", "time", "s", Interval(3.0, 2.0, 4.0, 5)),
        claim("a − b", "AP", "points", Interval(-1.0, -2.0, 0.5, 5), of=BETTER, at_least=0.0),
        number("Loss", "AUC", "x100", Interval(98.0, 97.0, 99.0, 5), float("nan"), 1.0),
        number("LiSSA", "AUC", "x100", NONE, 98.9, 1.0),
        number("Arnoldi 10", "AUC", "x100", Interval(96.0, 94.0, 98.0, 5), 95.0, 1.0),
        claim("a − c", "AP", "points", Interval(7.0, 6.0, 8.0, 5), of=BETTER, at_least=0.0),
        claim("a − d", "AP", "points", NONE, of=BETTER, at_least=0.0),
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
    assert headline(claims)["paper"] == "required > 0"
    assert headline(ROWS[ROWS["kind"] == "curve"]) == {}


def test_an_artifact_may_declare_another_row_and_one_not_measured_is_passed_over():
    assert headline(ROWS, ("a − c", "AP"))["ours"] == "7"
    assert headline(ROWS, ("a − d", "AP"))["what"] == "Arnoldi 10, AUC (x100)"
    assert headline(ROWS, ("TracIn", "time"))["what"] == "Arnoldi 10, AUC (x100)"


def test_rows_are_distinguished_by_the_columns_of_an_artifact():
    seen, held = Interval(1.0, 0.5, 1.5, 3), {"of": BETTER, "at_least": 0.0}
    rows = [
        claim("a − b", "AUC", "points", seen, **held, noise=0.1, pixels="x" * 99, extra=5),
        claim("a − b", "AUC", "points", seen, **held, noise=0.2, pixels="y" * 99, extra=5),
        curve("a", "AUC", "", seen, noise=0.1),
        curve("a", "AUC", "", seen, noise=0.2, train_part="some"),
    ]
    evidence, curves = tables_of(from_csv(to_csv(tabulated(rows))), None)
    assert evidence.header[:5] == ["claim", "method", "quantity", "noise", "required"]
    assert [line[3] for line in evidence.rows] == ["0.1", "0.2"]
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


@each_committed
def test_a_committed_verdict_follows_from_the_committed_numbers(path):
    artifact, rows = KNOWN[path.stem], from_csv(path.read_text())
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["verdict"] == asdict(artifact.judge(rows))
    assert about["claims"] == [one.about() for one in judge_claims(rows, artifact.claims)]


@each_committed
def test_no_committed_interval_leaves_the_range_of_its_unit(path):
    rows = from_csv(path.read_text())
    for unit, (least, most) in UNITS.items():
        mine = rows[(rows["unit"] == unit) & rows["low"].notna()]
        assert (mine["low"] >= least).all()
        assert (mine["high"] <= most).all()


def test_claims_of_the_paper_come_first_and_what_we_add_is_below_them():
    own = Claim("also", Ours("A control."), "AP.", null=0.0)
    seen = Interval(7.0, 6.0, 8.0, 5)
    added = tabulated([claim("c", "AP", "", seen, of=own, at_least=0.0)])
    rows = from_csv(to_csv(pd.concat([ROWS, added], ignore_index=True)))
    claims = [one.about() for one in judge_claims(rows, [BETTER, own])]
    titles = [one.title for one in tables_of(rows, None, claims)]
    assert titles[:3] == ["Claims of the paper", "Printed numbers", "Also measured"]
    theirs = tables_of(rows, None, claims)[0]
    assert "\u201ca outperforms b\u201d (Sec. 5, of Table 1)" in theirs.rows[0]
