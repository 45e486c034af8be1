"""Sentence pairs of natural language inference, whatever file they come from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import note

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
        """The same pairs as entailment or not (McCoy et al., 2019, Sec. 4)."""
        if self.classes == TWO:
            return self
        return replace(self, label=(self.label != 0).astype(np.int64), classes=TWO)

    def without_stops(self) -> "Pairs":
        """The same pairs without full stops at the end of a sentence.

        One part of the MultiNLI rows at hand has lost them: with them, the stop would tell parts
        of the data apart.
        """
        cut = [[text.rstrip(" .") or text for text in of] for of in (self.premise, self.hypothesis)]
        return replace(self, premise=cut[0], hypothesis=cut[1])


def made(
    rows: Sequence[tuple[str, str, str]],
    classes: tuple[str, ...],
    part: Sequence[str],
    subcase: Sequence[str],
) -> Pairs:
    """Pairs from rows (label, premise, hypothesis); an unknown label is the caller's to refuse."""
    label = np.array([classes.index(name) for name, *_ in rows], dtype=np.int64)
    premise, hypothesis = [p for _, p, _ in rows], [h for *_, h in rows]
    return Pairs(premise, hypothesis, label, classes, np.array(part), np.array(subcase))


def read(path: Path, shown: str, remedy: str) -> str:
    """A text file, its checksum noted under the name it is `shown` by."""
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"cannot read {path} ({reason}): {remedy}") from error
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    note("data", {shown: f"md5 {digest}"})
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {remedy}") from error
