"""Cells of the smoke presets hold what tests/analysis/synthetic/shapes.json says they do."""

import pytest

from experiments.laboratory import registry
from tests.analysis.synthetic import shapes
from tests.analysis.synthetic.shapes import KNOWN, hold

# Their cells take longer: their own tests hold smaller ones against the file.
SLOW = {
    "ground_truth",
    "lds_published",
    "mnli_retraining",
    "mnli_simulator",
    "mnli_speed",
    "wmt_retrieval",
}


def test_every_experiment_has_shapes():
    assert [name for name in registry.names() if not KNOWN.get(name)] == []


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(KNOWN) - SLOW))
def test_cells_of_each_kind_hold_what_the_file_says(name, smoke_runs, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(smoke_runs))
    experiment = registry.named(name)
    for number in [number for number, _ in KNOWN[name] if number is not None]:
        run = experiment.once(experiment.presets["smoke"][number])
        hold(name, run.metrics | run.arrays())


@pytest.mark.long
def test_an_experiment_without_runs_is_not_written_as_having_none(tmp_path, monkeypatch):
    file = tmp_path / "shapes.json"
    monkeypatch.setattr(shapes, "FILE", file)
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    monkeypatch.delitem(KNOWN, "housing")
    with pytest.raises(SystemExit, match=r"experiments.housing --preset smoke`$"):
        shapes.main()
    assert not file.exists()


@pytest.mark.long
def test_lines_about_experiments_that_have_not_run_stay(tmp_path, monkeypatch):
    file, committed = tmp_path / "shapes.json", shapes.FILE.read_text()
    monkeypatch.setattr(shapes, "FILE", file)
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    shapes.main()
    assert file.read_text() == committed
