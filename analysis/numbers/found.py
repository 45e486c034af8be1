"""What was found for each query: its proponents and opponents by each method, ready to be shown.

Examples are columns by name (a dict, a data frame) or a sequence of dicts. The column `image` is a
picture, `text` a string or a list of words, `token_scores` a number for each word; every other
column is a fact, shown by its name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.laboratory.runs import UserError

IMAGE, TEXT, WEIGHTS = "image", "text", "token_scores"
SIDES = ("proponents", "opponents")
CHANNELS = (1, 3)
FORMS = (
    "give a Scores, scores (n_query, n_candidates), those of tokens (n_query, t, n_candidates), or"
    " the values and the index of the k best, (n_query, k) both"
)


@dataclass(frozen=True, eq=False)
class Example:
    """An example as it is shown: its number in its data set, and what there is to see of it.

    words    its text; a text that is not divided is one word
    weights  a number for each word, or none
    pixels   uint8 (h, w) or (h, w, 3)
    """

    number: int
    facts: Mapping[str, str]
    words: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    pixels: np.ndarray | None = None

    @property
    def text(self) -> str:
        """Its words, with spaces between them unless they bring their own."""
        return ("" if any(word.startswith(" ") for word in self.words) else " ").join(self.words)


@dataclass(frozen=True, eq=False)
class Item:
    """A candidate that was found, its score, and what it adds to each word of the query."""

    example: Example
    score: float
    weights: tuple[float, ...] = ()


Lists = dict[str, dict[str, list[Item]]]  # by method and side


@dataclass(frozen=True, eq=False)
class Query:
    """A query with the lists that were found for it, best first."""

    example: Example
    lists: Lists = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Best:
    """The best of each query on one side.

    queries (n_query,) numbers; values, index (n_query, k), index being candidates' numbers;
    tokens (n_query, t, k), or None
    """

    queries: np.ndarray
    values: np.ndarray
    index: np.ndarray
    tokens: np.ndarray | None = None


def found(
    scores: Any, query: Any, candidates: Any, opponents: Any = None, k: int = 5
) -> list[Query]:
    """The k proponents and opponents of every query, by every method.

    scores, opponents  of one method, or of several by name; in any form that FORMS names. The
                       opponents are found in the scores where these are whole.
    """
    if k < 1:
        raise UserError(f"k is {k}: show at least one example of each side")
    methods = _by_method(scores)
    below = _by_method(opponents) if opponents is not None else {}
    if unknown := [name for name in below if name not in methods]:
        raise UserError(f"opponents of {unknown[0]!r}, which has no scores: give them as well")
    sides = {
        name: {**_sides(given, SIDES[0], k), **_sides(below.get(name), SIDES[1], k)}
        for name, given in methods.items()
    }
    shown_query = _looked_up("query", "queries", query)
    shown_candidate = _looked_up("candidate", "candidates", candidates)
    return assembled(sides, shown_query, shown_candidate)


def assembled(
    sides: Mapping[str, Mapping[str, Best]],
    query: Callable[[int], Example],
    candidate: Callable[[int], Example],
) -> list[Query]:
    """Queries with their lists, from the best by method and side, and examples by number."""
    known: dict[int, Example] = {}
    queries: dict[int, Query] = {}

    def seen(number: int) -> Example:
        if number not in known:
            known[number] = candidate(number)
        return known[number]

    for method, by_side in sides.items():
        for side, best in by_side.items():
            for row, number in enumerate(map(int, best.queries)):
                if number not in queries:
                    queries[number] = Query(query(number))
                one = queries[number]
                items = []
                for place, (value, at) in enumerate(
                    zip(best.values[row], best.index[row], strict=True)
                ):
                    added = () if best.tokens is None else best.tokens[row, :, place]
                    count = len(one.example.words)
                    items.append(
                        Item(seen(int(at)), float(value), tuple(map(float, added[:count])))
                    )
                one.lists.setdefault(method, {})[side] = items
    if not queries:
        raise UserError("there are no queries: give the scores of one at least")
    return list(queries.values())


def _by_method(given: Any) -> dict[str, Any]:
    """Scores by the name of their method; "" if it has none."""
    if isinstance(given, Mapping):
        if not given:
            raise UserError(f"scores are an empty dict: {FORMS}")
        return {str(name): one for name, one in given.items()}
    about = getattr(given, "about", None) or {}
    return {str(about.get("method", {}).get("type", "")): given}


def _sides(given: Any, side: str, k: int) -> dict[str, Best]:
    """The best of each side that one form of scores gives."""
    if given is None:
        return {}
    if hasattr(given, "queries") and hasattr(given, "candidates"):  # methods.Scores
        values, numbers = _array(given.values), _array(given.candidates)
        queries = _array(given.queries)
        if numbers.ndim == 1:
            return _of_whole(values, queries, numbers, side, k)
        kept = (given.about.get("kept") or {}).get("side") or side
        return {kept: _checked(Best(queries, values[:, :k], numbers[:, :k]))}
    if isinstance(given, tuple | list) and len(given) == 2 and np.ndim(_array(given[0])) == 2:
        values, index = map(_array, given)
        if values.shape != index.shape or index.dtype.kind not in "iu":
            raise UserError(
                f"values are {values.shape} and their index {index.shape} of {index.dtype}: {FORMS}"
            )
        return {side: _checked(Best(np.arange(len(values)), values[:, :k], index[:, :k]))}
    values = _array(given)
    if values.ndim not in (2, 3) or values.dtype.kind not in "fiu":
        raise UserError(f"scores are an array {values.shape} of {values.dtype}: {FORMS}")
    numbers = np.arange(values.shape[-1])
    return _of_whole(values, np.arange(len(values)), numbers, side, k)


def _of_whole(
    values: np.ndarray, queries: np.ndarray, numbers: np.ndarray, side: str, k: int
) -> dict[str, Best]:
    """Both sides of scores of all candidates; of `opponents` that were given apart, theirs."""
    totals = values.sum(axis=1) if values.ndim == 3 else values
    wanted = SIDES if side == SIDES[0] else (side,)
    return {
        one: _checked(_best(totals, values, queries, numbers, one == SIDES[0], k)) for one in wanted
    }


def _best(
    totals: np.ndarray,
    values: np.ndarray,
    queries: np.ndarray,
    numbers: np.ndarray,
    highest: bool,
    k: int,
) -> Best:
    """The k highest or lowest of each row, equal ones in the order of the candidates."""
    k = min(k, totals.shape[1])
    index = np.empty((len(totals), k), dtype=np.int64)
    for row, ranked in enumerate(-totals if highest else totals):  # one row in memory
        last = np.partition(ranked, k - 1)[k - 1]
        among = np.flatnonzero(~(ranked > last))
        index[row] = among[np.argsort(ranked[among], kind="stable")[:k]]
    best = np.take_along_axis(totals, index, axis=1)
    tokens = np.take_along_axis(values, index[:, None], axis=2) if values.ndim == 3 else None
    return Best(queries, best, numbers[index], tokens)


def _checked(best: Best) -> Best:
    if not best.values.size:
        raise UserError(f"scores are {best.values.shape}: give at least one query and candidate")
    if not np.isfinite(best.values).all():
        raise UserError("scores are not finite: look for NaN in the data or the parameters")
    return best


def _looked_up(what: str, many: str, given: Any) -> Callable[[int], Example]:
    """Examples by number, from columns or from a sequence of dicts."""
    if hasattr(given, "columns"):  # a data frame
        given = {str(name): given[name].to_numpy() for name in given.columns}
    if isinstance(given, Mapping):
        columns = dict(given)
        lengths = {str(name): len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            shown = ", ".join(f"{name} {n}" for name, n in lengths.items()) or "none"
            raise UserError(f"columns of the {many} differ in length ({shown}): give equal ones")
        count = next(iter(lengths.values()))

        def row(at: int) -> Mapping[str, Any]:
            return {name: column[at] for name, column in columns.items()}

    elif hasattr(given, "__getitem__") and hasattr(given, "__len__") and not isinstance(given, str):
        count = len(given)

        def row(at: int) -> Mapping[str, Any]:
            one = given[at]
            if not isinstance(one, Mapping):
                raise UserError(
                    f"{what} {at} is a {type(one).__name__}: give a dict of columns, a data frame,"
                    " or a sequence of dicts"
                )
            return one

    else:
        raise UserError(
            f"the {many} are a {type(given).__name__}: give a dict of columns, a data frame, or a"
            " sequence of dicts"
        )

    def example(number: int) -> Example:
        if not 0 <= number < count:
            raise UserError(
                f"scores name {what} {number}, and {count} {many} are given: give the data set"
                " whose numbers the scores have"
            )
        return as_example(number, row(number), f"{what} {number}")

    return example


def as_example(number: int, row: Mapping[str, Any], what: str) -> Example:
    """An example from its columns; `what` names it in errors."""
    text, weights = row.get(TEXT), row.get(WEIGHTS)
    words = () if text is None else (text,) if isinstance(text, str) else tuple(map(str, text))
    numbers = () if weights is None else tuple(map(float, _array(weights)))[: len(words)]
    if len(numbers) < len(words) and weights is not None:
        raise UserError(f"{what} has {len(words)} words and {len(numbers)} token scores: give each")
    image = row.get(IMAGE)
    facts = {
        str(name): fact
        for name, value in row.items()
        if name not in (IMAGE, TEXT, WEIGHTS) and (fact := _fact(value)) is not None
    }
    pixels = None if image is None else to_pixels(_array(image), what)
    return Example(number, facts, words, numbers, pixels)


def _fact(value: Any) -> str | None:
    """A single value in words; None if it is an array."""
    if isinstance(value, str):
        return value
    array = _array(value)
    if array.size != 1:
        return None
    one = array.item()
    if isinstance(one, bool):
        return "yes" if one else "no"
    return f"{one:.4g}" if isinstance(one, float) else str(one)


def to_pixels(image: np.ndarray, what: str) -> np.ndarray:
    """An image as uint8, (h, w) or (h, w, 3), from either order of axes, or from [0, 1]."""
    if image.ndim == 3 and image.shape[0] in CHANNELS and image.shape[2] not in CHANNELS:
        image = np.moveaxis(image, 0, 2)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[2] == 3):
        raise UserError(
            f"{what} is an image of shape {image.shape}: give (h, w), (3, h, w) or (h, w, 3)"
        )
    if image.dtype.kind == "f":
        low, high = float(image.min()), float(image.max())
        if not (low >= -1e-6 and high <= 1 + 1e-6):
            raise UserError(
                f"{what} has values from {low:.3g} to {high:.3g}: undo the normalisation, so that"
                " they are in [0, 1], or give uint8"
            )
        return np.asarray((image.clip(0, 1) * 255).round(), dtype=np.uint8)
    if image.dtype.kind not in "iub" or int(image.min()) < 0 or int(image.max()) > 255:
        raise UserError(f"{what} is an image of {image.dtype}: give uint8, or numbers in [0, 1]")
    return np.asarray(image * 255 if image.dtype.kind == "b" else image, dtype=np.uint8)


def _array(value: Any) -> np.ndarray:
    """An array in memory, from NumPy, a list, or a tensor on any device."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() and value.element_size() < 4 else value
    return np.asarray(value)


def extremes(query: Query) -> float:
    """The largest absolute weight of a word among everything that is shown of a query."""
    items: Sequence[Item] = [
        one for sides in query.lists.values() for items in sides.values() for one in items
    ]
    weights = [abs(w) for one in items for w in (*one.weights, *one.example.weights)]
    return max([*weights, *map(abs, query.example.weights)], default=0.0)
