"""Typed settings from the command line: `--model.seed 3` on top of a cell of a preset."""

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from experiments.laboratory.errors import UserError, nearest

CUSTOM = "custom"


def options(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting of a config by dotted name, with its value."""
    found: dict[str, Any] = {}
    for field in fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if is_dataclass(value) and not isinstance(value, type):
            found |= options(value, f"{name}.")
        else:
            found[name] = value
    return found


def parts(config: Any, prefix: str = "") -> dict[str, list[str]]:
    """Parts of a config that may be one of several kinds: `method` -> `method:influence`, ..."""
    found: dict[str, list[str]] = {}
    hints = get_type_hints(type(config))
    for field in fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        hint = hints[field.name]
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
        if any(map(is_dataclass, kinds)):
            found[name] = [f"{name.replace('_', '-')}:{_kind(one)}" for one in kinds]
        elif is_dataclass(value) and not isinstance(value, type):
            found |= parts(value, f"{name}.")
    return found


def _kind(of: Any) -> str:
    """A class as tyro spells it: `TracIn` -> `trac-in`, `LiSSA` -> `li-ssa`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", of.__name__)
    return "none" if of is type(None) else words.lower()


def override(
    cells: Sequence[Any], words: Sequence[str], standard: Sequence[str]
) -> tuple[int, Any]:
    """The first cell that has all of the settings, changed, and its place.

    `standard` are the options that are not settings, for suggesting one of them.
    """
    kinds = [kind for several in parts(cells[0]).values() for kind in several]
    if chosen := [word for word in words if ":" in word and not word.startswith("-")]:
        for word in chosen:
            if word not in kinds:
                raise UserError(f"no part {word!r}: {nearest(word, kinds)}")
        return 0, _parse(cells[0], words, subcommands=True)
    if not words[0].startswith("--"):
        raise UserError(f"unexpected {words[0]!r}: options begin with --, as in --preset small")
    asked = [_field(word) for word in words if word.startswith("--")]
    for place, cell in enumerate(cells):
        if all(_has(cell, name) for name in asked):
            return place, _parse(cell, words, subcommands=False)
    raise _unknown(cells, asked, standard)


def _has(cell: Any, name: str) -> bool:
    head, _, last = name.rpartition(".")
    positive = f"{head}.{last.removeprefix('no_')}".lstrip(".")
    return name in options(cell) or isinstance(options(cell).get(positive), bool)


def _field(word: str) -> str:
    return word.removeprefix("--").partition("=")[0].replace("-", "_")


def _unknown(cells: Sequence[Any], asked: list[str], standard: Sequence[str]) -> UserError:
    known = {name: None for cell in cells for name in options(cell)}
    several = parts(cells[0])
    for name in asked:
        if name in several:
            return UserError(
                f"--{name} is a whole part: write {' or '.join(several[name])} after the options,"
                " or change a cell that has it, by --cell I (--list shows them)"
            )
        if not any(_has(cell, name) for cell in cells):
            names = [*standard, *(f"--{option}" for option in known)]
            return UserError(f"no option --{name}: {nearest(f'--{name}', names)}")
    together = " and ".join(f"--{name}" for name in asked)
    return UserError(f"no cell has {together} together: they belong to different methods")


def _parse(cell: Any, words: Sequence[str], subcommands: bool) -> Any:
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return tyro.cli(
                type(cell),
                default=cell,
                args=list(words),
                config=() if subcommands else (tyro.conf.AvoidSubcommands,),
            )
    except SystemExit:
        raise UserError(_first_words(said.getvalue())) from None


def _first_words(box: str) -> str:
    """What tyro says below the title of its box, up to the next rule, as one line."""
    lines = [line.strip("│|╭╮╰╯─-+ ") for line in box.splitlines() if line.strip()]
    said: list[str] = []
    for line in lines[1:]:
        if line:
            said.append(line)
        elif said:
            break
    return " ".join(said) or "the settings cannot be read: see --help"
