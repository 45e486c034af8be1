"""Numbers of many runs as one table: one line per method, mean and 95% interval over seeds."""

import math
import re
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.laboratory import ranges
from experiments.laboratory.runs import Run

_NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?( ± .*| \(.*\))?%?")


def summarise(
    runs: Sequence[Run], columns: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Header and rows; runs whose configs differ only in seeds share a row.

    Intervals are over the first seed that varies, that of the trained model. Runs that share it,
    such as draws of a projection, are averaged first: they are not independent of each other.
    """
    configs = [flatten(run.config) for run in runs]
    groups: dict[str, list[Run]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for run, config in zip(runs, configs, strict=True):
        unseeded = {name: value for name, value in config.items() if not _is_seed(name)}
        group = repr(unseeded)
        settings[group] = unseeded
        groups.setdefault(group, []).append(run)

    seed = next((name for name in varying(configs) if _is_seed(name)), "")
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    words = [name for name in names if any(isinstance(r.metrics.get(name), str) for r in runs)]
    numbers = [name for name in (columns or names) if name not in words]
    titles = [[str(group[0].metrics.get(word, "")) for word in words] for group in groups.values()]
    distinct = len({tuple(title) for title in titles}) == len(groups)
    shown = [] if distinct else varying(list(settings.values()))
    header = [*words, *shown, *numbers, "seeds", "runs"]
    rows = []
    for (group, members), title in zip(groups.items(), titles, strict=True):
        values = [str(settings[group].get(name, "")) for name in shown]
        means = [_mean_over_seeds(members, name, seed) for name in numbers]
        seeds = {flatten(run.config).get(seed) for run in members}
        rows.append([*title, *values, *means, str(len(seeds)), str(len(members))])
    return header, rows


def _mean_over_seeds(runs: Sequence[Run], metric: str, seed: str) -> str:
    """Mean and interval of a metric, after averaging the runs of each seed; "" without it."""
    by_seed: dict[Any, list[float]] = {}
    for run in runs:
        if metric in run.metrics:
            value = float(run.metrics[metric])
            by_seed.setdefault(flatten(run.config).get(seed), []).append(value)
    means = [statistics.fmean(values) for values in by_seed.values()]
    return estimated(means, metric) if means else ""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95% interval (Student's t); nan for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    from scipy.special import stdtrit

    error = statistics.stdev(values) / math.sqrt(len(values))
    return mean, float(stdtrit(len(values) - 1, 0.975)) * error


def estimated(values: Sequence[float], metric: str) -> str:
    """Mean and 95% interval of a metric: `0.99 ± 0.03`, or `0.64 (0.15 to 0.95)` at its limits."""
    mean, half = interval(values)
    least, most = ranges.of_metric(metric)
    low, high = mean - half, mean + half
    if math.isnan(half) or (least <= low and high <= most) or not least <= mean <= most:
        return plus_minus(mean, half)
    low, high = ranges.within(mean, low, high, least, most)
    decimals = max(0, 1 - math.floor(math.log10(high - low)))
    return f"{mean:.{decimals}f} ({low:.{decimals}f} to {high:.{decimals}f})"


def plus_minus(mean: float, half: float) -> str:
    """A mean with as many digits as its interval justifies: 0.9904 ± 0.0031."""
    if math.isnan(half) or half == 0:
        return f"{mean:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(half)))
    if decimals > 7:
        return f"{mean:.4g} ± {half:.1g}"
    return f"{mean:.{decimals}f} ± {half:.{decimals}f}"


def duration(seconds: float) -> str:
    """Seconds in a readable unit: `12.3 s`, `5 min`, `2.5 h`."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number of things: `1 run`, `2 runs`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain columns: words to the left, numbers to the right."""
    table = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    is_number = [
        bool(rows) and all(_NUMBER.fullmatch(row[i]) for row in rows if row[i])
        for i in range(len(header))
    ]
    lines = []
    for line in table:
        cells = zip(line, widths, is_number, strict=True)
        padded = [cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """The settings of a described config by dotted name; the class of a part under its own name."""
    if not isinstance(config, Mapping):
        return {prefix: config}
    settings: dict[str, Any] = {}
    for name, value in config.items():
        if name == "type":
            if prefix:
                settings[prefix] = value
        else:
            settings |= flatten(value, f"{prefix}.{name}" if prefix else name)
    return settings


def in_words(settings: Mapping[str, Any], names: Sequence[str]) -> str:
    """Those of some settings that there are: `data.noise 0.2, seed 0`, in names that tell apart."""
    brief = _brief(names)
    return ", ".join(f"{brief[name]} {settings[name]}" for name in names if name in settings)


def _brief(names: Sequence[str]) -> dict[str, str]:
    """For each dotted name the shortest end of it that no other name has."""
    ends = {
        name: [".".join(name.split(".")[-length:]) for length in range(1, name.count(".") + 2)]
        for name in names
    }
    taken = [end for several in ends.values() for end in several]
    return {
        name: next((end for end in several if taken.count(end) == 1), name)
        for name, several in ends.items()
    }


def width() -> int | None:
    """Columns of the terminal that is printed to; None where lines may be of any length."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def cut(text: str, columns: int | None) -> str:
    """Lines of at most so many columns: longer ones end in an ellipsis, after a comma or a word."""
    if columns is None:
        return text
    return "\n".join(_cut(line, columns) for line in text.splitlines())


def _cut(line: str, columns: int) -> str:
    if len(line) <= columns:
        return line
    if not set(line) - set("- "):  # the rule below a header
        return line[:columns]
    for end in (", ", " "):
        head = line[: columns - 1].rpartition(end)[0]
        if len(head) > columns / 2:
            return f"{head}{end}…"
    return f"{line[: columns - 1]}…"


def varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings that are not the same everywhere."""
    names = dict.fromkeys(name for each in settings for name in each)
    return [name for name in names if len({repr(each.get(name)) for each in settings}) > 1]


def _is_seed(name: str) -> bool:
    return name.rpartition(".")[2] == "seed"
