"""Scores with what they are of: saved, read, and gone on with after a stop."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from methods.errors import MethodError
from methods.fitted import kept, scoring
from methods.fitted.kept import Scores
from methods.fitted.scoring import Fitted
from methods.ihvp.cg import CG
from methods.influence import Influence
from methods.rows.gradients import Late
from methods.sources import Source
from methods.task import Task
from methods.tracin import TracIn
from tests.methods import networks

TRAIN, QUERY = networks.examples(40, 6), networks.examples(5, 6, seed=1)
TASK = Task.of(networks.built(networks.Mlp), networks.nll)
METHOD = TracIn(learning_rates=False)
FITTED = METHOD.fit(TASK, TRAIN)
MOMENTS = [(networks.built(networks.Mlp, seed).state_dict(), 0.1) for seed in (1, 2)]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "SHORT", 7)


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compute scores in a folder and be killed after some tiles."""

    def act(after: int, *arguments: Any, **options: Any) -> None:
        write, done = kept._write_place, []

        def count(*given: Any) -> None:
            write(*given)
            done.append(1)
            if len(done) == after:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(kept, "_write_place", count)
            with pytest.raises(KeyboardInterrupt):
                Scores.of(*arguments, **options)

    return act


def test_scores_are_those_of_the_fitted_method_and_are_read_as_they_were_saved(
    tmp_path: Path,
) -> None:
    whole = Scores.of(FITTED, QUERY, TRAIN)
    torch.testing.assert_close(whole.values, FITTED.scores(QUERY, TRAIN))
    assert whole.candidates.tolist() == list(range(40))
    numbers = torch.arange(100, 140)
    for side in ("proponents", "opponents"):
        some: Any = {"side": side, "query_numbers": [4, 3, 2, 1, 0], "candidate_numbers": numbers}
        best = Scores.of(FITTED, QUERY, TRAIN, 9, **some)
        values, places = getattr(FITTED, side)(QUERY, TRAIN, 9)
        assert torch.equal(best.values, values)
        assert torch.equal(best.candidates, places + 100)
        best.save(tmp_path / side)
        loaded = Scores.load(tmp_path / side)
        for name in ("values", "queries", "candidates"):
            assert torch.equal(getattr(loaded, name), getattr(best, name))
        assert loaded.about == best.about
        assert loaded.about["method"]["type"] == "TracIn"
        assert loaded.about["versions"]["torch"] == torch.__version__
        assert {path.suffix for path in (tmp_path / side).iterdir()} == {".npy", ".json"}


@pytest.mark.parametrize("k", [None, 9])
@pytest.mark.parametrize("name", ["one block", "blocks", "terms"])
def test_a_pass_that_was_stopped_goes_on_with_the_same_bits(
    name: str, k: int | None, stopped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = FITTED
    if name == "blocks":
        monkeypatch.setattr("methods.fitted.scoring.QUERY_BYTES", 8)
        monkeypatch.setattr(type(FITTED.addends[0]), "query_chunk", lambda *_: 2)  # type: ignore
    if name == "terms":
        task = replace_checkpoints()
        fitted = TracIn().fit(task, TRAIN)
        monkeypatch.setattr("methods.fitted.scoring.QUERIES", 2)
    whole = Scores.of(fitted, QUERY, TRAIN, k, folder=tmp_path / "whole")
    assert torch.equal(whole.values, Scores.of(fitted, QUERY, TRAIN, k).values)
    blocks = 1 if name == "one block" else 3
    for after in (1, 2, 6) if blocks == 1 else (3, 6, 7, 18):
        folder = tmp_path / str(after)
        stopped(after, fitted, QUERY, TRAIN, k, folder=folder)
        assert not folder.exists()
        seen = counted(monkeypatch, fitted, QUERY, TRAIN, k, folder)
        assert seen == 6 * blocks - after
        again = Scores.load(folder)
        assert torch.equal(again.values, whole.values)
        assert torch.equal(again.candidates, whole.candidates)
        assert not list(tmp_path.glob(".*"))


def replace_checkpoints() -> Task:
    return Task.of(networks.built(networks.Mlp), networks.nll, checkpoints=MOMENTS)


def counted(monkeypatch: pytest.MonkeyPatch, *given: Any) -> int:
    """How many tiles are computed."""
    *what, folder = given
    write, seen = kept._write_place, []

    def note(*given: Any) -> None:
        write(*given)
        seen.append(1)

    with monkeypatch.context() as patch:
        patch.setattr(kept, "_write_place", note)
        Scores.of(*what, folder=folder)
    return len(seen)


def test_what_is_complete_is_read_and_what_another_process_writes_is_left(
    stopped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kept"
    with (
        kept._alone(tmp_path / ".kept.unfinished", folder),
        pytest.raises(MethodError, match=r"another process is writing .*kept"),
    ):
        Scores.of(FITTED, QUERY, TRAIN, folder=folder)
    assert counted(monkeypatch, FITTED, QUERY, TRAIN, None, folder) == 6
    assert counted(monkeypatch, FITTED, QUERY, TRAIN, None, folder) == 0


OTHER = {**TRAIN, "x": TRAIN["x"] + torch.eye(40, 6) * 1e-12}


def shifted(model: Any, batch: Any) -> Any:
    return 2 * networks.nll(model, batch)


@pytest.mark.parametrize(
    ("fitted", "candidates", "k", "message"),
    [
        (lambda: FITTED, OTHER, None, "another data: other candidates"),
        (lambda: FITTED, TRAIN, 3, "another kept: k is None there and 3 here"),
        (lambda: METHOD.fit(moved(), TRAIN), TRAIN, None, "another model: other parameters"),
        (lambda: METHOD.fit(doubled(), TRAIN), TRAIN, None, "another loss, whose values differ"),
        (
            lambda: Influence(CG(), 4.0).fit(TASK, TRAIN),
            TRAIN,
            None,
            "another method: type is TracIn there and Influence here",
        ),
    ],
)
def test_scores_of_anything_else_are_refused_in_one_line(
    fitted: Any, candidates: Any, k: int | None, message: str, stopped: Any, tmp_path: Path
) -> None:
    Scores.of(FITTED, QUERY, TRAIN, folder=tmp_path / "whole")
    stopped(2, FITTED, QUERY, TRAIN, folder=tmp_path / "begun")
    for name in ("whole", "begun"):
        with pytest.raises(MethodError, match=message) as caught:
            Scores.of(fitted(), QUERY, candidates, k, folder=tmp_path / name)
        assert "\n" not in str(caught.value)


def moved() -> Task:
    params = {name: value + 1e-9 for name, value in TASK.params.items()}
    return replace(TASK, params=params)


def doubled() -> Task:
    return Task.of(networks.built(networks.Mlp), shifted)


def test_other_training_examples_of_a_method_that_reads_them_are_refused(tmp_path: Path) -> None:
    method = Influence(CG(), 4.0)
    Scores.of(method.fit(TASK, TRAIN), QUERY, TRAIN, folder=tmp_path / "kept")
    with pytest.raises(MethodError, match="another fit: other train"):
        Scores.of(method.fit(TASK, OTHER), QUERY, TRAIN, folder=tmp_path / "kept")


def test_rows_that_a_later_batch_shows_to_be_wrong_are_computed_again_after_a_stop_too(
    stopped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write, calls = tmp_path / "kept", kept._write_place, list[Any]()

    def late(path: Path, place: Any) -> None:
        write(path, place)
        calls.append(place)
        if len(calls) == 3:
            raise Late("a later batch")
        if len(calls) == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kept, "_write_place", late)
        with pytest.raises(KeyboardInterrupt):
            Scores.of(FITTED, QUERY, TRAIN, folder=folder)
    assert [(place.candidates, place.late) for place in calls] == [
        *((7, False), (14, False), (21, False)),
        *((0, True), (7, True), (14, True)),
    ]
    assert counted(monkeypatch, FITTED, QUERY, TRAIN, None, folder) == 6


def test_a_data_set_is_scored_and_told_from_another_like_columns(tmp_path: Path) -> None:
    rows = [{"x": TRAIN["x"][i], "y": TRAIN["y"][i]} for i in range(40)]
    of_rows = Scores.of(FITTED, QUERY, Source(rows), 4, folder=tmp_path / "kept")
    assert torch.equal(of_rows.values, Scores.of(FITTED, QUERY, TRAIN, 4).values)
    rows[39] = {**rows[39], "y": (rows[39]["y"] + 1) % 3}
    with pytest.raises(MethodError, match="other candidates"):
        Scores.of(FITTED, QUERY, Source(rows), 4, folder=tmp_path / "kept")


def test_damage_and_mistakes_are_one_line(
    stopped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(name: str | None = None, *k: int, method: Fitted = FITTED, **options: Any) -> Any:
        folder = None if name is None else tmp_path / name
        return Scores.of(method, QUERY, TRAIN, *k, folder=folder, **options)

    asked("kept")
    np.save(tmp_path / "kept" / "values.npy", np.zeros(3))
    refused("damaged set of scores", lambda: Scores.load(tmp_path / "kept"))
    refused("no set of scores in", lambda: Scores.load(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    refused("exists and has no scores", lambda: asked("empty"))
    stopped(2, FITTED, QUERY, TRAIN, folder=tmp_path / "cut")
    (tmp_path / ".cut.unfinished" / "place.npz").write_bytes(b"")
    refused(r"what was begun in .* is damaged", lambda: asked("cut"))
    refused("side is 'best'", lambda: asked(side="best"))
    refused("the 41 highest of 40", lambda: asked(None, 41))
    refused("query_numbers is a list of 2", lambda: asked(query_numbers=[1, 2]))
    bare = METHOD.fitted(TASK, {}, None)
    refused("was not made by `fit`", lambda: asked("bare", method=bare))
    assert asked(method=bare).about == {}
    monkeypatch.setattr(kept, "on_disk", lambda _: 10)
    refused("the values take .* are free in", lambda: asked("full"))


def test_another_version_of_torch_is_said_and_goes_on(tmp_path: Path, caplog: Any) -> None:
    Scores.of(FITTED, QUERY, TRAIN, folder=tmp_path / "kept")
    about = json.loads((tmp_path / "kept" / "scores.json").read_text())
    about["versions"]["torch"] = "1.0"
    (tmp_path / "kept" / "scores.json").write_text(json.dumps(about))
    Scores.of(FITTED, QUERY, TRAIN, folder=tmp_path / "kept")
    assert "begun with torch 1.0, and here is" in caplog.text


def refused(message: str, act: Any) -> None:
    with pytest.raises(MethodError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)
