"""Near-duplicates in a list of texts: named, and left out."""

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.data.words import jaccard

TWIN = 0.6  # words shared of all words of two texts, from which on they are near-duplicates
Titled = tuple[str, str]  # title and text


@dataclass(frozen=True)
class Sorted:
    """A list of texts with its near-duplicates told apart.

    twin (listed,) says which of the first are near-duplicates of the query or of one above;
    distinct, at most listed positions, are the first that are none; named has a title, that of its
    twin and their likeness for each near-duplicate among the first.
    """

    twin: list[bool]
    distinct: list[int]
    named: list[tuple[str, str, float]]


def sort_out(query: Titled, candidates: Sequence[Titled], listed: int) -> Sorted:
    """Go down the candidates until `listed` of them were seen, and as many distinct ones."""
    kept = [query]
    found = Sorted([], [], [])
    for place, (title, text) in enumerate(candidates):
        if place >= listed and len(found.distinct) == listed:
            break
        likeness, other = max((jaccard(text, words), name) for name, words in kept)
        if place < listed:
            found.twin.append(likeness >= TWIN)
            if likeness >= TWIN:
                found.named.append((other, title, likeness))
        if likeness < TWIN and len(found.distinct) < listed:
            found.distinct.append(place)
            kept.append((title, text))
    return found
