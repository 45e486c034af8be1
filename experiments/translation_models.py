"""Translation models: what the experiments on parallel text train, and what they are trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import bleu, runs
from experiments.data.parallel import Corpus, Pairs
from experiments.decoding import Beam, translate
from experiments.flat import checkpoints
from experiments.models.transformer import Seq2Seq, Transformer, TranslationLoss
from experiments.problems import UserError
from experiments.subwords import Subwords, Vocabulary, columns, vocabulary
from experiments.training import Adam, Warmed, fit
from methods.task import Examples, Task

ADAM = Adam(0.9, 0.98)


@dataclass(frozen=True)
class Language:
    """How sentences become numbers: subwords, and how many of them a sentence keeps."""

    subwords: Subwords = Subwords()
    length: int = 48

    def open(self) -> Vocabulary:
        """The vocabulary."""
        return vocabulary(self.subwords)


@dataclass(frozen=True)
class Model:
    """A trained translation model; the seed draws initial parameters, order and dropout."""

    network: Transformer = Transformer()
    language: Language = Language()
    train: Corpus = Corpus()
    fit: Warmed = Warmed()
    smoothing: float = 0.1
    seed: int = 0

    @property
    def loss(self) -> TranslationLoss:
        """What it is trained on, and what influence is measured on."""
        return TranslationLoss(self.smoothing)

    def made(self) -> tuple[Seq2Seq, Vocabulary]:
        """The network with its initial parameters, where there is a GPU on it."""
        words = self.language.open()
        if self.language.length > self.network.longest:
            raise UserError(
                f"sentences of {self.language.length} subwords, and {self.network.longest} "
                "positions in the network: lower language.length or raise network.longest"
            )
        return self.network.made(len(words), self.seed).to(device()), words


@dataclass(frozen=True)
class Trained:
    """A trained model; the task's checkpoints are those of the training."""

    module: Seq2Seq
    task: Task
    words: Vocabulary
    metrics: dict[str, Any]


SMOKE = Model(
    Transformer(width=32, heads=2, layers=2, inner=64, longest=64),
    Language(Subwords(Corpus("generated"), 300), 24),
    Corpus("generated", 0, 600),
    Warmed(epochs=12, batch_size=32, lr=1e-2, every=6, adam=ADAM, pool=10, warmup=1.0),
)
SMALL = Model(
    Transformer(width=128, heads=4, layers=2, inner=512, longest=80),
    Language(Subwords(Corpus("both"), 4_000), 48),
    Corpus("both"),
    Warmed(epochs=8, batch_size=64, lr=2e-3, every=2, adam=ADAM, warmup=1.0),
)
# On a GPU of 80 GB: 200 iterations of Arnoldi hold as many vectors of 60 million numbers, 48 GB.
# 100k steps of 826 pairs, about 25k subwords of each side (Vaswani et al., Sec. 5.1), and 4k steps
# of warm-up; lr is what their formula gives after them.
PAPER = Model(
    Transformer(),
    Language(Subwords(Corpus("wmt17"), 32_000), 128),
    Corpus("wmt17", 0, 5_900_000),
    Warmed(epochs=14, batch_size=826, lr=7e-4, every=2, adam=ADAM, warmup=0.56),
)


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def examples(model: Model, pairs: Pairs) -> Examples:
    """Pairs as a model takes them: source, target and length."""
    return columns(model.language.open(), pairs, model.language.length)


def trained(model: Model) -> Trained:
    """The trained model, training it if no run has it yet."""
    run = runs.once("translation_model", model, lambda scratch: _train(model, scratch))
    module, words = model.made()
    kept = checkpoints(module, run)
    module.requires_grad_(False)
    return Trained(module, Task.of(module, model.loss, checkpoints=kept), words, run.metrics)


def _train(model: Model, scratch: Path) -> dict[str, Any]:
    module, _ = model.made()
    train = moved(examples(model, model.train.load()))
    outcome = fit(module, model.loss, train, model.fit, model.seed, scratch)
    return {**outcome, "num_params": outcome["params"].shape[1], "n_train": len(train["length"])}


def moved(train: Examples) -> Examples:
    """A training set where the network is."""
    return {name: column.to(device()) for name, column in train.items()}


@dataclass(frozen=True)
class Translated:
    """The translation of a test set by a trained model."""

    model: Model
    test: Corpus
    beam: Beam = Beam()


def quality(asked: Translated) -> runs.Run:
    """A run with `bleu`, its `signature`, and the translations."""
    bleu.scorer()
    return runs.once("translation_bleu", asked, lambda _: _measured(asked))


def _measured(asked: Translated) -> dict[str, Any]:
    there = trained(asked.model)
    return scored(there.module, asked.model, asked.test.load(), asked.beam)


def scored(module: Seq2Seq, model: Model, test: Pairs, beam: Beam) -> dict[str, Any]:
    """BLEU of a network on test pairs, its signature, and the translations."""
    words = model.language.open()
    source: Tensor = columns(words, test, model.language.length)["source"]
    texts: Sequence[str] = words.decode(translate(module.eval(), source, beam))
    value, signature = bleu.bleu(texts, test.target)
    return {"bleu": value, "signature": signature, "translations": np.array(texts)}
