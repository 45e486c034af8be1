"""Lists of cells that a user keeps under a name, which is from then on a tier like any other.

    results/lists/EXPERIMENT/NAME.json
        of     the preset that its cells were made of, whose tier says how large they are
        from   the words after `python -m experiments.EXPERIMENT` that made it
        cells  of each the key and the config in full: every field, and the class of every part
Whoever computes reads the configs again as what they were; others, such as analysis, need the name
alone. A list is small and may be committed. `rm` removes it, and none of its runs.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from experiments.laboratory import runs
from experiments.laboratory.errors import UserError, nearest, one_line, quoted
from experiments.laboratory.keys import CLASS, described_in_full, key

TIERS = ("smoke", "small", "paper")
CUSTOM = "custom"  # cells that were changed on the command line and not kept under a name
NAME = re.compile("[a-z][a-z0-9_]{0,39}")


def kept(experiment: str) -> list[str]:
    """Names of the lists that are kept of an experiment, in order."""
    found = [path.stem for path in _path(experiment, "").parent.glob("*.json")]
    return sorted(name for name in found if NAME.fullmatch(name))


def everywhere() -> list[str]:
    """Names of the lists that are kept of any experiment, in order."""
    folders = (runs.results() / "lists").glob("*/")
    return sorted({name for folder in folders for name in kept(folder.name)})


def of(experiment: str, name: str) -> str:
    """The preset that the cells of a list were made of."""
    return str(_content(experiment, name)["of"])


def keep(
    experiment: str,
    name: str,
    presets: Mapping[str, Any],
    cells: Sequence[Any],
    *,
    of: str,
    words: Sequence[str],
    replace: bool = False,
) -> Path:
    """Write a list of cells, made of a preset by these words; the file it is in.

    The name may be that of no preset. A list of that name with other cells stays, and that is an
    error, unless it is to be replaced.
    """
    _check_name(name, [*presets, *TIERS, CUSTOM])
    path = _path(experiment, name)
    listed = [{"key": key(cell), "config": described_in_full(cell)} for cell in cells]
    if path.exists() and not replace:
        before = _content(experiment, name)
        if before["cells"] == listed:
            return path
        raise UserError(
            f"{name} are {len(before['cells'])} other cells of {experiment} already, kept by "
            f"`{before['from']}`: give another name, or --replace"
        )
    content = {"of": of, "from": " ".join(words), "cells": listed}
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_file(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


def read(experiment: str, name: str, presets: Mapping[str, Sequence[Any]]) -> list[Any]:
    """The cells of a list, as configs of the classes that the presets of the experiment have."""
    path = _path(experiment, name)
    if name in presets:
        raise UserError(
            f"{quoted(path)} has the name of a preset of {experiment}: `mv` it to another name"
        )
    classes = _classes(cell for cells in presets.values() for cell in cells)
    content, cells = _content(experiment, name), []
    if content["of"] not in presets:
        raise _unreadable(experiment, name, f"{experiment} has no preset {content['of']!r}")
    for place, entry in enumerate(content["cells"]):
        try:
            cell = _restored(entry["config"], classes)
            if key(cell) != entry["key"]:
                raise UserError("its fields mean another config now than when it was kept")
        except UserError as error:
            raise _unreadable(experiment, name, f"cell {place}: {error}") from error
        cells.append(cell)
    return cells


def _path(experiment: str, name: str) -> Path:
    return runs.results() / "lists" / experiment / f"{name}.json"


def _check_name(name: str, taken: Sequence[str]) -> None:
    if name in taken:
        raise UserError(f"--as {name}: that is a preset's name; give another")
    if not NAME.fullmatch(name):
        raise UserError(
            f"--as {name!r}: a name is a small letter, then up to 39 small letters, digits and _"
        )


def _unreadable(experiment: str, name: str, reason: str) -> UserError:
    file = quoted(_path(experiment, name))
    return UserError(
        f"{file} cannot be used ({reason}): keep other cells under that name by `--as {name} "
        f"--replace`, or `rm {file}`"
    )


def _content(experiment: str, name: str) -> dict[str, Any]:
    """What the file has, of the right shape; its configs may still be of unknown classes."""
    try:
        content = json.loads(_path(experiment, name).read_bytes())
        words = isinstance(content["of"], str) and isinstance(content["from"], str)
        if not words or not content["cells"]:
            raise ValueError("it has no cells, or not what they are of")
        for entry in content["cells"]:
            if not isinstance(entry["key"], str) or "type" not in entry["config"]:
                raise ValueError("a cell has no key or no config")
        if len({entry["key"] for entry in content["cells"]}) < len(content["cells"]):
            raise ValueError("a cell is in it twice")
    except FileNotFoundError:
        known = kept(experiment)
        raise UserError(f"no list {name!r} of {experiment}: {nearest(name, known)}") from None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise _unreadable(experiment, name, one_line(error)) from error
    return dict(content)


def _restored(value: Any, classes: Mapping[str, type]) -> Any:
    """What was described in full."""
    if isinstance(value, list):
        return tuple(_restored(item, classes) for item in value)
    if not isinstance(value, dict):
        return value
    if value.keys() == {CLASS}:
        return _class(value[CLASS], classes)
    if "type" not in value:
        return {name: _restored(item, classes) for name, item in value.items()}
    kind = _class(value["type"], classes)
    known = {field.name: field.init for field in fields(kind)} if is_dataclass(kind) else {}
    given = {name: item for name, item in value.items() if name != "type" and known.get(name, True)}
    for name in given.keys() - known.keys():  # what a class computes itself is computed again
        raise UserError(f"{kind.__name__} has no field {name!r}: {nearest(name, sorted(known))}")
    try:
        return kind(**{name: _restored(item, classes) for name, item in given.items()})
    except TypeError as error:  # a field that the class has gained, without a default
        raise UserError(f"{kind.__name__} cannot be made of it: {one_line(error)}") from error


def _class(name: Any, classes: Mapping[str, type]) -> type:
    if name not in classes:
        raise UserError(f"there is no class {name}: {nearest(str(name), classes)}")
    return classes[name]


def _classes(cells: Iterable[Any]) -> dict[str, type]:
    """The classes in configs by name: those of their values, and those that values may have."""
    found: dict[str, type] = {}
    waiting: list[Any] = list(dict.fromkeys(cells))
    while waiting:
        value = waiting.pop()
        if isinstance(value, type):
            if value is NoneType or found.get(value.__name__) is value:
                continue
            found.setdefault(value.__name__, value)
            if is_dataclass(value):
                waiting += [kind for hint in _hints(value) for kind in _in(hint)]
        elif is_dataclass(value):
            waiting += [type(value), *(getattr(value, field.name) for field in fields(value))]
        elif isinstance(value, tuple | list):
            waiting += value
    return found


def _hints(kind: type) -> Iterable[Any]:
    try:
        return get_type_hints(kind).values()
    except NameError:  # imported for type checkers alone
        return ()


def _in(hint: Any) -> list[type]:
    """The classes that a type is made of."""
    if get_origin(hint) is None:
        return [hint] if isinstance(hint, type) and is_dataclass(hint) else []
    return [kind for each in get_args(hint) for kind in _in(each)]
