"""Generated sentence pairs: a language small enough to learn in seconds, with the traps of HANS.

In its "mnli" pairs a hypothesis made of words of the premise is nearly always entailed, so that a
model may learn to rely on the overlap of words. In its "hans" pairs the overlap is complete and
either label occurs, in the three slices of HANS.
"""

from collections.abc import Callable

import numpy as np

from experiments.data.hans import SLICES
from experiments.data.pairs import THREE, TWO, Pairs, from_rows
from experiments.laboratory import data_folder
from methods.randomness import numpy_generator

PEOPLE = ("doctor", "judge", "baker", "pilot", "singer", "farmer", "writer", "guard")
VERBS = ("saw", "helped", "thanked", "called", "admired", "paid")
SOLO = ("slept", "danced", "left", "smiled", "ran")
PLACES = ("garden", "kitchen", "station", "library")
WORDS = ("the", "by", "was", "in", "near", "and", "if", "nobody", "never", "maybe", "although")

NOISE = 0.2  # share of pairs whose label is drawn at random

Row = tuple[str, str, str, str]  # label, premise, hypothesis, subcase


def vocabulary() -> list[str]:
    """Every word of the language, in a fixed order."""
    return [*WORDS, *PEOPLE, *VERBS, *SOLO, *PLACES]


def mnli(n: int, seed: int) -> Pairs:
    """n pairs, whose three labels alternate."""
    draw = numpy_generator(seed, "grammar", 0)
    rows = [_plain(draw, THREE[i % 3]) for i in range(n)]
    rows = [(_noisy(draw, label), p, h, kind) for label, p, h, kind in rows]
    return _pairs(rows, THREE, ["mnli"] * n, f"generated pairs, seed {seed}")


def hans(n: int, seed: int) -> Pairs:
    """n pairs with two labels, whose three slices alternate."""
    draw = numpy_generator(seed, "grammar", 1)
    part = [SLICES[i % 3] for i in range(n)]
    rows = [TRAPS[name](draw, TWO[(i // 3) % 2]) for i, name in enumerate(part)]
    return _pairs(rows, TWO, part, f"generated traps, seed {seed}")


def _pairs(rows: list[Row], classes: tuple[str, ...], part: list[str], name: str) -> Pairs:
    data_folder.note_content(name, "\n".join(" ".join(row) for row in rows).encode())
    return from_rows([row[:3] for row in rows], classes, part, [row[3] for row in rows])


def _noisy(draw: np.random.Generator, label: str) -> str:
    """The label, or sometimes a random one, as annotators disagree."""
    return str(draw.choice(THREE)) if draw.random() < NOISE else label


def _plain(draw: np.random.Generator, label: str) -> Row:
    a, b = (str(one) for one in draw.choice(PEOPLE, 2, replace=False))
    verb, place = str(draw.choice(VERBS)), str(draw.choice(PLACES))
    premise = f"the {a} {verb} the {b} in the {place}"
    if label == "entailment":
        hypothesis = f"the {a} {verb} the {b}"
    elif label == "neutral":
        other = str(draw.choice([p for p in PEOPLE if p not in (a, b)]))
        hypothesis = f"maybe the {other} {draw.choice(SOLO)} near the {draw.choice(PLACES)}"
    else:
        hypothesis = f"nobody {verb} the {b}" if draw.random() < 0.5 else f"the {a} never {verb}"
    return label, premise, hypothesis, "mnli"


def _lexical_overlap(draw: np.random.Generator, label: str) -> Row:
    a, b = (str(one) for one in draw.choice(PEOPLE, 2, replace=False))
    verb = str(draw.choice(VERBS))
    if draw.random() < 0.5:
        ends = (b, a) if label == "entailment" else (a, b)
        return (
            label,
            f"the {a} was {verb} by the {b}",
            f"the {ends[0]} {verb} the {ends[1]}",
            "passive",
        )
    ends = (a, b) if label == "entailment" else (b, a)
    return label, f"the {a} {verb} the {b}", f"the {ends[0]} {verb} the {ends[1]}", "swap"


def _subsequence(draw: np.random.Generator, label: str) -> Row:
    a, b = (str(one) for one in draw.choice(PEOPLE, 2, replace=False))
    solo = str(draw.choice(SOLO))
    joint = "and" if label == "entailment" else "near"
    return label, f"the {a} {joint} the {b} {solo}", f"the {b} {solo}", f"{joint}_subject"


def _constituent(draw: np.random.Generator, label: str) -> Row:
    a, b = (str(one) for one in draw.choice(PEOPLE, 2, replace=False))
    first, second = str(draw.choice(SOLO)), str(draw.choice(SOLO))
    word = "although" if label == "entailment" else "if"
    return label, f"{word} the {a} {first} the {b} {second}", f"the {a} {first}", f"{word}_clause"


TRAPS: dict[str, Callable[[np.random.Generator, str], Row]] = dict(
    zip(SLICES, (_lexical_overlap, _subsequence, _constituent), strict=True)
)
