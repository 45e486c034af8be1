"""W&B is a mirror: everything is sent once, nothing depends on it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.laboratory import process, progress, runs
from experiments.laboratory.tracking import command
from experiments.laboratory.tracking.mirror import Mirror
from experiments.laboratory.tracking.wandb_pages import WandB
from tests.experiments.laboratory.tiny import EXPERIMENT, Config
from tests.experiments.laboratory.tracking.fake_wandb import Page


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
        "key": loaded[0].key,
        "experiment": "tiny",
        "preset": "smoke",
    }
    assert given["name"] == "tiny smoke Mean seed 0"
    assert given["tags"] == ["tier:smoke"]
    assert pages[loaded[0].meta["parts"][0]["key"]].given["name"] == "tiny_model smoke seed 0"
    assert cells[0].logged["level"] == loaded[0].metrics["level"]
    assert cells[0].logged["tables/50_rows"][1] == ["score"]
    assert cells[0].summary["meta/seconds"] > 0
    for fact in ("device", "gpu", "precision", "deterministic"):
        assert cells[0].summary[f"meta/{fact}"] == loaded[0].meta[fact]
    assert len(summary.logged["runs"][2]) == 6
    assert all(page.code == 0 for page in wandb.pages)
    assert capsys.readouterr().err == ""


def test_a_replay_sends_what_is_missing_and_nothing_twice(wandb, offline, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    EXPERIMENT.main([])
    EXPERIMENT.main(["--cell", "0", "--model.seed", "77"])
    assert wandb.pages == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert command.main(["replay"]) == 0
    assert len(wandb.pages) == 6 + 3 + 1 + 2  # cells, models, summary; the custom run, its model
    assert "tiny/smoke: 6 runs, 10 pages sent to W&B (offline--retrace)" in capsys.readouterr().out
    assert command.main(["replay", "tiny"]) == 0
    EXPERIMENT.main([])
    assert len(wandb.pages) == 12
    monkeypatch.setenv("WANDB_PROJECT", "another place")
    assert command.main(["replay", "tiny"]) == 0
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
        assert command.main(["replay"]) == 0
        assert len(wandb.pages) == 11
        page = wandb.pages[-1]
        assert page.given["id"] == "tiny-smoke"
        assert page.logged["numbers/fig"][1:] == (
            ["method", "ours"],
            [["Mean", 0.5], ["Power", None]],
        )
        assert page.logged["figures/fig"][0][2] == "Levels: reproduced"
        assert "figures/other" not in page.logged
        assert page.summary == {"verdict/fig": "reproduced"}
    (folder / "fig.json").write_text(json.dumps(about | {"csv_sha256": "1"}))
    assert command.main(["replay"]) == 0
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
    Mirror("a", "smoke", WandB()).send(run.key)
    logged = wandb.pages[0].logged
    assert logged["tables/6_rows"][1:] == (["short", "flags"], [[i, i > 2] for i in range(6)])
    assert logged["histograms/long"] == ("histogram", 5_000)
    assert len(logged["images/top_images"]) == 30
    assert not any("matrix" in name for name in logged)


def test_a_mirror_that_breaks_ends_no_experiment_and_is_caught_up_later(wandb, offline, capsys):
    wandb.broken = ConnectionError("no\nroute")
    assert EXPERIMENT.main([]) == 0
    out, err = capsys.readouterr()
    assert "6 computed now" in out
    assert err.count("\n") == 1
    assert "ConnectionError: no route" in err
    assert "python -m experiments track replay tiny" in err
    wandb.broken = None
    assert command.main(["replay"]) == 0
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
    assert first.history == [{"training/epoch": 1, "training/loss": 0.5, "machine/hours": 0.5}]
    assert experiment.main(["--preset", "big", "--cell", "0"]) == 0
    _, again = wandb.pages
    assert again.given == first.given
    assert again.given["resume"] == "allow"
    assert again.history[0] == {"training/epoch": 2, "training/loss": 0.5, "machine/hours": 0.5}
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


def test_every_network_of_several_has_a_line_of_its_own_while_it_trains_and_after(wandb, offline):
    def train(_):
        progress.report(epoch=0.5, loss=np.array([1.0, 3.0]))
        return {"train_loss": np.array([[0.5, 0.25], [0.25, 0.75]]), "params": np.zeros((2, 5))}

    def run(config, _):
        return {"end": float(runs.once("model", config.model, train).array("train_loss")[-1, 0])}

    experiment = replace(EXPERIMENT, name="lines", run=run)
    assert experiment.main(["--preset", "big"]) == 0
    history = [line for page in wandb.pages for line in page.history]
    assert history[0].pop("machine/hours") == 0.5
    for epoch, mean, first, second in ((0.5, 2.0, 1.0, 3.0), (1, 0.375, 0.5, 0.25)):
        assert {
            "training/epoch": epoch,
            "training/loss": mean,
            "training/loss/0": first,
            "training/loss/1": second,
        } in history


def test_a_replay_of_what_is_not_there_names_the_nearest(offline, capsys):
    EXPERIMENT.main(["--cell", "0"])
    assert command.main(["replay", "tinny"]) == 2
    assert "did you mean 'tiny'?" in capsys.readouterr().err
