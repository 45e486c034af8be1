"""W&B is a mirror: everything is sent once, nothing depends on it."""

import json
import os
import struct
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments.laboratory import process, progress, runs, tracking
from tests.experiments.cluster.slurm_cluster import until
from tests.experiments.laboratory.tiny import EXPERIMENT, Config


class Page:
    """A run of W&B, as the mirror uses it."""

    def __init__(self, given: dict) -> None:
        self.given, self.logged, self.summary, self.code = given, {}, {}, None
        self.history, self.preempting = [], False

    def log(self, values: dict) -> None:
        assert self.code is None, "logged after the end"
        self.logged |= values
        self.history.append(values)

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("training/*", "training/epoch")

    def mark_preempting(self) -> None:
        self.preempting = True

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
    loaded = runs.load("tiny", "smoke")
    pages = {page.given["id"]: page for page in wandb.pages}
    models = {run.meta["parts"][0]["key"] for run in loaded}
    assert pages.keys() == {run.key for run in loaded} | models | {"tiny-smoke"}
    assert len(wandb.pages) == 6 + 3 + 1
    cells, summary = [pages[run.key] for run in loaded], pages["tiny-smoke"]
    given = cells[0].given
    assert given["group"] == "tiny/smoke"
    assert {page.given["job_type"] for page in cells} == {"score"}
    assert summary.given["job_type"] == "artifact"
    assert (given["resume"], given["mode"], given["project"]) == ("allow", "offline", "retrace")
    assert given["config"] == {
        "model": "Model",
        "model.seed": 0,
        "model.steps": 5,
        "method": "Mean",
        "method.weight": 1.0,
        "size": 50,
    }
    assert cells[0].logged["level"] == loaded[0].metrics["level"]
    assert cells[0].logged["tables/50_rows"][1] == ["score"]
    assert cells[0].summary["meta/seconds"] > 0
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
    assert len(wandb.pages) == 6 + 3 + 1 + 2  # cells, models, summary; the custom run, its model
    assert "tiny/smoke: 6 runs, 10 W&B runs sent offline" in capsys.readouterr().out
    assert tracking.main(["replay", "tiny"]) == 0
    EXPERIMENT.main([])
    assert len(wandb.pages) == 12
    monkeypatch.setenv("WANDB_PROJECT", "another place")
    assert tracking.main(["replay", "tiny"]) == 0
    assert len(wandb.pages) == 24


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
    (folder / "fig.csv").write_text("method,ours\nMean,0.5\nPower,\n")
    (folder / "other.json").write_text(json.dumps(about | {"numbers": {"experiment": "x"}}))
    (folder / "other.png").write_bytes(b"")
    for _ in range(2):
        assert tracking.main(["replay"]) == 0
        assert len(wandb.pages) == 11
        page = wandb.pages[-1]
        assert page.given["id"] == "tiny-smoke"
        assert page.logged["numbers/fig"][1:] == (
            ["method", "ours"],
            [["Mean", 0.5], ["Power", None]],
        )
        assert page.logged["figures/fig"][2] == "Levels: reproduced"
        assert "figures/other" not in page.logged
        assert page.summary == {"verdict/fig": "reproduced"}
    (folder / "fig.json").write_text(json.dumps(about | {"csv_sha256": "1"}))
    assert tracking.main(["replay"]) == 0
    assert len(wandb.pages) == 12


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
    assert logged["tables/6_rows"][1:] == (["short", "flags"], [[i, i > 2] for i in range(6)])
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
    EXPERIMENT.main(["--cell", "2"])
    assert [page.given["mode"] for page in wandb.pages] == ["online"] * 4


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
    assert "python -m experiments track replay tiny" in err
    wandb.broken = None
    assert tracking.main(["replay"]) == 0
    assert len(wandb.pages) == 6 + 3 + 1


@pytest.mark.parametrize("moment", ["init", "log", "finish"])
def test_a_mirror_may_break_at_any_moment(moment, wandb, offline, monkeypatch, capsys):
    def fail(*_, **__):
        raise ConnectionError("no route")

    if moment == "init":
        wandb.broken = ConnectionError("no route")
    else:
        monkeypatch.setattr(Page, moment, fail)
    assert EXPERIMENT.main([]) == 0
    out, err = capsys.readouterr()
    assert "6 computed now" in out
    assert err.count("no route") == err.count("\n") == 1
    assert not list(runs.results().glob("runs/*/tracked/*"))


def test_a_cell_is_shown_while_it_is_computed_and_resumed_on_the_same_page(wandb, offline):
    steps = []

    def run(config, folder):
        (page,) = wandb.pages[len(steps) :]
        assert page.given["settings"]["x_disable_stats"] is False
        progress.report(epoch=1 + len(steps), loss=0.5)
        (folder / "half").write_text("x")
        steps.append(1)
        if len(steps) == 1:
            raise process.Stopped
        return {"size": config.size}

    experiment = replace(EXPERIMENT, name="shown", run=run)
    assert experiment.main(["--preset", "big", "--cell", "0"]) == 130
    (first,) = wandb.pages
    assert first.preempting
    assert first.code == 1
    assert first.history == [{"training/epoch": 1, "training/loss": 0.5}]
    assert experiment.main(["--preset", "big", "--cell", "0"]) == 0
    _, again = wandb.pages
    assert again.given == first.given
    assert again.given["resume"] == "allow"
    assert again.history[0] == {"training/epoch": 2, "training/loss": 0.5}
    assert again.history[-1]["size"] == 100
    assert not again.preempting
    assert again.code == 0
    progress.report(epoch=3, loss=0.5)
    assert len(again.history) == 2, "nobody watches any more"


def test_a_trained_model_is_a_page_with_its_whole_curve(wandb, offline):
    def train(_):
        return {"train_loss": np.array([0.5, 0.25]), "params": np.zeros((2, 5))}

    def run(config, _):
        return {"end": float(runs.once("model", config.model, train).array("train_loss")[-1])}

    experiment = replace(EXPERIMENT, name="whole", run=run)
    assert experiment.main(["--preset", "big"]) == 0
    (page,) = [page for page in wandb.pages if page.given["job_type"] == "train"]
    assert page.given["id"] == runs.key(Config().model)
    assert page.given["settings"]["x_disable_stats"] is True
    assert page.history[:2] == [
        {"training/epoch": 1, "training/loss": 0.5},
        {"training/epoch": 2, "training/loss": 0.25},
    ]


def test_of_several_processes_of_a_cell_one_is_mirrored(wandb, offline, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert EXPERIMENT.main([]) == 0
    assert wandb.pages == []
    assert capsys.readouterr() == ("", "")


def test_a_replay_of_what_is_not_there_names_the_nearest(offline, capsys):
    EXPERIMENT.main(["--cell", "0"])
    assert tracking.main(["replay", "tinny"]) == 2
    assert "did you mean 'tiny'?" in capsys.readouterr().err


def records(path: Path) -> list[Any]:
    """Everything in a file of an offline run: blocks of 32 KiB of pieces with 7 bytes before."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, loaded = path.read_bytes(), []
    at, piece = 7, b""
    while at + 7 <= len(content):
        if (left := 32_768 - at % 32_768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        piece += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last of its pieces
            loaded.append(Record.FromString(piece))
            piece = b""
    return loaded


def read_back(folder: Path) -> dict[str, Any]:
    """The content of an offline run: the page, its config, its history, and kinds of records."""
    (path,) = folder.glob("run-*.wandb")
    # wandb writes its file in a process of its own, which ends a moment after the page.
    until(lambda: any(r.WhichOneof("record_type") == "exit" for r in records(path)), "it is whole")
    loaded: dict[str, Any] = {"config": {}, "history": [], "kinds": set()}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        loaded["kinds"].add(kind)
        if kind == "run":
            loaded["page"] = record.run
            loaded["config"] |= {
                item.key: json.loads(item.value_json) for item in record.run.config.update
            }
        elif kind == "history":
            items = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            loaded["history"].append(items)
    return loaded


@pytest.fixture
def real(wandb, offline, monkeypatch):
    """The real wandb, which measures the machine quickly."""
    monkeypatch.delitem(sys.modules, "wandb")
    quick = tracking.SETTINGS | {"x_stats_sampling_interval": 0.1}
    monkeypatch.setattr(tracking, "SETTINGS", quick)


def test_what_the_real_wandb_wrote_offline_is_the_whole_run(real, tmp_path):
    words = ["--preset", "slow", "--model.pause", "0.05"]
    assert EXPERIMENT.main(words) == 0
    (run,) = runs.load("tiny", "custom")
    model = run.meta["parts"][0]["key"]
    home = tmp_path / "results" / "wandb"
    (folder,) = home.glob(f"offline-run-*-{run.key}")
    loaded = read_back(folder)
    page = loaded["page"]
    assert (page.run_id, page.run_group, page.job_type) == (run.key, "tiny/custom", "score")
    assert page.project == "retrace"
    assert loaded["config"].items() >= {"model.steps": 12, "method": "Mean", "size": 50}.items()
    reported = [line for line in loaded["history"] if "training/loss" in line]
    assert [line["training/epoch"] for line in reported] == list(range(1, 13))
    assert loaded["history"][-1]["level"] == run.metrics["level"]
    assert {"stats", "summary", "exit"} <= loaded["kinds"]
    (table,) = folder.rglob("*.table.json")
    assert [row[0] for row in json.loads(table.read_text())["data"]] == run.array("score").tolist()
    (folder,) = home.glob(f"offline-run-*-{model}")
    assert "stats" not in read_back(folder)["kinds"], "it was only sent"


def test_the_real_wandb_without_its_server_ends_no_experiment(real, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setattr(tracking, "SETTINGS", tracking.SETTINGS | {"init_timeout": 3})
    assert EXPERIMENT.main([]) == 0
    out, err = capsys.readouterr()
    assert "6 computed now" in out
    assert err.count("W&B: off from here") == 1
    assert "python -m experiments track replay tiny" in err
