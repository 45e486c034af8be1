"""Typed settings from the command line: `--model.seed 3` on top of a cell of a preset."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from experiments.problems import UserError, nearest

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


def override(cells: Sequence[Any], words: Sequence[str], standard: Sequence[str]) -> Any:
    """The first cell that has all of the settings, changed.

    `standard` are the options that are not settings, for suggesting one of them.
    """
    if any(":" in word for word in words if not word.startswith("-")):
        return _parse(cells[0], words, subcommands=True)  # `method:influence` of a union
    if not words[0].startswith("--"):
        raise UserError(f"unexpected {words[0]!r}: options begin with --, as in --preset small")
    asked = [_field(word) for word in words if word.startswith("--")]
    for cell in cells:
        if all(_has(cell, name) for name in asked):
            return _parse(cell, words, subcommands=False)
    raise _unknown(cells, asked, standard)


def _has(cell: Any, name: str) -> bool:
    head, _, last = name.rpartition(".")
    positive = f"{head}.{last.removeprefix('no_')}".lstrip(".")
    return name in options(cell) or isinstance(options(cell).get(positive), bool)


def _field(word: str) -> str:
    return word.removeprefix("--").partition("=")[0].replace("-", "_")


def _unknown(cells: Sequence[Any], asked: list[str], standard: Sequence[str]) -> UserError:
    known = {name: None for cell in cells for name in options(cell)}
    for name in asked:
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
