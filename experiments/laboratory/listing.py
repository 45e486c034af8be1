"""The cells of an experiment as text: for its help, and as a list."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.laboratory import cost, runs
from experiments.laboratory.overrides import options, parts
from experiments.laboratory.table import aligned, counted, flatten, varying


def presets_and_fields(
    experiment: str, presets: Mapping[str, Sequence[Any]], seconds: Mapping[str, float]
) -> str:
    """The presets with their cost, and what can be set on the command line."""
    lines = ["presets:"]
    width = max(map(len, presets))
    for name, cells in presets.items():
        price = cost.in_words(experiment, cells, seconds.get(name))
        lines.append(f"  {name:{width}}  {counted(len(cells), 'cell')}, {price}")
    name, cells = next(iter(presets.items()))
    lines += ["", f"any field of a cell can be set; those of cell 0 of preset {name}:"]
    settable = {name: value for name, value in options(cells[0]).items() if name != "device"}
    lines += [f"  --{option} {value}" for option, value in settable.items()]
    if alternatives := parts(cells[0]):
        lines += ["", "after them, a whole part can be chosen:"]
        lines += [f"  {' '.join(kinds)}" for kinds in alternatives.values()]
    lines += ["", "A cell with settings runs as preset `custom`, which no artifact reads."]
    return "\n".join(lines)


def cells_and_runs(name: str, cells: Sequence[Any], chosen: Sequence[int]) -> str:
    """Some cells as a table: what they do not have in common, and whether each has a run."""
    settings = [flatten(runs.describe(cell)) for cell in cells]
    names = varying(settings) or list(settings[0])
    rows = []
    for i in chosen:
        state = "present" if runs.find(name, cells[i]) else "missing"
        values = [str(settings[i].get(name, "")) for name in names]
        rows.append([str(i), runs.key(cells[i]), state, *values])
    return aligned(["cell", "key", "run", *names], rows)
