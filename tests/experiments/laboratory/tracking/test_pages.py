"""Pages have names that people read, tags to sort by, and lines that are not too many."""

import json
import sys

import numpy as np
import pytest

from experiments.laboratory import runs
from experiments.laboratory.tracking import lines as shown
from experiments.laboratory.tracking import pages
from tests.experiments.laboratory.tiny import EXPERIMENT


def described(**settings):
    return {"type": "Config", "model": {"type": "Model", "seed": 3}, **settings}


def test_a_title_has_experiment_tier_method_and_seed():
    config = described(method={"type": "TracIn"})
    assert pages.title("mnist_mislabel", "paper", config) == "mnist_mislabel paper TracIn seed 3"
    title = pages.title("mnist_mislabel", "paper", config, "TracIn[10]")
    assert title == "mnist_mislabel paper TracIn[10] seed 3"
    assert len(pages.title("x" * 300, "paper", config)) == pages.LONGEST


def test_settings_that_tell_cells_apart_are_in_the_title():
    runs.plan("tiny", "big", EXPERIMENT.presets["big"])
    config = runs.describe(EXPERIMENT.presets["big"][1])
    assert pages.title("tiny", "big", config) == "tiny big Mean size 200 seed 0"


def test_tags_are_the_tier_and_the_artifacts_and_papers_of_an_experiment(tmp_path):
    folder = tmp_path / "results" / "artifacts" / "smoke"
    folder.mkdir(parents=True)
    for name, paper in (("a_fig1", "Arnoldi (arXiv:1), Figure 1"), ("own", "no paper: a check")):
        about = {"paper": paper, "numbers": {"experiment": "tiny"}}
        (folder / f"{name}.json").write_text(json.dumps(about))
    (folder / "broken.json").write_text("{")
    page = pages.of_cell("tiny", "paper", "0" * 16, described())
    assert page.tags == ("tier:paper", "paper:Arnoldi", "artifact:a_fig1", "artifact:own")
    assert page.config["key"] == "0" * 16


def test_artifacts_of_the_repository_are_known_wherever_results_go():
    assert "arnoldi_table1" in pages.artifacts("mnist_mislabel")


def test_secrets_and_folders_are_in_no_part_of_a_page(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "abcdef123456")
    monkeypatch.setenv("RETRACE_DATA", "/srv/private/data")
    config = described(note="abcdef123456", place="/srv/private/data/x", method={"type": "A"})
    page = pages.of_cell("tiny", "abcdef123456", "0" * 16, config)
    assert "abcdef123456" not in page.title
    assert page.config["note"] == "***"
    assert page.config["place"] == "$RETRACE_DATA/x"


@pytest.mark.parametrize(("count", "drawn"), [(2, ["0", "1"]), (100, ["low", "high"])])
def test_of_many_networks_the_mean_and_a_band_are_drawn(count, drawn):
    values = np.linspace(0.0, 1.0, count)
    found = shown.lines({"epoch": 1, "loss": values})
    assert found.pop("training/epoch") == 1
    assert found.pop("training/loss") == pytest.approx(0.5)
    assert list(found) == [f"training/loss/{each}" for each in drawn]
    assert [*found.values()] == pytest.approx([0.0, 1.0] if count == 2 else [0.05, 0.95])


def test_a_machine_without_a_gpu_has_hours_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert REAL(shown.Machine()).keys() == {"machine/hours"}


REAL = shown.Machine.lines
