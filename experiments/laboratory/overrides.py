"""Typed settings from the command line: `--model.seed 3` on top of the cells of a preset."""

import collections
import contextlib
import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from experiments.laboratory.errors import UserError, nearest
from experiments.laboratory.sweeps import replaced
from experiments.laboratory.table import counted

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


def parts(config: Any) -> dict[str, list[str]]:
    """Parts of a config that can be one of several classes: `method` -> `method:influence`, ..."""
    return {
        name: [_chosen(name, kind) for kind in kinds]
        for name, kinds in _alternatives(config).items()
    }


def choices(config: Any) -> dict[str, dict[str, Any]]:
    """What can be chosen as a whole part, `method:influence`, and its fields with their values.

    Values are those of the config where it has this part, else the defaults; a field without one
    is `...`.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for name, kinds in _alternatives(config).items():
        for kind in kinds:
            mine = _at(config, name)
            value = mine if type(mine) is kind else kind
            chosen[_chosen(name, kind)] = _with_defaults(value, f"{name}.")
    return chosen


def _with_defaults(kind: Any, prefix: str) -> dict[str, Any]:
    if _is_part(kind):
        return options(kind, prefix)
    if not is_dataclass(kind):  # None
        return {}
    settings: dict[str, Any] = {}
    for field in fields(kind):
        name, value = f"{prefix}{field.name}", field.default
        if field.default_factory is not MISSING:
            value = field.default_factory()
        if _is_part(value):
            settings |= options(value, f"{name}.")
        elif field.init and not isinstance(value, type):
            settings[name] = ... if value is MISSING else value
    return settings


def _alternatives(config: Any, prefix: str = "") -> dict[str, tuple[Any, ...]]:
    """The classes that each part of a config can have, where there are several."""
    found: dict[str, tuple[Any, ...]] = {}
    hints = get_type_hints(type(config))
    for field in fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        hint = hints[field.name]
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
        if any(map(is_dataclass, kinds)):
            found[name] = kinds
        elif _is_part(value):
            found |= _alternatives(value, f"{name}.")
    return found


def _chosen(part: str, kind: Any) -> str:
    """A part and its class as tyro spells them: `method:trac-in`, `method.inverse:li-ssa`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", kind.__name__)
    return f"{part.replace('_', '-')}:{'none' if kind is type(None) else words.lower()}"


@dataclass(frozen=True)
class Setting:
    """A field, `model.seed`, or a whole part, `method`, and the words that set it.

    A part is set by a word that says what kind it is: `method:power`.
    """

    name: str
    words: tuple[str, ...]

    @property
    def is_part(self) -> bool:
        """Whether it says what a whole part is."""
        return not self.words[0].startswith("--")

    def is_inside(self, part: "Setting") -> bool:
        """Whether it is a field, or a part, of that part."""
        return self.name.startswith(f"{part.name}.")


def changed(
    preset: Sequence[Any],
    places: Sequence[int],
    words: Sequence[str],
    grid: Sequence[str],
    standard: Sequence[str],
) -> list[Any]:
    """The cells at some places of a preset with settings applied; equal ones once.

    `words` hold for every cell. A word of the `grid`, `model.seed=0,1,2`, is an axis: there is a
    cell for each combination of the axes' values, the last varying fastest. `standard` are the
    options that are no settings: a misspelt word may mean one of them.
    """
    settings, axes = _settings(words, preset), [_axis(word, preset) for word in grid]
    named = [*(one.name for one in settings), *(axis[0].name for axis in axes)]
    for name, count in collections.Counter(named).items():
        if count > 1:
            raise UserError(f"--{name} is given {count} times: give it once")
    made, lacking = dict[str, Any](), {name: set[int]() for name in named}
    read: dict[Any, tuple[Any, list[str]]] = {}
    for place, combination in itertools.product(places, list(itertools.product(*axes))):
        cell = preset[place]
        wanted = (*settings, *combination)
        alike = _structure(cell), wanted  # what means the same for several cells is read once
        if alike not in read:
            read[alike] = _applied(cell, wanted, preset, standard)
        example, missing = read[alike]
        for name in missing:
            lacking[name].add(place)
        one = _like(cell, example, wanted) if not missing else cell
        made.setdefault(repr(one), one)
    if any(lacking.values()):
        raise _lacking(lacking, places)
    return list(made.values())


def _settings(words: Sequence[str], cells: Sequence[Any]) -> list[Setting]:
    """Fields with their values, and parts, which `method:power` and `--method power` both name."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--") or (":" in word and not word.startswith("-")):
            groups.append([word])
        elif groups and groups[-1][0].startswith("--"):
            groups[-1].append(word)
        else:
            raise UserError(f"unexpected {word!r}: options begin with --, as in --preset small")
    return [_setting(group, cells) for group in groups]


def _setting(group: Sequence[str], cells: Sequence[Any]) -> Setting:
    name, values = _name(group[0]), [*group[0].split("=", 1)[1:], *group[1:]]
    if group[0].startswith("--") and len(values) == 1 and (kinds := _kinds(name, cells)):
        return Setting(name, (_kind_of_part(name, values[0], kinds),))
    return Setting(name, tuple(group))


def _kinds(name: str, cells: Sequence[Any]) -> list[str]:
    """What some part of the cells can be, `method:power`, ...; nothing if it is no part."""
    return list(dict.fromkeys(kind for cell in cells for kind in parts(cell).get(name, ())))


def _name(word: str) -> str:
    return re.split("[=:]", word.removeprefix("--"))[0].replace("-", "_")


def _axis(word: str, cells: Sequence[Any]) -> list[Setting]:
    """The values of one axis of a grid, `model.seed=0,1,2` or `method=loss,trac-in`."""
    name, values = _name(word), word.partition("=")[2].split(",")
    if not all(value.strip() for value in values):
        raise UserError(f"--sweep {word}: give a field and its values, as --sweep model.seed=0,1,2")
    if len(set(values)) < len(values):
        raise UserError(f"--sweep {word} has a value twice: give each once")
    kinds = _kinds(name, cells)
    is_flag = any(isinstance(options(cell).get(name), bool) for cell in cells)
    if kinds:
        return [Setting(name, (_kind_of_part(name, value, kinds),)) for value in values]
    return [Setting(name, _valued(name, value, is_flag)) for value in values]


def _kind_of_part(name: str, value: str, kinds: Sequence[str]) -> str:
    kind = f"{name.replace('_', '-')}:{value}"
    if kind not in kinds:
        raise UserError(f"no part {kind!r}: {nearest(kind, kinds)}")
    return kind


def _valued(name: str, value: str, is_flag: bool) -> tuple[str, ...]:
    """The words that set a field to a value; several numbers of a tuple are divided by blanks."""
    if is_flag:
        if value not in ("true", "false"):
            raise UserError(f"--sweep {name}={value}: give true, false or both")
        head, dot, last = name.rpartition(".")
        return (f"--{head}{dot}{last if value == 'true' else f'no_{last}'}",)
    first, *more = value.split()
    return (f"--{name}", first, *more) if more else (f"--{name}={first}",)


def _structure(cell: Any) -> tuple[Any, ...]:
    """The classes of a config and of its parts: where they are the same, words mean the same."""
    values = {field.name: getattr(cell, field.name) for field in fields(cell)}
    inner = [(name, _structure(value)) for name, value in values.items() if _is_part(value)]
    return type(cell), *inner


def _is_part(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _applied(
    cell: Any, settings: Sequence[Setting], known: Sequence[Any], standard: Sequence[str]
) -> tuple[Any, list[str]]:
    """A cell with settings applied, and the names of those that it has no place for."""
    chosen = sorted((one for one in settings if one.is_part), key=lambda one: len(one.name))
    inside: dict[str, list[Setting]] = {"": [], **{part.name: [] for part in chosen}}
    for one in settings:
        if not one.is_part:
            around = [part.name for part in chosen if one.is_inside(part)]
            inside[around[-1] if around else ""].append(one)
    for part in chosen:
        kinds = [kind for several in parts(cell).values() for kind in several]
        if part.words[0] not in kinds:
            if any(part.words[0] in parts(other).get(part.name, ()) for other in known):
                return cell, [part.name]
            raise UserError(f"no part {part.words[0]!r}: {nearest(part.words[0], kinds)}")
        words = [word for one in (part, *inside[part.name]) for word in one.words]
        cell = _parse(cell, words, subcommands=True)
    rest = inside[""]
    if missing := [one.name for one in rest if not _field(cell, one.name)]:
        for name in missing:
            if not any(_field(other, name) for other in known):
                raise _unknown([cell, *known], name, standard)
        return cell, missing
    if rest:
        cell = _parse(cell, [word for one in rest for word in one.words], subcommands=False)
    return cell, []


def _like(cell: Any, example: Any, settings: Sequence[Setting]) -> Any:
    """A cell of the structure that `example` had, with what was set there."""
    values = {}
    for one in settings:
        name = one.name if one.is_part else _field(example, one.name)
        mine, theirs = (_at(each, name) for each in (cell, example))
        if not (one.is_part and type(mine) is type(theirs)):  # of that kind it is already
            values[name] = theirs
    return replaced(cell, values)


def _at(config: Any, name: str) -> Any:
    for one in name.split("."):
        config = getattr(config, one, None)
    return config


def _field(cell: Any, name: str) -> str:
    """The name of the field that an option sets, `no_` left out of a flag's; "" if none."""
    known = options(cell)
    head, dot, last = name.rpartition(".")
    positive = f"{head}{dot}{last.removeprefix('no_')}"
    if name in known:
        return name
    return positive if isinstance(known.get(positive), bool) else ""


def _lacking(lacking: Mapping[str, set[int]], places: Sequence[int]) -> UserError:
    """For settings that some of the named cells have no field for."""
    without, absent = set.union(*lacking.values()), [name for name in lacking if lacking[name]]
    names = " and ".join(f"--{name}" for name in absent)
    rest = [place for place in places if place not in without]
    if not rest:
        if len(absent) == 1:
            return UserError(f"no cell that is named has {names}: --list shows which do")
        return UserError(f"no cell has {names} together: they belong to different methods")
    return UserError(
        f"{counted(len(without), 'cell')} of {len(places)} ({in_ranges(without)}) "
        f"{'has' if len(without) == 1 else 'have'} no {names}: "
        f"change those that have it, by --cell {in_ranges(rest).replace(',', '')}"
    )


def in_ranges(places: Iterable[int]) -> str:
    """Numbers of cells, briefly: `0, 3-5`."""
    runs: list[list[int]] = []
    for place in sorted(places):
        if runs and place == runs[-1][-1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return ", ".join(f"{run[0]}-{run[-1]}" if run[1:] else str(run[0]) for run in runs)


def check_counts(cells: Iterable[Any], known: Iterable[Any]) -> None:
    """Refuse a number of things that leaves nothing to compute a number from.

    A mean over no query is NaN, which would only be seen after everything was trained. Counts are
    fields called `n_...`, or by one of COUNTS. Where some known cell has 0, that has a meaning.
    """
    least: dict[str, int] = {}
    for other in known:
        for name, value in options(other).items():
            if type(value) is int:
                least[name] = min(value, least.get(name, 1))
    for cell in cells:
        for name, value in options(cell).items():
            last, fewest = name.rpartition(".")[2], max(0, least.get(name, 1))
            counts = type(value) is int and (last.startswith("n_") or last in COUNTS)
            if counts and value < fewest:
                raise UserError(f"{name} is {value}: give {fewest} or more")


def _unknown(cells: Sequence[Any], name: str, standard: Sequence[str]) -> UserError:
    if kinds := _kinds(name, cells):
        return UserError(
            f"--{name} is a whole part: write {' or '.join(kinds)} after the "
            "options, or change a cell that has it, by --cell I (--list shows them)"
        )
    settings = dict.fromkeys(f"--{option}" for cell in cells for option in options(cell))
    return UserError(f"no option --{name}: {nearest(f'--{name}', [*standard, *settings])}")


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
