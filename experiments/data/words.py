"""Words of a text: how they are found, numbered and padded, and how alike two texts are."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

PADDING, UNKNOWN = 0, 1
_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Runs of letters and digits in lower case, in order."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Vocabulary:
    """Words by number, from 2: 0 is padding and 1 every word that has none.

    rarity (n_words,) is the inverse document frequency log((1 + n) / (1 + texts with it)) + 1, that
    of a word in no text for the unknown ones.
    """

    numbers: dict[str, int]
    rarity: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str], fewest: int, most: int) -> "Vocabulary":
        """The `most` words that are in most texts, `fewest` at least; ties in alphabetic order."""
        sets = [set(words(text)) for text in texts]
        counts = Counter(word for one in sets for word in one)
        common = sorted((w for w in counts if counts[w] >= fewest), key=lambda w: (-counts[w], w))
        kept = common[:most]
        among = np.array([0, 0, *(counts[word] for word in kept)])
        rarity = np.log((1 + len(sets)) / (1 + among)) + 1
        return cls({word: number for number, word in enumerate(kept, start=2)}, rarity)

    def __len__(self) -> int:
        return len(self.numbers) + 2

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """The first `length` words of each text as numbers, padded at the end, (n, length) int64.

        A text without any word is one unknown word.
        """
        made = np.full((len(texts), length), PADDING, dtype=np.int64)
        for row, text in zip(made, texts, strict=True):
            known = [self.numbers.get(word, UNKNOWN) for word in words(text)[:length]] or [UNKNOWN]
            row[: len(known)] = known
        return made


def jaccard(one: str, other: str) -> float:
    """Words that two texts share, as a share of all that are in either; 1 for two without any."""
    left, right = set(words(one)), set(words(other))
    return len(left & right) / len(left | right) if left | right else 1.0
