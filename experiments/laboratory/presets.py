"""The list of a preset's runs on disk, by which they are found without the experiment."""

import json
import re
from collections.abc import Mapping
from typing import Any

from experiments.laboratory.keys import digest

FIELDS = {"key", "config", "parts"}
_KEY = re.compile(r"[0-9a-f]{16}")


def read(content: bytes) -> list[dict[str, Any]]:
    """The entries of a list; a ValueError says what is wrong with it.

    Every key must be that of its config, and so must the keys of parts that the config has.
    """
    try:
        return _checked(json.loads(content))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _checked(listed: Any) -> list[dict[str, Any]]:
    if not isinstance(listed, list):
        raise ValueError("it is no list")
    seen = set[str]()
    for place, entry in enumerate(listed):
        if not isinstance(entry, Mapping) or not entry.keys() >= FIELDS:
            raise ValueError(f"entry {place} is incomplete")
        if not isinstance(entry["config"], Mapping) or not isinstance(entry["parts"], Mapping):
            raise ValueError(f"entry {place} has no config")
        named = {"its config": (entry["config"], entry["key"])}
        for name, key in entry["parts"].items():
            if not isinstance(key, str) or not _KEY.fullmatch(key):
                raise ValueError(f"entry {place} has a part without a key")
            if name in entry["config"]:  # a part that was added later is described if it is unusual
                named[f"its {name}"] = (entry["config"][name], key)
        for what, (config, key) in named.items():
            if digest(config) != key:
                raise ValueError(f"entry {place} has another key than {what}")
        if entry["key"] in seen:  # numbers would count it twice
            raise ValueError(f"entry {place} is there before")
        seen.add(entry["key"])
    return listed
