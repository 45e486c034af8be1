"""DBpedia: the classifier's rows, near-duplicates, and the table."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.numbers import table
from analysis.tracin_table2 import ARTIFACT
from experiments import dbpedia as experiment
from experiments import dbpedia as text_models
from experiments.data import dbpedia, generated_articles
from experiments.data.words import PADDING, words
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.models.text_classifier import TextClassifier
from methods.checkpoints import Checkpoint
from methods.task import Task
from methods.tracin import TracIn
from tests.analysis.synthetic import dbpedia as synthetic_dbpedia
from tests.experiments.data.test_dbpedia_data import NAMES


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path))
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))


# --- the classifier ------------------------------------------------------------------------------

N_WORDS, CLASSES = 12, 3
RARITY = torch.linspace(1.0, 2.0, N_WORDS, dtype=torch.float64)
TEXTS = torch.tensor([[3, 4, 3, 5], [6, 7, 0, 0], [4, 9, 11, 0], [2, 2, 0, 0]])
BATCH = {"words": TEXTS, "label": torch.tensor([0, 1, 2, 1])}


class Padded(nn.Module):
    """The same network of an embedding that is told which number is padding."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.words = nn.Embedding(N_WORDS, other.words.out_features, padding_idx=PADDING)
        self.head = other.head
        self.words.weight.data = other.words.weight.data.T.contiguous()

    def forward(self, numbers: Tensor) -> Tensor:
        weights = RARITY[numbers] * (numbers != PADDING)
        counts = F.one_hot(numbers, N_WORDS) * weights[:, :, None]
        norm = counts.sum(1).norm(dim=1)[:, None]
        return self.head((self.words(numbers) * weights[:, :, None]).sum(1) / norm)


def classifier() -> nn.Module:
    return TextClassifier(5, spread=0.7).build(RARITY, CLASSES, seed=0).double()


def task_of(module: nn.Module) -> Task:
    params = {name: value.detach().clone() for name, value in module.named_parameters()}
    return Task.of(module, text_models.cross_entropy, checkpoints=[Checkpoint(params, 0.3)])


def test_the_bag_is_an_embedding_with_padding_in_value_and_in_scores():
    module = classifier()
    padded = Padded(module).eval()
    torch.testing.assert_close(module(TEXTS), padded(TEXTS))
    query = {name: column[:2] for name, column in BATCH.items()}
    ours = TracIn().scores(task_of(module), BATCH, query)
    torch.testing.assert_close(ours, TracIn().scores(task_of(padded), BATCH, query))
    assert ours.abs().min() > 1e-6


def test_a_row_is_the_same_whatever_the_padding_and_no_gradient_reaches_it():
    fitted = TracIn().fit(task_of(classifier()), BATCH)
    longer = {**BATCH, "words": F.pad(TEXTS, (0, 9))}
    rows = fitted.train_rows(BATCH)
    torch.testing.assert_close(rows.dense(), fitted.train_rows(longer).dense())
    torch.testing.assert_close(rows.squared_norms(), fitted.self_influence(longer))
    words = rows.matrices()["0:words.weight"].view(len(TEXTS), 5, N_WORDS)
    assert not words[:, :, PADDING].any()
    assert words[1, :, 6].abs().min() > 0


def test_rows_are_factored_and_not_taken_one_by_one(caplog):
    fitted = TracIn().fit(task_of(classifier()), BATCH)
    fitted.self_influence(BATCH)
    assert "vmap" not in caplog.text


def test_the_initial_parameters_leave_torch_s_own_randomness_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, other = classifier(), classifier()
    torch.testing.assert_close(one.words.weight, other.words.weight)
    assert torch.equal(before, torch.get_rng_state())
    assert dict(one.named_buffers()).keys() - one.state_dict().keys() == {"rarity"}


# --- the experiment ------------------------------------------------------------------------------

MODEL = replace(
    experiment.SMOKE,
    data=replace(experiment.SMOKE.data, n_train=120, n_test=30),
    fit=replace(experiment.SMOKE.fit, epochs=6),
)


def articles(titles: list[str], label: list[int]) -> dbpedia.Articles:
    return dbpedia.Articles(np.array(label), titles, titles, tuple(NAMES))


def test_the_example_is_the_paper_s_else_the_first_of_its_class():
    assert experiment.example_article(articles(["a", "b", " Manuel Azaña"], [4, 4, 4])) == 2
    assert experiment.example_article(articles(["a", "b", "c"], [1, 4, 4])) == 1
    assert experiment.example_article(generated_articles.generate(4, 0)) == 0


def test_parts_are_disjoint_and_the_vocabulary_is_of_training_texts_alone():
    train, test, vocabulary = text_models.load_data(MODEL.data, 0)
    texts = [*train.articles.content, *test.articles.content]
    assert sorted(texts) == sorted(generated_articles.generate(150, 0).content)
    known = {word for content in train.articles.content for word in words(content)}
    assert set(vocabulary.numbers) <= known
    assert train.examples["words"].shape == (120, MODEL.data.length)


def test_what_is_stored_is_what_the_scores_say(tmp_path):
    config = experiment.Config(MODEL, n_queries=8)
    result = experiment.run(config, tmp_path)
    there = text_models.trained(MODEL)
    first = experiment.example_article(there.test.articles)
    query = {name: column[[first]] for name, column in there.test.examples.items()}
    scores = TracIn().scores(there.task, there.train.examples, query)[0]
    order = scores.argsort(descending=True)
    titles = [there.train.articles.title[i] for i in order[:3]]
    assert result["shown_title"].tolist()[:4] == [there.test.articles.title[first], *titles]
    np.testing.assert_allclose(result["shown_score"][1:4], scores[order[:3]])
    np.testing.assert_allclose(result["shown_score"][4:], scores.sort().values[:3])
    assert result["same_label"].shape == result["twin"].shape == (8, 5)
    assert result["chance"] == pytest.approx(1 / 3, abs=0.1)
    with pytest.raises(UserError, match="31 queries of 30 test texts"):
        experiment.run(replace(config, n_queries=31), tmp_path)


def test_near_duplicates_are_named_and_left_out():
    texts = ["red fox in snow", "red fox in snow now", "blue whale at sea", "green tea", "old oak"]
    texts += ["young elm", "wet sand"]
    train = dbpedia.Articles(np.array([0, 0, 1, 0, 0, 0, 0]), [""] * 7, texts, ("a", "b"))
    test = dbpedia.Articles(np.array([0]), ["query"], ["a red fox in the snow"], ("a", "b"))
    there = text_models.Trained(
        None, None, None, text_models.Part(train, {}), text_models.Part(test, {})
    )
    predicted = {"train": np.array([0, 0, 1, 1, 0, 0, 0]), "test": np.array([0])}
    result = experiment._judged(there, predicted, np.array([0]), np.arange(7)[None])
    assert result["twin"].tolist() == [[False, True, False, False, False]]
    assert result["same_label"].tolist() == [[True, True, False, True, True]]
    assert result["same_label_and_prediction"].tolist() == [[True, True, False, False, True]]
    assert result["distinct_same_label"].tolist() == [[1, 0, 1, 1, 1]]
    assert result["twin_likeness"].tolist() == pytest.approx([4 / 5])
    short = experiment._judged(there, predicted, np.array([0]), np.arange(5)[None])
    assert short["distinct_same_label"].tolist() == [[1, 0, 1, 1, -1]]
    assert result["chance"].tolist() == pytest.approx([6 / 7])


# --- the artifact --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "word"), [(0.98, "reproduced"), (0.5, "not reproduced"), (0.02, "not reproduced")]
)
def test_the_verdict_follows_the_shares(share, word):
    synthetic_dbpedia.write("paper", 4, share=share)
    rows = ARTIFACT.tabulate(runs.load("dbpedia", "paper")).assign(tier="paper", missing=0)
    assert ARTIFACT.judge(rows).word == word


def test_the_table_keeps_its_words_and_shares_in_the_csv():
    synthetic_dbpedia.write("small", 3)
    ARTIFACT.build("small")
    rows = table.from_csv(ARTIFACT.path("small", "csv").read_text())
    texts = rows[rows["kind"] == "text"]
    assert texts["method"].tolist() == list(synthetic_dbpedia.ROLES)
    assert texts["content"].str.contains('a "text" of $5 with, commas', regex=False).all()
    assert rows.loc[rows["kind"] == "twin", "ours"].tolist() == [0.8, 0.7]
    shares = rows.set_index(["method", "quantity"])["ours"]
    one = [
        run.array("distinct_same_label")
        for run in runs.load("dbpedia", "small")
        if run.config["method"]["type"] == "TracIn"
    ]
    known = np.mean([listed[listed >= 0].mean() for listed in one])
    assert shares["TracIn", "same label without near-duplicates, top 5"] == pytest.approx(
        known, rel=1e-5
    )
