"""Parallel text with the noise of crawled text, and the rules of a common pre-filter.

The kinds of noise are those that Schioppa et al. (2022, Sec. 5.2) list for ParaCrawl: other
languages, one language on both sides, near copies, targets that translate nothing or only a part,
short pairs of numbers; and misaligned pairs. Other languages are imitated: a fixed cipher respells
words, replacing vowels by vowels and consonants by consonants.
"""

import numpy as np

from experiments.data.parallel import Pairs
from experiments.data.words import ENGLISH, GERMAN, jaccard, of_language, words
from experiments.laboratory.errors import UserError
from methods.randomness import Purpose, numpy_generator

CLEAN = "clean"
KINDS = ("foreign", "one language", "near copy", "unrelated", "partial", "numbers", "misaligned")
VOWELS, CONSONANTS = "aeiouyäöü", "bcdfghjklmnpqrstvwxz"
PLAIN = VOWELS + CONSONANTS
CIPHER = VOWELS[4:] + VOWELS[:4] + CONSONANTS[7:] + CONSONANTS[:7]
RESPELT = str.maketrans(PLAIN + PLAIN.upper(), CIPHER + CIPHER.upper())


def pollute(pairs: Pairs, other: Pairs, share: float, seed: int) -> tuple[Pairs, np.ndarray]:
    """Add noise to a share of the pairs, every kind equally often.

    The `unrelated` kind takes its targets from `other`. Returns the pairs and the kind of each,
    (n,) of KINDS or CLEAN.
    """
    if not 0 <= share <= 1:
        raise UserError(f"share of noise is {share}: give a number from 0 to 1")
    draw = numpy_generator(seed, Purpose.POLLUTION)
    n = len(pairs)
    polluted = draw.permutation(n)[: round(share * n)]
    kind = np.full(n, CLEAN, dtype=f"<U{max(map(len, KINDS))}")
    source, target = list(pairs.source), list(pairs.target)
    for order, which in enumerate(polluted):
        name = KINDS[order % len(KINDS)]
        another = int(draw.integers(n))
        another = (another + 1) % n if another == which else another
        elsewhere = str(other.target[draw.integers(len(other))])
        source[which], target[which] = _noisy(name, pairs, int(which), another, elsewhere, draw)
        kind[which] = name
    return Pairs(source, target), kind


def _noisy(
    kind: str, pairs: Pairs, which: int, another: int, elsewhere: str, draw: np.random.Generator
) -> tuple[str, str]:
    source, target = pairs.source[which], pairs.target[which]
    if kind == "foreign":
        return source.translate(RESPELT), target.translate(RESPELT)
    if kind == "one language":
        if draw.random() < 0.5:
            return source, pairs.source[another]
        return pairs.target[another], target
    if kind == "near copy":
        text = source if draw.random() < 0.5 else target
        return text, _without_a_word(text, draw)
    if kind == "unrelated":
        return source, elsewhere
    if kind == "partial":
        start = target.split()
        return source, " ".join(start[: max(1, round(len(start) * draw.uniform(0.2, 0.5)))])
    if kind == "numbers":
        return _numbers(draw), _numbers(draw)
    return source, pairs.target[another]


def _without_a_word(text: str, draw: np.random.Generator) -> str:
    remaining = text.split()
    if len(remaining) > 2 and draw.random() < 0.5:
        del remaining[draw.integers(len(remaining))]
    return " ".join(remaining)


def _numbers(draw: np.random.Generator) -> str:
    separator = str(draw.choice([". ", " - ", ", ", "/", ": "]))
    return separator.join(str(draw.integers(1, 2_100)) for _ in range(draw.integers(1, 5)))


def passes(source: str, target: str) -> bool:
    """Whether a pair passes a common pre-filter: length, ratio, letters, copies, languages."""
    left, right = words(source), words(target)
    if not (3 <= len(left) <= 80 and 3 <= len(right) <= 80):
        return False
    if not 0.5 <= len(left) / len(right) <= 2 or not 0.4 <= len(source) / len(target) <= 2.5:
        return False
    letters = [sum(word.isalpha() for word in side) / len(side) for side in (left, right)]
    if min(letters) < 0.5 or jaccard(source, target) > 0.5:
        return False
    return _is(left, GERMAN, ENGLISH) and _is(right, ENGLISH, GERMAN)


def _is(side: list[str], language: frozenset[str], other: frozenset[str]) -> bool:
    """Whether more common words of one language than of the other occur."""
    return of_language(side, language) > of_language(side, other)
