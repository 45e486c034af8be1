"""Artifacts from made-up runs: the same ink from the CSV alone, honest words, a page on its own."""

import html
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import __main__ as everything
from analysis import disk, report, statistics, style, table, verdict
from analysis.artifact import Artifact
from analysis.statistics import NONE, Interval
from experiments.runs import UserError
from tests import synthetic

ARTIFACTS, BROKEN = everything.artifacts()
each_artifact = pytest.mark.parametrize("artifact", ARTIFACTS, ids=lambda one: one.id)
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A results folder with the runs of two tiers and every artifact of them."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("finished")
        patch.setenv("RETRACE_RESULTS", str(home))
        for preset in ("smoke", "paper"):
            synthetic.write_mislabel(preset)
            synthetic.write_sketch(preset)
            synthetic.write_rest(preset)
        assert everything.main([]) == 0
    return home


@pytest.fixture(scope="module")
def lone(tmp_path_factory):
    """A results folder with the runs of one seed."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("lone")
        patch.setenv("RETRACE_RESULTS", str(home))
        cells = [cell for cell in synthetic.mislabel_cells("paper") if cell.model.seed == 0]
        synthetic.write_mislabel("paper", cells)
        synthetic.write_sketch("paper", seeds=1)
        synthetic.write_rest("paper", seeds=1)
    return home


@pytest.fixture
def results(finished, tmp_path, monkeypatch):
    """A copy of the finished artifacts, without their runs."""
    for name in ("artifacts", "report"):
        shutil.copytree(finished / name, tmp_path / name)
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    return tmp_path


def named(name: str) -> Artifact:
    return next(one for one in ARTIFACTS if one.id == name)


# --- the contract of every artifact --------------------------------------------------------------


def test_every_file_that_defines_an_artifact_is_found():
    defining = {
        path.stem
        for path in (ROOT / "analysis").glob("*.py")
        if re.search(r"^ARTIFACT\b", path.read_text(), re.MULTILINE)
    }
    assert not BROKEN
    assert {one.id for one in ARTIFACTS} == defining


@each_artifact
def test_an_artifact_says_what_it_claims_and_ends_in_a_command_line(artifact):
    source = (ROOT / "analysis" / f"{artifact.id}.py").read_text()
    assert artifact.title
    assert artifact.claim.endswith(".")
    assert artifact.paper
    assert "sys.exit(ARTIFACT.main())" in source
    assert all(note.endswith(".") for note in (*artifact.deviations, *artifact.remarks))
    assert set(artifact.tier_notes) <= set(verdict.TIERS)


@each_artifact
def test_an_artifact_leaves_four_files_and_its_provenance(artifact, finished):
    folder = finished / "artifacts" / "paper"
    about = json.loads((folder / f"{artifact.id}.json").read_text())
    assert {path.suffix for path in folder.glob(f"{artifact.id}.*")} == {
        ".csv", ".png", ".pdf", ".json",
    }  # fmt: skip
    assert about["verdict"]["word"] in verdict.WORDS
    assert about["verdict"]["rule"]
    assert about["verdict"]["evidence"]
    assert about["tier"] == "paper"
    assert about["command"].endswith(f"python -m analysis.{artifact.id} --preset paper")
    assert len(about["numbers"]["runs"]) == len(set(about["numbers"]["runs"])) > 0
    assert about["numbers"]["commits"]
    assert about["numbers"]["versions"]["numpy"]
    assert not list(folder.glob(".*")), "a draft was left behind"


@each_artifact
def test_a_redraw_from_the_csv_alone_gives_the_same_bytes(artifact, results):
    paths = [artifact.path("paper", suffix) for suffix in ("png", "pdf", "json", "csv")]
    before = [path.read_bytes() for path in paths]
    for path in paths[:2]:
        path.unlink()
    assert artifact.main(["--preset", "paper", "--redraw"]) == 0
    assert [path.read_bytes() for path in paths] == before


@each_artifact
def test_nothing_is_reproduced_below_the_tier_of_the_paper(artifact, finished):
    folder = finished / "artifacts" / "smoke"
    rows = table.from_csv((folder / f"{artifact.id}.csv").read_text())
    about = json.loads((folder / f"{artifact.id}.json").read_text())
    assert about["verdict"]["word"] in ("direction", "not reproduced", "not run")
    assert "reproduced" not in set(rows["verdict"])


@each_artifact
def test_missing_runs_are_one_line_with_the_command(artifact, empty, capsys):
    for options in ([], ["--partial"], ["--preset", "paper"]):
        assert artifact.main(options) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert f"python -m experiments.{artifact.experiment} --preset" in error
    assert not (empty / "artifacts").exists()


@each_artifact
def test_one_seed_gives_a_figure_and_no_interval(artifact, lone, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(lone))
    built = artifact.build("paper")
    rows = table.from_csv(artifact.path("paper", "csv").read_text())
    assert built.verdict.word in ("direction", "not reproduced", "not run")
    calculated = rows["low"] == rows["high"]
    measured = rows[~rows["quantity"].str.startswith("p,") & ~calculated]
    assert measured["low"].isna().all()
    assert measured["n"].max() == 1


# --- the command line ----------------------------------------------------------------------------


def test_partial_says_so_on_the_figure_and_is_never_reproduced(empty):
    artifact = named("arnoldi_fig2")
    cells = synthetic.table_cells(synthetic.SmallCNN, range(3), synthetic.grid_methods())
    synthetic.write_mislabel("paper", cells, leave_out=2)
    assert artifact.main(["--preset", "paper"]) == 2
    built = artifact.build("paper", partial=True)
    rows = table.from_csv(artifact.path("paper", "csv").read_text())
    figure = artifact.draw(rows)
    style.stamp(figure, "paper", int(rows["missing"].iat[0]))
    assert "PARTIAL: 2 runs missing" in {text.get_text() for text in figure.texts}
    assert built.verdict.word != "reproduced"
    assert "2 runs are missing" in built.verdict.evidence
    assert "partial: 2 runs missing" in report.build(ARTIFACTS).read_text()


def test_an_artifact_does_not_wait_for_runs_it_does_not_show(empty):
    synthetic.write_mislabel("paper", leave_out=len(synthetic.grid_methods()) * 3)
    assert named("arnoldi_table1").build("paper").verdict.word == "reproduced"
    assert named("arnoldi_fig2").main(["--preset", "paper"]) == 2


def test_an_unknown_preset_names_the_nearest(empty, capsys):
    assert named("arnoldi_fig1").main(["--preset", "papers"]) == 2
    assert "--preset paper?" in capsys.readouterr().err


def test_a_csv_edited_by_hand_is_not_drawn(results, capsys):
    artifact = named("arnoldi_table1")
    path = artifact.path("paper", "csv")
    path.write_text(path.read_text().replace("TracIn[10],", "TracIn[11],", 1))
    assert artifact.main(["--preset", "paper", "--redraw"]) == 2
    assert "was changed after its provenance was written" in capsys.readouterr().err


def test_a_corrupt_run_is_named_and_the_others_are_drawn(empty, capsys):
    synthetic.write_mislabel("smoke")
    synthetic.write_sketch("smoke")
    run = next((empty / "runs" / "mnist_sketch").glob("*/metrics.json")).parent
    (run / "metrics.json").write_text("{")
    assert everything.main(["--preset", "smoke"]) == 2
    printed = capsys.readouterr()
    assert f"rm -r {run}" in printed.err
    assert "arnoldi_fig1 smoke: direction" in printed.out


def test_all_artifacts_without_runs_say_how_to_make_them(empty, capsys):
    assert everything.main([]) == 2
    assert "python -m experiments.mnist_mislabel --preset smoke" in capsys.readouterr().err


def test_only_what_is_made_of_the_runs_of_one_experiment_is_built_if_asked(empty, capsys):
    synthetic.write_sketch("smoke")
    assert everything.main(["--preset", "smoke", "--experiment", "mnist_sketch"]) == 0
    assert {path.stem for path in (empty / "artifacts" / "smoke").iterdir()} == {
        "tracin_sketched_inverse"
    }
    assert everything.main(["--preset", "smoke", "--experiment", "speed"]) == 2
    assert "speed_passes smoke: not run" in capsys.readouterr().out
    assert everything.main(["--experiment", "unheard_of"]) == 0
    assert "no artifact is made of runs of unheard_of" in capsys.readouterr().out


def test_committed_artifacts_stay_on_the_page_when_the_runs_are_gone(results, capsys):
    before = (results / "report" / "index.html").read_bytes()
    assert everything.main([]) == 0
    assert "as built before" in capsys.readouterr().out
    assert (results / "report" / "index.html").read_bytes() == before


def test_the_module_runs_as_a_program(results):
    command = [sys.executable, "-m", "analysis.tracin_sketched_inverse", "--preset", "smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: mnist_sketch has no runs of preset smoke")
    done = subprocess.run([*command, "--redraw"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("tracin_sketched_inverse smoke: direction")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*RETRACE_RESULTS"):
        disk.write(tmp_path / "file" / "below" / "x.csv", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- what the artifacts say ----------------------------------------------------------------------


def test_table1_judges_what_was_printed_and_lists_what_was_not_run(empty):
    few = [name for name in synthetic.TABLE if not name.startswith("LiSSA")]
    synthetic.write_mislabel("paper", synthetic.table_cells(synthetic.LargeCNN, range(3), few))
    artifact = named("arnoldi_table1")
    built = artifact.build("paper")
    rows = table.from_csv(artifact.path("paper", "csv").read_text()).set_index(
        ["method", "quantity"]
    )
    absent = rows.loc[("LiSSA r=10", "AUC")]
    assert (absent["n"], absent["verdict"], absent["paper"]) == (0, "not run", 98.9)
    best = rows.loc[("TracIn[10]", "AUC")]
    assert best["verdict"] == "reproduced"
    assert best["difference"] == pytest.approx(best["ours"] - 99.7, abs=1e-3)
    assert rows.loc[("RandProj 10", "AP"), "n"] == 3, "draws of one seed are no seeds"
    assert rows.loc[("TracIn[10]", "T"), "ours"] == pytest.approx(9, rel=0.2)
    assert rows.loc[("RandProj 10 − RandSelect 10", "AP"), "verdict"] == "reproduced"
    assert rows.loc[("Loss", "AUC"), "verdict"] == "", "the paper has no such row"
    assert built.verdict.word == "direction", "a table with rows not run is not reproduced"


def test_times_are_ratios_within_a_run_whatever_the_machine_did(finished):
    text = (finished / "artifacts" / "paper" / "arnoldi_table1.csv").read_text()
    rows = table.from_csv(text).set_index(["method", "quantity"])
    slower = rows.loc[("LiSSA r=10 ÷ Arnoldi 10", "T")]
    assert slower["ours"] == pytest.approx(700 / 0.05, rel=0.15)
    assert slower["high"] / slower["low"] < 1.5
    assert rows.loc[("Arnoldi 10", "T of the basis"), "ours"] == pytest.approx(70, rel=1e-3)


def test_a_wrong_order_is_not_reproduced(empty):
    cells = synthetic.table_cells(synthetic.SmallCNN, range(4), synthetic.grid_methods())
    worse = {f"Arnoldi {p}": f"RandProj {p}" for p in synthetic.GRID}
    swap = worse | {other: one for one, other in worse.items()}
    synthetic.write_mislabel("paper", cells, rename=swap)
    built = named("arnoldi_fig2").build("paper")
    assert built.verdict.word == "not reproduced"
    assert "Arnoldi 5 − RandProj 5 AUC" in built.verdict.evidence


def test_a_sketch_that_stalls_is_not_reproduced(empty):
    synthetic.write_sketch("paper", final_error=0.4)
    built = named("tracin_sketched_inverse").build("paper")
    assert built.verdict.word == "not reproduced"
    assert "error, last step 0.4" in built.verdict.evidence


def test_checkpoints_that_find_the_same_are_not_told_apart(empty):
    names = ["TracIn@1", "TracIn@4", "TracIn@10"]
    cells = synthetic.table_cells(synthetic.LargeCNN, range(4), names)
    synthetic.write_mislabel("paper", cells, rename=dict.fromkeys(names, "TracIn[10]"))
    assert named("tracin_fig8").build("paper").verdict.word == "not reproduced"


def test_the_picture_keeps_its_pixels_in_the_csv(finished):
    text = (finished / "artifacts" / "paper" / "digits_suspicious.csv").read_text()
    images = table.from_csv(text).query("kind == 'image'")
    assert len(images) == 30
    assert images["pixels"].str.fullmatch(r"hex:[0-9a-f]{288}").all()
    assert set(images["method"]) == {"TracIn[10]"}


# --- the page ------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Collects what a page would fetch, and its pictures."""

    def __init__(self):
        super().__init__()
        self.fetched, self.pictures, self.tags, self.targets, self.ids = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        facts = dict(attributes)
        self.tags.append(tag)
        self.ids.append(facts.get("id"))
        self.fetched += [facts[name] for name in ("src", "srcset", "poster") if name in facts]
        if tag == "link":
            self.fetched.append(facts["href"])
        if tag == "a":
            self.targets.append(facts["href"])
        if tag == "img":
            self.pictures.append(facts)


def test_the_page_needs_nothing_but_itself_and_describes_its_pictures(finished):
    text = (finished / "report" / "index.html").read_text()
    page = Reader()
    page.feed(text)
    assert all(one.startswith("data:") for one in page.fetched)
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", text)
    assert "script" not in page.tags
    assert len(page.pictures) == 2 * 2 * len(ARTIFACTS), "a thumbnail and a figure per tier"
    assert all(len(picture["alt"]) > 20 for picture in page.pictures)
    assert {target.removeprefix("#") for target in page.targets} <= set(page.ids)
    for wanted in ("prefers-color-scheme: dark", "max-width", "@media print", "<html lang"):
        assert wanted in text


def test_the_page_lists_what_was_not_run(empty):
    synthetic.write_sketch("smoke")
    assert everything.main(["--preset", "smoke"]) == 0
    text = (empty / "report" / "index.html").read_text()
    for artifact in ARTIFACTS:
        assert artifact.title in html.unescape(text)
    assert text.count('class="badge not-run"') >= len(ARTIFACTS) - 1


# --- numbers, words and ink ----------------------------------------------------------------------


def test_the_interval_over_seeds_is_students():
    values = np.array([1.0, 2.0, 4.0])
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    ours = statistics.over_seeds(values)
    assert (ours.mean, ours.low, ours.high, ours.n) == (
        pytest.approx(7 / 3), pytest.approx(low), pytest.approx(high), 3,
    )  # fmt: skip
    assert statistics.over_seeds([]) == NONE
    assert math.isnan(statistics.over_seeds([5.0]).low)


def test_draws_of_one_seed_do_not_narrow_the_interval():
    seeds = [0, 0, 1, 1, 2, 2]
    clustered = statistics.over_draws([1, 3, 2, 4, 5, 7], seeds)
    assert clustered == statistics.over_seeds([2, 3, 6])
    assert statistics.over_draws([2, 2, 2, 3, 6], [0, 0, 0, 1, 2]) == clustered


def test_the_interval_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = [
        interval.low < 0 < interval.high
        for interval in (statistics.over_seeds(generator.normal(size=5)) for _ in range(2000))
    ]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def test_paired_differences_use_shared_seeds_alone():
    one, other = pd.Series({0: 5.0, 1: 6.0}), pd.Series({1: 4.0, 2: 9.0})
    assert statistics.difference(one, other).to_dict() == {1: 2.0}
    assert statistics.ratio(one, other).to_dict() == {1: 1.5}


def test_the_geometric_mean_and_its_interval_are_those_of_logarithms():
    ours = statistics.geometric([1.0, 10.0, 100.0])
    assert ours.mean == pytest.approx(10)
    assert ours.low * ours.high == pytest.approx(100)


def test_the_bootstrap_agrees_with_students_interval_on_many_values():
    values = np.random.default_rng(1).normal(3, 1, size=400)
    boot, student = statistics.bootstrap(values), statistics.over_seeds(values)
    assert boot.mean == pytest.approx(student.mean)
    assert (boot.low, boot.high) == (
        pytest.approx(student.low, abs=0.02), pytest.approx(student.high, abs=0.02),
    )  # fmt: skip
    assert statistics.bootstrap(values) == boot, "seeded"


def test_closed_forms_of_distances_and_correlations():
    assert statistics.wasserstein([0, 1, 2], [5, 6, 7]) == pytest.approx(5)
    assert statistics.wasserstein([0, 4], [1, 2]) == pytest.approx(1.5)
    ranks = statistics.rank_correlations([1, 2, 3, 4], [1, 10, 100, 1000])
    assert (ranks["spearman"], ranks["kendall"]) == (pytest.approx(1), pytest.approx(1))
    assert ranks["pearson"] < 0.9
    assert statistics.overlap([1, 1, 0], [0, 1, 1]) == pytest.approx(1 / 3)
    assert math.isnan(statistics.overlap([0], [0]))


def test_homogeneity_is_the_exact_test_on_two_classes():
    exact = stats.fisher_exact([[8, 2], [1, 9]]).pvalue
    assert statistics.homogeneity([8, 2], [1, 9]) == pytest.approx(exact, abs=0.002)
    assert statistics.homogeneity([5, 5, 0], [5, 5, 0]) == 1.0
    assert statistics.homogeneity([0, 0], [3, 4]) == 1.0


def test_p_values_are_uniform_where_nothing_differs():
    generator = np.random.default_rng(2)
    noise = [generator.normal(size=(5, 3, 4)) for _ in range(100)]
    p_values = [statistics.exchangeable(one, num_samples=199) for one in noise]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    shifted = generator.normal(size=(5, 3, 4)) + 5 * np.eye(3, 4)
    assert statistics.exchangeable(shifted, num_samples=999) < 0.01
    assert statistics.combine([0.04, 0.04, 0.04]) < 0.04


@pytest.mark.parametrize(
    ("paper", "ours", "word"),
    [
        (98.7, Interval(98.5, 98.3, 98.7, 5), "reproduced"),
        (98.7, Interval(97.3, 96.9, 97.7, 5), "reproduced"),  # 1.0 beyond the interval
        (98.7, Interval(97.2, 96.9, 97.5, 5), "not reproduced"),
        (98.7, Interval(90.0, 50.0, 130.0, 2), "not reproduced"),  # a wide interval is no excuse
        (98.7, Interval(98.5, math.nan, math.nan, 1), "direction"),
        (98.7, NONE, "not run"),
        (math.nan, Interval(98.5, 98.3, 98.7, 5), ""),
    ],
)
def test_a_printed_number_is_judged_by_its_tolerance(paper, ours, word):
    assert verdict.judge_number(paper, ours, tolerance=1.0) == word


def test_a_ratio_is_judged_by_a_factor_either_way():
    for paper in (2.0, 50.0):
        assert verdict.judge_factor(paper, Interval(10.0, 8.0, 12.5, 4), 5.0) == "reproduced"
    assert verdict.judge_factor(100.0, Interval(10.0, 8.0, 12.5, 4), 5.0) == "not reproduced"
    assert verdict.judge_factor(0.1, Interval(0.2, -0.5, 0.9, 3), 3.0) == "reproduced"


@pytest.mark.parametrize(
    ("ours", "word"),
    [
        (Interval(1.0, 0.5, 1.5, 4), "reproduced"),
        (Interval(1.0, -0.5, 2.5, 4), "direction"),
        (Interval(-1.0, -2.5, 0.5, 4), "not reproduced"),
        (Interval(1.0, math.nan, math.nan, 1), "direction"),
        (NONE, "not run"),
    ],
)
def test_a_claim_is_judged_by_its_whole_interval(ours, word):
    assert verdict.judge_claim(ours, at_least=0.0) == word
    mirrored = Interval(-ours.mean, -ours.high, -ours.low, ours.n)
    assert verdict.judge_claim(mirrored, at_most=0.0) == word


def test_an_artifact_is_reproduced_only_with_every_claim_and_number():
    good, bad = Interval(1.0, 0.5, 1.5, 4), Interval(-1.0, -1.5, -0.5, 4)
    wide = Interval(1.0, -0.5, 2.5, 4)

    def word(claims, paper=1.0, tier="paper", missing=0):
        rows = [table.claim("a − b", "AP", "", one, at_least=0.0) for one in claims]
        rows.append(table.number("a", "AP", "", good, paper, 0.5))
        rows.append(table.aside("a", "T", "", good, 1e6, 2.0))
        whole = table.tabulated(rows).assign(tier=tier, missing=missing)
        return verdict.conclude(whole, "").word

    assert word([good, good]) == "reproduced"
    assert word([good, good], paper=9.0) == "direction"
    assert word([good, wide]) == "direction"
    assert word([good, NONE]) == "direction"
    assert word([good, bad]) == "not reproduced"
    assert word([NONE]) == "not run"
    assert word([good], tier="small") == word([good], missing=1) == "direction"
    with pytest.raises(ValueError, match="not one of"):
        verdict.Verdict("more or less", "", "")


def test_a_table_survives_its_csv():
    rows = table.tabulated(
        [
            table.curve("None", "NA", "", Interval(1 / 3, math.nan, math.nan, 1), pixels="hex:00"),
            table.number("RandProj 10", "AUC", "x100", NONE, 97.2, 1.0),
            table.claim("a − b", "AP", "points", Interval(1e-9, -1e9, 2.0, 7), at_least=0.0),
        ]
    ).assign(tier="small", missing=0)
    text = table.to_csv(rows)
    back = table.from_csv(text)
    assert table.to_csv(back) == text
    assert "0.333333" in text
    assert list(back["method"]) == ["None", "RandProj 10", "a − b"]
    assert back["proj_dim"].tolist()[1] == 10
    assert list(back["verdict"]) == ["", "not run", "direction"]
    assert list(back["pixels"]) == ["hex:00", "", ""]


def test_each_method_has_a_look_of_its_own():
    looks = [(one.colour, one.marker) for one in style.LOOKS.values()]
    assert len(set(looks)) == len(looks)
    assert style.look("TracIn[10]") == style.look("TracIn@3") == style.LOOKS["TracIn"]
    assert style.look("GHG^T 100") == style.LOOKS["GHG^T"]
    assert style.look("Something new").name == "Something new"


@pytest.mark.parametrize("values", [[], [math.nan, math.inf]])
def test_an_axis_without_values_stays_as_it_is(values):
    _, axes = style.new_axes("x", "y")
    before = axes.get_ylim()
    style.fit_values(axes, values)
    assert axes.get_ylim() == before
    style.fit_values(axes, [1.0, 2.0, math.nan])
    assert axes.get_ylim() == (pytest.approx(0.8), pytest.approx(2.2))
