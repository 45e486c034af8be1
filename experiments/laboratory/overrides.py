"""Typed settings from the command line: `--model.seed 3` on top of a cell of a preset."""

import contextlib
import io
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from experiments.laboratory.errors import UserError, nearest

CUSTOM = "custom"
COUNTS = frozenset(
    [
        "count",
        "draws",
        "networks",
        "queries",
        "repeats",
        "rounds",
        "samples",
        "seeds",
        "stack",
        "top",
    ]
)


def options(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting of a config by dotted name, with its value."""
    settings: dict[str, Any] = {}
    for field in fields(config):
        if not field.init:  # such as the name of a generator: no choice
            continue
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if isinstance(value, type):  # chosen where the config is written
            continue
        if is_dataclass(value):
            settings |= options(value, f"{name}.")
        else:
            settings[name] = value
    return settings


def parts(config: Any, prefix: str = "") -> dict[str, list[str]]:
    """Parts of a config that can be one of several classes: `method` -> `method:influence`, ..."""
    alternatives: dict[str, list[str]] = {}
    hints = get_type_hints(type(config))
    for field in fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        hint = hints[field.name]
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
        if any(map(is_dataclass, kinds)):
            spelled = name.replace("_", "-")
            alternatives[name] = [f"{spelled}:{_kind(kind)}" for kind in kinds]
        elif is_dataclass(value) and not isinstance(value, type):
            alternatives |= parts(value, f"{name}.")
    return alternatives


def _kind(kind: Any) -> str:
    """A class as tyro spells it: `TracIn` -> `trac-in`, `LiSSA` -> `li-ssa`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", kind.__name__)
    return "none" if kind is type(None) else words.lower()


def override(
    cells: Sequence[Any], words: Sequence[str], standard: Sequence[str]
) -> tuple[int, Any]:
    """Place of the first cell that has all of the settings, and that cell with them applied.

    `standard` are the options that are not settings: a misspelt word may mean one of them.
    """
    kinds = [kind for alternatives in parts(cells[0]).values() for kind in alternatives]
    if chosen := [word for word in words if ":" in word and not word.startswith("-")]:
        for word in chosen:
            if word not in kinds:
                raise UserError(f"no part {word!r}: {nearest(word, kinds)}")
        return 0, _parse(cells[0], words, subcommands=True)
    if not words[0].startswith("--"):
        raise UserError(f"unexpected {words[0]!r}: options begin with --, as in --preset small")
    names = [_field(word) for word in words if word.startswith("--")]
    for place, cell in enumerate(cells):
        if all(_has(cell, name) for name in names):
            return place, _parse(cell, words, subcommands=False)
    raise _unknown(cells, names, standard)


def check_counts(cell: Any, known: Iterable[Any]) -> None:
    """Refuse a number of things that leaves nothing to compute a number from.

    A mean over no query is NaN, which would only be seen after everything was trained. Counts are
    fields called `n_...`, or by one of COUNTS. Where some known cell has 0, that has a meaning.
    """
    least: dict[str, int] = {}
    for other in known:
        for name, value in options(other).items():
            if type(value) is int:
                least[name] = min(value, least.get(name, 1))
    for name, value in options(cell).items():
        last, fewest = name.rpartition(".")[2], max(0, least.get(name, 1))
        counts = type(value) is int and (last.startswith("n_") or last in COUNTS)
        if counts and value < fewest:
            raise UserError(f"{name} is {value}: give {fewest} or more")


def _has(cell: Any, name: str) -> bool:
    head, _, last = name.rpartition(".")
    positive = f"{head}.{last.removeprefix('no_')}".lstrip(".")
    return name in options(cell) or isinstance(options(cell).get(positive), bool)


def _field(word: str) -> str:
    return word.removeprefix("--").partition("=")[0].replace("-", "_")


def _unknown(cells: Sequence[Any], names: list[str], standard: Sequence[str]) -> UserError:
    alternatives = parts(cells[0])
    for name in names:
        if name in alternatives:
            return UserError(
                f"--{name} is a whole part: write {' or '.join(alternatives[name])} after the "
                "options, or change a cell that has it, by --cell I (--list shows them)"
            )
        if not any(_has(cell, name) for cell in cells):
            settings = dict.fromkeys(f"--{option}" for cell in cells for option in options(cell))
            return UserError(f"no option --{name}: {nearest(f'--{name}', [*standard, *settings])}")
    together = " and ".join(f"--{name}" for name in names)
    return UserError(f"no cell has {together} together: they belong to different methods")


def _parse(cell: Any, words: Sequence[str], subcommands: bool) -> Any:
    import tyro

    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            return tyro.cli(
                type(cell),
                default=cell,
                args=list(words),
                config=() if subcommands else (tyro.conf.AvoidSubcommands,),
            )
    except SystemExit:
        raise UserError(_first_sentence(output.getvalue())) from None


def _first_sentence(box: str) -> str:
    """The text of tyro's error box below its title, up to the next rule, as one line."""
    lines = [line.strip("│|╭╮╰╯─-+ ") for line in box.splitlines() if line.strip()]
    body = itertools.dropwhile(lambda line: not line, lines[1:])
    return " ".join(itertools.takewhile(bool, body)) or "the settings cannot be read: see --help"
