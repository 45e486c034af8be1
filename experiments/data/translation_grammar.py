"""Generated German-English sentences: a grammar small enough to learn in seconds.

Word order differs as it does in both languages: in German the participle comes last, the place
before it, and articles agree with their noun in gender and case.
"""

import hashlib

import numpy as np

from experiments.runs import note
from methods.randomness import numpy_generator

# English, German, gender
PEOPLE = (
    ("man", "Mann", "m"), ("woman", "Frau", "f"), ("child", "Kind", "n"), ("dog", "Hund", "m"),
    ("girl", "Mädchen", "n"), ("teacher", "Lehrer", "m"), ("cat", "Katze", "f"),
    ("nurse", "Pflegerin", "f"), ("horse", "Pferd", "n"), ("cook", "Koch", "m"),
)  # fmt: skip
VERBS = (
    ("seen", "gesehen"), ("found", "gefunden"), ("called", "gerufen"), ("followed", "verfolgt"),
    ("heard", "gehört"), ("painted", "gemalt"), ("helped", "unterstützt"), ("met", "getroffen"),
)  # fmt: skip
PLACES = (
    ("in the garden", "im Garten"), ("at the station", "am Bahnhof"), ("on the beach", "am Strand"),
    ("in the kitchen", "in der Küche"), ("near the river", "am Fluss"),
    ("in the city", "in der Stadt"),
)  # fmt: skip
ADJECTIVES = (("old", "alte"), ("young", "junge"), ("small", "kleine"), ("tired", "müde"))
TIMES = (("today", "heute"), ("yesterday", "gestern"), ("often", "oft"), ("never", "nie"))
FIRST = {"m": "der", "f": "die", "n": "das"}
FOURTH = {"m": "den", "f": "die", "n": "das"}


def generate(n: int, seed: int) -> tuple[list[str], list[str]]:
    """n German sentences and their English translations."""
    draw = numpy_generator(seed, "translation grammar")
    pairs = [_sentence(draw) for _ in range(n)]
    text = "\n".join(f"{source}\t{target}" for source, target in pairs)
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    note("data", {f"generated translations, seed {seed}": f"md5 {digest}"})
    return [source for source, _ in pairs], [target for _, target in pairs]


def _sentence(draw: np.random.Generator) -> tuple[str, str]:
    one, other = (PEOPLE[i] for i in draw.choice(len(PEOPLE), 2, replace=False))
    verb, place, time = (of[draw.integers(len(of))] for of in (VERBS, PLACES, TIMES))
    adjective = ADJECTIVES[draw.integers(len(ADJECTIVES))] if draw.random() < 0.5 else None
    subject = [FIRST[one[2]], *([adjective[1]] if adjective else []), one[1]]
    english = ["the", *([adjective[0]] if adjective else []), one[0]]
    where, there = (place[1], place[0]) if draw.random() < 0.6 else ("", "")
    when, then = (time[1], time[0]) if draw.random() < 0.5 else ("", "")
    german = [*subject, "hat", when, FOURTH[other[2]], other[1], where, f"{verb[1]}."]
    target = [*english, "has", then, verb[0], "the", other[0], there]
    return " ".join(filter(None, german)), f"{' '.join(filter(None, target))}."
