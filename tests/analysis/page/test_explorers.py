"""Pages of all queries of an experiment, made from runs and linked from the report."""

import json
import re

import pytest

from analysis import __main__ as everything
from analysis.page import explorers, report
from experiments.laboratory import runs
from tests.analysis.synthetic import cifar, dbpedia, mnli_effects, proponents, shapes

ARTIFACTS = everything.artifacts()[0]
WRITTEN = {  # queries of the first seed on the page, and what they say
    "cifar_proponents": (cifar.write, proponents.QUERIES, ["label", "predicted"]),
    "mnist_proponents": (proponents.write, proponents.QUERIES, ["label", "predicted"]),
    "dbpedia": (dbpedia.write, dbpedia.QUERIES, ["label", "predicted"]),
    "mnli_effects": (
        mnli_effects.write, 8 * mnli_effects.QUERIES, ["label", "part", "predicted", "model of"],
    ),
}  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    return tmp_path


def test_every_experiment_with_queries_to_look_at_is_tested():
    assert {one.experiment for one in ARTIFACTS if one.explore} == set(WRITTEN)


@pytest.mark.parametrize("experiment", WRITTEN)
def test_a_page_has_every_query_and_the_report_links_it(experiment, home):
    write, queries, facts = WRITTEN[experiment]
    write("smoke", 2)
    mine = [one for one in ARTIFACTS if one.experiment == experiment and one.explore]
    (line,) = explorers.build(mine)
    assert f"{queries:,} queries of {experiment} smoke" in line
    text = explorers.page(experiment, "smoke").read_text()
    (data,) = re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)
    data = json.loads(data)
    assert len(data["queries"]) == queries
    first = data["queries"][0]
    query, lists = data["examples"][first["q"]], first["lists"]
    assert list(query["facts"]) == facts
    assert {side for _, side, _ in lists} == {"proponents", "opponents"}
    assert {method for method, *_ in lists} == set(range(len(data["methods"])))
    assert all(items for *_, items in lists)
    assert ("image" in query) == ("proponents" in experiment)
    mine[0].build("smoke")
    page = report.build(ARTIFACTS).read_text()
    assert f'href="{experiment}-smoke.html"' in page
    assert 'href="index.html"' in text


def test_runs_that_kept_no_texts_are_one_line(home, monkeypatch):
    monkeypatch.setattr(dbpedia, "found", lambda draw: {})
    dbpedia.write("smoke", 1)
    (line,) = explorers.build([one for one in ARTIFACTS if one.experiment == "dbpedia"])
    assert line.endswith("`python -m experiments runs remake dbpedia` makes them anew")
    assert not explorers.page("dbpedia", "smoke").exists()


def test_without_runs_a_page_that_was_made_before_stays(home):
    page = explorers.page("dbpedia", "small")
    page.parent.mkdir()
    page.write_text("made before")
    assert explorers.build(ARTIFACTS) == []
    assert page.read_text() == "made before"
    assert runs.results() == home
    assert shapes.known("dbpedia")
