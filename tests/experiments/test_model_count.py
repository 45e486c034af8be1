"""The count of models as an experiment and as a tool, and what its artifacts say."""

import json
import re

import numpy as np
import pytest

from analysis import models_fig3, models_plan
from analysis.numbers import table
from experiments.model_count import (
    EXPERIMENT,
    Budget,
    Coins,
    Ensembles,
    Grid,
    Line,
    Pair,
    Threshold,
)
from tests.analysis.synthetic import model_count as synthetic


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")


def said(words, capsys):
    code = EXPERIMENT.main(words.split())
    out, err = capsys.readouterr()
    return code, out if code == 0 else err


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        (
            "--cell 0 --p .6 --q .4 --delta .05",
            ["known: first number that suffices .* 67", "on suffices .* 75"],
        ),
        ("--cell 0 --p .5 --q 1", ["first number that suffices .* 5\n"]),
        (
            "--cell 1 --models 400",
            ["standard error .* 0.05455", "passes with at most delta .* 0.08929"],
        ),
        ("--cell 2 --threshold .15", ["so: from here on .* 146"]),
        ("--cell 0 --p .3 --q .3", ["no number suffices for p = q"]),
    ],
)
def test_a_question_on_the_command_line_has_its_answer(words, answers, capsys):
    code, out = said(words, capsys)
    assert code == 0
    for answer in answers:
        assert re.search(answer, out), out


def test_a_question_that_cannot_be_is_one_line(capsys):
    code, err = said("--cell 0 --p 1.2", capsys)
    assert code == 2
    assert "p is 1.2: give a probability, from 0 to 1" in err


def test_a_number_of_models_that_does_not_exist_is_left_out():
    assert Pair(0.3, 0.3).answer() == {}
    assert "paper" not in Pair(0.5, 1.0).answer()
    assert "influence" not in Budget(10).answer()
    assert "found_first" not in Threshold(0.4, p=0.2).answer()


def test_the_figure_s_pairs_are_all_there():
    grid, line = Grid().answer(), Line(0.9).answer()
    assert len(grid["first"]) == 253
    assert (grid["q"] < grid["p"]).all()
    assert np.isinf(grid["paper"])[grid["p"] == 1].all()
    assert line["q"].tolist() == [round(0.01 * i, 2) for i in range(90)]
    few = line["q"][line["first"] < 10]
    assert few.max() == 0.4, "fewer than 10 models up to q = 0.40"


def test_simulation_agrees_with_the_counts_and_the_plan():
    assert abs(Coins(n_draws=50_000).answer()["difference"]) < 1e-3
    found = Ensembles((50, 200), n_query=200).answer()
    np.testing.assert_allclose(found["error"], found["error_planned"], rtol=0.06)
    np.testing.assert_allclose(found["rate"], found["rate_planned"], atol=0.01)
    shown = found["iou_planned"] > 0.02
    np.testing.assert_allclose(found["iou"][shown], found["iou_planned"][shown], atol=0.02)
    known = np.isfinite(found["false"])
    np.testing.assert_allclose(found["false"][known], found["false_planned"][known], atol=0.15)


def rows_of(artifact):
    artifact.build("paper")
    return table.from_csv(artifact.path("paper", "csv").read_text())


def test_the_figure_shows_where_the_text_and_the_code_of_the_paper_disagree():
    synthetic.write("paper", 3)
    rows = rows_of(models_fig3.ARTIFACT)
    text = rows[(rows["kind"] == "claim") & (rows["paper"] == 100)]
    assert text["ours"].tolist() == [67]
    assert text["verdict"].tolist() == ["fails"]
    about = json.loads(models_fig3.ARTIFACT.path("paper", "json").read_text())
    assert about["verdict"]["word"] == "paper contradicts itself"
    assert "67" in about["claims"][0]["note"]
    code = rows[rows["method"] == "the paper's code"]
    assert dict(zip(code["quantity"], code["ours"], strict=True)) == {
        "models, delta 0.05": 67,
        "models, delta 0.02": 103,
    }
    squares = rows[rows["kind"] == "grid"]
    assert np.isinf(squares["code"]).sum() >= (squares["p"] == 1).sum() > 0
    assert not models_fig3.page(rows)["method"].isin(["grid", "line"]).any()


def test_the_plan_is_held_against_simulation():
    synthetic.write("paper", 3)
    rows = rows_of(models_plan.ARTIFACT)
    claims = rows[rows["kind"] == "claim"]
    assert claims["n"].tolist() == [3] * 4
    errors = rows[rows["kind"] == "error"]
    np.testing.assert_allclose(errors["ours"], errors["planned"], rtol=0.12)
    assert "50 models, p = 0.5" in set(models_plan.page(rows)["question"])
