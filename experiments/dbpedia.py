"""Proponents of texts: whether they are of the query's class, and whether they are its twins.

Reproduces Table 2 of TracIn's appendix (Pruthi et al., 2020), three proponents of one article, and
measures what it shows on many queries, against nearest neighbours in the model's own features.
Deviations: the paper describes neither network nor training; ours are in the configs.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.data import dbpedia, generated_articles, labels
from experiments.data.dbpedia import Articles
from experiments.data.words import Vocabulary, jaccard
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.models.text_classifier import BagOfWords, TextClassifier
from experiments.training import models as training
from experiments.training.loop import fit
from experiments.training.plans import CrossEntropy, Fit
from methods.randomness import numpy_generator
from methods.task import take
from methods.tracin import TracIn

# Text classifiers: what the experiment on DBpedia trains, and what it is trained on.


GENERATED_SEED = 0  # of the encyclopedia; the model's seed divides it into training and test


@dataclass(frozen=True)
class Data:
    """Disjoint random parts of the rows at hand, or the published parts of the whole data set.

    A text is title and content: its first `length` words; a word has a number of its own if it is
    among the `most` commonest of the training texts and there `fewest` times.
    """

    source: Literal["subset", "whole", "generated"] = "subset"
    n_train: int = 6_000
    n_test: int = 1_600
    length: int = 64
    fewest: int = 2
    most: int = 20_000


@dataclass(frozen=True)
class Model:
    """A trained classifier; the seed draws the parts, initial parameters and order."""

    network: TextClassifier = TextClassifier()
    data: Data = Data()
    fit: Fit = Fit(epochs=16, batch_size=64, lr=0.2, momentum=0.9, weight_decay=1e-5, every=4)
    seed: int = 0


@dataclass(frozen=True)
class Part:
    """Articles in the order of their source, and as a network takes them.

    examples has `words` (n, length), numbers, and `label` (n,).
    """

    articles: Articles
    examples: dict[str, Tensor]


@dataclass(frozen=True)
class Trained(training.Trained[BagOfWords]):
    """A trained classifier with its data."""

    train: Part
    test: Part


cross_entropy = CrossEntropy(("words",))


def load_data(data: Data, seed: int) -> tuple[Part, Part, Vocabulary]:
    """The training and the test part, and the vocabulary of the former."""
    if data.source == "whole":
        train, test = (dbpedia.load_whole(split) for split in ("train", "test"))
        train, test = (
            part.take(np.sort(labels.split(len(part.label), [n], seed)[0]))
            for part, n in ((train, data.n_train), (test, data.n_test))
        )
    else:
        sizes = [data.n_train, data.n_test]
        whole = (
            dbpedia.load_subset()
            if data.source == "subset"
            else generated_articles.generate(sum(sizes), GENERATED_SEED)
        )
        parts = labels.split(len(whole.label), sizes, seed)
        train, test = (whole.take(np.sort(index)) for index in parts)
    vocabulary = Vocabulary.of(_texts(train), data.fewest, data.most)
    made = [
        Part(
            articles,
            {
                "words": torch.from_numpy(vocabulary.encode(_texts(articles), data.length)),
                "label": torch.from_numpy(articles.label),
            },
        )
        for articles in (train, test)
    ]
    return made[0], made[1], vocabulary


def text(articles: Articles, index: int) -> str:
    """The text of one article: title and content."""
    return f"{articles.title[index]} {articles.content[index]}"


def _texts(articles: Articles) -> list[str]:
    return [text(articles, index) for index in range(len(articles.label))]


def trained(model: Model) -> Trained:
    """The trained model, training it if no run has it yet."""
    train, test, vocabulary = load_data(model.data, model.seed)
    rarity = torch.from_numpy(vocabulary.rarity).float()
    there = training.train_once(
        "text_model",
        model,
        partial(model.network.build, rarity, len(train.articles.classes), model.seed),
        cross_entropy,
        partial(_train, model),
        weight_decay=model.fit.weight_decay,
        dtype=torch.float64,  # in single precision, a probability near one is mostly rounding
    )
    return Trained(**vars(there), train=train, test=test)


def _train(model: Model, module: nn.Module, scratch: Path) -> dict[str, Any]:
    train, test, vocabulary = load_data(model.data, model.seed)  # noted as this run's data
    outcome = fit(module, cross_entropy, train.examples, model.fit, model.seed, scratch)
    accuracy = {
        f"accuracy_{name}": float((predictions(module, part) == part.articles.label).mean())
        for name, part in (("train", train), ("test", test))
    }
    return {**outcome, **accuracy, "n_words": len(vocabulary)}


@torch.no_grad()
def predictions(module: nn.Module, part: Part) -> np.ndarray:
    """The predicted class of each text, (n,)."""
    pieces = part.examples["words"].split(1_000)
    return torch.cat([module(some).argmax(1) for some in pieces]).numpy()


# Near-duplicates in a list of texts: named, and left out.


TWIN = 0.6  # words shared of all words of two texts, from which on they are near-duplicates
Titled = tuple[str, str]  # title and text


@dataclass(frozen=True)
class Sorted:
    """A list of texts with its near-duplicates told apart.

    twin (listed,) says which of the first are near-duplicates of the query or of one above;
    distinct, at most listed positions, are the first that are none; named has a title, that of its
    twin and their likeness for each near-duplicate among the first.
    """

    twin: list[bool]
    distinct: list[int]
    named: list[tuple[str, str, float]]


def sort_out(query: Titled, candidates: Sequence[Titled], listed: int) -> Sorted:
    """Go down the candidates until `listed` of them were seen, and as many distinct ones."""
    kept = [query]
    found = Sorted([], [], [])
    for place, (title, text) in enumerate(candidates):
        if place >= listed and len(found.distinct) == listed:
            break
        likeness, other = max((jaccard(text, words), name) for name, words in kept)
        if place < listed:
            found.twin.append(likeness >= TWIN)
            if likeness >= TWIN:
                found.named.append((other, title, likeness))
        if likeness < TWIN and len(found.distinct) < listed:
            found.distinct.append(place)
            kept.append((title, text))
    return found


TITLE, CLASS = "Manuel Azaña", "OfficeHolder"  # the paper's example, and its class
SHOWN = 3  # proponents and opponents of it that are written out
LISTED = 5  # of every query, that are judged
SEARCHED = 50  # down to which a list is filled up once twins are left out


@dataclass(frozen=True)
class NearestFeatures:
    """The control: training texts whose features are nearest, by the cosine."""


Method = TracIn | NearestFeatures


@dataclass(frozen=True)
class Config:
    """`n_queries` random test texts, whatever is predicted for them."""

    model: Model = Model()
    method: Method = TracIn()
    n_queries: int = 300


def run(config: Config, scratch: Path) -> dict[str, Any]:
    there = trained(config.model)
    articles, n_train = there.test.articles, len(there.train.articles.label)
    n = len(articles.label)
    if config.n_queries > n or n_train < SEARCHED:
        raise UserError(
            f"{config.n_queries} queries of {n} test texts, and {SEARCHED} proponents of {n_train} "
            "training texts: lower n_queries or raise n_train"
        )
    some = numpy_generator(config.model.seed, "queries").permutation(n)[: config.n_queries]
    which = np.array([declared(articles), *some])
    scores = _scores(config.method, there, which)
    top, bottom = (scores.topk(SEARCHED, largest=one) for one in (True, False))
    predicted = {
        name: predictions(there.module, part)
        for name, part in (("train", there.train), ("test", there.test))
    }
    judged = _judged(there, predicted, which[1:], top.indices[1:].numpy())
    opponents = there.train.articles.label[bottom.indices[1:, :LISTED].numpy()]
    listed = [(f"proponent {i + 1}", top, i) for i in range(SHOWN)]
    listed += [(f"opponent {i + 1}", bottom, i) for i in range(SHOWN)]
    rows = [("example", "test", int(which[0]), 0.0)]
    rows += [
        (role, "train", int(of.indices[0, i]), float(of.values[0, i])) for role, of, i in listed
    ]
    return {
        **{name: there.metrics[name] for name in ("accuracy_train", "accuracy_test", "n_words")},
        "num_params": there.metrics["num_params"],
        "same_label": float(judged["same_label"].mean()),
        "chance": float(judged["chance"].mean()),
        "twins": float(judged["twin"].mean()),
        **judged,
        "opponent_same_label": opponents == articles.label[which[1:], None],
        "query_correct": predicted["test"][which[1:]] == articles.label[which[1:]],
        **_written(there, predicted, rows),
    }


def declared(articles: Articles) -> int:
    """The article that the paper shows, else the first of its class, else the first of all."""
    titles = [title.strip() for title in articles.title]
    if TITLE in titles:
        return titles.index(TITLE)
    if CLASS not in articles.classes:
        return 0
    return int((articles.label == articles.classes.index(CLASS)).argmax())


def _scores(method: Method, there: Trained, which: np.ndarray) -> Tensor:
    """Scores of all training texts for some test texts; positive = proponent."""
    train, query = there.train.examples, take(there.test.examples, torch.from_numpy(which))
    if isinstance(method, TracIn):
        return method.scores(there.task, train, query)
    with torch.no_grad():
        left, right = (
            torch.cat(
                [functional.normalize(there.module.features(s)) for s in part["words"].split(1_000)]
            )
            for part in (query, train)
        )
    return left @ right.T


def _judged(
    there: Trained, predicted: dict[str, np.ndarray], which: np.ndarray, top: np.ndarray
) -> dict[str, np.ndarray]:
    """What the LISTED proponents of each query are, (n_queries, LISTED); `top` has SEARCHED.

    twin        near-duplicate of the query, or of a proponent above it
    distinct_*  the list with twins left out and filled up from below; -1 where it ends
    chance      (n_queries,), the share of training texts that have the query's label
    twin_*      (n_twins,) titles and likeness of each twin and of what it is a twin of
    """
    train, test = there.train.articles, there.test.articles
    label = test.label[which]
    same = train.label[top] == label[:, None]
    both = same & (predicted["train"][top] == predicted["test"][which][:, None])
    lists = [
        sort_out(_words(test, query), [_words(train, i) for i in of], LISTED)
        for query, of in zip(which, top, strict=True)
    ]
    distinct = np.full((len(which), LISTED), -1, dtype=np.int8)
    for row, listed in enumerate(lists):
        distinct[row, : len(listed.distinct)] = same[row, listed.distinct]
    named = [one for listed in lists for one in listed.named]
    return {
        "same_label": same[:, :LISTED],
        "same_label_and_prediction": both[:, :LISTED],
        "twin": np.array([listed.twin for listed in lists]),
        "distinct_same_label": distinct,
        "chance": np.bincount(train.label, minlength=len(train.classes))[label] / len(train.label),
        "twin_of": np.array([one for one, _, _ in named], dtype=np.str_),
        "twin_title": np.array([other for _, other, _ in named], dtype=np.str_),
        "twin_likeness": np.array([likeness for *_, likeness in named]),
    }


def _words(articles: Articles, index: int) -> tuple[str, str]:
    return articles.title[index], text(articles, index)


def _written(
    there: Trained, predicted: dict[str, np.ndarray], rows: list[tuple[str, str, int, float]]
) -> dict[str, np.ndarray]:
    """The declared query with its proponents and opponents in words, an array a column."""
    parts = {"train": there.train.articles, "test": there.test.articles}
    classes = there.train.articles.classes
    columns = {
        "role": [role for role, *_ in rows],
        "label": [classes[parts[part].label[i]] for _, part, i, _ in rows],
        "prediction": [classes[predicted[part][i]] for _, part, i, _ in rows],
        "title": [parts[part].title[i] for _, part, i, _ in rows],
        "content": [parts[part].content[i] for _, part, i, _ in rows],
    }
    written = {f"shown_{name}": np.array(values, np.str_) for name, values in columns.items()}
    return {**written, "shown_score": np.array([score for *_, score in rows])}


def cells(model: Model, seeds: int, n_queries: int) -> list[Config]:
    made = []
    for seed in range(seeds):
        at = Config(replace(model, seed=seed), n_queries=n_queries)
        made += [at, replace(at, method=NearestFeatures())]
    return made


SMOKE = Model(
    network=TextClassifier(16),
    data=Data("generated", n_train=240, n_test=60, length=24),
    fit=Fit(epochs=12, batch_size=16, lr=0.1, momentum=0.9, weight_decay=1e-4, every=3),
)
WHOLE = replace(
    Model(),
    data=Data("whole", n_train=560_000, n_test=70_000),
    fit=replace(Model().fit, epochs=4, every=1),
)
PRESETS: dict[str, list[Config]] = {
    "smoke": cells(SMOKE, 3, 40),
    "small": cells(Model(), 5, 300),
    "paper": cells(WHOLE, 3, 300),
}

EXPERIMENT = Experiment(
    "dbpedia",
    run,
    PRESETS,
    summary="proponents of encyclopedia articles: class, prediction and near-duplicates",
    columns=("accuracy_test", "same_label", "chance", "twins"),
    seconds={"smoke": 25, "small": 150},
)


if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
