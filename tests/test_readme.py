"""The README says what the results say, and its examples run as they stand."""

import importlib
import re
import sys

import pytest
import torch
import torchvision

import analysis
import experiments
import methods
from analysis.numbers.table import from_csv
from analysis.page import docs
from methods import TracIn
from methods.ihvp.arnoldi import Krylov

ROOMS = {"methods": methods, "experiments": experiments, "analysis": analysis}
BLOCKS = re.findall(r"```python\n(.*?)```", docs.README.read_text(), re.DOTALL)
FILES = {
    name: block
    for block in BLOCKS
    if (found := re.match(r'"""([a-z]+/[a-z_]+\.py):', block))
    for name in found.groups()
}


def test_the_table_of_artifacts_is_current(monkeypatch):
    monkeypatch.delenv("RETRACE_RESULTS", raising=False)
    text = docs.README.read_text()
    assert docs.BEGIN in text, f"README.md has lost its marker: {docs.BEGIN.strip()}"
    assert docs.rewritten(text) == text, "run `python -m analysis.readme`"


PROSE = {  # what the README says: where it is from, and that number in its form
    "a stack of 64 trains {:.1f} times as many small MLPs": (
        "small/speed_ensembles", "MLP, one CPU thread",
        "best stack, models an hour over one after another",
    ),
    "of small CNNs {:.1f} times as many": (
        "small/speed_ensembles", "CNN, one CPU thread",
        "best stack, models an hour over one after another",
    ),
    "is {:.0f} times faster than the original on one process": (
        "small/fastif_table1", "kNN 1,000, fast s_test, 1 process", "speed-up",
    ),
    "{:.0f} times on two": (
        "small/fastif_table1", "kNN 1,000, fast s_test, 2 processes", "speed-up",
    ),
    "({:.0f} BLEU on captions)": ("small/arnoldi_table2", "Model", "BLEU, multi30k test"),
    "the last one finds more (AP {:.0f}": ("small/arnoldi_table2", "TracIn, last", "AP"),
    "against {:.0f}). The plain loss": ("small/arnoldi_table2", "TracIn", "AP"),
    "beats every method (AP {:.0f}": ("small/arnoldi_table2", "Loss", "AP"),
    "({:.0f}% against": ("small/arnoldi_table3", "Arnoldi 10%", "noise in what is kept"),
    "against {:.0f}% in a tenth": ("small/arnoldi_table3", "RandProj 10%", "noise in what is kept"),
    "The plain loss keeps {:.0f}%": ("small/arnoldi_table3", "Loss 10%", "noise in what is kept"),
    "({:.1f} BLEU, -0.5 to 0.8)": (
        "small/arnoldi_table3", "Arnoldi 75%, clean pool − None 100%, clean pool", "BLEU, late",
    ),
    "as p to the power {:.2f} within": (
        "small/arnoldi_fig3", "vision Transformers", "p, exponent in the run time",
    ),
    "costs {:.2f} plain passes": ("small/speed_translation", "Arnoldi or RandProj 10", "cost"),
}  # fmt: skip


@pytest.mark.parametrize("form", PROSE)
def test_a_number_in_the_prose_is_that_of_the_committed_table(form):
    name, method, quantity = PROSE[form]
    rows = from_csv((docs.README.parent / "results" / "artifacts" / f"{name}.csv").read_text())
    mine = rows[(rows["method"] == method) & (rows["quantity"] == quantity)]
    judged = mine[mine["kind"] != "curve"] if len(mine) > 1 else mine
    (value,) = judged["ours"]
    text = " ".join(docs.README.read_text().split())
    assert form.format(value).replace(" 0.92 ", " .92 ") in text, f"{name} has {value:.4g}"


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


def own(columns, model):
    return {"model": model, "train": columns, "candidates": columns, "query": columns}


def test_the_first_example_scores_a_model_of_torchvision():
    (block,) = (text for text in BLOCKS if "TracIn(learning_rates" in text)
    torch.manual_seed(0)
    columns = {"image": torch.randn(6, 3, 32, 32), "label": torch.arange(6) % 3}
    found = own(columns, torchvision.models.squeezenet1_1(num_classes=3)) | {"Krylov": Krylov}
    exec(block.replace("num_eigen=50", "num_eigen=2, basis=Krylov(4)"), found)
    assert found["scores"].shape == (6, 6)
    assert len(found["suspicious"]) == 6
    gradients = by_autograd(found["task"], columns)
    self_influence = TracIn(learning_rates=False).self_influence(found["task"], columns)
    torch.testing.assert_close(self_influence, (gradients**2).sum(1), rtol=1e-3, atol=1e-6)


def test_the_second_example_scores_a_classifier_of_hugging_face():
    from transformers import BertConfig, BertForSequenceClassification

    (block,) = (text for text in BLOCKS if "attention_mask=batch" in text)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=30, intermediate_size=32, num_labels=3, **sizes, attn_implementation="eager"
    )
    ids = torch.randint(30, (8, 6))
    mask = (torch.arange(6) < torch.arange(3, 11)[:, None]).long()
    columns = {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(8) % 3}
    found = own(columns, BertForSequenceClassification(config))
    exec(block.replace("damping=0.1", "damping=3.0"), found)  # untrained, it is indefinite
    assert found["index"].shape == found["values"].shape == (8, 5)
    gradients = by_autograd(found["task"], columns).double()
    task = found["task"]
    hessian = dense_hessian(task, columns) + 3.0 * torch.eye(task.size)
    wanted = gradients @ torch.linalg.solve(hessian.double(), gradients.T)
    scores = found["fitted"].scores(columns, columns)
    torch.testing.assert_close(scores.double(), wanted, rtol=2e-2, atol=1e-3)


def by_autograd(task, columns):
    """Gradients example by example, (n, p)."""
    rows = []
    for i in range(len(next(iter(columns.values())))):
        params = {name: value.clone().requires_grad_() for name, value in task.params.items()}
        function = task.function(task.loss)
        loss = function(params, {k: v[i : i + 1] for k, v in columns.items()}).sum()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, params.values())]))
    return torch.stack(rows)


def dense_hessian(task, columns):
    """The Hessian of the mean loss, (p, p), by double backward."""

    def mean_loss(flat):
        return task.function(task.loss)(task.unflatten(flat), columns).mean()

    return torch.autograd.functional.hessian(mean_loss, task.flatten(task.params))
