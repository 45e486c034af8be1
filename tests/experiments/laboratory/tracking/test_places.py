"""CSV files and TensorBoard show what W&B does."""

import csv
import json
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from experiments.laboratory import process, progress, runs
from experiments.laboratory.tracking import command, csv_files
from experiments.laboratory.tracking.mirror import Mirror
from tests.experiments.laboratory.tiny import EXPERIMENT, Config


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_cell_is_plain_files_in_a_folder_of_its_own(wandb, capsys):
    assert EXPERIMENT.main(["--preset", "slow", "--track", "csv", "--cell", "0"]) == 0
    (run,) = runs.load("tiny", "slow", partial=True)
    folder = csv_files.folder("tiny", run.key)
    about = json.loads((folder / "page.json").read_text())
    assert about["title"] == "tiny slow Mean seed 0"
    assert about["config"]["key"] == run.key
    assert about["numbers"] == run.metrics
    assert about["ended"] == "finished"
    lines = table(folder / "lines.csv")
    assert [line["training/epoch"] for line in lines] == [str(epoch) for epoch in range(1, 13)]
    shown = [float(row["score"]) for row in table(folder / "tables" / "50_rows.csv")]
    assert shown == run.array("score").tolist()
    assert wandb.pages == []
    assert capsys.readouterr().err == ""


def test_a_cell_that_was_stopped_goes_on_in_the_same_file_with_new_columns(monkeypatch):
    monkeypatch.setenv("RETRACE_TRACK", "csv")
    values = iter([{"loss": 0.5}, {"loss": 0.25, "lr": 0.1}])

    def run(config, folder):
        value = next(values)
        progress.report(epoch=1, **value)
        if "lr" not in value:
            raise process.Stopped
        return {"size": config.size, "long": np.arange(5_000.0)}

    experiment = replace(EXPERIMENT, name="again", run=run)
    assert experiment.main(["--preset", "big", "--cell", "0"]) == 130
    (folder,) = (runs.results() / "track" / "again").iterdir()
    assert json.loads((folder / "page.json").read_text())["ended"] == "preempted"
    assert experiment.main(["--preset", "big", "--cell", "0"]) == 0
    lines = table(folder / "lines.csv")
    assert [line["training/loss"] for line in lines] == ["0.5", "0.25"]
    assert [line["training/lr"] for line in lines] == ["", "0.1"]
    assert sum(int(row["count"]) for row in table(folder / "histograms" / "long.csv")) == 5_000


def test_pages_whose_folder_was_lost_are_sent_again(capsys):
    EXPERIMENT.main(["--track", "csv"])
    (run, *_) = runs.load("tiny", "smoke")
    folder = csv_files.folder("tiny", run.key)
    (folder / "page.json").unlink()
    words = ["replay", "tiny", "--track", "csv"]
    for more, sent in (([], 0), (["--lost"], 1), (["--lost"], 0), (["--again"], 10)):
        capsys.readouterr()
        assert command.main(words + more) == 0
        assert f"6 runs, {sent} pages sent to CSV" in capsys.readouterr().out
    assert (folder / "page.json").is_file()


made: list["Writer"] = []


class Writer:
    """The part of a SummaryWriter that pages are written with."""

    def __init__(self, log_dir):
        self.folder, self.scalars, self.texts, self.images, self.closed = log_dir, [], {}, [], False
        made.append(self)

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def add_text(self, name, text):
        self.texts[name] = text

    def add_histogram(self, name, values, step, bins):
        self.texts[name] = f"{len(values)} values"

    def add_image(self, name, pixels, dataformats):
        assert dataformats == "HWC"
        self.images.append(pixels.shape)

    def close(self):
        self.closed = True


@pytest.fixture
def tensorboard(monkeypatch):
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    made.clear()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setenv("RETRACE_TRACK", "tensorboard")
    return made


def test_tensorboard_has_lines_over_steps_and_what_a_person_can_look_at(tensorboard):
    def run(config, folder):
        progress.report(epoch=0.5, step=7, loss=0.5)
        return {
            "auc": 0.25, "method": "TracIn[10]", "long": np.arange(5_000.0),
            "short": np.arange(3), "top_images": np.zeros((2, 8, 8), np.uint8),
        }  # fmt: skip

    assert replace(EXPERIMENT, name="shown", run=run).main(["--preset", "big", "--cell", "0"]) == 0
    (page,) = tensorboard
    assert ("training/loss", 0.5, 7) in page.scalars
    assert ("auc", 0.25, 7) in page.scalars
    assert page.images == [(8, 8, 1)] * 2
    assert page.texts["histograms/long"] == "5000 values"
    assert page.texts["tables/3_rows"].splitlines()[0] == "| short |"
    assert "TracIn[10]" in page.texts["summary"]
    assert page.closed
    assert "shown_big_Mean_size_100_seed_0" in page.folder


def test_without_tensorboard_an_experiment_runs_and_says_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert EXPERIMENT.main(["--cell", "0", "--track", "tensorboard"]) == 0
    err = capsys.readouterr().err
    assert err == "TensorBoard: off, it is not installed: `pip install tensorboard`\n"


def test_several_trackers_are_told_and_one_that_fails_stops_no_other(wandb, offline, capsys):
    wandb.broken = ConnectionError("no route")
    assert EXPERIMENT.main(["--cell", "0", "--track", "csv,wandb"]) == 0
    assert capsys.readouterr().err.count("no route") == 1
    assert len(list((runs.results() / "track").glob("tiny*/*/page.json"))) == 2


@pytest.mark.parametrize("word", ["none", "csw"])
def test_none_is_asked_for_or_the_nearest_is_named(word, capsys):
    assert EXPERIMENT.main(["--cell", "0", "--track", word]) == (0 if word == "none" else 2)
    err = capsys.readouterr().err
    assert err == ("" if word == "none" else "error: --track csw: did you mean 'csv'?\n")


def test_a_disk_that_refuses_is_said_once_and_the_cell_is_kept(monkeypatch, capsys):
    monkeypatch.setattr(csv_files.disk, "write_file", full)
    mirror = Mirror("tiny", "smoke", csv_files.CsvFiles())
    mirror.watch(runs.key(Config()), runs.describe(Config()))
    mirror.log({"training/loss": 1.0})
    assert capsys.readouterr().err.startswith("CSV: off from here, OSError: ")


def full(*_):
    raise OSError(28, "No space left on device")
