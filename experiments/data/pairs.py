"""Sentence pairs of natural language inference: what all their data sets share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

THREE = ("entailment", "neutral", "contradiction")
TWO = ("entailment", "non-entailment")


@dataclass(frozen=True)
class Pairs:
    """Premises and hypotheses, labels (n,) from 0, and where each pair belongs.

    part (n,) is the slice of the data set, such as a heuristic of HANS; subcase (n,) a finer one.
    """

    premise: list[str]
    hypothesis: list[str]
    label: np.ndarray
    classes: tuple[str, ...]
    part: np.ndarray
    subcase: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: np.ndarray) -> "Pairs":
        """The pairs at `index`, in that order."""
        premise, hypothesis = ([text[i] for i in index] for text in (self.premise, self.hypothesis))
        rest = (column[index] for column in (self.part, self.subcase))
        return Pairs(premise, hypothesis, self.label[index], self.classes, *rest)

    def two_way(self) -> "Pairs":
        """The same pairs with two labels, entailment or not (McCoy et al., 2019, Sec. 4)."""
        if self.classes == TWO:
            return self
        return replace(self, label=(self.label != 0).astype(np.int64), classes=TWO)

    def without_stops(self) -> "Pairs":
        """The same pairs without full stops at the end of a sentence.

        The MultiNLI subset has lost some: with stops, a model could tell parts of the data apart.
        """
        premise, hypothesis = (
            [text.rstrip(" .") or text for text in texts]
            for texts in (self.premise, self.hypothesis)
        )
        return replace(self, premise=premise, hypothesis=hypothesis)


def from_rows(
    rows: Sequence[tuple[str, str, str]],
    classes: tuple[str, ...],
    part: Sequence[str],
    subcase: Sequence[str],
) -> Pairs:
    """Pairs from rows (label, premise, hypothesis), whose labels the caller has checked."""
    label = np.array([classes.index(name) for name, *_ in rows], dtype=np.int64)
    premise, hypothesis = [p for _, p, _ in rows], [h for *_, h in rows]
    return Pairs(premise, hypothesis, label, classes, np.array(part), np.array(subcase))
