"""Words of a text: splitting, numbering, padding, and the similarity of two texts by words."""

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


def jaccard(one: str, other: str) -> float:
    """Distinct words in both texts, as a share of those in either; 1 if neither has any."""
    left, right = set(words(one)), set(words(other))
    return len(left & right) / len(left | right) if left | right else 1.0
