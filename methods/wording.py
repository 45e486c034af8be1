"""What messages say of what was given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from torch import Tensor


def kind(given: object) -> str:
    """What something is: "a tuple of 2"."""
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
