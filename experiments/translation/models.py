"""Translation models: subwords, training, translation by beam search, and BLEU."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data.parallel import Corpus, Pairs, texts
from experiments.data.words import Numbered
from experiments.laboratory import runs
from experiments.laboratory.counting import unit
from experiments.laboratory.device import device
from experiments.laboratory.errors import UserError
from experiments.laboratory.work import Step, Unit, Work
from experiments.models.transformer import Cache, Seq2Seq, Transformer, TranslationLoss, trimmed
from experiments.training import models as training
from experiments.training.loop import fit
from experiments.training.plans import Adam, Warmed
from methods.examples import Examples
from methods.memory import temporary
from methods.progress import track

SPECIAL = ("[PAD]", "[BOS]", "[EOS]", "[UNK]")
PADDING, FIRST, LAST, UNKNOWN = range(4)
ENCODED = 20_000  # sentences encoded at a time
BATCH = 64  # sentences translated at a time on the CPU
PAIR_SECONDS = 7e-5  # to encode a pair, on one core
USUAL = 31  # subwords of a sentence of WMT: 25k of each side in 826 pairs
ADAM = Adam(0.9, 0.98)
Trained = training.Trained[Seq2Seq]


@dataclass(frozen=True)
class Subwords:
    """At most `size` subwords by byte pair encoding of both languages (Sennrich et al., 2016)."""

    corpus: Corpus = Corpus()
    size: int = 4_000


class Vocabulary:
    """Subwords by number: 0 is padding, 1 and 2 begin and end a sentence, 3 is unknown text."""

    def __init__(self, text: str) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_str(text)

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def encode(self, sentences: Sequence[str]) -> Numbered:
        """Sentences as int16 or int32 numbers, without marks, however long they are."""
        kind = np.int16 if len(self) < 2**15 else np.int32
        starts = range(0, max(1, len(sentences)), ENCODED)
        blocks = (list(sentences[start : start + ENCODED]) for start in starts)
        found = (self.tokenizer.encode_batch(block) for block in blocks)
        return Numbered.joined([Numbered.of([one.ids for one in block], kind) for block in found])

    def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """The sentences of rows of numbers, each up to its end mark."""
        return [str(text) for text in self.tokenizer.decode_batch([_ended(row) for row in rows])]


@dataclass(frozen=True)
class Language:
    """How sentences become numbers: by subwords, at most `length` of them."""

    subwords: Subwords = Subwords()
    length: int = 48

    def open(self) -> Vocabulary:
        """The vocabulary, learnt if no run has it yet."""
        run = runs.once("translation_subwords", self.subwords, lambda _: _learn(self.subwords))
        return _opened(bytes(run.array("tokenizer")))


@dataclass(frozen=True)
class Encoded:
    """Sentence pairs as subwords, encoded once, for all processes and lengths.

    pairs  the config of where they come from: a corpus, or part of a pool
    """

    subwords: Subwords
    pairs: Any


@dataclass(frozen=True)
class Numbers:
    """Sentences and their translations as subwords, without marks."""

    source: Numbered
    target: Numbered

    @classmethod
    def of(cls, words: Vocabulary, blocks: Iterable[Pairs]) -> "Numbers":
        """Those of pairs that come in blocks."""
        parts = [(words.encode(block.source), words.encode(block.target)) for block in blocks]
        source, target = zip(*parts, strict=True)
        return cls(Numbered.joined(source), Numbered.joined(target))

    @classmethod
    def once(cls, wanted: Encoded, blocks: Callable[[], Iterable[Pairs]]) -> "Numbers":
        """Those of a run, mapped from its files; the pairs are read if no run has them yet."""

        def compute(_scratch: Path) -> dict[str, Any]:
            made = cls.of(Language(wanted.subwords).open(), blocks())
            return {
                f"{side}_{name}": array
                for side, texts in vars(made).items()
                for name, array in vars(texts).items()
            }

        run = runs.once("translation_pairs", wanted, compute, patient=True)
        source, target = (
            Numbered(run.array(f"{side}_numbers"), run.array(f"{side}_bounds"))
            for side in ("source", "target")
        )
        return cls(source, target)

    def __len__(self) -> int:
        return len(self.source)

    def columns(self, rows: np.ndarray, length: int) -> Examples:
        """Columns source (n, S), target (n, T) with its begin mark, and length (n,) of both.

        Sentences are cut at `length` subwords, including begin and end marks.
        """
        if length < 4:
            raise UserError(f"length is {length}: give 4 or more subwords")
        source = torch.from_numpy(self.source.padded(rows, length, LAST))
        target = torch.from_numpy(self.target.padded(rows, length, LAST, FIRST))
        both = (source != PADDING).sum(1) + (target != PADDING).sum(1)
        return {"source": source, "target": target, "length": both}


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
        """The loss for training and for influence."""
        return TranslationLoss(self.smoothing)

    def build(self) -> Seq2Seq:
        """The network with its initial parameters, on a GPU where there is one."""
        if self.language.length > self.network.longest:
            raise UserError(
                f"sentences of {self.language.length} subwords, but the network has "
                f"{self.network.longest} positions: lower language.length or raise network.longest"
            )
        return self.network.build(len(self.language.open()), self.seed).to(device())


@dataclass(frozen=True)
class Beam:
    """Beam search with `size` hypotheses per sentence; 1 is greedy.

    The best of n subwords has the highest log-likelihood / ((5 + n) / 6)^penalty. A translation has
    at most `more` subwords more than its source (Vaswani et al., Sec. 6.1).
    """

    size: int = 1
    penalty: float = 0.6
    more: int = 20

    def __post_init__(self) -> None:
        if self.size < 1 or self.more < 1:
            raise UserError(f"a beam of {self.size} and {self.more} subwords more: give 1 or more")


@dataclass(frozen=True)
class Translated:
    """The translation of a test set by a trained model."""

    model: Model
    test: Corpus
    beam: Beam = Beam()


def examples(model: Model, pairs: Pairs) -> Examples:
    """Pairs as a model takes them: source, target and length."""
    numbers = Numbers.of(model.language.open(), [pairs])
    return numbers.columns(np.arange(len(pairs)), model.language.length)


def train_examples(model: Model) -> Examples:
    """The training set of a model, as it takes it, on the CPU."""
    wanted = Encoded(model.language.subwords, model.train)
    numbers = Numbers.once(wanted, lambda: [model.train.load()])
    return numbers.columns(np.arange(len(numbers)), model.language.length)


def trained(model: Model) -> Trained:
    """The trained model, training it if no run has it yet."""
    train = partial(_train, model)
    return training.train_once("translation_model", model, model.build, model.loss, train)


def _train(model: Model, module: Seq2Seq, scratch: Path) -> dict[str, Any]:
    train = train_examples(model)
    outcome = fit(module, model.loss, train, model.fit, model.seed, scratch)
    return {**outcome, "n_train": len(train["length"])}


def _ended(row: Sequence[int]) -> list[int]:
    """The numbers of a sentence before its end mark, without padding."""
    numbers = [int(number) for number in row]
    end = numbers.index(LAST) if LAST in numbers else len(numbers)
    return [number for number in numbers[:end] if number != PADDING]


@cache
def _opened(content: bytes) -> Vocabulary:
    return Vocabulary(content.decode())


def _learn(subwords: Subwords) -> dict[str, Any]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if not 100 <= subwords.size <= 1_000_000:
        raise UserError(f"{subwords.size} subwords: give 100 to 1,000,000")
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=subwords.size, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(texts(subwords.corpus.load()), trainer)
    content = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False).encode()
    return {
        "tokenizer": np.frombuffer(content, dtype=np.uint8),
        "n_words": tokenizer.get_vocab_size(),
    }


def translated(config: Translated) -> runs.Run:
    """The run with `bleu`, its `signature`, and the translations."""
    scorer()

    def compute(_scratch: Path) -> dict[str, Any]:
        module = trained(config.model).module
        return measure_bleu(module, config.model, config.test.load(), config.beam)

    return runs.once("translation_bleu", config, compute)


def measure_bleu(module: Seq2Seq, model: Model, test: Pairs, beam: Beam) -> dict[str, Any]:
    """BLEU of a network on test pairs, its signature, and the translations."""
    words = model.language.open()
    source = examples(model, test)["source"]
    texts: Sequence[str] = words.decode(translate(module.eval(), source, beam))
    value, signature = bleu(texts, test.target)
    return {"bleu": value, "signature": signature, "translations": np.array(texts)}


@torch.no_grad()
def translate(module: Seq2Seq, source: Tensor, beam: Beam) -> list[list[int]]:
    """The subwords of each translation, without marks, in the order of `source` (n, S).

    Batches have sentences of similar length.
    """
    order = (source != PADDING).sum(1).argsort(stable=True)
    out: list[list[int]] = [[] for _ in range(len(source))]
    for rows in track(list(order.split(_at_once(module, source, beam))), "translating"):
        (some,) = trimmed(source[rows].long().to(module.places.device))
        for row, words in zip(rows.tolist(), _search(module, some, beam), strict=True):
            out[row] = words
    return out


def _at_once(module: Seq2Seq, source: Tensor, beam: Beam) -> int:
    """Sentences searched together: BATCH on the CPU, elsewhere as many as memory holds."""
    n_words, width = module.words.weight.shape
    kept = 4 * len(module.decoders) * width * (source.shape[1] + beam.more)  # keys and values
    each = 8 * beam.size * (kept + 2 * n_words)  # bytes, with a copy of each
    return max(1, temporary(module.places.device, BATCH * each) // each)


def _search(module: Seq2Seq, source: Tensor, beam: Beam) -> list[list[int]]:
    b, k = len(source), beam.size
    memory, padded = module.encode(source)
    padded = padded.repeat_interleave(k, 0)
    met = memory.repeat_interleave(k, 0)
    fixed = [layer.cross.keys(met) for layer in module.decoders]
    before: list[Cache] = [{} for _ in module.decoders]
    words = torch.full((b * k, 1), FIRST, device=source.device)
    score = torch.full((b, k), -torch.inf, device=source.device, dtype=memory.dtype)
    score[:, 0] = 0  # at first a sentence has only one hypothesis
    length = torch.ones(b * k, device=source.device, dtype=memory.dtype)
    ended = torch.zeros(b * k, dtype=torch.bool, device=source.device)
    first = k * torch.arange(b, device=source.device)[:, None]
    for at in range(min(source.shape[1] + beam.more, module.longest - 1)):
        x = module.embed(words[:, -1:], at)
        for layer, past, memory_keys in zip(module.decoders, before, fixed, strict=True):
            x = layer.step(x, past, memory_keys, padded)
        gain = module.head(module.decoded(x))[:, 0].log_softmax(1)
        gain[:, [PADDING, FIRST]] = -torch.inf
        gain[ended] = -torch.inf
        gain[ended, PADDING] = 0  # a finished hypothesis keeps its score
        score, chosen = (score[:, :, None] + gain.view(b, k, -1)).flatten(1).topk(k)
        parent = (first + chosen // gain.shape[1]).flatten()
        new = (chosen % gain.shape[1]).flatten()
        words = torch.cat([words[parent], new[:, None]], 1)
        length = length[parent] + (~ended[parent]).to(length.dtype)
        ended = ended[parent] | (new == LAST)
        if k > 1:
            before = [{name: part[parent] for name, part in cache.items()} for cache in before]
        if ended.all():
            break
    worth = score / ((5 + length.view(b, k)) / 6) ** beam.penalty
    best = words.view(b, k, -1)[torch.arange(b), worth.argmax(1).cpu()]
    return [_ended(row) for row in best[:, 1:].tolist()]


def scorer() -> Any:
    """sacreBLEU's scorer with its defaults; call it before hours of training that end with BLEU."""
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise UserError(
            "BLEU needs sacrebleu, which is not installed: `pip install -e '.[translation]'`"
        ) from error
    return BLEU()


def bleu(translations: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Corpus BLEU, 0 to 100, and the signature that says how it was computed (Post, 2018)."""
    metric = scorer()
    result = metric.corpus_score(list(translations), [list(references)])
    return float(result.score), str(metric.get_signature())


@cache
def _unit(network: Transformer, words: int, length: int, loss: TranslationLoss) -> Unit:
    columns = dict.fromkeys(("source", "target"), ((length,), torch.int64))
    return unit(lambda: network.build(words, 0), loss, columns)


def unit_of(model: Model) -> Unit:
    """A pass of the network over a pair of the usual length, without padding."""
    length = min(USUAL, model.language.length)
    return _unit(model.network, model.language.subwords.size, length, model.loss)


def work(model: Model) -> Work:
    """What training takes."""
    n, of = model.train.about, unit_of(model)
    label = f"Transformer of {of.size:,} parameters"
    read = encoding(Encoded(model.language.subwords, model.train), n)
    return training.training_work(
        "translation_model", model, of, n, model.fit, label, parts=(read,)
    )


def encoding(wanted: Encoded, n: float) -> Work:
    """What encoding n pairs takes, once for all runs that read them."""
    kept = (2 * USUAL * np.int16().itemsize + 2 * np.int64().itemsize) * n
    seconds = PAIR_SECONDS * n
    return Work(
        "subwords",
        parts=(vocabulary(wanted.subwords),),
        name="translation_pairs",
        config=wanted,
        disk=kept,
        given=seconds,
        gpu=False,
    )


def vocabulary(wanted: Subwords) -> Work:
    """What learning the subwords takes, once for all that encode by them."""
    seconds = PAIR_SECONDS * wanted.corpus.about
    return Work("vocabulary", name="translation_subwords", config=wanted, given=seconds, gpu=False)


def translation_steps(model: Model, sentences: int, beam: Beam) -> tuple[Step, ...]:
    """What translating takes: a pass for each hypothesis, subword by subword."""
    of = unit_of(model)
    each = Step(of.forward * BATCH * beam.size, of.kernels / 3 * USUAL, sentences / BATCH)
    return (each,)


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
    # In bfloat16, as translation models are trained: BLEU differs by more from seed to seed.
    Warmed(epochs=14, batch_size=826, lr=7e-4, every=2, adam=ADAM, warmup=0.56, precision="bf16"),
)
