"""Subwords of both languages (byte pair encoding), learnt once, and sentences as their numbers."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import runs
from experiments.data.parallel import Corpus, Pairs, texts
from experiments.problems import UserError
from methods.progress import track

SPECIAL = ("[PAD]", "[BOS]", "[EOS]", "[UNK]")
PADDING, FIRST, LAST, UNKNOWN = range(4)
TOGETHER = 20_000  # sentences encoded at a time


@dataclass(frozen=True)
class Subwords:
    """`size` subwords, at most, learnt on both sides of a corpus (Sennrich et al., 2016)."""

    corpus: Corpus = Corpus()
    size: int = 4_000


class Vocabulary:
    """Subwords by number; 0 is padding, 1 and 2 begin and end a sentence, 3 is what has none."""

    def __init__(self, text: str) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_str(text)

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def encode(self, sentences: Sequence[str], length: int, begin: bool) -> np.ndarray:
        """Numbers padded behind, (n, T) int16 or int32; longer sentences are cut at `length`."""
        kind = np.int16 if len(self) < 2**15 else np.int32
        rows = []
        for start in range(0, len(sentences), TOGETHER):
            some = list(sentences[start : start + TOGETHER])
            rows += [one.ids for one in self.tokenizer.encode_batch(some)]
        head = [FIRST] if begin else []
        made = [[*head, *row[: length - 1 - len(head)], LAST] for row in rows]
        out = np.full((len(made), max(map(len, made), default=1)), PADDING, dtype=kind)
        for place, row in zip(out, made, strict=True):
            place[: len(row)] = row
        return out

    def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """Sentences of rows of numbers, each up to its end."""
        return [str(text) for text in self.tokenizer.decode_batch([_ended(row) for row in rows])]


def _ended(row: Sequence[int]) -> list[int]:
    numbers = [int(number) for number in row]
    return numbers[: numbers.index(LAST)] if LAST in numbers else numbers


def vocabulary(subwords: Subwords) -> Vocabulary:
    """The vocabulary, learnt if no run has it yet."""
    run = runs.once("translation_subwords", subwords, lambda _: _learn(subwords))
    return _opened(bytes(run.array("tokenizer")))


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


def columns(words: Vocabulary, pairs: Pairs, length: int) -> dict[str, Tensor]:
    """Examples: source (n, S), target (n, T) with its beginning, and length (n,), both together.

    Sentences are cut at `length` subwords, the marks of begin and end included.
    """
    if length < 4:
        raise UserError(f"length is {length}: give 4 or more subwords")
    source = torch.from_numpy(words.encode(pairs.source, length, begin=False))
    target = torch.from_numpy(words.encode(pairs.target, length, begin=True))
    both = (source != PADDING).sum(1) + (target != PADDING).sum(1)
    return {"source": source, "target": target, "length": both}


def in_blocks(items: Iterable[tuple[str, str]], size: int) -> Iterable[Pairs]:
    """Pairs in blocks of `size`, as they come."""
    block: list[tuple[str, str]] = []
    for pair in track(items, "sentence pairs"):
        block.append(pair)
        if len(block) == size:
            yield Pairs([s for s, _ in block], [t for _, t in block])
            block = []
    if block:
        yield Pairs([s for s, _ in block], [t for _, t in block])
