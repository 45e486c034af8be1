"""Lists of configs: every combination of the values of some fields."""

import itertools
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from experiments.laboratory.errors import UserError, nearest

ConfigT = TypeVar("ConfigT")


def sweep(config: ConfigT, **axes: Iterable[Any]) -> list[ConfigT]:
    """Every combination of the values of some fields, the last axis varying fastest.

    A field of a field is written with two underscores: `sweep(Config(), model__seed=range(5))`.
    """
    for name, values in axes.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise UserError(f"sweep: {name} is {values!r}: give the list of its values")
    cells = []
    for combination in itertools.product(*axes.values()):
        cell = config
        for name, value in zip(axes, combination, strict=True):
            cell = _replace(cell, name.split("__"), value)
        cells.append(cell)
    return cells


def _replace(config: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    known = [f.name for f in fields(config)] if is_dataclass(config) else []
    if name not in known:
        raise UserError(f"{type(config).__name__} has no field {name!r}: {nearest(name, known)}")
    return replace(
        config, **{name: _replace(getattr(config, name), rest, value) if rest else value}
    )
