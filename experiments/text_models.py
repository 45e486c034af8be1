"""Text classifiers: what the experiment on DBpedia trains, and what it is trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments import runs
from experiments.data import dbpedia, gazetteer, labels
from experiments.data.dbpedia import Articles
from experiments.data.words import Vocabulary
from experiments.flat import checkpoints
from experiments.models.text_classifier import BagOfWords, TextClassifier
from experiments.training import Fit, fit
from methods.task import Task

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
class Trained:
    """A trained classifier with its data."""

    module: BagOfWords
    task: Task
    train: Part
    test: Part
    metrics: dict[str, Any]


def cross_entropy(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Negative log-likelihood of the given class in nats, (b,)."""
    return F.cross_entropy(model(batch["words"]), batch["label"], reduction="none")


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
            else gazetteer.generate(sum(sizes), GENERATED_SEED)
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
    run = runs.once("text_model", model, lambda scratch: _train(model, scratch))
    train, test, vocabulary = load_data(model.data, model.seed)
    module = _built(model, vocabulary, train)
    module.double()  # in single precision, a probability near one is mostly rounding
    kept = checkpoints(module, run)
    module.requires_grad_(False)
    decay = model.fit.weight_decay
    task = Task.of(module, cross_entropy, weight_decay=decay, checkpoints=kept)
    return Trained(module, task, train, test, run.metrics)


def _built(model: Model, vocabulary: Vocabulary, train: Part) -> BagOfWords:
    rarity = torch.from_numpy(vocabulary.rarity).float()
    return model.network.build(rarity, len(train.articles.classes), model.seed)


def _train(model: Model, scratch: Path) -> dict[str, Any]:
    train, test, vocabulary = load_data(model.data, model.seed)
    module = _built(model, vocabulary, train)
    outcome = fit(module, cross_entropy, train.examples, model.fit, model.seed, scratch)
    accuracy = {
        f"accuracy_{name}": float((predictions(module, part) == part.articles.label).mean())
        for name, part in (("train", train), ("test", test))
    }
    size = outcome["params"].shape[1]
    return {**outcome, **accuracy, "n_words": len(vocabulary), "num_params": size}


@torch.no_grad()
def predictions(module: nn.Module, part: Part) -> np.ndarray:
    """The predicted class of each text, (n,)."""
    pieces = part.examples["words"].split(1_000)
    return torch.cat([module(some).argmax(1) for some in pieces]).numpy()
