"""Sweeps, tables, bars and the list of experiments."""

import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import experiments
from experiments import __main__ as listing
from experiments.laboratory import progress, runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import sweep
from experiments.laboratory.table import (
    aligned,
    cut,
    estimated,
    in_words,
    interval,
    plus_minus,
    summarise,
)
from tests.experiments.laboratory.tiny import EXPERIMENT, Config, Mean, Power

REPOSITORY = Path(__file__).resolve().parents[3]
MAIN = EXPERIMENT.main


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("RETRACE_DATA", "unused")
    return tmp_path / "runs"


def test_a_sweep_is_every_combination_the_last_axis_fastest():
    cells = sweep(Config(), model__seed=range(2), method=[Mean(), Power()])
    assert [(c.model.seed, c.method) for c in cells] == [
        (0, Mean()),
        (0, Power()),
        (1, Mean()),
        (1, Power()),
    ]
    assert sweep(Config()) == [Config()]
    assert sweep(Config(method=Power()), method__exponent=[3.0])[0].method == Power(3.0)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"model__sed": [1]}, "Model has no field 'sed': did you mean 'seed'?"),
        ({"modle": [1]}, "Config has no field 'modle': did you mean 'model'?"),
        ({"model__seed__x": [1]}, "int has no field 'x'"),
        ({"size": 3}, "give the list of its values"),
        ({"method": "Mean"}, "give the list of its values"),
    ],
)
def test_a_sweep_over_an_unknown_field_names_the_nearest(axes, message):
    with pytest.raises(UserError) as caught:
        sweep(Config(), **axes)
    assert message in str(caught.value)


def test_an_experiment_may_print_its_own_table(capsys):
    def table(finished):
        return ["what", "n"], [["tiny", str(len(finished))]]

    replace(EXPERIMENT, table=table).main([])
    assert capsys.readouterr().out.splitlines()[:3] == ["what  n", "----  -", "tiny  6"]


def test_runs_that_differ_in_seeds_alone_share_a_row_with_its_interval():
    EXPERIMENT.main([])
    header, rows = summarise(runs.load("tiny", "smoke"), ["level"])
    assert header == ["method", "level", "seeds", "runs"]
    levels = [run.metrics["level"] for run in runs.load("tiny", "smoke")][::2]
    assert rows[0] == ["Mean", plus_minus(*interval(levels)), "3", "3"]
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.4841377), rel=1e-6)
    assert plus_minus(0.99041, 0.0031) == "0.9904 ± 0.0031"
    assert plus_minus(10.09, 13.4) == "10 ± 13"
    assert plus_minus(0.12345678, float("nan")) == "0.1235"


def test_an_interval_stays_in_the_range_of_its_metric():
    assert estimated([0.2, 0.64, 1.0], "auc") == "0.61 (0.08 to 0.97)"
    assert estimated([0.2, 0.64, 1.0], "loss") == "0.61 ± 1.00"
    assert estimated([-0.4, 0.9], "spearman").endswith("to 1.0)")
    assert estimated([0.9, 0.91], "auc_largest") == plus_minus(*interval([0.9, 0.91]))
    assert estimated([1.0, 1.0], "accuracy") == "1"
    assert estimated([2.0, 9.0], "accuracy") == plus_minus(*interval([2.0, 9.0])), "no share"
    rows = [["a", "0.61 (0.08 to 0.97)"], ["b", "0.5"]]
    assert aligned(["m", "auc"], rows).splitlines()[3].endswith("   0.5"), "numbers to the right"


def test_a_long_line_is_cut_between_settings_to_the_width_of_the_terminal():
    settings = {"model.data.noise": 0.2, "model.seed": 0, "draw.seed": 3, "method": "TracIn"}
    words = in_words(settings, [*settings, "absent"])
    assert words == "noise 0.2, model.seed 0, draw.seed 3, method TracIn"
    assert cut(words, None) == cut(words, len(words)) == words
    assert cut(words, 40) == "noise 0.2, model.seed 0, draw.seed 3, …"
    assert cut("a summary of several words", 20) == "a summary of …"
    assert cut("-----  -----", 7) == "-----  "
    assert cut("x" * 30, 20) == "x" * 19 + "…"
    for columns in range(10, 60):
        assert all(len(line) <= columns for line in cut(f"{words}\n{words}", columns).split("\n"))


@dataclass(frozen=True)
class Drawn:
    seed: int = 0


@dataclass(frozen=True)
class Projected:
    model: Drawn = Drawn()
    method: Drawn = Drawn()


def test_draws_on_one_model_are_no_seeds_of_their_own():
    cells = [Projected(Drawn(s), Drawn(d)) for s, draws in ((0, 20), (1, 2)) for d in range(draws)]
    finished = [
        runs.once("drawn", c, lambda _, c=c: {"level": 10.0 * c.model.seed + c.method.seed % 2})
        for c in cells
    ]
    header, rows = summarise(finished)
    assert header == ["level", "seeds", "runs"]
    assert rows == [[plus_minus(*interval([0.5, 10.5])), "2", "22"]]


def test_rows_that_words_do_not_tell_apart_show_what_varies(capsys):
    EXPERIMENT.main(["--preset", "big"])
    header, rows = summarise(runs.load("tiny", "big"))
    assert header == ["method", "size", "level", "seeds", "runs"]
    assert [row[1] for row in rows] == ["100", "200", "500000"]


def test_columns_are_aligned_numbers_to_the_right():
    assert (
        aligned(["a", "n"], [["x", "1"], ["long", "10"]])
        == "a      n\n----  --\nx      1\nlong  10"
    )


def test_a_bar_appears_only_for_what_is_slow(capsys, monkeypatch):
    seconds = 0.0
    monkeypatch.setattr(progress, "DELAY", 3_600.0)
    monkeypatch.setattr(progress, "now", lambda: seconds)
    with progress.show() as display:
        assert list(display.track(range(1000), "quick")) == list(range(1000))
    assert capsys.readouterr().err == ""
    with progress.show() as display:
        for _ in display.track([1, 2], "slow"):
            seconds += 3_601.0
    assert "slow" in capsys.readouterr().err


def test_in_a_file_progress_is_plain_lines_from_time_to_time(capsys, monkeypatch):
    seconds = 0.0
    monkeypatch.setattr(progress, "DELAY", 3_600.0)
    monkeypatch.setattr(progress, "EVERY", 100_000.0)
    monkeypatch.setattr(progress, "now", lambda: seconds)
    with progress.show() as display:
        for i in display.track(range(100), "outer"):
            for _ in display.track(range(2), "quick"):
                seconds += 1.0
            if i == 0:
                for _ in display.track(range(3), "long"):
                    seconds += 100_001.0
            seconds += 3_600.0
    err = capsys.readouterr().err
    assert "quick" not in err
    lines = [line for line in err.splitlines() if line.startswith("outer: ")]
    assert lines[0] == "outer: 1 of 100, 84.3 h, about 8349.1 h left"
    assert lines[-1] == "outer: 100 of 100, 183.4 h"
    assert len(lines) == 5, "one at first, one after each 100,000 s, one at the end"
    assert "long: 1 of 3, 27.8 h, about 55.6 h left\n" in err
    assert not {"\r", "\x1b", "%", "█"} & set(err)
    assert err.endswith("\n")


def test_in_a_log_file_what_follows_a_bar_begins_a_line(capsys, monkeypatch):
    seconds = 0.0
    monkeypatch.setattr(progress, "DELAY", 3_600.0)
    monkeypatch.setattr(progress, "now", lambda: seconds)
    with progress.show() as display:
        for _ in display.track([1, 2], "outer"):
            for _ in display.track([1, 2], "inner"):
                seconds += 3_601.0
            if seconds > 10_000.0:
                break  # as an error does
    err = capsys.readouterr().err
    assert "outer" in err
    assert err.endswith("\n")


def test_every_experiment_is_listed_and_a_broken_one_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "fine.py").write_text(
        "from experiments.laboratory.experiment import Experiment\n"
        "from tests.experiments.laboratory.tiny import EXPERIMENT as tiny, run\n"
        "SUMMARY: str = 'a walk and its levels'\n"
        "PRESETS = {'smoke': tiny.cells('smoke'), 'big': tiny.cells('big')}\n"
        "EXPERIMENT = Experiment('fine', run, PRESETS, SUMMARY)\n"
    )
    (tmp_path / "torn.py").write_text("import nowhere_to_be_found\nEXPERIMENT = 1\n")
    (tmp_path / "garbled.py").write_text("def (\n")
    (tmp_path / "shared.py").write_text("raise SystemError('must not be imported')\n")
    monkeypatch.setattr("experiments.laboratory.registry.FOLDER", tmp_path)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])
    assert listing.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[0] == "fine"
    assert "  smoke, big  " in lines[2]
    assert lines[2].endswith("a walk and its levels")
    assert lines[3].startswith("garbled     broken      SyntaxError: ")
    assert lines[4].startswith("torn")  # nothing is imported: its own command says what is wrong
    assert "shared" not in "".join(lines)
    assert listing.main(["fnie"]) == 2
    assert "did you mean 'fine'?" in capsys.readouterr().err
    assert listing.main(["fine", "--count"]) == 0
    assert capsys.readouterr().out == "6\n"


def python(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def test_a_verb_is_carried_out():
    done = python("experiments", "runs", "verify")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "0 of 0 runs are as they were written\n"
    assert "run one" in python("experiments").stdout


OLD = {
    "experiments.runs verify 'a b'": "python -m experiments runs verify 'a b'",
    "experiments.status": "python -m experiments status",
    "experiments.tracking replay tiny": "python -m experiments track replay tiny",
    "experiments.cluster tiny smoke --dry-run": "python -m experiments submit tiny smoke --dry-run",
    "experiments.array tiny smoke": "python -m experiments array tiny smoke",
}


@pytest.mark.parametrize("words", OLD)
def test_an_old_spelling_answers_with_the_new_command(words):
    done = python(*shlex.split(words))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"`{OLD[words]}`" in done.stderr


def test_python_m_experiments_lists_the_real_ones():
    done = python("experiments")
    assert done.returncode == 0
    assert "mnist_mislabel" in done.stdout
    assert "broken" not in done.stdout


def test_listing_the_experiments_imports_neither_them_nor_torch():
    program = (
        "import sys; from experiments.__main__ import main\n"
        "assert main([]) == 0\n"
        "loaded = {'torch', 'scipy', 'pandas', 'tyro', 'experiments.mnist_mislabel'}\n"
        "assert not loaded & set(sys.modules), loaded & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", listing.registry.names())
def test_the_list_says_what_an_experiment_is(name):
    """It reads the file alone, so that presets and summary have to be written there in words."""
    experiment = listing.registry.named(name)
    assert listing.registry.described(name) == ([*experiment.presets], experiment.summary)
