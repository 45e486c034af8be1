"""A config as JSON, and the key its run is stored under."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass
from typing import Any

import numpy as np

from experiments.laboratory.errors import UserError

LATER = "later"
CLASS = "class"


def later(default: Any) -> Any:
    """The default of a field that a config gained when it had runs already.

    It must mean what those runs did: a config with this default is described without the field, so
    its runs keep their keys. The field comes last and is given by name, `Fit(precision="bf16")`.
    """
    return field(default=default, kw_only=True, metadata={LATER: True})


class NotDescribable(UserError, TypeError):
    """A config has a value that JSON cannot express exactly."""


def describe(config: Any) -> Any:
    """A frozen dataclass as JSON-able data, nested ones too, each with its class as "type".

    Fields with `compare=False` are left out: they change no number (batch sizes and the like). So
    are those of `later` while they have their default.
    """
    return _describe(config, type(config).__name__)


def key(config: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of the whole described config."""
    return digest(describe(config))


def described_in_full(config: Any) -> Any:
    """A config as `describe` gives it, with the fields that it leaves out as well.

    A class that is a value is {"class": its name}, to be told from a word.
    """
    return _describe(config, type(config).__name__, whole=True)


def digest(described: Any) -> str:
    """The key of a config that is described already."""
    text = json.dumps(described, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _describe(value: Any, where: str, whole: bool = False) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _describe_dataclass(value, where, whole)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise NotDescribable(f"{where} is {value}: use None for a setting that has no number")
    if isinstance(value, type):
        return {CLASS: value.__name__} if whole else value.__name__
    if isinstance(value, tuple | list):
        return [_describe(item, f"{where}[{i}]", whole) for i, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _describe(item, f"{where}[{name!r}]", whole) for name, item in value.items()}
    raise NotDescribable(
        f"{where} is a {type(value).__name__}, which has no exact description: "
        "use numbers, strings, tuples or a frozen dataclass (a callable one in place of a function)"
    )


def _describe_dataclass(value: Any, where: str, whole: bool) -> dict[str, Any]:
    described: dict[str, Any] = {"type": type(value).__name__}
    for one in fields(value):
        if one.name == "type":
            raise NotDescribable(f"{where}.type: the name is taken by the class; rename the field")
        item = getattr(value, one.name)
        usual = one.metadata.get(LATER) and item == one.default
        if (not one.init) if whole else (not one.compare or usual):
            continue
        # 1 and 1.0 for the same learning rate are the same config.
        if one.type in (float, "float") and type(item) is int:
            item = float(item)
        described[one.name] = _describe(item, f"{where}.{one.name}", whole)
    return described
