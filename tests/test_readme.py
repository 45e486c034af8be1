"""The README says what the results say, and its examples run as they stand."""

import importlib
import re
import sys

import pytest
import torch

import analysis
import experiments
import methods
from analysis import readme

ROOMS = {"methods": methods, "experiments": experiments, "analysis": analysis}
BLOCKS = re.findall(r"```python\n(.*?)```", readme.README.read_text(), re.DOTALL)
FILES = {
    name: block
    for block in BLOCKS
    if (found := re.match(r'"""([a-z]+/[a-z_]+\.py):', block))
    for name in found.groups()
}


def test_the_table_of_artifacts_is_current(monkeypatch):
    monkeypatch.delenv("RETRACE_RESULTS", raising=False)
    text = readme.README.read_text()
    assert readme.BEGIN in text, f"README.md has lost its marker: {readme.BEGIN.strip()}"
    assert readme.rewritten(text) == text, "run `python -m analysis.readme`"


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """The README's files, as if they were saved where their first lines say."""
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        room = path.parent.name
        monkeypatch.setattr(ROOMS[room], "__path__", [*ROOMS[room].__path__, str(path.parent)])
    yield
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py").replace("/", "."), None)


def test_an_added_method_experiment_and_figure_work_as_the_readme_has_them(saved, capsys):
    assert sorted(FILES) == [
        "analysis/same_label.py",
        "experiments/same_label.py",
        "methods/cosine.py",
    ]
    for text in FILES.values():
        assert sum(bool(line.strip()) for line in text.splitlines()) <= 30
    assert importlib.import_module("experiments.same_label").EXPERIMENT.main([]) == 0
    artifact = importlib.import_module("analysis.same_label").ARTIFACT
    assert artifact.main([]) == 0
    said = capsys.readouterr()
    assert "6 computed now" in said.out
    assert "same_label smoke: " in said.out
    assert not said.err.count("error")
    assert artifact.path("smoke", "png").stat().st_size > 5_000


def test_the_first_example_scores_someone_s_own_model():
    (block,) = (text for text in BLOCKS if "def nll" in text)
    torch.manual_seed(0)
    columns = {"image": torch.randn(12, 5), "label": torch.arange(12) % 3}
    found = {
        "model": torch.nn.Linear(5, 3),
        "train": columns,
        "candidates": columns,
        "query": columns,
    }
    exec(block.replace("num_eigen=50", "num_eigen=5"), found)
    assert found["scores"].shape == (12, 12)
    assert len(found["suspicious"]) == 12
