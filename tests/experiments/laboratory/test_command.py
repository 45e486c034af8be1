"""The command line: presets, cells, settings, and one clear line for a mistake."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.laboratory import cost, experiment, runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from tests.experiments.laboratory.tiny import EXPERIMENT, Config, Model, Power

REPOSITORY = Path(__file__).resolve().parents[3]
MAIN = EXPERIMENT.main


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("RETRACE_DATA", "unused")
    return tmp_path / "runs"


def test_without_options_the_smoke_preset_is_run_and_tabulated(capsys):
    assert MAIN([]) == 0
    out, err = capsys.readouterr()
    table = out.splitlines()
    assert table[0].split() == ["method", "level", "seeds", "runs"]
    assert [line.split()[0] for line in table[2:4]] == ["Mean", "Power"]
    assert all(line.endswith("  3") and "±" in line for line in table[2:4])
    assert "6 runs in" in out
    assert "6 computed now" in out
    assert err.startswith("W&B: off")
    assert MAIN([]) == 0
    assert "0 computed now" in capsys.readouterr().out
    assert len(runs.load("tiny", "smoke")) == 6


def test_one_cell_is_run_alone_and_the_preset_knows_all(capsys):
    assert MAIN(["--cell", "3"]) == 0
    assert "1 run in" in capsys.readouterr().out
    (run,) = runs.load("tiny", "smoke", partial=True)
    assert run.config == runs.describe(EXPERIMENT.presets["smoke"][3])
    assert len(runs.planned("tiny", "smoke")) == 6


def test_several_cells_may_be_named():
    assert MAIN(["--cell", "3", "--cell", "1"]) == 0
    loaded = runs.load("tiny", "smoke", partial=True)
    cells = EXPERIMENT.presets["smoke"]
    assert [run.config for run in loaded] == [runs.describe(cells[i]) for i in (1, 3)]


def test_count_list_and_plan_compute_nothing(store, capsys):
    assert MAIN(["--preset", "smoke", "--count"]) == 0
    assert capsys.readouterr().out == "6\n"
    assert MAIN(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert lines[0].split()[:3] == ["cell", "key", "run"]
    assert all("missing" in line for line in lines[2:])
    assert MAIN(["--plan"]) == 0
    out = capsys.readouterr().out
    assert "tiny, preset smoke: 6 cells, 6 missing" in out
    assert "declared" in out
    assert "0.1" in out  # of 0.6 s for six
    assert "disk:" in out
    assert not store.exists()


def test_the_plan_says_what_its_sources_mean(capsys):
    MAIN(["--cell", "0"])
    MAIN(["--plan"])
    lines = capsys.readouterr().out.splitlines()
    for word in ("measured", "declared"):
        assert f"{word}: {cost.SOURCES[word]}" in lines
    assert not [line for line in lines if line.startswith(("counted: ", "corrected: "))]


def test_on_a_terminal_the_list_is_as_wide_as_it(capsys, monkeypatch):
    MAIN(["--list"])
    whole = capsys.readouterr().out.splitlines()
    monkeypatch.setattr(experiment, "width", lambda: 72)
    MAIN(["--list"])
    narrow = capsys.readouterr().out.splitlines()
    assert max(map(len, whole)) > 72 >= max(map(len, narrow))
    assert narrow[3] == f"{whole[3].rpartition(', ')[0]}, …"


def test_the_plan_measures_what_is_finished_by_kind_of_method(capsys):
    for cell in ("0", "2"):
        MAIN(["--cell", cell])
    capsys.readouterr()
    MAIN(["--plan"])
    lines = capsys.readouterr().out.splitlines()
    assert "6 cells, 4 missing" in lines[0]
    assert lines[4].split()[:3] == ["Mean", "3", "1"]
    assert "measured" in lines[4]
    assert lines[5].split()[:3] == ["Power", "3", "3"]
    assert "declared" in lines[5]
    MAIN(["--list", "--cell", "2"])
    assert "present" in capsys.readouterr().out


def test_help_shows_presets_with_cells_and_cost_and_the_fields(capsys):
    assert MAIN(["--help"]) == 0
    out = capsys.readouterr().out
    assert "a walk and its levels" in out
    assert "smoke  6 cells, 0.6 s declared" in out
    assert "big    3 cells, cost unknown" in out
    assert "--model.seed 0" in out
    MAIN(["--preset", "big", "--cell", "0"])
    MAIN(["--help"])
    assert "measured here" in capsys.readouterr().out


MISTAKES = {
    "--preset smok": "no preset 'smok': did you mean 'smoke'?",
    "--preset zzz": "there is smoke, slow, big",
    "--presets small": "no option --presets: did you mean '--preset'?",
    "--cell 6": "no cell 6: preset smoke has cells 0 to 5",
    "--cell -1": "cells 0 to 5",
    "--cell x": "--cell x: give numbers of cells, as --cell 0 13 20-29",
    "--cell 0 2 6": "no cell 6: preset smoke has cells 0 to 5",
    "--cell 1-9": "no cell 9: preset smoke has cells 0 to 5",
    "--preset smoke --preset big": "--preset is given twice, smoke and big: give it once",
    "--cell": "expected one argument",
    "--model.sed 3": "no option --model.sed: did you mean '--model.seed'?",
    "--model.seed=3 --sise 4": "no option --sise: did you mean '--size'?",
    "--method.exponant 2": "did you mean '--method.exponent'?",
    "--model.seed three": "--model.seed",
    "--method.weight 1 --method.exponent 2": "no cell has --method.weight and --method.exponent",
    "--method.exponent 2": (
        "3 cells of 6 (0, 2, 4) have no --method.exponent: change those that have it, by "
        "--cell 1 3 5"
    ),
    "--cell 0-2 --method.weight 2": "1 cell of 3 (1) has no --method.weight",
    "--cell 0 --method.exponent 2": "no cell that is named has --method.exponent: --list shows",
    "--model.seed 1 --model.seed=2": "--model.seed is given 2 times: give it once",
    "--model.seed 1 --sweep model.seed=2,3": "--model.seed is given 2 times: give it once",
    "--sweep model.seed=0,1 --sweep model.seed=2": "--model.seed is given 2 times",
    "--sweep model.seed": "--sweep model.seed: give a field and its values",
    "--sweep model.seed=1,": "give a field and its values, as --sweep model.seed=0,1,2",
    "--sweep model.seed=1,1": "--sweep model.seed=1,1 has a value twice: give each once",
    "--sweep model.sed=1,2": "no option --model.sed: did you mean '--model.seed'?",
    "--sweep model.seed=1,two": "--model.seed",
    "--sweep method=mean,powr": "no part 'method:powr': did you mean 'method:power'?",
    "--cell 1 --sweep method.centred=true,2": "--sweep method.centred=2: give true, false or both",
    "--sweep size=7,8 --workers 2": "or keep these cells under a name by --as NAME",
    "--cell 0 --workers 2": "--workers does a whole preset: leave out --cell and settings",
    "--method Power": "no part 'method:Power': did you mean 'method:power'?",
    "method:powr": "no part 'method:powr': did you mean 'method:power'?",
    "small": "unexpected 'small': options begin with --",
    "-x": "unexpected '-x'",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_a_code(words, store, capsys):
    assert MAIN(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert MISTAKES[words] in err
    assert not store.exists()


def test_settings_are_run_as_a_preset_of_their_own(store, capsys):
    assert MAIN(["--cell", "0", "--model.seed", "9", "--size=7"]) == 0
    (run,) = runs.load("tiny", "custom")
    assert run.config == runs.describe(Config(Model(seed=9), size=7))
    assert not (store / "tiny" / "presets" / "smoke.json").exists()
    out = capsys.readouterr().out
    assert "custom is 1 cell: 0 of smoke, with --model.seed 9 --size=7" in out
    assert "1 run in" in out


def configs(cells):
    return [runs.describe(cell) for cell in cells]


def custom():
    return [run.config for run in runs.load("tiny", "custom")]


def test_settings_hold_for_every_cell_that_is_named(capsys):
    smoke = EXPERIMENT.presets["smoke"]
    assert MAIN(["--cell", "0", "3", "--cell=4", "--size", "7"]) == 0
    assert custom() == configs(replace(smoke[i], size=7) for i in (0, 3, 4))
    assert "custom is 3 cells: 0, 3-4 of smoke, with --size 7\n" in capsys.readouterr().out
    assert MAIN(["--cell", "1-3", "--size", "7"]) == 0
    assert custom() == configs(replace(smoke[i], size=7) for i in (1, 2, 3))


def test_settings_hold_for_the_whole_preset_and_equal_cells_are_one(capsys):
    smoke = EXPERIMENT.presets["smoke"]
    assert MAIN(["--size", "7"]) == 0
    assert custom() == configs(replace(cell, size=7) for cell in smoke)
    assert MAIN(["--model.seed", "9"]) == 0
    assert custom() == configs(replace(cell, model=Model(seed=9)) for cell in smoke[:2])
    out = capsys.readouterr().out
    assert "custom is 2 cells: all of smoke, with --model.seed 9, equal ones once\n" in out


def test_a_grid_is_crossed_with_the_cells_the_last_axis_fastest(capsys):
    words = ["--cell", "0", "1", "--sweep", "model.seed=5,6", "--sweep=size=7,8"]
    assert MAIN([*words, "--count"]) == 0
    assert capsys.readouterr().out == "8\n"
    assert MAIN(words) == 0
    methods = [EXPERIMENT.presets["smoke"][i].method for i in (0, 1)]
    assert custom() == configs(
        Config(Model(seed), method, size)
        for method in methods
        for seed in (5, 6)
        for size in (7, 8)
    )
    assert "with --sweep model.seed=5,6 --sweep size=7,8\n" in capsys.readouterr().out


def test_a_grid_has_whole_parts_flags_and_fields_of_a_chosen_part():
    assert MAIN(["--cell", "0", "--sweep", "method=mean,power"]) == 0
    assert custom() == configs([Config(), Config(method=Power())])
    assert MAIN(["--cell", "1", "--sweep", "method.centred=true,false"]) == 0
    assert custom() == configs([Config(method=Power()), Config(method=Power(centred=False))])
    # Cells that have the method keep its other fields; the others get its defaults.
    words = ["--cell", "0", "1", "method:power", "--sweep", "method.exponent=3,4"]
    assert MAIN(words) == 0
    assert custom() == configs([Config(method=Power(3.0)), Config(method=Power(4.0))])


def test_cells_of_one_structure_keep_what_else_they_have():
    presets = {"smoke": [Config(Model(s), Power(e), 9 - s) for s, e in ((0, 2.0), (1, 5.0))]}
    assert replace(EXPERIMENT, presets=presets).main(["method:power", "--method.no-centred"]) == 0
    assert custom() == configs(
        Config(Model(s), Power(e, centred=False), 9 - s) for s, e in ((0, 2.0), (1, 5.0))
    )


def test_help_shows_the_fields_of_each_choice_and_of_any_cell(capsys):
    assert MAIN(["--help"]) == 0
    out = capsys.readouterr().out
    assert "in cell 0 of preset smoke" in out
    assert "method:power\n      --method.exponent 2.0  --method.centred True\n" in out
    assert MAIN(["--preset", "slow", "--cell", "5", "--help"]) == 0
    out = capsys.readouterr().out
    assert "in cell 5 of preset slow" in out
    assert "\n  --model.seed 2\n" in out
    assert "method:mean\n      --method.weight 1.0\n" in out
    assert MAIN(["--cell", "7", "-h"]) == 2


def test_settings_of_one_method_are_of_the_cells_that_have_it(capsys):
    assert MAIN(["--cell", "1", "--method.exponent", "3", "--method.no-centred"]) == 0
    (run,) = runs.load("tiny", "custom")
    assert run.config["method"] == {"type": "Power", "exponent": 3.0, "centred": False}


def test_a_method_may_be_named_where_the_field_is_a_union():
    assert MAIN(["--cell", "0", "method:power", "--method.exponent", "4"]) == 0
    (run,) = runs.load("tiny", "custom")
    assert run.config["method"] == {"type": "Power", "exponent": 4.0, "centred": True}


def test_settings_change_the_chosen_preset_and_cell():
    assert MAIN(["--preset", "slow", "--cell", "1", "--model.remark", "again", "--size", "8"]) == 0
    (run,) = runs.load("tiny", "custom")
    cell = replace(EXPERIMENT.presets["slow"][1], size=8)
    assert run.config == runs.describe(cell)


def test_settings_that_change_nothing_find_the_run_that_is_there(capsys):
    MAIN(["--cell", "0"])
    MAIN(["--cell", "0", "--model.seed", "0"])
    assert "0 computed now" in capsys.readouterr().out


def test_data_is_looked_for_where_it_is_said(monkeypatch):
    import os

    assert MAIN(["--count", "--data", "elsewhere"]) == 0
    assert os.environ["RETRACE_DATA"] == "elsewhere"


def failing(error: BaseException) -> Experiment:
    def run(config, folder):
        if config.size == 200:
            raise error
        return {"size": config.size}

    return replace(EXPERIMENT, name="failing", run=run)


def test_a_failing_cell_is_named_and_the_finished_ones_stay(capsys):
    assert failing(UserError("lower\nlr")).main(["--preset", "big"]) == 2
    assert "error: cell 1 of preset big: lower lr\n" in capsys.readouterr().err
    assert len(runs.load("failing", "big", partial=True)) == 1


def test_an_interrupt_is_one_line_and_130(capsys):
    assert failing(KeyboardInterrupt()).main(["--preset", "big"]) == 130
    assert "interrupted: finished cells are kept" in capsys.readouterr().err
    assert len(runs.load("failing", "big", partial=True)) == 1


def test_a_programming_mistake_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError()).main(["--preset", "big"])


def test_the_commands_run_as_modules_without_waiting_for_torch():
    script = (
        "import sys; from tests.experiments.laboratory.tiny import EXPERIMENT\n"
        "for words in (['--help'], ['--list'], ['--plan'], []): EXPERIMENT.main(words)\n"
        "assert 'torch' not in sys.modules and 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True, capture_output=True)
