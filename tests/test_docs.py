"""README and docs say what the results say, and their examples run as they stand."""

import errno
import importlib
import re
import subprocess
import sys

import pytest
import torch
import torchvision
from torch.nn.functional import cross_entropy

import analysis
import experiments
import methods
from analysis import __main__ as everything
from analysis.page import docs
from experiments.laboratory.runs import UserError
from methods import Task, TracIn
from methods.ihvp.arnoldi import Krylov

ROOMS = {"methods": methods, "experiments": experiments, "analysis": analysis}
PAGES = "".join(page.read_text() for page in docs.pages())
BLOCKS = re.findall(r"```python\n(.*?)```", PAGES, re.DOTALL)
FILES = {
    name: block for block in BLOCKS for name in re.findall(r'\A"""([a-z]+/[a-z_]+\.py):', block)
}


@pytest.mark.parametrize("page", docs.pages(), ids=lambda page: page.name)
def test_a_page_has_the_tables_and_numbers_of_the_committed_artifacts(page):
    assert docs.rewritten(page) == page.read_text(), "run `python -m analysis docs`"


@pytest.mark.parametrize("page", docs.pages(), ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files(page):
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)|src=\"([^\"]+)\"", page.read_text())
    files = [target for pair in targets for target in pair if target]
    missing = [file for file in files if "://" not in file and not (page.parent / file).exists()]
    assert not missing


LINKED = '[{}](results/artifacts/small/fastif_table1.csv "{} | speed-up") times faster'
ROW = "kNN 1,000, fast s_test, 1 process"


@pytest.fixture
def page(tmp_path):
    (tmp_path / "results").symlink_to(docs.ROOT / "results")
    return tmp_path / "page.md"


def test_a_number_of_another_table_is_mended_with_its_decimals(page):
    page.write_text(LINKED.format("12.3", ROW))
    assert docs.rewritten(page) == LINKED.format("90.3", ROW)


def test_a_number_without_a_row_is_one_line(page):
    page.write_text(LINKED.format("12.3", "no such row"))
    with pytest.raises(UserError, match=r"has 0 rows 'no such row' \| 'speed-up', not one"):
        docs.rewritten(page)


def test_the_verb_mends_the_pages_that_are_stale(page, monkeypatch, capsys):
    readme = page.with_name("README.md")
    readme.write_text(f"{LINKED.format('12.3', ROW)}\n{docs.BEGIN.format('summary')}{docs.END}")
    monkeypatch.setattr(docs, "ROOT", page.parent)
    assert everything.main(["docs"]) == 0
    assert capsys.readouterr().out.count("wrote ") == 1
    assert LINKED.format("90.3", ROW) in readme.read_text()
    assert "| TracIn |" in readme.read_text()
    assert everything.main(["docs"]) == 0
    assert capsys.readouterr().out == ""


def test_the_old_spelling_answers_with_the_new_one():
    command = [sys.executable, "-m", "analysis.readme"]
    done = subprocess.run(command, cwd=docs.ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: analysis.readme is now a verb: `python -m analysis docs`\n"


def test_tables_and_the_readme_summarise_every_artifact_once():
    lines = [line for mine in docs.committed().values() for line in mine]
    assert len({line.about["id"] for line in lines}) == len(lines) == docs.tables().count(".png)")
    first, total = docs.summary().splitlines()[2], len(docs.committed()["TracIn"])
    assert sum(int(cell) for cell in first.split(" | ")[1:4] if cell.strip()) == total


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """The files in docs/extending.md, saved where their first lines say."""
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


def test_an_added_method_experiment_and_figure_work_as_they_are_printed(saved, capsys):
    assert sorted(FILES) == [
        "analysis/same_label.py",
        "experiments/same_label.py",
        "methods/centred.py",
        "methods/cosine.py",
    ]
    for text in FILES.values():
        assert sum(bool(line.strip()) for line in text.splitlines()) <= 30
    assert importlib.import_module("experiments.same_label").EXPERIMENT.main([]) == 0
    artifact = importlib.import_module("analysis.same_label").ARTIFACT
    assert artifact.main([]) == 0
    printed = capsys.readouterr()
    assert "6 computed now" in printed.out
    assert "same_label smoke: " in printed.out
    assert not printed.err.count("error")
    assert artifact.path("smoke", "png").stat().st_size > 5_000


def test_the_example_with_a_state_subtracts_the_mean_gradient(saved):
    method = importlib.import_module("methods.centred").Centred()
    torch.manual_seed(0)
    columns = {"x": torch.randn(7, 4), "label": torch.arange(7) % 3}
    task = Task.of(
        torch.nn.Linear(4, 3).eval(),
        lambda model, b: cross_entropy(model(b["x"]), b["label"], reduction="none"),
    )
    gradients = by_autograd(task, columns)
    wanted = gradients @ (gradients - gradients.mean(0)).T
    torch.testing.assert_close(method.fit(task, columns).scores(columns, columns), wanted)
    restored = method.fit(task, state=method.state(task, columns))
    torch.testing.assert_close(restored.scores(columns, columns), wanted)


def own(columns, model):
    return {"model": model, "train": columns, "candidates": columns, "query": columns}


def test_the_first_example_scores_a_model_of_torchvision():
    (block,) = (text for text in BLOCKS if "TracIn(learning_rates" in text)
    torch.manual_seed(0)
    columns = {"image": torch.randn(6, 3, 32, 32), "label": torch.arange(6) % 3}
    names = own(columns, torchvision.models.squeezenet1_1(num_classes=3)) | {"Krylov": Krylov}
    exec(block.replace("num_eigen=50", "num_eigen=2, basis=Krylov(4)"), names)
    assert names["scores"].shape == (6, 6)
    assert len(names["suspicious"]) == 6
    gradients = by_autograd(names["task"], columns)
    self_influence = TracIn(learning_rates=False).self_influence(names["task"], columns)
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
    names = own(columns, BertForSequenceClassification(config))
    exec(block.replace("damping=0.1", "damping=3.0"), names)  # untrained, it is indefinite
    assert names["index"].shape == names["values"].shape == (8, 5)
    gradients = by_autograd(names["task"], columns).double()
    task = names["task"]
    hessian = dense_hessian(task, columns) + 3.0 * torch.eye(task.size)
    wanted = gradients @ torch.linalg.solve(hessian.double(), gradients.T)
    scores = names["fitted"].scores(columns, columns)
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


def test_a_page_that_cannot_be_written_is_one_line_and_stays(tmp_path, monkeypatch, capsys):
    page = tmp_path / "README.md"
    old = f"before\n{docs.BEGIN.format('summary')}old{docs.END}\n"
    page.write_text(old)
    monkeypatch.setattr(docs, "pages", lambda: [page])

    def refuse(_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("os.fsync", refuse)
    assert docs.main() == 2
    assert capsys.readouterr().err == (
        f"error: cannot write {page}: Read-only file system; free or permit that folder\n"
    )
    assert page.read_text() == old
    assert list(tmp_path.iterdir()) == [page]
    page.unlink()
    assert docs.main() == 2
    assert capsys.readouterr().err.count("\n") == 1
