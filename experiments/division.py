"""Which cells of a preset are one task of an array: those made from one trained model, together."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import runs

MOST = 1_000  # tasks, unless a number is asked for: Slurm's own limit of an array is 1,001


def divide(
    entries: Sequence[Mapping[str, Any]], shared: str, tasks: int | None = None
) -> list[list[int]]:
    """Indices of the cells of each task, from what runs.plan wrote down.

    Cells whose part `shared` is the same are one task. `tasks` asks for a number of them: fewer,
    and the least loaded task takes whole groups more; more, and the largest groups are halved,
    each half making the shared part if it is not there, until every cell is alone.
    """
    groups: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        groups.setdefault(entry["parts"].get(shared, f"cell {index}"), []).append(index)
    found = list(groups.values())
    wanted = min(len(found), MOST) if tasks is None else min(tasks, len(entries))
    while len(found) < wanted:
        largest = max(found, key=len)
        half = len(largest) // 2
        at = found.index(largest)
        found[at : at + 1] = [largest[:half], largest[half:]]
    if len(found) > wanted:
        loads: list[list[int]] = [[] for _ in range(wanted)]
        for group in sorted(found, key=lambda group: -len(group)):
            min(loads, key=len).extend(group)
        found = [sorted(load) for load in loads]
    return sorted(found)


def fingerprint(entries: Sequence[Mapping[str, Any]], division: Sequence[Sequence[int]]) -> str:
    """Tells apart what an array is for: the runs of a preset, their tasks, and the store."""
    keys = [entry["key"] for entry in entries]
    content = json.dumps([keys, division, str(runs.results().absolute())])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def ranges(indices: Sequence[int]) -> str:
    """Increasing numbers as Slurm writes them: 0-3,7,9-10."""
    spans: list[list[int]] = []
    for index in indices:
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
