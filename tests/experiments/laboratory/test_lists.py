"""Lists of cells that are kept under a name: a tier for every command, checked when it is read."""

import json
from dataclasses import dataclass, field, replace

import pytest

from experiments.cluster import array, stages
from experiments.laboratory import keys, lists, registry, runs, status
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from tests.experiments.laboratory.tiny import EXPERIMENT, Config, Mean, Model, Power

MAIN = EXPERIMENT.main
NOISY = ["--cell", "1", "3", "--method.exponent", "4", "--as", "noisy"]
CELLS = [Config(Model(seed), Power(4.0)) for seed in (0, 1)]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(registry, "named", {"tiny": EXPERIMENT}.__getitem__)
    return tmp_path


@pytest.fixture
def noisy(store, capsys):
    """The file of a list that was kept without computing anything."""
    assert MAIN([*NOISY, "--count"]) == 0
    capsys.readouterr()
    return store / "lists" / "tiny" / "noisy.json"


def test_a_list_is_kept_and_run_as_a_preset_of_that_name(store, capsys):
    assert MAIN(NOISY) == 0
    out = capsys.readouterr().out
    assert "noisy is 2 cells: 1, 3 of smoke, with --method.exponent 4; kept in " in out
    assert [run.config for run in runs.load("tiny", "noisy")] == [*map(runs.describe, CELLS)]
    assert MAIN(["--preset", "noisy"]) == 0
    assert "2 runs in" in capsys.readouterr().out
    assert EXPERIMENT.cells("noisy") == CELLS
    assert EXPERIMENT.tiers() == ["smoke", "slow", "big", "noisy"]
    content = json.loads((store / "lists" / "tiny" / "noisy.json").read_text())
    assert content["of"] == "smoke"
    assert content["from"].endswith("experiments.tiny --cell 1 3 --method.exponent 4 --as noisy")


def test_cells_are_kept_without_a_change_and_a_list_of_a_list_is_of_its_preset(capsys):
    assert MAIN(["--preset", "slow", "--cell", "2-3", "--as", "two", "--count"]) == 0
    assert EXPERIMENT.cells("two") == EXPERIMENT.presets["slow"][2:4]
    assert MAIN(["--preset", "two", "--size", "9", "--as", "nine", "--count"]) == 0
    assert [cell.size for cell in EXPERIMENT.cells("nine")] == [9, 9]
    assert EXPERIMENT.preset_of("nine") == "slow"
    assert MAIN(["--help"]) == 0
    assert "  nine   2 cells, cost unknown" in capsys.readouterr().out


def test_status_the_plan_workers_and_tasks_take_a_list_as_a_preset(noisy, capsys):
    assert MAIN(["--preset", "noisy", "--plan"]) == 0
    out = capsys.readouterr().out
    assert "tiny, preset noisy: 2 cells, 2 missing" in out
    assert "stage" in out
    assert status.main(["tiny", "noisy"]) == 1
    assert "python -m experiments.tiny --preset noisy" in capsys.readouterr().out
    plan = stages.staged(EXPERIMENT, "noisy")
    plan.save()
    for task in range(len(plan.tasks)):
        assert array.main(["tiny", "noisy", "--plan", plan.id, "--task", str(task)]) == 0
    assert status.main(["tiny", "noisy"]) == 0
    assert status.main(["tiny"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["tiny", "noisy", "2", "2", "0", "0", "0"] in rows
    assert MAIN(["--preset", "noisy", "--workers", "2"]) == 0  # finds that nothing is missing


def test_the_words_that_keep_a_list_may_ask_for_workers_at_once(capsys):
    assert MAIN([*NOISY, "--count", "--workers", "1"]) == 0
    assert MAIN(["--preset", "noisy"]) == 0
    assert MAIN([*NOISY, "--workers", "1"]) == 0
    assert "noisy is 2 cells" in capsys.readouterr().out


def test_the_same_cells_again_are_no_mistake_others_need_replace(noisy, capsys):
    before = noisy.read_bytes()
    assert MAIN([*NOISY, "--count"]) == 0
    assert noisy.read_bytes() == before
    other = ["--cell", "1", "--as", "noisy", "--count"]
    assert MAIN(other) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: noisy are 2 other cells of tiny already, kept by `python -m ")
    assert error.endswith("`: give another name, or --replace\n")
    assert error.count("\n") == 1
    assert noisy.read_bytes() == before
    assert MAIN([*other, "--replace"]) == 0
    assert EXPERIMENT.cells("noisy") == [EXPERIMENT.presets["smoke"][1]]
    noisy.write_text("torn")
    assert MAIN(other) == 2
    assert "noisy.json cannot be used (" in capsys.readouterr().err
    assert MAIN([*other, "--replace"]) == 0
    assert EXPERIMENT.cells("noisy") == [EXPERIMENT.presets["smoke"][1]]


MISTAKES = {
    "--as big": "--as big: that is a preset's name; give another",
    "--as small": "--as small: that is a preset's name; give another",  # a tier of others
    "--as paper": "that is a preset's name",
    "--as custom": "that is a preset's name",
    "--as Noisy": "--as 'Noisy': a name is a small letter, then up to 39 small letters, digits and",
    "--as ../runs": "a name is a small letter",
    "--as 4": "a name is a small letter",
    "--as a --as b": "--as is given twice, a and b: give it once",
    "--as": "expected one argument",
    "--as=": "--as '': a name is a small letter",
    "--cell 3-1 --as few": "--cell 3-1: the smaller number first, as --cell 1-3",
    "--replace": "--replace is for --as NAME: give both",
    "--preset nosy": "no preset 'nosy': did you mean 'noisy'?",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_keeps_nothing(words, noisy, capsys):
    assert MAIN([*words.split(), "--count"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert MISTAKES[words] in err
    assert [*noisy.parent.iterdir()] == [noisy]


def changed(content, path, value):
    *way, last = path
    for step in way:
        content = content[step]
    content[last] = value


STALE = {
    ("cells", 1, "config", "method", "type"): ("Powr", "cell 1: there is no class Powr: did you"),
    ("cells", 0, "config", "model", "sed"): (1, "cell 0: Model has no field 'sed': did you mean"),
    ("cells", 0, "config", "size"): (51, "cell 0: its fields mean another config now"),
    ("cells", 0, "key"): ("0" * 16, "cell 0: its fields mean another config now than when"),
    ("cells", 0, "config"): ({}, "a cell has no key or no config"),
    ("cells",): ([], "it has no cells, or not what they are of"),
    ("of",): (3, "it has no cells, or not what they are of"),
    ("of", "of another"): ("paper", "tiny has no preset 'paper'"),
    ("cells", "twice"): (None, "a cell is in it twice"),
}


@pytest.mark.parametrize("path", STALE)
def test_a_list_that_does_not_fit_the_code_is_one_line_with_the_cure(path, noisy, capsys):
    value, message = STALE[path]
    content = json.loads(noisy.read_text())
    if path == ("cells", "twice"):
        content["cells"] *= 2
    else:
        changed(content, path[:1] if path[-1] == "of another" else path, value)
    noisy.write_text(json.dumps(content))
    assert MAIN(["--preset", "noisy"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    assert f"by `--as noisy --replace`, or `rm {noisy}`" in err
    assert MAIN(["--count"]) == 0, "other presets need no list"
    assert status.main(["tiny"]) == 0
    assert message in capsys.readouterr().err


def test_a_preset_that_took_the_name_of_a_list_is_one_line(noisy, capsys):
    grown = replace(EXPERIMENT, presets={**EXPERIMENT.presets, "noisy": [Config()]})
    assert grown.main(["--preset", "noisy"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "noisy.json has the name of a preset of tiny: `mv` it to another name" in err


@dataclass(frozen=True)
class Shape:
    sides: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Rich:
    """Every kind of value that a config may have."""

    shape: Shape | None = None
    kind: type = Mean
    sides: tuple[tuple[int, float], ...] = ((1, 0.5),)
    names: tuple[str, ...] = ("a",)
    rate: float = 1
    batch: int = field(default=10, compare=False)
    counter: str = field(default="philox", init=False)
    bits: int = keys.later(32)


@pytest.mark.parametrize(
    "cell",
    [
        Rich(),
        Rich(Shape((3,)), Power, (), rate=0.5, bits=16),
        Rich(sides=((2, 1.5), (3, 2.5)), names=("b", "c"), batch=20),
    ],
)
def test_a_cell_comes_back_whole_with_what_its_key_leaves_out(cell):
    presets = {"smoke": [Rich(), Rich(kind=Power)]}
    lists.keep("rich", "one", presets, [cell], of="smoke", words=[])
    (again,) = lists.read("rich", "one", presets)
    assert again == cell
    assert again.batch == cell.batch
    assert repr(again) == repr(replace(cell, rate=float(cell.rate)))
    assert keys.key(again) == keys.key(cell)


def test_a_class_that_gained_a_field_without_a_default_is_one_line(store, capsys):
    lists.keep("rich", "one", {}, [Rich(Shape())], of="smoke", words=[])

    @dataclass(frozen=True)
    class Shape2:
        sides: tuple[int, ...]
        colour: str

    Shape2.__name__ = "Shape"
    presets = {"smoke": [replace(Rich(), shape=Shape2((1,), "red"))]}
    assert Experiment("rich", lambda *_: {}, presets).main(["--preset", "one"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Shape cannot be made of it" in err
    assert "colour" in err


def test_names_are_known_without_the_experiment(noisy):
    assert lists.kept("tiny") == ["noisy"]
    assert lists.kept("others") == []
    assert lists.everywhere() == ["noisy"]
    assert lists.of("tiny", "noisy") == "smoke"


def test_the_runs_of_a_preset_are_counted_once(store, capsys):
    assert MAIN(["--cell", "1", "3"]) == 0
    plan = store / "runs" / "tiny" / "presets" / "smoke.json"
    listed = json.loads(plan.read_text())
    plan.write_text(json.dumps([*listed, *listed]))
    with pytest.raises(UserError, match=f"entry {len(listed)} is there before"):
        runs.load("tiny", "smoke", partial=True)


@pytest.mark.parametrize(
    ("given", "said"), [("~no-such-user/results", "there is no such home folder"), (".", "")]
)
def test_any_folder_of_results_is_taken_or_refused_in_one_line(
    given, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETRACE_RESULTS", given)
    assert MAIN(["--cell", "0"]) == (2 if said else 0)
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
