"""Numbers of many runs as one table: a line a method, mean and 95% interval over seeds."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.laboratory.runs import Run

_NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?( ± .*)?%?")


def summarise(
    runs: Sequence[Run], columns: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Header and rows; runs whose configs differ in seeds alone share a row.

    Intervals are over the first of the seeds that varies, the trained model's: runs that share it,
    as draws of a projection do, are averaged first and are no evidence of their own.
    """
    groups: dict[str, list[Run]] = {}
    leaves: dict[str, dict[str, Any]] = {}
    for run in runs:
        settings = {name: v for name, v in flatten(run.config).items() if not _is_seed(name)}
        identity = repr(settings)
        leaves[identity] = settings
        groups.setdefault(identity, []).append(run)

    seed = next((n for n in varying([flatten(r.config) for r in runs]) if _is_seed(n)), "")
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    words = [name for name in names if any(isinstance(r.metrics.get(name), str) for r in runs)]
    numbers = [name for name in (columns or names) if name not in words]
    titles = [[str(group[0].metrics.get(word, "")) for word in words] for group in groups.values()]
    settings_shown: list[str] = []
    if len({tuple(title) for title in titles}) < len(groups):  # words do not tell them apart
        settings_shown = varying(list(leaves.values()))
    header = [*words, *settings_shown, *numbers, "seeds", "runs"]
    rows = []
    for (identity, group), title in zip(groups.items(), titles, strict=True):
        shown = [str(leaves[identity].get(name, "")) for name in settings_shown]
        cells = [_cell(_by_seed(group, name, seed)) for name in numbers]
        seeds = {flatten(run.config).get(seed) for run in group}
        rows.append([*title, *shown, *cells, str(len(seeds)), str(len(group))])
    return header, rows


def _by_seed(group: Sequence[Run], metric: str, seed: str) -> list[float]:
    """A metric's mean over the runs of each seed."""
    found: dict[Any, list[float]] = {}
    for run in group:
        if metric in run.metrics:
            key = flatten(run.config).get(seed)
            found.setdefault(key, []).append(float(run.metrics[metric]))
    return [statistics.fmean(values) for values in found.values()]


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number of things: `1 run`, `2 runs`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95% interval (Student's t); nan for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    from scipy.special import stdtrit

    error = statistics.stdev(values) / math.sqrt(len(values))
    return mean, float(stdtrit(len(values) - 1, 0.975)) * error


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain columns: words to the left, numbers to the right."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(header))]
    right = [
        bool(rows) and all(_NUMBER.fullmatch(row[i]) for row in rows if row[i])
        for i in range(len(header))
    ]
    lines = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in table
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """The settings of a described config by dotted name; the class of a part under its own name."""
    if not isinstance(config, Mapping):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if name == "type":
            if prefix:
                flat[prefix] = value
        else:
            flat |= flatten(value, f"{prefix}.{name}" if prefix else name)
    return flat


def varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings that are not the same everywhere."""
    names = dict.fromkeys(name for each in settings for name in each)
    return [name for name in names if len({repr(each.get(name)) for each in settings}) > 1]


def _is_seed(name: str) -> bool:
    return name.rpartition(".")[2] == "seed"


def told(mean: float, half: float) -> str:
    """A mean with the digits that its interval leaves sure: 0.9904 ± 0.0031."""
    if math.isnan(half) or half == 0:
        return f"{mean:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(half)))
    if decimals > 7:
        return f"{mean:.4g} ± {half:.1g}"
    return f"{mean:.{decimals}f} ± {half:.{decimals}f}"


def _cell(values: Sequence[float]) -> str:
    return told(*interval(values)) if values else ""
