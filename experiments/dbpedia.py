"""Proponents of texts: whether they have the query's class, or are near-duplicates of the query.

Reproduces Table 2 of TracIn's appendix (Pruthi et al., 2020), three proponents of one article, and
measures what it shows on many queries, against nearest neighbours in the model's own features.
Deviations: the paper describes neither network nor training; ours are in the configs.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.data import dbpedia, generated_articles, labels
from experiments.data.dbpedia import Articles
from experiments.data.words import Vocabulary, jaccard
from experiments.laboratory import counting
from experiments.laboratory.device import device
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment, sweep
from experiments.laboratory.work import Unit, Work
from experiments.models.text_classifier import BagOfWords, TextClassifier
from experiments.training import models as training
from experiments.training.loop import fit
from experiments.training.plans import CrossEntropy, Fit
from methods.examples import take
from methods.randomness import numpy_generator
from methods.tracin import TracIn

GENERATED_SEED = 0  # of the encyclopedia; the model's seed splits it into training and test
NEAR_DUPLICATE = 0.6  # from this similarity on (distinct words shared of all in either text)
TITLE, CLASS = "Manuel Azaña", "OfficeHolder"  # the paper's example, and its class
CLASSES = 14
SHOWN = 3  # proponents and opponents of the example that are written out
LISTED = 5  # proponents of each query that are judged
SEARCHED = 50  # proponents searched to fill up a list without near-duplicates
Titled = tuple[str, str]  # title and text


@dataclass(frozen=True)
class Data:
    """Disjoint random parts of the subset, or parts of the published splits of the whole data set.

    A text is the first `length` words of title and content. The vocabulary has the `most` commonest
    words of the training texts, if at least `fewest` texts have them.
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
    """Articles in the order of their source, and as inputs of a network.

    examples has `words` (n, length), their numbers, and `label` (n,).
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
    """The training and the test part, and the vocabulary of the training part."""
    if data.source == "whole":
        train, test = (dbpedia.load_whole(split) for split in ("train", "test"))
        train, test = (
            articles.take(np.sort(labels.split(len(articles.label), [n], seed)[0]))
            for articles, n in ((train, data.n_train), (test, data.n_test))
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
    vocabulary = Vocabulary.build(_texts(train), data.fewest, data.most)

    def part(articles: Articles) -> Part:
        words = torch.from_numpy(vocabulary.encode(_texts(articles), data.length))
        return Part(articles, {"words": words, "label": torch.from_numpy(articles.label)})

    return part(train), part(test), vocabulary


def text(articles: Articles, index: int) -> str:
    """The text of one article: title and content."""
    return f"{articles.title[index]} {articles.content[index]}"


def _texts(articles: Articles) -> list[str]:
    return [text(articles, index) for index in range(len(articles.label))]


def trained(model: Model) -> Trained:
    """The trained model, training it if no run has it yet."""
    train, test, vocabulary = load_data(model.data, model.seed)
    rarity = torch.from_numpy(vocabulary.rarity).float()
    classifier = training.train_once(
        "text_model",
        model,
        partial(model.network.build, rarity, len(train.articles.classes), model.seed),
        cross_entropy,
        partial(_train, model),
        weight_decay=model.fit.weight_decay,
        dtype=torch.float64,  # in single precision, a probability near one is mostly rounding
    )
    return Trained(**vars(classifier), train=train, test=test)


def _train(model: Model, module: nn.Module, scratch: Path) -> dict[str, Any]:
    train, test, vocabulary = load_data(model.data, model.seed)  # noted as this run's data
    results = fit(module, cross_entropy, train.examples, model.fit, model.seed, scratch)
    accuracy = {
        f"accuracy_{name}": float((predictions(module, part) == part.articles.label).mean())
        for name, part in (("train", train), ("test", test))
    }
    return {**results, **accuracy, "n_words": len(vocabulary)}


@torch.no_grad()
def predictions(module: nn.Module, part: Part) -> np.ndarray:
    """The predicted class of each text, (n,)."""
    return in_batches(module, part.examples).argmax(1).cpu().numpy()


def in_batches(function: Callable[[Tensor], Tensor], examples: dict[str, Tensor]) -> Tensor:
    """A function of all texts, on the device."""
    batches = examples["words"].split(1_000)
    return torch.cat([function(words.to(device())) for words in batches])


@dataclass(frozen=True)
class NearDuplicates:
    """The near-duplicates in a list of texts.

    flags (listed,)  whether each of the first is a near-duplicate of the query or of one above it
    distinct         positions of the first, at most `listed`, that are no near-duplicates
    pairs            for each near-duplicate among the first: the title of the text it resembles,
                     its own title, and their similarity
    """

    flags: list[bool]
    distinct: list[int]
    pairs: list[tuple[str, str, float]]


def near_duplicates(query: Titled, candidates: Sequence[Titled], listed: int) -> NearDuplicates:
    """Go through the candidates until `listed` of them, and as many distinct ones, were seen."""
    different = [query]
    result = NearDuplicates([], [], [])
    for place, (title, words) in enumerate(candidates):
        if place >= listed and len(result.distinct) == listed:
            break
        similarity, other = max((jaccard(words, text), name) for name, text in different)
        if place < listed:
            result.flags.append(similarity >= NEAR_DUPLICATE)
            if similarity >= NEAR_DUPLICATE:
                result.pairs.append((other, title, similarity))
        if similarity < NEAR_DUPLICATE and len(result.distinct) < listed:
            result.distinct.append(place)
            different.append((title, words))
    return result


@dataclass(frozen=True)
class NearestFeatures:
    """The control: training texts whose features are nearest, by the cosine."""


Method = TracIn | NearestFeatures


@dataclass(frozen=True)
class Config:
    """`n_queries` random test texts, rightly or wrongly predicted."""

    model: Model = Model()
    method: Method = TracIn()
    n_queries: int = 300


def run(config: Config, scratch: Path) -> dict[str, Any]:
    classifier = trained(config.model)
    articles, train_label = classifier.test.articles, classifier.train.articles.label
    n, n_train = len(articles.label), len(train_label)
    if config.n_queries > n or n_train < SEARCHED:
        raise UserError(
            f"{config.n_queries} queries of {n} test texts, and {SEARCHED} proponents of {n_train} "
            "training texts: lower n_queries or raise n_train"
        )
    example = example_article(articles)
    queries = numpy_generator(config.model.seed, "queries").permutation(n)[: config.n_queries]
    scores = _scores(config.method, classifier, np.array([example, *queries]))
    top, bottom = (scores.topk(SEARCHED, largest=largest) for largest in (True, False))
    predicted = {
        name: predictions(classifier.module, part)
        for name, part in (("train", classifier.train), ("test", classifier.test))
    }
    judged = _judged(classifier, predicted, queries, top.indices[1:].numpy())
    opponents = train_label[bottom.indices[1:, :LISTED].numpy()]
    rows = [("example", "test", example, 0.0)]
    for role, ends in (("proponent", top), ("opponent", bottom)):
        for i in range(SHOWN):
            index, score = int(ends.indices[0, i]), float(ends.values[0, i])
            rows.append((f"{role} {i + 1}", "train", index, score))
    metrics = ("accuracy_train", "accuracy_test", "n_words", "num_params")
    return {
        **{name: classifier.metrics[name] for name in metrics},
        "same_label": float(judged["same_label"].mean()),
        "chance": float(judged["chance"].mean()),
        "twins": float(judged["twin"].mean()),
        **judged,
        "opponent_same_label": opponents == articles.label[queries, None],
        "query_correct": predicted["test"][queries] == articles.label[queries],
        **_texts_shown(classifier, predicted, rows),
        **_found(config, classifier, predicted, queries, {"proponent": top, "opponent": bottom}),
    }


def example_article(articles: Articles) -> int:
    """The position of the paper's example, or of the first of its class, or 0."""
    titles = [title.strip() for title in articles.title]
    if TITLE in titles:
        return titles.index(TITLE)
    if CLASS not in articles.classes:
        return 0
    return int((articles.label == articles.classes.index(CLASS)).argmax())


def _scores(method: Method, classifier: Trained, index: np.ndarray) -> Tensor:
    """Scores of all training texts for the test texts at `index`; positive = proponent."""
    train = classifier.train.examples
    query = take(classifier.test.examples, torch.from_numpy(index))
    if isinstance(method, TracIn):
        return method.scores(classifier.task, train, query)

    def features(examples: dict[str, Tensor]) -> Tensor:
        return functional.normalize(in_batches(classifier.module.features, examples))

    with torch.no_grad():
        return (features(query) @ features(train).T).cpu()


def _judged(
    classifier: Trained, predicted: dict[str, np.ndarray], queries: np.ndarray, top: np.ndarray
) -> dict[str, np.ndarray]:
    """Facts on the LISTED proponents of each query, (n_queries, LISTED); `top` has SEARCHED.

    twin        whether one is a near-duplicate of the query, or of a proponent above it
    distinct_*  the list without near-duplicates, filled up from below; -1 past its end
    chance      (n_queries,), the share of training texts that have the query's label
    twin_*      (n_twins,), titles of each near-duplicate and of the text it resembles; similarity
    """
    train, test = classifier.train.articles, classifier.test.articles
    label = test.label[queries]
    same = train.label[top] == label[:, None]
    both = same & (predicted["train"][top] == predicted["test"][queries][:, None])
    lists = [
        near_duplicates(_titled(test, query), [_titled(train, i) for i in proponents], LISTED)
        for query, proponents in zip(queries, top, strict=True)
    ]
    distinct = np.full((len(queries), LISTED), -1, dtype=np.int8)
    for row, listed in enumerate(lists):
        distinct[row, : len(listed.distinct)] = same[row, listed.distinct]
    pairs = [pair for listed in lists for pair in listed.pairs]
    return {
        "same_label": same[:, :LISTED],
        "same_label_and_prediction": both[:, :LISTED],
        "twin": np.array([listed.flags for listed in lists]),
        "distinct_same_label": distinct,
        "chance": np.bincount(train.label, minlength=len(train.classes))[label] / len(train.label),
        "twin_of": np.array([original for original, _, _ in pairs], dtype=np.str_),
        "twin_title": np.array([title for _, title, _ in pairs], dtype=np.str_),
        "twin_likeness": np.array([similarity for *_, similarity in pairs]),
    }


def _titled(articles: Articles, index: int) -> tuple[str, str]:
    return articles.title[index], text(articles, index)


def _texts_shown(
    classifier: Trained, predicted: dict[str, np.ndarray], rows: list[tuple[str, str, int, float]]
) -> dict[str, np.ndarray]:
    """The texts of the example, its proponents and its opponents: one array for each column."""
    parts = {"train": classifier.train.articles, "test": classifier.test.articles}
    classes = classifier.train.articles.classes
    columns = {
        "role": [role for role, *_ in rows],
        "label": [classes[parts[part].label[i]] for _, part, i, _ in rows],
        "prediction": [classes[predicted[part][i]] for _, part, i, _ in rows],
        "title": [parts[part].title[i] for _, part, i, _ in rows],
        "content": [parts[part].content[i] for _, part, i, _ in rows],
    }
    shown = {f"shown_{name}": np.array(values, np.str_) for name, values in columns.items()}
    return {**shown, "shown_score": np.array([score for *_, score in rows])}


def _found(
    config: Config,
    classifier: Trained,
    predicted: dict[str, np.ndarray],
    queries: np.ndarray,
    ends: dict[str, Any],
) -> dict[str, np.ndarray]:
    """The LISTED best and worst of every query, and their texts: what may be looked at.

    query_index            (n_queries,), positions of the queries
    ROLE_index, ROLE_score (n_queries, LISTED)
    texts                  JSON as bytes: by part and position, what the network reads of a text
    """
    found = {f"{role}_index": end.indices[1:, :LISTED].numpy() for role, end in ends.items()}
    scores = {f"{role}_score": end.values[1:, :LISTED].numpy() for role, end in ends.items()}
    part_of = {"test": (classifier.test.articles, queries)}
    part_of["train"] = (classifier.train.articles, np.unique(list(found.values())))
    length, classes = config.model.data.length, classifier.train.articles.classes
    texts = {
        part: {
            int(i): {
                "title": articles.title[i].strip(),
                "text": " ".join(articles.content[i].split()[:length]),
                "label": classes[articles.label[i]],
                "predicted": classes[predicted[part][i]],
            }
            for i in index
        }
        for part, (articles, index) in part_of.items()
    }
    packed = np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)
    return {"query_index": queries, **found, **scores, "texts": packed}


def work(config: Config) -> Work:
    """What a cell takes, with the classifier's training."""
    model, data, plan = config.model, config.model.data, config.model.fit
    of = _unit(model.network, data.most, data.length)
    label = f"bag of words of {model.network.width}"
    learned = training.training_work(
        "text_model", model, of, data.n_train, plan, label, scored=data.n_train + data.n_test
    )
    checkpoints = -(-plan.epochs // plan.every)
    queries = config.n_queries + 1
    return counting.attributed(config.method, of, data.n_train, (learned,), queries, checkpoints)


@cache
def _unit(network: TextClassifier, words: int, length: int) -> Unit:
    columns = {"words": ((length,), torch.int64), "label": ((), torch.int64)}
    return counting.unit(
        lambda: network.build(torch.ones(words), CLASSES, 0), cross_entropy, columns
    )


def cells(model: Model, seeds: int, n_queries: int) -> list[Config]:
    methods = TracIn(), NearestFeatures()
    return sweep(Config(model, n_queries=n_queries), model__seed=range(seeds), method=methods)


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
    gpu=True,
    work=work,
)


if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
