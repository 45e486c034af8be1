"""Artifacts from made-up runs: the same ink from the CSV alone, honest words, a page on its own."""

import html
import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis import __main__ as everything
from analysis.ink import style
from analysis.numbers import table, verdict
from analysis.numbers.claims import Claim, Ours
from analysis.numbers.frame import Method
from analysis.numbers.statistics import NONE, Interval
from analysis.page import artifact as disk
from analysis.page import report
from analysis.page.artifact import Artifact
from analysis.page.tables import stated
from experiments.laboratory import lists, ranges, records
from experiments.laboratory.runs import UserError
from tests.analysis.synthetic import store

pytestmark = pytest.mark.xdist_group("artifacts")  # one process makes what they share
ARTIFACTS, BROKEN = everything.artifacts()
each_artifact = pytest.mark.parametrize("artifact", ARTIFACTS, ids=lambda one: one.id)
RESAMPLED = ("lds_published", "own_labels")  # whose intervals are over queries or rows of one run
TYPICAL = ("arnoldi_fig2", "digits_suspicious", "fastif_table1", "models_fig1")  # of each kind one


def few_or_each(but=()):
    """A test of the typical artifacts in `make test`, and of each among the long ones."""
    params = [
        pytest.param(one, marks=() if one.id in TYPICAL else pytest.mark.long, id=one.id)
        for one in ARTIFACTS
        if one.id not in but
    ]
    return pytest.mark.parametrize("artifact", params)


ROOT = Path(__file__).resolve().parents[2]


def in_pencil(figure):
    """A figure at a low resolution, in a sixth of the time, where nobody looks at it."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=30)
    return dict.fromkeys(("png", "pdf"), file.getvalue())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Made-up runs of the typical artifacts' experiments, all made of them, and two at smoke."""
    home = tmp_path_factory.mktemp("finished")
    build(home, only=[named(one).experiment for one in TYPICAL])
    return home


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A results folder with made-up runs and every artifact of them; two artifacts at smoke too."""
    home = tmp_path_factory.mktemp("complete")
    build(home)
    return home


@pytest.fixture
def home(artifact, request):
    """Where this artifact is finished: most take so long that only long tests build them."""
    return request.getfixturevalue("finished" if artifact.id in TYPICAL else "complete")


def build(home: Path, only: Sequence[str] | None = None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRACE_RESULTS", str(home))
        store.write_mislabel("paper")
        store.write_sketch("paper")
        store.write_rest("paper", only=only)
        store.write_mislabel("smoke")
        store.write_sketch("smoke")
        patch.setattr(style, "ink", in_pencil)
        assert everything.main(["--preset", "paper"]) == 0
        assert everything.main(["--preset", "smoke"]) == 0


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A results folder with made-up runs of tier smoke."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("toys")
        patch.setenv("RETRACE_RESULTS", str(home))
        store.write_mislabel("smoke")
        store.write_sketch("smoke")
        store.write_rest("smoke")
    return home


@pytest.fixture(scope="module")
def lone(tmp_path_factory):
    """A results folder with the runs of one seed."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("lone")
        patch.setenv("RETRACE_RESULTS", str(home))
        cells = [cell for cell in store.mislabel_cells("paper") if cell.model.seed == 0]
        store.write_mislabel("paper", cells)
        store.write_sketch("paper", seeds=1)
        store.write_rest("paper", seeds=1)
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


def drawn(artifact: Artifact, home: Path) -> Artifact:
    """The artifact, whose runs were made up in `home`."""
    name = artifact.experiment
    assert (home / "runs" / name).is_dir(), (
        f"{artifact.id} cannot be drawn in tests: write made-up runs of {name} in"
        f" tests/analysis/synthetic/{name}.py, as `write(preset, seeds)`"
    )
    return artifact


def named(name: str) -> Artifact:
    return next(one for one in ARTIFACTS if one.id == name)


# --- the contract of every artifact --------------------------------------------------------------


def test_every_file_that_defines_an_artifact_is_listed():
    defining = {
        path.stem
        for path in (ROOT / "analysis").glob("*.py")
        if re.search(r"^ARTIFACT\b", path.read_text(), re.MULTILINE)
    }
    assert not BROKEN
    assert {one.id for one in ARTIFACTS} == defining


@each_artifact
def test_an_artifact_says_what_it_claims(artifact):
    assert artifact.title
    assert artifact.claim.endswith(".")
    assert artifact.paper
    assert all(note.endswith(".") for note in (*artifact.deviations, *artifact.remarks))
    assert set(artifact.tier_notes) <= set(lists.TIERS)


@few_or_each()
def test_an_artifact_leaves_four_files_and_its_provenance(artifact, home):
    drawn(artifact, home)
    folder = home / "artifacts" / "paper"
    about = json.loads((folder / f"{artifact.id}.json").read_text())
    assert {path.suffix for path in folder.glob(f"{artifact.id}.*")} == {
        ".csv", ".png", ".pdf", ".json",
    }  # fmt: skip
    assert about["verdict"]["word"] in (*verdict.WORDS, *verdict.GOALS.values())
    assert [one["claim"] for one in about["claims"]] == [one.name for one in artifact.claims]
    assert about["verdict"]["rule"]
    assert about["verdict"]["evidence"]
    assert about["tier"] == "paper"
    assert about["command"].endswith(f"python -m analysis.{artifact.id} --preset paper")
    assert len(about["numbers"]["runs"]) == len(set(about["numbers"]["runs"])) > 0
    assert about["numbers"]["commits"]
    assert about["numbers"]["versions"]["numpy"]
    assert not list(folder.glob(".*")), "a draft was left behind"


@few_or_each()
def test_a_redraw_from_the_csv_alone_gives_the_same_bytes(artifact, home, empty):
    drawn(artifact, home)
    (empty / "runs").symlink_to(home / "runs")
    artifact.build("paper")
    (empty / "runs").unlink()
    paths = [artifact.path("paper", suffix) for suffix in ("png", "pdf", "json", "csv")]
    before = [path.read_bytes() for path in paths]
    for path in paths[:2]:
        path.unlink()
    assert artifact.main(["--preset", "paper", "--redraw"]) == 0
    assert [path.read_bytes() for path in paths] == before


@few_or_each()
def test_the_record_gives_the_same_numbers_as_the_runs(artifact, home, empty, monkeypatch):
    drawn(artifact, home)
    monkeypatch.setenv("RETRACE_RESULTS", str(home))
    if not (home / "records").exists():
        records.record()
    (empty / "records").symlink_to(home / "records")
    monkeypatch.setenv("RETRACE_RESULTS", str(empty))
    text, _ = artifact.measure("paper")
    assert text == (home / "artifacts" / "paper" / f"{artifact.id}.csv").read_text()


@few_or_each()
def test_toy_data_are_not_held_against_printed_numbers(artifact, toys, monkeypatch):
    drawn(artifact, toys)
    monkeypatch.setenv("RETRACE_RESULTS", str(toys))
    rows = table.from_csv(artifact.measure("smoke")[0])
    assert set(rows.loc[rows["kind"] == "number", "verdict"]) <= {"", "not run"}


@few_or_each()
def test_no_interval_leaves_the_range_of_its_unit(artifact, home):
    drawn(artifact, home)
    rows = table.from_csv((home / "artifacts" / "paper" / f"{artifact.id}.csv").read_text())
    for unit, (least, most) in ranges.UNITS.items():
        mine = rows[(rows["unit"] == unit) & rows["low"].notna()]
        assert (mine["low"] >= least - 1e-6).all()
        assert (mine["high"] <= most + 1e-6).all()


@each_artifact
def test_missing_runs_are_one_line_with_the_command(artifact, empty, capsys):
    for options in ([], ["--partial"], ["--preset", "paper"]):
        assert artifact.main(options) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert f"python -m experiments.{artifact.experiment} --preset" in error
    assert not (empty / "artifacts").exists()


@few_or_each(but=RESAMPLED)
def test_one_seed_gives_a_figure_and_no_interval(artifact, lone, monkeypatch):
    drawn(artifact, lone)
    monkeypatch.setenv("RETRACE_RESULTS", str(lone))
    monkeypatch.setattr(style, "ink", in_pencil)
    artifact.build("paper")
    rows = table.from_csv(artifact.path("paper", "csv").read_text())
    about = json.loads(artifact.path("paper", "json").read_text())
    sure = [one for one in about["claims"] if one["verdict"] == "holds" and one["n"] == 1]
    assert all(one["low"] == one["high"] for one in sure), "calculated"
    calculated = rows["low"] == rows["high"]
    counted = rows["quantity"].str.startswith(("p,", "points that improve"))
    measured = rows[~counted & ~calculated]
    assert measured["low"].isna().all()
    assert (measured["n"] <= 1).all()


# --- the command line ----------------------------------------------------------------------------


def test_partial_says_so_on_the_figure_and_is_never_reproduced(empty):
    artifact = named("arnoldi_fig2")
    cells = store.table_cells(store.SmallCNN, range(3), store.grid_methods())
    store.write_mislabel("paper", cells, leave_out=2)
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
    store.write_mislabel("paper", leave_out=len(store.grid_methods()) * 3)
    verdict = named("arnoldi_table1").build("paper").verdict
    assert "22 printed numbers: 22 hold." in verdict.evidence
    assert "missing" not in verdict.evidence
    assert named("arnoldi_fig2").main(["--preset", "paper"]) == 2


def test_an_unknown_preset_names_the_nearest(empty, capsys):
    assert named("arnoldi_fig1").main(["--preset", "papers"]) == 2
    assert "did you mean 'paper'?" in capsys.readouterr().err


def test_a_csv_edited_by_hand_is_not_drawn(results, capsys):
    artifact = named("arnoldi_table1")
    path = artifact.path("paper", "csv")
    path.write_text(path.read_text().replace("TracIn[10],", "TracIn[11],", 1))
    assert artifact.main(["--preset", "paper", "--redraw"]) == 2
    assert "was changed after its provenance was written" in capsys.readouterr().err


def test_a_corrupt_run_is_named_and_the_others_are_drawn(empty, capsys):
    store.write_mislabel("smoke")
    store.write_sketch("smoke")
    run = next((empty / "runs" / "mnist_sketch").glob("*/metrics.json")).parent
    (run / "metrics.json").write_text("{")
    assert everything.main(["--preset", "smoke"]) == 2
    printed = capsys.readouterr()
    assert f"rm -r {run}" in printed.err
    assert "arnoldi_fig1 smoke: reproduced, 1 of 1" in printed.out


def test_all_artifacts_without_runs_say_how_to_make_them(empty, capsys):
    assert everything.main([]) == 2
    assert "python -m experiments.mnist_mislabel --preset smoke" in capsys.readouterr().err


def test_only_what_is_made_of_the_runs_of_one_experiment_is_built_if_asked(empty, capsys):
    store.write_sketch("smoke")
    assert everything.main(["--preset", "smoke", "--experiment", "mnist_sketch"]) == 0
    assert {path.stem for path in (empty / "artifacts" / "smoke").iterdir()} == {
        "tracin_sketched_inverse"
    }
    assert everything.main(["--preset", "smoke", "--experiment", "speed"]) == 2
    assert "speed_passes smoke: not run" in capsys.readouterr().out
    (empty / "runs" / "unheard_of").mkdir()
    assert everything.main(["--experiment", "unheard_of"]) == 0
    assert "no artifact is made from runs of unheard_of" in capsys.readouterr().out


def keep(name, cells, of="smoke"):
    """Made-up runs of a list of cells that is kept under a name."""
    lists.keep("mnist_mislabel", name, {}, cells, of=of, words=["made up"])
    store.write_mislabel(name, cells)


def test_a_kept_list_is_drawn_and_shown_as_a_tier_of_its_preset_s_size(empty, capsys):
    keep("noise40", store.mislabel_cells("smoke"))
    artifact = named("arnoldi_table1")
    assert artifact.tiers() == [*lists.TIERS, "noise40"]
    assert artifact.main(["--preset", "noise40"]) == 0
    about = json.loads(artifact.path("noise40", "json").read_text())
    assert (about["tier"], about["size"]) == ("noise40", "smoke")
    assert "Made of the cells kept as noise40, which are not" in about["deviations"][-1]
    assert about["command"].startswith("python -m experiments.mnist_mislabel --preset noise40 && ")
    rows = table.from_csv(artifact.path("noise40", "csv").read_text())
    assert set(rows.loc[rows["kind"] == "number", "verdict"]) <= {"", "not run"}, "toy data"
    assert everything.main(["--preset", "noise40"]) == 0
    out = capsys.readouterr().out
    assert "arnoldi_table1 noise40: " in out
    assert "dbpedia" not in out, "which has no list of that name"
    page = report.build(ARTIFACTS).read_text()
    assert "List noise40" in page
    assert "a list of cells, on toy data" in page
    assert artifact.main(["--preset", "noise40", "--redraw"]) == 0


def test_without_a_preset_lists_are_drawn_beside_the_tiers(empty, capsys):
    keep("noise40", store.mislabel_cells("smoke"))
    store.write_mislabel("smoke")
    everything.main(["--experiment", "mnist_mislabel"])
    out = capsys.readouterr().out
    assert "arnoldi_table1 smoke: " in out
    assert "arnoldi_table1 noise40: " in out


@pytest.mark.parametrize("step", ["tabulate", "draw"])
def test_a_list_without_the_cells_that_an_artifact_needs_is_one_line(
    step, empty, capsys, monkeypatch
):
    def fail(given):
        return {}["TracIn[10]"]

    keep("few", store.mislabel_cells("smoke"))
    store.write_mislabel("smoke")
    unfit = replace(named("arnoldi_fig1"), **{step: fail})
    assert unfit.main(["--preset", "few"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert (
        "arnoldi_fig1 needs other cells of mnist_mislabel than those of few (KeyError: 'Tr" in err
    )
    with pytest.raises(KeyError):
        unfit.main(["--preset", "smoke"])  # ours to mend
    monkeypatch.setattr(everything, "artifacts", lambda: ([unfit, named("arnoldi_table1")], []))
    assert everything.main(["--preset", "few"]) == 0
    assert "arnoldi_fig1 few: not drawn  arnoldi_fig1 needs other" in capsys.readouterr().out


def test_tiers_and_lists_are_compared_in_one_table(empty, capsys):
    keep("noise40", store.mislabel_cells("smoke"))
    store.write_mislabel("smoke")
    store.write_mislabel("paper")
    artifact = named("arnoldi_table1")
    for tier in ("smoke", "noise40", "paper"):
        assert artifact.main(["--preset", tier]) == 0
    capsys.readouterr()
    assert artifact.main(["--compare", "smoke", "paper", "noise40"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["row", "paper", "or", "bound", "smoke", "paper", "noise40"]
    (best,) = [line for line in lines if line.startswith("TracIn[10], AUC")]
    rows = table.from_csv(artifact.path("paper", "csv").read_text())
    mine = rows[(rows["method"] == "TracIn[10]") & (rows["quantity"] == "AUC")].iloc[0]
    cells = re.split("  +", best)
    assert cells[1:3] == ["99.7", "–"], "at smoke there is no such row"
    assert cells[3] == f"{mine['ours']:.4g} ({mine['low']:.4g} to {mine['high']:.4g}) holds"
    (verdict,) = [line for line in lines if line.startswith("verdict")]
    words = [
        json.loads(artifact.path(t, "json").read_text())["verdict"] for t in ("smoke", "paper")
    ]
    assert all(f"  {stated(word)}" in verdict for word in words)
    assert len({line.split("  ")[0] for line in lines}) == len(lines), "each row once"


COMMANDS = {"all": everything.main, "one": named("arnoldi_fig1").main}
MISTAKES = {
    "all --experiment mnist_mislable": "of 'mnist_mislable', and there are none: did you mean "
    "'mnist_mislabel'?",
    "all --presets small": "unrecognized arguments: --presets small: see --help",
    "one --preset paper --preset small": "--preset is given twice, paper and small: give it once",
    "all --preset nois40": "no preset 'nois40' to draw from: there is smoke, small, paper",
    "one --compare smoke": "--compare needs two tiers or more, each once",
    "one --compare smoke smoke": "--compare needs two tiers or more, each once",
    "one --compare smoke papr": "no preset 'papr' to draw from: did you mean 'paper'?",
    "one --compare smoke paper": "`python -m analysis.arnoldi_fig1 --preset smoke` makes it from",
    "all --preset": "argument --preset: expected one argument: see --help",
    "one --presets small": "unrecognized arguments: --presets small: see --help",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(words, empty, capsys):
    command, *rest = words.split()
    assert COMMANDS[command](rest) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert MISTAKES[words] in err
    assert not list(empty.iterdir())


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
    assert done.stdout.startswith("tracin_sketched_inverse smoke: reproduced, 1 of 1")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*RETRACE_RESULTS"):
        disk.write(tmp_path / "file" / "below" / "x.csv", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- what the artifacts say ----------------------------------------------------------------------


def test_table1_judges_what_was_printed_and_lists_what_was_not_run(empty):
    few = [name for name in store.TABLE if not name.startswith("LiSSA")]
    store.write_mislabel("paper", store.table_cells(store.LargeCNN, range(3), few))
    artifact = named("arnoldi_table1")
    built = artifact.build("paper")
    rows = table.from_csv(artifact.path("paper", "csv").read_text()).set_index(
        ["method", "quantity"]
    )
    absent = rows.loc[("LiSSA r=10", "AUC")]
    assert (absent["n"], absent["verdict"], absent["paper"]) == (0, "not run", 98.9)
    best = rows.loc[("TracIn[10]", "AUC")]
    assert best["verdict"] == "holds"
    assert best["difference"] == pytest.approx(best["ours"] - 99.7, abs=1e-3)
    assert rows.loc[("RandProj 10", "AP"), "n"] == 3, "draws of one seed are no seeds"
    assert rows.loc[("TracIn[10]", "T"), "ours"] == pytest.approx(9, rel=0.2)
    assert rows.loc[("RandProj 10 − RandSelect 10", "AP"), "verdict"] == "holds"
    assert rows.loc[("Loss", "AUC"), "verdict"] == "", "the paper has no such row"
    assert built.verdict.word == "partly", "a table with rows not run is not reproduced"


def test_times_are_ratios_within_a_run_on_any_machine(finished):
    text = (finished / "artifacts" / "paper" / "arnoldi_table1.csv").read_text()
    rows = table.from_csv(text).set_index(["method", "quantity"])
    slower = rows.loc[("LiSSA r=10 ÷ Arnoldi 10", "T")]
    assert slower["ours"] == pytest.approx(700 / 0.05, rel=0.15)
    assert slower["high"] / slower["low"] < 1.5
    assert rows.loc[("Arnoldi 10", "T of the basis"), "ours"] == pytest.approx(70, rel=1e-3)


def test_a_wrong_order_is_not_reproduced(empty):
    cells = store.table_cells(store.SmallCNN, range(4), store.grid_methods())
    worse = {f"Arnoldi {p}": f"RandProj {p}" for p in store.GRID}
    swap = worse | {other: one for one, other in worse.items()}
    store.write_mislabel("paper", cells, rename=swap)
    built = named("arnoldi_fig2").build("paper")
    assert built.verdict.word != "reproduced"
    assert "Fails: Arnoldi outperforms RandProj:" in built.verdict.evidence


def test_a_sketch_that_stalls_is_not_reproduced(empty):
    store.write_sketch("paper", final_error=0.4)
    built = named("tracin_sketched_inverse").build("paper")
    assert built.verdict.word == "not reproduced"
    assert "the sketch of the inverse: 0.4" in built.verdict.evidence


def test_checkpoints_that_find_the_same_are_not_distinguished(empty):
    names = ["TracIn@1", "TracIn@4", "TracIn@10"]
    cells = store.table_cells(store.LargeCNN, range(4), names)
    store.write_mislabel("paper", cells, rename=dict.fromkeys(names, "TracIn[10]"))
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
    built = list((finished / "artifacts").glob("*/*.json"))
    assert len(page.pictures) == len(built) + len({path.stem for path in built})
    assert all(len(picture["alt"]) > 20 for picture in page.pictures)
    assert "<script src" not in text
    inside = {target.removeprefix("#") for target in page.targets if target.startswith("#")}
    assert inside <= set(page.ids)
    beside = [target for target in page.targets if not target.startswith("#")]
    missing = [target for target in beside if not (finished / "report" / target).exists()]
    assert beside
    assert not missing, "a figure, a CSV or a page of queries"
    for wanted in ("prefers-color-scheme: dark", "max-width", "@media print", "<html lang"):
        assert wanted in text


def test_the_page_lists_what_was_not_run(empty):
    store.write_sketch("smoke")
    assert everything.main(["--preset", "smoke"]) == 0
    text = (empty / "report" / "index.html").read_text()
    for artifact in ARTIFACTS:
        assert artifact.title in html.unescape(text)
    assert text.count('class="badge not-run"') >= len(ARTIFACTS) - 1


# --- tables and ink ------------------------------------------------------------------------------


def test_a_table_survives_its_csv():
    better = Claim("better", Ours("A test."), "AP.", null=0.0)
    wide = Interval(1e-9, -1e9, 2.0, 7)
    rows = table.tabulated(
        [
            table.curve("None", "NA", "", Interval(1 / 3, math.nan, math.nan, 1), pixels="hex:00"),
            table.number(Method("RandProj", 10), "AUC", "x100", NONE, 97.2, 1.0),
            table.claim("a − b", "AP", "BLEU", wide, of=better, at_least=0.0),
        ]
    ).assign(tier="small", missing=0)
    text = table.to_csv(rows)
    back = table.from_csv(text)
    assert table.to_csv(back) == text
    assert "0.333333" in text
    assert list(back["method"]) == ["None", "RandProj 10", "a − b"]
    assert back["proj_dim"].tolist()[1] == 10
    assert list(back["verdict"]) == ["", "not run", "leans"]
    assert list(back["claim"]) == ["", "", "better"]
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
