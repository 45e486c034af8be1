"""Content of the runs of each experiment: names and types of metrics and arrays, in shapes.json.

Made-up runs may have no name or type that a real run has not. tests/experiments/test_shapes.py
holds the file against real cells of the smoke presets. After a change of what an experiment
returns, run its smoke preset and then `python -m tests.analysis.synthetic.shapes`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.laboratory import registry, runs

FILE = Path(__file__).with_suffix(".json")
KNOWN = json.loads(FILE.read_text())
"""For each experiment: [cell of its smoke preset, or null for other presets; name -> type]."""


def shape(result: Mapping[str, Any]) -> dict[str, str]:
    """The type of each metric, and of each array its kind and number of axes, such as f2.

    A number between underscores in a name is a setting, as in fast_1000_depth: it becomes #.
    """
    named = {re.sub(r"(?<=_)\d+(?=_|$)", "#", name): value for name, value in result.items()}
    return {name: _type(value) for name, value in sorted(named.items())}


def _type(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.kind}{value.ndim}"
    return "text" if isinstance(value, str) else "number"


def differences(wanted: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """Entries of `given` that `wanted` lacks, or has with another type."""
    return [f"{name} is {given[name]}, not {wanted.get(name)}" for name in given
            if given[name] != wanted.get(name)]  # fmt: skip


REMEDY = "run its smoke preset, then `python -m tests.analysis.synthetic.shapes`"


def known(experiment: str) -> list[dict[str, str]]:
    """The shapes that runs of an experiment have."""
    shapes = [one for _, one in KNOWN.get(experiment, ())]
    assert shapes, f"{FILE.name} says nothing about {experiment}: {REMEDY}"
    return shapes


def hold(experiment: str, result: Mapping[str, Any]) -> None:
    """Assert that a real run holds just what one shape of the experiment has."""
    given = shape(result)
    unlike = [differences(one, given) + differences(given, one) for one in known(experiment)]
    assert not min(unlike, key=len), f"{experiment} has no such shape in {FILE.name}: {REMEDY}"


def write_made_up(
    experiment: str,
    preset: str,
    cells: Sequence[Any],
    result: Callable[[Any], Mapping[str, Any]],
    written: Iterable[Any] | None = None,
) -> None:
    """Write the plan of a preset and made-up runs of its cells, or of those `written` alone."""
    runs.plan(experiment, preset, cells)
    for cell in cells if written is None else written:
        made = dict(result(cell))
        nearest = min((differences(one, shape(made)) for one in known(experiment)), key=len)
        assert not nearest, f"no run of {experiment} is like the made-up one: {nearest}"
        runs.once(experiment, cell, lambda _, made=made: made)


def seen(experiment: str) -> list[tuple[int | None, dict[str, str]]]:
    """Each shape of the finished smoke runs of an experiment, with its quickest cell.

    What the file says about cells that have not run, and about other presets, stays as it is.
    """
    cells = registry.named(experiment).presets["smoke"]
    quickest: dict[str, tuple[float, int]] = {}
    finished = {number: run for number, cell in enumerate(cells)
                if (run := runs.find(experiment, cell)) is not None}  # fmt: skip
    for number, run in finished.items():
        text = json.dumps(shape(run.metrics | run.arrays()))
        one = run.meta["seconds"], number
        quickest[text] = min(one, quickest.get(text, one))
    smoke = sorted((number, json.loads(text)) for text, (_, number) in quickest.items())
    others = [(number, wanted) for number, wanted in KNOWN.get(experiment, ())
              if number not in finished]  # fmt: skip
    return [*smoke, *(one for one in others if one[1] not in [wanted for _, wanted in smoke])]


def main() -> None:
    """Rewrite the file; refuse if no run and no earlier line gives the shape of an experiment."""
    shapes = {name: seen(name) for name in registry.names()}
    if missing := [name for name, entries in shapes.items() if not entries]:
        commands = ", ".join(f"`python -m experiments.{name} --preset smoke`" for name in missing)
        raise SystemExit(f"no finished runs of the smoke preset: run {commands}")
    lines = [
        f'"{name}": [\n' + ",\n".join(map(json.dumps, entries)) + "\n]"
        for name, entries in shapes.items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
