"""Table 3, the sentences beside it and the cost of scoring say what their runs say."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis import arnoldi_sentences, arnoldi_table3, speed_translation
from analysis.ink.text_table import wrapped
from analysis.numbers import table
from analysis.numbers.statistics import Interval
from tests.analysis.synthetic import speed_translation as synthetic_speed_translation
from tests.analysis.synthetic import wmt_filtering


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))


def built(artifact, tier: str):
    artifact.build(tier)
    rows = table.records(table.from_csv(artifact.path(tier, "csv").read_text()))
    return {(row["method"], row["quantity"]): row for row in rows}


def test_the_paper_s_table_is_reproduced_by_its_numbers(empty):
    wmt_filtering.write("paper", 3)
    rows = built(arnoldi_table3.ARTIFACT, "paper")
    assert {r["verdict"] for r in rows.values() if r["kind"] == "claim"} == {"holds"}
    assert rows["Arnoldi 10%", "BLEU, late"]["paper"] == 30.8
    assert rows["Arnoldi 75%, clean pool − None 100%, clean pool", "BLEU, late"]["n"] == 3
    sentences = built(arnoldi_sentences.ARTIFACT, "paper")
    assert (
        sentences["highest − lowest", "spoilt"]["verdict"] == "not run"
    )  # the noise of a crawl is not known


def test_a_wrong_order_of_arms_is_not_reproduced(empty):
    wmt_filtering.write("small", 3, arnoldi=-25.0)
    rows = built(arnoldi_table3.ARTIFACT, "small")
    assert rows["Arnoldi 10% − RandProj 10%", "BLEU, late"]["verdict"] == "fails"
    assert rows["RandProj 10% − None 100%", "BLEU, late"]["verdict"] == "holds"
    assert np.isnan(rows["Arnoldi 10%", "BLEU, late"]["paper"])  # other data, no printed number
    sentences = built(arnoldi_sentences.ARTIFACT, "small")
    assert sentences["highest − lowest", "spoilt"]["ours"] == 100


def test_the_noise_that_arnoldi_keeps_and_random_directions_do_not_is_named(empty):
    def kept(arm, kind, share):
        seen = Interval(share, share - 1, share + 1, 3)
        return table.curve(arm, "kept of a kind", "%", seen, noise_kind=kind)

    rows = [
        kept("Arnoldi 10%", "clean", 60.0),
        kept("Arnoldi 10%", "partial", 9.0),
        kept("Arnoldi 10%", "numbers", 34.0),
        kept("RandProj 10%", "numbers", 2.0),
        kept("Loss 10%", "numbers", 1.0),
    ]
    (sentence,) = arnoldi_table3._leaks(rows)
    assert "Arnoldi 10% keeps 34 [33, 35]% of the pairs of kind 'numbers'" in sentence
    assert "RandProj 10% 2 [1, 3]% and Loss 10% 1 [0, 2]%" in sentence
    assert "at most 9%" in sentence
    rows[3] = kept("RandProj 10%", "numbers", 40.0)
    assert arnoldi_table3._leaks(rows) == []


def test_texts_are_wrapped_by_the_width_of_their_letters(empty):
    text = "WWW MMM " * 20 + "iii lll " * 20
    for options in ({}, {"weight": "bold"}):
        lines = wrapped(text, 2.0, size=7.5, **options)
        assert " ".join(lines).split() == text.split()
        figure = Figure(figsize=(4, 4), dpi=100)
        drawn = [
            figure.text(0, 0, line, fontsize=7.5, **options).get_window_extent() for line in lines
        ]
        assert max(box.width for box in drawn) <= 201  # pixels, one for rounding
        assert len(lines[0]) < len(lines[-2])
    short = wrapped(text, 2.0, 2, size=7.5)
    assert len(short) == 2
    assert short[-1].endswith(" …")
    assert wrapped(" ", 2.0) == []


def test_the_cost_is_judged_by_its_bound(empty):
    synthetic_speed_translation.write("paper", 3)
    rows = built(speed_translation.ARTIFACT, "paper")
    assert rows["Arnoldi or RandProj 10", "cost"]["verdict"] == "holds"


def test_a_cost_above_its_bound_is_not_reproduced(empty):
    synthetic_speed_translation.write("small", 3, ratio=1.8)
    rows = built(speed_translation.ARTIFACT, "small")
    assert rows["Arnoldi or RandProj 10", "cost"]["verdict"] == "fails"
