"""W&B's Artifacts say what was made from what, and have files up to a size."""

from pathlib import Path

import numpy as np
import pytest

from experiments.laboratory import provenance, runs
from experiments.laboratory.tracking import command, sources, wandb_server
from experiments.laboratory.tracking.mirror import Mirror
from experiments.laboratory.tracking.wandb_pages import WandB
from tests.experiments.laboratory.tiny import EXPERIMENT, Config, Model


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb_server, "answers", lambda server: True)


def chain():
    """A cell that is made of a model that is made of data."""

    def train(_):
        provenance.note("data", {"MNIST/raw/train images": "md5 0"})
        return {"train_loss": np.ones(3), "params": np.zeros((2, 1000))}

    def compute(_):
        return {"end": float(runs.once("model", Model(), train).array("train_loss")[-1])}

    return runs.once("cell", Config(), compute)


def test_a_table_leads_back_to_runs_models_and_data(wandb, online, monkeypatch):
    monkeypatch.setenv("RETRACE_TRACK_FILES", "200MB")
    run = chain()
    Mirror("cell", "smoke", WandB()).send(run.key)
    model, cell = wandb.pages
    data = "data-MNIST_raw_train_images"
    assert [(one.name, one.type) for one in model.used] == [(data, "dataset")]
    (weights,) = model.made
    assert weights.type == "model"
    assert sorted(weights.files) == ["facts.json", "params.npy", "train_loss.npy"]
    assert Path(weights.files["params.npy"]).is_file()
    (made,) = cell.made
    assert made.type == "run"
    assert [one.name for one in cell.used] == [data, weights.name]
    assert cell.used[1].files == weights.files, "the same content is the same version"
    assert made.metadata["made_from"] == [data, weights.name]
    assert made.metadata["key"] == run.key


def test_files_above_the_size_stay_here_and_without_a_size_nothing_is_sent(
    wandb, online, monkeypatch
):
    run = chain()
    Mirror("cell", "smoke", WandB()).send(run.key)
    assert not [page for page in wandb.pages if page.made or page.used]
    monkeypatch.setenv("RETRACE_TRACK_FILES", "1kB")
    Mirror("cell", "smoke", WandB(), "always").send(run.key)
    model, _ = wandb.pages[2:]
    assert list(model.made[0].files) == ["facts.json"]
    assert len(model.made[0].metadata["arrays"]["params"]) == 64, "its checksum"


def test_offline_the_lineage_is_in_the_metadata_alone(wandb, offline, monkeypatch):
    monkeypatch.setenv("RETRACE_TRACK_FILES", "1MB")
    Mirror("cell", "smoke", WandB()).send(chain().key)
    assert not [page for page in wandb.pages if page.used]
    assert len(wandb.pages[1].made[0].metadata["made_from"]) == 2


def test_a_table_is_made_of_the_runs_of_its_preset(wandb, online, monkeypatch, tmp_path):
    monkeypatch.setenv("RETRACE_TRACK_FILES", "1MB")
    folder = tmp_path / "results" / "artifacts" / "smoke"
    folder.mkdir(parents=True)
    (folder / "fig.png").write_bytes(b"")
    (folder / "fig.json").write_text(
        '{"title": "T", "verdict": {"word": "open"}, "csv_sha256": "0",'
        ' "numbers": {"experiment": "tiny"}}'
    )
    EXPERIMENT.main([])
    page = wandb.pages[-1]
    assert [(one.name, one.type) for one in page.made] == [("fig-smoke", "table")]
    keys = {run.key for run in runs.load("tiny", "smoke")}
    assert {one.name.removeprefix("tiny-") for one in page.used} == keys


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("200MB", 200_000_000), ("2 GB", 2 * 10**9)])
def test_sizes_are_written_with_their_unit(text, size):
    assert sources.size(text) == size


def test_a_size_that_is_none_is_one_line(capsys):
    assert command.main(["replay", "--track-files", "much"]) == 2
    assert "RETRACE_TRACK_FILES is 'much': give a size as 200MB" in capsys.readouterr().err
