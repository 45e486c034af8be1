"""Lists of configs: every combination of the values of some fields."""

import itertools
from collections.abc import Iterable, Mapping
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
    names = [name.replace("__", ".") for name in axes]
    combinations = itertools.product(*axes.values())
    return [replaced(config, dict(zip(names, each, strict=True))) for each in combinations]


def replaced(config: ConfigT, values: Mapping[str, Any]) -> ConfigT:
    """A config with other values of some fields, all at once: `{"model.seed": 3, "size": 7}`."""
    known = [field.name for field in fields(config)] if is_dataclass(config) else []
    inner: dict[str, dict[str, Any]] = {}
    outer: dict[str, Any] = {}
    for path, value in values.items():
        name, _, rest = path.partition(".")
        if name not in known:
            kind = type(config).__name__
            raise UserError(f"{kind} has no field {name!r}: {nearest(name, known)}")
        if rest:
            inner.setdefault(name, {})[rest] = value
        else:
            outer[name] = value
    deeper = {
        name: replaced(outer.get(name, getattr(config, name)), of) for name, of in inner.items()
    }
    return replace(config, **{**outer, **deeper}) if values else config  # type: ignore[type-var]
