"""A run exists if and only if it is complete, and is found by the whole of its config."""

import hashlib
import json
import os
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path

import numpy as np
import pytest

from experiments.laboratory import provenance, runs
from experiments.laboratory.keys import later
from experiments.laboratory.runs import MissingRuns, UserError
from tests.experiments.laboratory.tiny import Config, Mean, Model, Power

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    return tmp_path / "runs"


def outcome(_: Path) -> runs.Outcome:
    return {
        "auc": 0.5,
        "n": 3,
        "good": True,
        "method": "Mean",
        "score": np.arange(6.0).reshape(2, 3),
        "turned": np.arange(6).reshape(2, 3).T,
        "none": np.zeros((0, 4), np.float32),
    }


def test_a_run_is_computed_once_and_read_back_exactly():
    calls = []

    def compute(folder: Path) -> runs.Outcome:
        calls.append(folder)
        return outcome(folder)

    first, second = runs.once("a", Config(), compute), runs.once("a", Config(), compute)
    assert len(calls) == 1
    assert first == second
    assert second.metrics == {"auc": 0.5, "n": 3, "good": True, "method": "Mean"}
    for name, array in second.arrays().items():
        wanted = outcome(Path())[name]
        assert array.dtype == wanted.dtype
        np.testing.assert_array_equal(array, wanted)
    assert not second.array("score").flags.writeable
    assert runs.find("a", Config()) == first
    assert runs.find("a", Config(size=7)) is None
    first.verify()


@pytest.mark.parametrize(("returned", "in_words"), [(None, "None"), ([0.5], "a list")])
def test_a_run_that_returns_no_dict_is_told_what_to_return(returned, in_words, store):
    with pytest.raises(UserError, match=f"run of a returned {in_words}: return a dict of metrics"):
        runs.once("a", Config(), lambda _: returned)
    assert not [path for path in (store / "a").iterdir() if not path.name.startswith(".")]


def test_nothing_but_the_run_is_left_in_the_store(store):
    run = runs.once("a", Config(), outcome)
    assert [path.name for path in (store / "a").iterdir()] == [run.key]


@dataclass(frozen=True)
class Early:
    """A config as it was when its first runs were made."""

    lr: float = 0.1


def test_a_field_added_later_leaves_the_keys_of_earlier_runs_and_makes_new_ones():
    early = Early()
    now = make_dataclass(
        "Early",
        [("lr", float, 0.1), ("precision", str, later("float32")), ("parts", tuple, later((1, 2)))],
        frozen=True,
    )
    assert runs.key(now()) == runs.key(early)
    assert runs.key(now(precision="float32", parts=(1, 2))) == runs.key(early)
    assert runs.key(now(lr=0.2)) == runs.key(Early(0.2))
    described = runs.describe(now(precision="bf16"))
    assert described == {"type": "Early", "lr": 0.1, "precision": "bf16"}
    keys = {runs.key(now(**c)) for c in ({}, {"precision": "bf16"}, {"parts": (1,)})}
    assert len(keys) == 3
    finer = make_dataclass("Finer", [("steps", int, 3)], bases=(now,), frozen=True)
    assert finer(0.2, 5).steps == 5  # what comes by position stays where it was
    assert "precision" not in runs.describe(finer(0.2, 5))


def test_every_field_of_the_config_is_in_the_key_but_those_that_change_no_number():
    one = Config(Model(seed=1), Power(exponent=3.0))
    assert runs.describe(one) == {
        "type": "Config",
        "model": {"type": "Model", "seed": 1, "steps": 5},
        "method": {"type": "Power", "exponent": 3.0, "centred": True},
        "size": 50,
    }
    others = [Config(Model(seed=2), one.method), Config(one.model, Mean(3.0)), Config(one.model)]
    assert len({runs.key(config) for config in [one, *others]}) == 4
    assert runs.key(Config(Model(remark="again"))) == runs.key(Config())
    assert len(runs.key(one)) == 16
    assert runs.key(Mean(1)) == runs.key(Mean(1.0))
    assert runs.key(Mean(np.float64(0.1))) == runs.key(Mean(0.1)) != runs.key(Mean(0.1 + 1e-16))


def test_the_key_of_a_config_stays_the_same_from_version_to_version():
    """Results on disk are found by it: if this fails, every stored run is lost."""
    written = (
        '{"method":{"centred":true,"exponent":3.0,"type":"Power"},'
        '"model":{"seed":1,"steps":5,"type":"Model"},"size":50,"type":"Config"}'
    )
    wanted = hashlib.sha256(written.encode()).hexdigest()[:16]
    assert runs.key(Config(Model(seed=1), Power(exponent=3.0))) == wanted


@dataclass(frozen=True)
class Odd:
    value: object = field(default=None)


@pytest.mark.parametrize("value", [len, lambda: 1, {1: 2}, {1, 2}, float("nan"), object(), b"x"])
def test_what_cannot_be_described_exactly_is_refused_by_name(value):
    with pytest.raises(TypeError, match=r"Odd\.value"):
        runs.key(Odd(value))
    with pytest.raises(UserError, match=r"Odd\.value"):
        runs.key(Odd(value))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_a_metric_that_is_not_finite_is_refused_and_named(store, value):
    with pytest.raises(UserError, match=r"metric 'auc' is (nan|inf)"):
        runs.once("a", Config(), lambda _: {"auc": value})
    assert runs.find("a", Config()) is None
    assert not list(store.rglob("*.json"))
    assert runs.once("a", Config(), outcome).metrics["auc"] == 0.5


@pytest.mark.parametrize("value", [[1.0], None, np.array([object()]), {"a": 1}])
def test_a_result_that_is_neither_number_nor_array_is_refused(value):
    with pytest.raises(UserError, match="'auc'"):
        runs.once("a", Config(), lambda _: {"auc": value})


def test_a_result_cannot_name_a_file_elsewhere():
    with pytest.raises(UserError, match="cannot name a file"):
        runs.once("a", Config(), lambda _: {"../score": np.zeros(3)})


def test_a_run_tells_where_it_comes_from():
    def compute(_: Path) -> runs.Outcome:
        part = runs.once(
            "part", Model(), lambda _: (runs.note("data", {"f": "md5 0"}), {"a": 1})[1]
        )
        return {"b": part.metrics["a"]}

    runs.once("part", Model(), lambda _: (runs.note("data", {"f": "md5 0"}), {"a": 1})[1])
    meta = runs.once("whole", Config(), compute).meta
    assert meta["data"] == {"f": "md5 0"}  # the part was there already, yet its data counts
    assert meta["parts"] == [{"name": "part", "key": runs.key(Model())}]
    assert meta["versions"]["numpy"] == np.__version__
    assert meta["seconds"] > 0
    assert meta["peak_memory_bytes"] > 1e6
    assert {"commit", "dirty", "device", "slurm", "argv", "resumed", "arrays"} <= meta.keys()
    assert str(REPOSITORY) not in json.dumps(meta)


def test_data_kept_in_memory_is_noted_by_every_run_that_uses_it():
    read = []

    @provenance.remembered
    def load(name: str) -> str:
        read.append(name)
        runs.note("data", {name: "md5 0"})
        return name.upper()

    def compute(_: Path) -> runs.Outcome:
        return {"a": len(load("digits"))}

    for seed in range(2):
        assert runs.once("user", Model(seed), compute).meta["data"] == {"digits": "md5 0"}
    assert load("others") == "OTHERS"
    assert load("digits") == "DIGITS"
    assert read == ["digits", "others", "digits"], "only the last is kept"


def test_notes_outside_a_run_are_no_error():
    provenance.note("data", {"f": 1})


BREAKS = {
    "no meta": lambda path: (path / "meta.json").unlink(),
    "no metrics": lambda path: (path / "metrics.json").unlink(),
    "no array": lambda path: (path / "arrays" / "score.npy").unlink(),
    "bad json": lambda path: (path / "meta.json").write_text("{"),
    "other json": lambda path: (path / "meta.json").write_text("[]"),
    "metrics changed": lambda path: (path / "metrics.json").write_text('{"auc": 1.0}'),
    "truncated array": lambda path: os.truncate(path / "arrays" / "score.npy", 150),
    "empty folder": lambda path: [p.unlink() for p in path.rglob("*") if p.is_file()],
}


@pytest.mark.parametrize("fault", BREAKS)
def test_a_corrupt_run_is_named_with_the_command_that_removes_it(fault):
    runs.plan("a", "smoke", [Config()])
    path = runs.once("a", Config(), outcome).path
    BREAKS[fault](path)
    for read in (
        lambda: runs.once("a", Config(), outcome),
        lambda: runs.load("a", "smoke"),
        lambda: runs.find("a", Config()),
    ):
        with pytest.raises(UserError, match="corrupt run") as caught:
            read()
        assert f"`rm -r {path}`; the command that made it then makes it again" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_changed_byte_is_found_on_demand():
    run = runs.once("a", Config(), outcome)
    content = bytearray((run.path / "arrays" / "score.npy").read_bytes())
    content[-1] ^= 1
    (run.path / "arrays" / "score.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"score\.npy was changed"):
        run.verify()


def test_an_array_that_is_not_there_names_those_that_are():
    with pytest.raises(UserError, match="'scores': it has score, turned, none"):
        runs.once("a", Config(), outcome).array("scores")


def test_a_preset_is_read_in_its_order_without_the_experiment():
    cells = [Config(size=size) for size in (3, 1, 2)]
    runs.plan("a", "small", cells)
    for cell in reversed(cells):
        runs.once("a", cell, outcome)
    assert [run.config["size"] for run in runs.load("a", "small")] == [3, 1, 2]
    entry = runs.planned("a", "small")[0]
    assert entry["key"] == runs.key(cells[0])
    assert entry["config"] == runs.describe(cells[0])
    assert entry["parts"] == {"model": runs.key(Model()), "method": runs.key(Mean())}


def test_missing_runs_print_the_command_that_makes_them():
    with pytest.raises(MissingRuns, match=r"`python -m experiments.a --preset small`"):
        runs.load("a", "small")
    assert runs.load("a", "small", partial=True) == []
    runs.plan("a", "small", [Config(), Config(size=1)])
    run = runs.once("a", Config(), outcome)
    with pytest.raises(MissingRuns, match=r"1 of 2 runs.*--preset small"):
        runs.load("a", "small")
    assert runs.load("a", "small", partial=True) == [run]


def test_a_broken_list_of_runs_says_how_to_write_it_again(store):
    runs.plan("a", "small", [Config()])
    (store / "a" / "presets" / "small.json").write_text("[{")
    with pytest.raises(UserError, match=r"cannot be read.*--preset small"):
        runs.load("a", "small")
