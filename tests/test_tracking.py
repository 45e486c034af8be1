"""W&B is a mirror: everything is sent once, nothing depends on it."""

import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import runs, tracking
from tests.tiny import EXPERIMENT, Config


class Page:
    """A run of W&B, as the mirror uses it."""

    def __init__(self, given: dict) -> None:
        self.given, self.logged, self.summary, self.code = given, {}, {}, None

    def log(self, values: dict, step: int | None = None) -> None:
        self.logged |= values

    def finish(self, exit_code: int = 0) -> None:
        self.code = exit_code


class Fake(SimpleNamespace):
    """The part of wandb that the mirror uses."""

    def __init__(self) -> None:
        super().__init__(pages=[], broken=None)

    def init(self, **given) -> Page:
        if self.broken:
            raise self.broken
        self.pages.append(Page(given))
        return self.pages[-1]

    def Table(self, columns, data):
        for column in zip(*data, strict=True):
            assert len({type(value) for value in column if value is not None}) <= 1
        return ("table", columns, data)

    def Histogram(self, np_histogram):
        return ("histogram", int(np_histogram[0].sum()))

    def Image(self, what, caption=None):
        return ("image", what if isinstance(what, str) else what.shape, caption)


@pytest.fixture(autouse=True)
def wandb(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("os.fsync", lambda _: None)  # no machine dies in these tests
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


def test_an_experiment_is_mirrored_as_it_runs(wandb, offline, capsys):
    assert EXPERIMENT.main([]) == 0
    cells, summary = wandb.pages[:-1], wandb.pages[-1]
    found = runs.load("tiny", "smoke")
    assert [page.given["id"] for page in cells] == [run.key for run in found]
    given = cells[0].given
    assert given["group"] == "tiny/smoke"
    assert (given["resume"], given["mode"], given["project"]) == ("allow", "offline", "retrace")
    assert given["config"] == {
        "model": "Model",
        "model.seed": 0,
        "model.steps": 5,
        "method": "Mean",
        "method.weight": 1.0,
        "size": 50,
    }
    assert cells[0].logged["level"] == found[0].metrics["level"]
    assert cells[0].logged["tables/50_rows"][1] == ["score"]
    assert cells[0].summary["meta/seconds"] > 0
    assert summary.given["id"] == "tiny-smoke"
    assert len(summary.logged["runs"][2]) == 6
    assert all(page.code == 0 for page in wandb.pages)
    assert capsys.readouterr().err == ""


def test_a_replay_sends_what_is_missing_and_nothing_twice(wandb, offline, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    EXPERIMENT.main([])
    EXPERIMENT.main(["--model.seed", "77"])
    assert wandb.pages == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert tracking.main(["replay"]) == 0
    assert len(wandb.pages) == 6 + 1 + 1  # cells, their summary, the custom run
    assert "tiny/smoke: 6 runs, 7 pages sent offline" in capsys.readouterr().out
    assert tracking.main(["replay", "tiny"]) == 0
    EXPERIMENT.main([])
    assert len(wandb.pages) == 8
    monkeypatch.setenv("WANDB_PROJECT", "another place")
    assert tracking.main(["replay", "tiny"]) == 0
    assert len(wandb.pages) == 16


def test_figures_of_artifacts_are_sent_with_their_verdict_when_they_change(
    wandb, offline, tmp_path
):
    EXPERIMENT.main([])
    folder = tmp_path / "results" / "artifacts" / "smoke"
    folder.mkdir(parents=True)
    about = {
        "title": "Levels",
        "verdict": {"word": "reproduced"},
        "csv_sha256": "0",
        "numbers": {"experiment": "tiny"},
    }
    (folder / "fig.json").write_text(json.dumps(about))
    (folder / "fig.png").write_bytes(b"")
    (folder / "other.json").write_text(json.dumps(about | {"numbers": {"experiment": "x"}}))
    (folder / "other.png").write_bytes(b"")
    for _ in range(2):
        assert tracking.main(["replay"]) == 0
        assert len(wandb.pages) == 8
        page = wandb.pages[-1]
        assert page.given["id"] == "tiny-smoke"
        assert page.logged["figures/fig"][2] == "Levels: reproduced"
        assert "figures/other" not in page.logged
        assert page.summary == {"verdict/fig": "reproduced"}
    (folder / "fig.json").write_text(json.dumps(about | {"csv_sha256": "1"}))
    assert tracking.main(["replay"]) == 0
    assert len(wandb.pages) == 9


def test_arrays_become_tables_histograms_and_images(wandb, offline):
    def compute(_):
        return {
            "auc": 0.5,
            "short": np.arange(6),
            "flags": np.arange(6) > 2,
            "long": np.append(np.arange(5_000.0), np.nan),
            "top_images": np.zeros((40, 8, 8), np.uint8),
            "matrix": np.zeros((5, 5)),
        }

    run = runs.once("a", Config(), compute)
    tracking.Mirror("a", "smoke").send(run)
    logged = wandb.pages[0].logged
    assert logged["tables/6_rows"][1:] == (
        ["short", "flags"],
        [[i, i > 2] for i in range(6)],
    )
    assert logged["histograms/long"] == ("histogram", 5_000)
    assert len(logged["images/top_images"]) == 30
    assert not any("matrix" in name for name in logged)


OFF = {
    "": "no credentials",
    "online": "no credentials",
    "disabled": "WANDB_MODE is disabled",
    "ofline": "did you mean 'offline'?",
}


@pytest.mark.parametrize("mode", OFF)
def test_what_is_off_says_so_in_one_line(mode, wandb, monkeypatch, capsys):
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    assert EXPERIMENT.main(["--cell", "0"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("W&B: off, ")
    assert OFF[mode] in err
    assert err.count("\n") == 1
    assert tracking.main(["replay"]) == 2
    assert capsys.readouterr().err == err
    assert wandb.pages == []


def test_credentials_turn_it_on(wandb, monkeypatch, tmp_path):
    EXPERIMENT.main(["--cell", "0"])
    (tmp_path / "netrc").write_text("machine elsewhere login user password x\n")
    EXPERIMENT.main(["--cell", "0"])
    assert wandb.pages == []
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    EXPERIMENT.main(["--cell", "0"])
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    EXPERIMENT.main(["--cell", "1"])
    assert [page.given["mode"] for page in wandb.pages] == ["online", "online"]


def test_without_wandb_an_experiment_runs_and_says_so(monkeypatch, offline, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert EXPERIMENT.main([]) == 0
    assert "W&B: off, wandb is not installed" in capsys.readouterr().err


def test_a_mirror_that_breaks_ends_no_experiment_and_is_caught_up_later(wandb, offline, capsys):
    wandb.broken = ConnectionError("no\nroute")
    assert EXPERIMENT.main([]) == 0
    out, err = capsys.readouterr()
    assert "6 computed now" in out
    assert err.count("\n") == 1
    assert "ConnectionError: no route" in err
    assert "python -m experiments.tracking replay tiny" in err
    wandb.broken = None
    assert tracking.main(["replay"]) == 0
    assert len(wandb.pages) == 7


def test_a_replay_of_what_is_not_there_names_the_nearest(offline, capsys):
    EXPERIMENT.main(["--cell", "0"])
    assert tracking.main(["replay", "tinny"]) == 2
    assert "did you mean 'tiny'?" in capsys.readouterr().err


def test_the_real_wandb_takes_what_is_sent(wandb, offline, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "wandb")
    assert EXPERIMENT.main(["--preset", "big", "--cell", "0"]) == 0
    (run,) = runs.load("tiny", "big", partial=True)
    (folder,) = (tmp_path / "results" / "wandb").glob(f"offline-run-*-{run.key}")
    assert (folder / f"run-{run.key}.wandb").stat().st_size > 0
    assert list(folder.rglob("*.table.json"))
