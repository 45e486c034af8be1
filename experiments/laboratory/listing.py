"""The cells of an experiment as text: for its help, and as a list."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.laboratory import cost, runs
from experiments.laboratory.overrides import choices, options
from experiments.laboratory.table import aligned, counted, cut, flatten, in_words, varying

WIDE = 96  # columns of a line of the help
BLANK = "\0"  # within an option and its value, which stay on one line


def tiers_and_cost(
    experiment: str, tiers: Mapping[str, Sequence[Any]], seconds: Mapping[str, float]
) -> str:
    """The presets and kept lists with their numbers of cells and their cost."""
    lines, longest = ["presets:"], max(map(len, tiers))
    for name, cells in tiers.items():
        price = cost.in_words(experiment, cells, seconds.get(name))
        lines.append(f"  {name:{longest}}  {counted(len(cells), 'cell')}, {price}")
    return "\n".join(lines)


def fields_of(cell: Any, called: str) -> str:
    """What can be set on the command line: the fields of a cell, and those of each choice."""
    settable = {name: value for name, value in options(cell).items() if name != "device"}
    lines = [f"fields that can be set, with their values in {called}:"]
    lines += [f"  --{option} {value}" for option, value in settable.items()]
    if chosen := choices(cell):
        lines += ["", "a whole part can be chosen, and then its fields:"]
        for kind, settings in chosen.items():
            words = [
                f"--{name} {'(needed)' if value is ... else value}".replace(" ", BLANK)
                for name, value in settings.items()
            ]
            lines.append(f"  {kind}")
            if not settings.keys() <= settable.keys():
                lines += textwrap.wrap(
                    "  ".join(words), WIDE,
                    initial_indent="      ", subsequent_indent="      ",
                    break_long_words=False, break_on_hyphens=False,
                )  # fmt: skip
    lines += [
        "",
        "They hold for every cell that is named, or for the whole preset; --sweep FIELD=A,B gives",
        "several values. The cells run as preset `custom`, or, kept by --as NAME, as preset NAME,",
        "which `python -m analysis`, `status`, --workers and slurm/submit take as well.",
    ]
    return "\n".join(line.replace(BLANK, " ") for line in lines)


def cells_and_runs(
    name: str, cells: Sequence[Any], chosen: Sequence[int], width: int | None = None
) -> str:
    """Some cells as a table: whether each has a run, and what they do not have in common.

    Lines are cut to a `width`, if there is one, between two settings.
    """
    settings = [flatten(runs.describe(cell)) for cell in cells]
    names = varying(settings) or list(settings[0])
    rows = []
    for i in chosen:
        state = "present" if runs.find(name, cells[i]) else "missing"
        rows.append([str(i), runs.key(cells[i]), state, in_words(settings[i], names)])
    return cut(aligned(["cell", "key", "run", "settings"], rows), width)
