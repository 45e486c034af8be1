"""The error of what a user can fix, and the phrases that its messages share."""

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from numbers import Real

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
        if value is not None and not value >= least:
            raise MethodError(f"{name} is {value}: give {least} or more")


def within(interval: str, **values: float | None) -> None:
    """Refuse a number outside of an interval, as "(0, 1]", "[0, inf)", "(0, inf)"; None passes."""
    for name, value in values.items():
        if value is not None and not isinstance(value, Real):
            raise MethodError(f"{name} is {kind(value)}: give one number")
        if value is not None and (advice := misfit(interval, value)):
            raise MethodError(f"{name} is {value}: {advice}")


def misfit(interval: str, value: float) -> str:
    """What to give instead of a number outside of an interval; "" if it is inside.

    Neither NaN nor infinity is inside of any.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value > low or (interval[0] == "[" and value == low)
    below = value < high or (interval[-1] == "]" and value == high)
    if above and below:
        return ""
    positive = low == 0 and interval[0] == "("
    if high == math.inf:
        least = "a positive number" if positive else f"{low:g} or more"
        return f"give {least}, and finite"
    least = "a positive number" if positive else f"a number from {low:g}"
    most = "to" if interval[-1] == "]" else "below" if positive else "and below"
    return f"give {least} {most} {high:g}"


def one_line(error: Exception) -> str:
    """The first line of an error, with its type where that says more."""
    name, text = type(error).__name__, str(error).strip()
    line = text.splitlines()[0] if text else ""
    return line if line and not isinstance(error, KeyError) else f"{name}: {line}".rstrip(": ")
