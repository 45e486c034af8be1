"""Cells of the smoke presets hold what tests/analysis/synthetic/shapes.json says they do."""

import pytest

from experiments.laboratory import registry, runs
from experiments.laboratory.keys import key
from experiments.laboratory.work import Work
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
@pytest.mark.parametrize("name", sorted(set(KNOWN) - SLOW))
def test_what_a_cell_is_said_to_need_is_what_it_makes(name, smoke_runs, monkeypatch):
    """Stages are made of what `work` declares: it may name nothing more, and nothing less."""
    monkeypatch.setenv("RETRACE_RESULTS", str(smoke_runs))
    experiment = registry.named(name)
    numbers = [number for number, _ in KNOWN[name] if number is not None]
    cells = [experiment.presets["smoke"][number] for number in numbers]
    for cell, work in zip(cells, experiment.works("smoke", cells), strict=True):
        assert made(experiment.once(cell)) == declared(work)


def made(run: runs.Run) -> set[tuple[str, str]]:
    """Names and keys of the runs that a run was made of, and that those were made of."""
    parts = {(part["name"], part["key"]) for part in run.meta["parts"]}
    return parts.union(*(made(runs.Run.at(runs.results() / "runs" / n / k)) for n, k in parts))


def declared(work: Work) -> set[tuple[str, str]]:
    own = {(part.name, key(part.config)) for part in work.parts if part.config is not None}
    return own.union(*(declared(part) for part in work.parts))


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
