"""The tables and figures of FastIF's own analysis say what their runs say."""

import pytest

from analysis import fastif_fig3, fastif_fig4, fastif_table1, fastif_table3
from analysis.numbers import table
from analysis.numbers.fastif_points import PAPER_N
from tests.analysis.synthetic import mnli_speed


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    return tmp_path


ARTIFACTS = [one.ARTIFACT for one in (fastif_fig3, fastif_fig4, fastif_table1, fastif_table3)]
by_id = pytest.mark.parametrize("artifact", ARTIFACTS, ids=lambda one: one.id)


def rows_of(artifact, preset="paper"):
    return table.from_csv(artifact.path(preset, "csv").read_text())


@by_id
def test_the_verdict_follows_the_claims(artifact, empty):
    mnli_speed.write("small", 4)
    assert artifact.build("small").verdict.word == "reproduced"
    mnli_speed.write("paper", 5, backwards=True)
    assert artifact.build("paper").verdict.word == "not reproduced"


def test_factors_of_the_causes_multiply_to_the_speed_up(empty):
    mnli_speed.write("paper", 4)
    fastif_table1.ARTIFACT.build("paper")
    rows = rows_of(fastif_table1.ARTIFACT)
    factors = rows.loc[rows["quantity"] == "factor", "ours"]
    last = rows[(rows["s_test"] == "shared") & (rows["pairs"] == PAPER_N) & (rows["k"] == 1_000)]
    speed = last.loc[last["quantity"] == "speed-up", "ours"].item()
    assert factors.prod() == pytest.approx(speed, rel=1e-3)
    printed = rows[rows["kind"] == "number"]
    assert sorted(printed["paper"]) == [8, 10, 18, 38, 50, 82]
    claims = rows[rows["kind"] == "claim"].set_index("at_least")
    assert claims.loc[80.0, "verdict"] == "holds"
    assert sorted(rows["bound"].dropna()) == [2.0, 2.6]
    sentences = fastif_table1.findings(rows)[1]
    assert "within our bound of 2;" in sentences
    assert "5,472,387 parameters" in sentences
    assert "within our bound of 2.6." in sentences
    slow = rows.assign(ours=rows["ours"].where(rows["bound"] != 2.6, 2.7))
    assert "OVER our bound of 2.6." in fastif_table1.findings(slow)[1]


def test_the_table_says_whether_the_hessian_does_anything(empty):
    mnli_speed.write("paper", 4)
    fastif_table3.ARTIFACT.build("paper")
    rows = rows_of(fastif_table3.ARTIFACT)
    sentences = fastif_table3.findings(rows)
    assert "by our rule" in sentences[0]
    assert sentences[0].endswith("it changes the ranking.")
    assert "damping 50, released" in sentences[1]
    assert sentences[1].endswith("it changes next to nothing.")
    assert "scale 10000 and damp 0.005, tends to (H + 50 I)⁻¹ g" in sentences[2]
    assert "0.7% of the way is left after its 1,000 steps" in sentences[2]
    printed = rows[(rows["kind"] == "aside") & (rows["quantity"] == "Kendall")]
    assert printed["paper"].tolist() == [97.4, 98.0, 97.3]


def test_recall_is_compared_at_the_shares_that_the_text_speaks_of(empty):
    mnli_speed.write("paper", 4)
    fastif_fig3.ARTIFACT.build("paper")
    rows = rows_of(fastif_fig3.ARTIFACT)
    asides = rows[rows["kind"] == "aside"]
    assert asides["paper"].tolist() == [60, 20] * 6
    ours = {"kNN, k = 1,631 of 12,808", "kNN, k = 163 of 12,808"}
    assert set(asides["method"]) == ours | {f"{one}, released damping" for one in ours}
    judged = rows[rows["kind"] == "claim"]
    assert sorted(judged["m"].unique()) == [1, 3, 33], "the paper's shares, and no other"
    signed = rows[rows["method"].str.startswith("harmful − helpful, predicted right")]
    assert (signed["ours"] > 0).all()


def test_the_error_knows_what_the_distance_does_not(empty):
    mnli_speed.write("paper", 4)
    fastif_fig4.ARTIFACT.build("paper")
    sentences = fastif_fig4.findings(rows_of(fastif_fig4.ARTIFACT))
    assert len(sentences) == 2
    assert "3% of its length after J = 700" in sentences[1]
