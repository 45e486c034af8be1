"""README and docs say what the results say, and their examples run as they stand."""

import errno
import importlib
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from torch.nn.functional import cross_entropy

import analysis
import experiments
import methods
from analysis import __main__ as everything
from analysis.page import docs
from experiments.laboratory.runs import UserError
from methods import Task, TracIn
from methods.ihvp.arnoldi import Krylov
from tests.experiments.data.idx_files import write_letters

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


@pytest.mark.parametrize(
    ("module", "answer"),
    [
        ("analysis.readme", "analysis.readme is now a verb: `python -m analysis docs`"),
        ("analysis.fastif_fig77", "no artifact 'fastif_fig77': did you mean fastif_fig7?"),
        (
            "experiments.mnist_mislable",
            "no experiment 'mnist_mislable': did you mean mnist_mislabel?",
        ),
        ("experiments.qqqqqq", "no experiment 'qqqqqq': `python -m experiments` lists them"),
    ],
)
def test_the_old_spelling_and_a_mistyped_one_answer_with_the_right_one(module, answer):
    command = [sys.executable, "-m", module]
    done = subprocess.run(command, cwd=docs.ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: {answer}\n"


def test_tables_and_the_readme_summarise_every_artifact_once():
    lines = [line for mine in docs.committed().values() for line in mine]
    assert len({line.about["id"] for line in lines}) == len(lines) == docs.tables().count(".png)")
    first, total = docs.summary().splitlines()[2], len(docs.committed()["TracIn"])
    assert sum(int(cell) for cell in first.split(" | ")[1:-1] if cell.strip()) == total


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


@pytest.mark.long
def test_an_added_method_experiment_and_figure_work_as_they_are_printed(saved, capsys):
    assert sorted(FILES) == [
        "analysis/same_label.py",
        "experiments/same_label.py",
        "methods/centred.py",
        "methods/cosine.py",
        "methods/halfway.py",
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
    (block,) = (text for text in BLOCKS if "suspicious = TracIn(" in text)
    torch.manual_seed(0)
    columns = {"image": torch.randn(6, 3, 32, 32), "label": torch.arange(6) % 3}
    names = own(columns, torchvision.models.squeezenet1_1(num_classes=3)) | {"Krylov": Krylov}
    exec(block.replace("num_eigen=50", "num_eigen=2, basis=Krylov(4)"), names)
    assert names["scores"].shape == (6, 6)
    assert len(names["suspicious"]) == 6
    gradients = by_autograd(names["task"], columns)
    self_influence = TracIn(learning_rates=False).self_influence(names["task"], columns)
    torch.testing.assert_close(self_influence, (gradients**2).sum(1), rtol=1e-3, atol=1e-6)


def test_the_example_of_checkpoints_adds_up_their_gradients(tmp_path, monkeypatch):
    (block,) = (text for text in BLOCKS if "epoch1.pt" in text)
    monkeypatch.chdir(tmp_path)
    columns = {"x": torch.randn(7, 4), "label": torch.arange(7) % 3}
    model, wanted = torch.nn.Linear(4, 3), 0.0

    def nll(model, b):
        return cross_entropy(model(b["x"]), b["label"], reduction="none")

    for epoch, lr in ((1, 0.1), (2, 0.1), (3, 0.01)):
        torch.manual_seed(epoch)
        model.reset_parameters()
        torch.save(model.state_dict(), f"epoch{epoch}.pt")
        gradients = by_autograd(Task.of(model.eval(), nll), columns)
        wanted = wanted + lr * gradients @ gradients.T
    names = own(columns, model) | {"nll": nll, "Task": Task, "TracIn": TracIn}
    exec(block, names)
    torch.testing.assert_close(names["values"], wanted.topk(5).values)


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


def test_the_example_of_a_data_set_scores_sentences_of_several_lengths(tmp_path, monkeypatch):
    (block,) = (text for text in BLOCKS if "from methods import Source" in text)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.EmbeddingBag(9, 3, padding_idx=0)).eval()
    task = Task.of(model, lambda m, b: cross_entropy(m(b["ids"]), b["label"], reduction="none"))
    lengths = [3, 5, 2, 6, 4, 1]
    sentences = [{"ids": torch.arange(1, n + 1), "label": n % 3} for n in lengths]
    names = {"torch": torch, "sentences": sentences, "task": task, "query": None}
    ids = torch.nn.utils.rnn.pad_sequence([each["ids"] for each in sentences], batch_first=True)
    columns = {"ids": ids, "label": torch.tensor(lengths) % 3}
    names |= {"query": columns, "method": TracIn(learning_rates=False)}
    exec(block, names)
    gradients = by_autograd(task, columns)
    scores = np.load(tmp_path / "scores.npy", mmap_mode="r")
    torch.testing.assert_close(torch.tensor(scores), gradients @ gradients.T)
    torch.testing.assert_close(names["values"], torch.tensor(scores).topk(5).values)


def test_the_example_of_files_of_ones_own_takes_rows_and_classes_from_each(tmp_path, monkeypatch):
    from datasets import Dataset

    (block,) = (text for text in BLOCKS if "from experiments.data import own" in text)
    monkeypatch.chdir(tmp_path)
    write_letters(tmp_path / "letters", 52, suffix=".gz")
    for word in ("cat", "dog"):
        (tmp_path / "photos" / word).mkdir(parents=True)
        for number in range(4):
            picture = Image.new("RGB", (9, 7), (20 * number, 0, 90 * (word == "cat")))
            picture.save(tmp_path / f"photos/{word}/{number}.png")
    columns = {"acid": np.arange(9.0), "label": ["red", "white", "rosé"] * 3}
    Dataset.from_dict(columns).save_to_disk(tmp_path / "reviews")
    pd.DataFrame(columns).to_csv("wine.csv", index=False)
    names = {"scratch": tmp_path}
    exec(block, names)
    found = names["suspicious"]
    assert {len(worst) for worst in found.values()} == {5}
    assert {word for _, word in found["wine.csv"]} <= set(columns["label"])
    assert all(word == name.split("/")[0] for name, word in found["photos"])
    assert names["data"].shape == (1,)


def test_the_example_of_kept_numbers_gives_them_back(tmp_path, monkeypatch):
    (block,) = (text for text in BLOCKS if "Scores.load" in text)
    monkeypatch.chdir(tmp_path)
    columns, model = {"x": torch.randn(7, 4), "label": torch.arange(7) % 3}, torch.nn.Linear(4, 3)

    def nll(model, b):
        return cross_entropy(model(b["x"]), b["label"], reduction="none")

    task, method = Task.of(model.eval(), nll), TracIn(learning_rates=False)
    names = own(columns, model) | {"nll": nll, "Task": Task, "method": method}
    exec(block, names | {"fitted": method.fit(task, columns)})
    gradients = by_autograd(task, columns)
    wanted = (gradients @ gradients.T).topk(5)
    kept = methods.Scores.load("scores")
    torch.testing.assert_close(kept.values, wanted.values)
    torch.testing.assert_close(kept.candidates, wanted.indices)


def test_the_examples_of_looking_show_what_was_found(tmp_path, monkeypatch):
    first, second = (text for text in BLOCKS if "import gallery" in text)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    columns = {"image": torch.rand(6, 3, 8, 8), "label": torch.arange(6) % 3}
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3)).eval()
    task = Task.of(model, lambda m, b: cross_entropy(m(b["image"]), b["label"], reduction="none"))
    fitted = TracIn(learning_rates=False).fit(task, columns)
    scores = fitted.scores(columns, columns)
    names = own(columns, model) | {"fitted": fitted, "scores": scores}
    exec(first, names)
    whole = (tmp_path / "looked" / "index.html").read_text()
    exec(second, names)
    assert names["page"].read_text() != whole
    for folder in ("looked", "looked/best"):
        page = (tmp_path / folder / "index.html").read_text()
        assert '"label":"frog"' in page
        assert f"{float(scores[0].max()):.4g}" in page
        assert (tmp_path / folder / "gallery.png").stat().st_size > 5_000


def test_the_readme_is_short_and_names_no_line_too_long():
    lines = (docs.ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 135
    too_long = [
        line for line in lines if len(line) > 120 and "](" not in line and "<img" not in line
    ]
    assert not too_long


def test_the_example_of_tokens_adds_up_to_the_scores_of_sentences():
    (block,) = (text for text in BLOCKS if "token_scores" in text)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(9, 3), torch.nn.Linear(3, 9)).double()
    columns = {"ids": torch.tensor([[1, 2, 3, 0], [4, 5, 6, 7], [8, 1, 0, 0], [2, 2, 5, 0]])}
    names = own(columns, model) | {"F": torch.nn.functional, "Task": Task}
    names |= {"Influence": methods.Influence, "CG": methods.CG}
    exec(block.replace("damping=0.1", "damping=3.0"), names)
    scores, task = names["scores"], Task.of(model, names["per_sentence"])
    wanted = names["Influence"](names["CG"](), 3.0).scores(task, columns, columns)
    torch.testing.assert_close(scores.sum(1), wanted, rtol=1e-3, atol=1e-6)
    assert scores.shape == (4, 3, 4)
    assert not scores[columns["ids"][:, 1:] == 0].any()


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
