"""Words of a text: splitting, numbering, padding; similarity and language of texts by words."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

PADDING, UNKNOWN = 0, 1
BLOCK = 1 << 16  # texts padded at a time
_WORD = re.compile(r"[^\W_]+")

_GERMAN = """
    der die das den dem des ein eine einen einem einer und in im ist sind mit auf zu von an am für
    nicht wir sie er es ich hat haben werden wird auch sich bei aus nach zwei
"""
_ENGLISH = """
    the a an and in is are with on to of at for not we she he it i has have will be also by from
    his her their two this that while
"""
GERMAN, ENGLISH = frozenset(_GERMAN.split()), frozenset(_ENGLISH.split())


def words(text: str) -> list[str]:
    """Runs of letters and digits in lower case, in order."""
    return _WORD.findall(text.lower())


def of_language(words: Iterable[str], language: frozenset[str]) -> int:
    """How many of some words are common in a language."""
    return sum(word in language for word in words)


@dataclass(frozen=True)
class Vocabulary:
    """Words numbered from 2; 0 is padding and 1 every unknown word.

    rarity (n_words,) is the inverse document frequency log((1 + n) / (1 + texts with it)) + 1;
    padding and unknown words have that of a word in no text.
    """

    numbers: dict[str, int]
    rarity: np.ndarray

    @classmethod
    def build(cls, texts: Iterable[str], fewest: int, most: int) -> "Vocabulary":
        """The `most` words that most texts have, if at least `fewest` do; ties by the alphabet."""
        distinct = [set(words(text)) for text in texts]
        counts = Counter(word for text in distinct for word in text)
        common = sorted((w for w in counts if counts[w] >= fewest), key=lambda w: (-counts[w], w))
        common = common[:most]
        n_texts = np.array([0, 0, *(counts[word] for word in common)])
        rarity = np.log((1 + len(distinct)) / (1 + n_texts)) + 1
        return cls({word: number for number, word in enumerate(common, start=2)}, rarity)

    def __len__(self) -> int:
        return len(self.numbers) + 2

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """The first `length` words of each text as numbers, padded at the end, (n, length) int64.

        A text without any word is one unknown word.
        """
        encoded = np.full((len(texts), length), PADDING, dtype=np.int64)
        for row, text in zip(encoded, texts, strict=True):
            known = [self.numbers.get(word, UNKNOWN) for word in words(text)[:length]] or [UNKNOWN]
            row[: len(known)] = known
        return encoded


@dataclass(frozen=True)
class Numbered:
    """Texts of any length as numbers, one after another, which may be mapped from a file.

    Text i is `numbers[bounds[i] : bounds[i + 1]]`; bounds (n + 1,) int64.
    """

    numbers: np.ndarray
    bounds: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], dtype: type[np.integer]) -> "Numbered":
        """Texts that are numbers already, one list each."""
        counts = np.array([0, *map(len, texts)], dtype=np.int64)
        return cls(np.fromiter(chain.from_iterable(texts), dtype), counts.cumsum())

    @classmethod
    def joined(cls, parts: Sequence["Numbered"]) -> "Numbered":
        """The texts of several, of which there is at least one, in order."""
        counts = [np.diff(part.bounds) for part in parts]
        bounds = np.concatenate([np.zeros(1, np.int64), *counts]).cumsum()
        return cls(np.concatenate([part.numbers for part in parts]), bounds)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def padded(
        self, rows: np.ndarray, length: int, last: int, first: int | None = None
    ) -> np.ndarray:
        """Some texts, each cut and then ended by the number `last`, padded at the end, (n, T).

        `first`, if given, begins each. T is at most `length`, with these marks.
        """
        head = int(first is not None)
        starts = self.bounds[rows]
        counts = np.minimum(self.bounds[rows + 1] - starts, length - 1 - head)
        width = head + int(counts.max(initial=-head)) + 1
        padded = np.full((len(rows), width), PADDING, self.numbers.dtype)
        if first is not None:
            padded[:, 0] = first
        places = np.arange(width - 1 - head)
        for at in range(0, len(rows), BLOCK):
            some = slice(at, at + BLOCK)
            within = places < counts[some, None]
            found = self.numbers[(starts[some, None] + places)[within]]
            padded[some, head : width - 1][within] = found
        padded[np.arange(len(rows)), head + counts] = last
        return padded


def jaccard(one: str, other: str) -> float:
    """Distinct words in both texts, as a share of those in either; 1 if neither has any."""
    left, right = set(words(one)), set(words(other))
    return len(left & right) / len(left | right) if left | right else 1.0
