"""Records: the parts of runs that artifacts read, kept bit by bit where the runs are gone."""

import gzip
import json
import shutil

import numpy as np
import pytest

from experiments.laboratory import records, runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.store import main
from tests.experiments.laboratory.tiny import Config

CELLS = [Config(size=size) for size in (3, 4, 5)]
ARRAYS = {
    "score": np.linspace(0, 1, 7, dtype=np.float32).reshape(7, 1),
    "image": np.arange(12, dtype=np.uint8).reshape(3, 4).T,
    "words": np.array(["ab", "c"]),
    "empty": np.zeros((0, 3)),
    "number": np.array(2.5),
    "flags": np.array([True, False]),
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    runs.plan("walks", "small", CELLS)
    return tmp_path


def compute(config, **more):
    return runs.once("walks", config, lambda _: {"level": config.size / 3, **ARRAYS, **more})


def built(home, made, arrays=tuple(ARRAYS), tier="small"):
    """What the provenance of a built artifact says of the runs it was made from."""
    numbers = {
        "experiment": "walks",
        "runs": [run.key for run in made],
        "second": [],
        "arrays": {run.key: list(arrays) for run in made},
    }
    folder = home / "artifacts" / tier
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.json").write_text(json.dumps({"numbers": numbers}))


def test_a_recorded_run_is_the_run_bit_by_bit(home, capsys):
    made = [compute(cell) for cell in CELLS[:2]]
    wanted = [{name: np.array(array) for name, array in run.arrays().items()} for run in made]
    built(home, made)
    assert main(["record"]) == 0
    assert "walks.jsonl.gz: 2 runs, " in capsys.readouterr().out
    entries = runs.planned("walks", "small")
    shutil.rmtree(home / "runs")
    assert records.planned("walks", "small") == entries
    loaded = records.load("walks", "small")
    for run, before, arrays in zip(loaded, made, wanted, strict=True):
        assert (run.name, run.key, run.config) == (before.name, before.key, before.config)
        assert (run.metrics, run.meta) == (before.metrics, before.meta)
        for name, array in arrays.items():
            again = run.array(name)
            assert again.dtype == array.dtype
            np.testing.assert_array_equal(again, array, strict=True)


def test_a_record_has_what_artifacts_read_alone_and_says_where_the_rest_is(home):
    built(home, [compute(CELLS[0])], arrays=["score"])
    records.record()
    shutil.rmtree(home / "runs")
    (run,) = records.load("walks", "small")
    with pytest.raises(UserError, match=r"no array 'image' .* \(kept: score\): `python -m exper"):
        run.array("image")


def test_what_is_read_is_noted_while_it_is_read():
    run, other = compute(CELLS[0]), compute(CELLS[1])
    with runs.reading() as read:
        run.array("score"), run.array("image"), other.array("score")
    other.array("flags")
    assert read == {run.key: {"score", "image"}, other.key: {"score"}}


def test_runs_on_this_machine_go_before_recorded_ones_and_join_them(home):
    built(home, [compute(cell) for cell in CELLS[:2]])
    records.record()
    shutil.rmtree(home / "runs" / "walks" / runs.key(CELLS[0]))
    assert [type(run) for run in records.load("walks", "small")] == [records.Recorded, runs.Run]


def test_a_record_is_written_again_from_itself_with_the_same_bytes(home):
    built(home, [compute(cell) for cell in CELLS[:2]])
    records.record()
    before = records.path("walks", "small").read_bytes()
    shutil.rmtree(home / "runs")
    records.record(["walks"])
    assert records.path("walks", "small").read_bytes() == before


def test_runs_that_are_nowhere_are_counted_with_the_command_that_makes_them(home, capsys):
    made = [compute(cell) for cell in CELLS[:2]]
    built(home, made)
    shutil.rmtree(made[1].path)
    assert main(["record"]) == 2
    error = capsys.readouterr().err
    assert f"1 run of walks small that artifacts need ({made[1].key})" in error
    assert "`python -m experiments.walks --preset small`" in error
    assert not records.path("walks", "small").exists()


def test_what_was_built_at_smoke_or_by_former_code_is_not_recorded(home, capsys):
    built(home, [compute(CELLS[0])], tier="smoke")
    former = {"numbers": {"experiment": "walks", "runs": [runs.key(CELLS[0])]}}
    (home / "artifacts" / "small").mkdir()
    (home / "artifacts" / "small" / "former.json").write_text(json.dumps(former))
    assert main(["record"]) == 2
    assert "no artifact was built from runs here" in capsys.readouterr().err


def test_a_name_without_artifacts_is_answered_with_the_nearest(home, capsys):
    built(home, [compute(CELLS[0])])
    assert main(["record", "walk"]) == 2
    assert "walks" in capsys.readouterr().err


def test_a_record_too_large_for_git_is_refused_and_says_which_arrays_make_it_so(home, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8)
    built(home, [compute(CELLS[0], noise=noise)], arrays=["score", "noise"])
    monkeypatch.setattr(records, "LARGEST", 2_000)
    with pytest.raises(UserError, match=r"2,000 are allowed \(largest: noise [\d,]+, score"):
        records.record()


def changed(text, place):
    """The lines of a record with one part of one run changed."""
    first, *rest = (json.loads(line) for line in text.splitlines())
    if place == "array":
        first["arrays"]["score"] |= {"shape": [1, 7]}
    elif place == "metrics":
        first["metrics"]["level"] = 7.0
    elif place == "config":
        first["config"]["size"] = 9
    elif place == "meta":
        del first["meta"]["files"]
    else:
        first["arrays"]["score"]["xz"] = first["arrays"]["image"]["xz"]
    return "".join(json.dumps(line) + "\n" for line in (first, *rest))


@pytest.mark.parametrize("place", ["array", "metrics", "config", "meta", "swapped", "torn", "text"])
def test_a_changed_record_is_one_line_with_a_cure(home, place):
    built(home, [compute(CELLS[0])])
    records.record()
    file = records.path("walks", "small")
    content = file.read_bytes()
    if place == "torn":
        file.write_bytes(content[: len(content) // 2])
    elif place == "text":
        file.write_bytes(b"no gzip")
    else:
        file.write_bytes(gzip.compress(changed(gzip.decompress(content).decode(), place).encode()))
    shutil.rmtree(home / "runs")
    with pytest.raises(UserError, match=r"cannot be read .*: `git checkout -- .*` brings") as told:
        records.load("walks", "small")
    assert "\n" not in str(told.value)
