"""The error of what a user can fix, and the phrases that its messages share."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from torch import Tensor


class MethodError(Exception):
    """A model, data set or setting a method cannot work with; the message says what to change."""


def kind(given: object) -> str:
    """A description of an object: "a tuple of 2"."""
    if isinstance(given, Tensor):
        return f"a tensor of shape {tuple(given.shape)}"
    if given is None:
        return "None"
    name = type(given).__name__
    article = "an" if name[0] in "aeiouAEIOU" else "a"
    size = f" of {len(given)}" if isinstance(given, tuple | list | dict) else ""
    return f"{article} {name}{size}"


def columns(examples: Mapping[str, Tensor]) -> str:
    """Names, shapes and types: "image (8, 1, 28, 28) float32, label (8,) int64"."""
    return ", ".join(
        f"{name} {tuple(column.shape)} {str(column.dtype).removeprefix('torch.')}"
        for name, column in examples.items()
    )


def near(pattern: str, names: Iterable[str]) -> str:
    """The end of a message about a pattern that matches none of the names."""
    close = get_close_matches(pattern, names, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}"


def at_least(least: int, **values: int | None) -> None:
    """Refuse a number below `least`; None, where a setting may be left out, passes."""
    for name, value in values.items():
        if value is not None and value < least:
            raise MethodError(f"{name} is {value}: give {least} or more")
