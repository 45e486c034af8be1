"""Records: what committed artifacts are made of, kept where the runs themselves are not.

`results/records/PRESET/NAME.jsonl.gz` has a line for each cell of a preset: its key and config,
and, where an artifact needs its run, the metrics, the provenance and those arrays that were read.
From them `analysis` makes the same tables and figures without the runs, which may have taken hours
on a machine that is gone. Every part is checked against the checksums of the run when it is read.
"""

import base64
import gzip
import io
import json
import lzma
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from experiments.laboratory import disk, run_files, runs
from experiments.laboratory.errors import MissingRuns, UserError, nearest, quoted
from experiments.laboratory.keys import digest
from experiments.laboratory.runs import Run
from experiments.laboratory.table import counted

LARGEST = 5_000_000  # bytes of one file
Arrays = Mapping[str, Collection[str]]  # names of the arrays that were read, by key of the run
Place = tuple[str, str]  # experiment and preset


@dataclass(frozen=True)
class Recorded(Run):
    """A run that is read from a record: it has the arrays that were kept."""

    kept: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def _read(self, name: str) -> np.ndarray:
        if name not in self.kept:
            kept = ", ".join(self.kept) or "none"
            raise UserError(
                f"{quoted(self.path)} has no array {name!r} of run {self.key} (kept: {kept}): "
                f"`{_again(self.name, self.path.parent.name)}` makes the run itself"
            )
        return self.kept[name]


def path(name: str, preset: str) -> Path:
    """The file of the record of a preset."""
    return runs.results() / "records" / preset / f"{name}.jsonl.gz"


def planned(name: str, preset: str) -> list[dict[str, Any]]:
    """The entries of a preset as `runs.planned` gives them, from its record if no run was begun."""
    try:
        return runs.planned(name, preset)
    except MissingRuns:
        if not path(name, preset).exists():
            raise
    parts = ("key", "config", "parts")
    return [{part: line[part] for part in parts} for line in _lines(name, preset)]


def load(name: str, preset: str) -> list[Run]:
    """The runs of a preset that exist, in order; those that are not here, from its record."""
    try:
        keys = [entry["key"] for entry in planned(name, preset)]
    except MissingRuns:
        return []
    known: dict[str, Run] = {run.key: run for run in runs.load(name, preset, partial=True)}
    if len(known) < len(set(keys)):
        known = {**recorded(name, preset), **known}
    return [known[key] for key in keys if key in known]


def recorded(name: str, preset: str) -> dict[str, Recorded]:
    """The recorded runs of a preset by key, each checked; none if it has no record."""
    file = path(name, preset)
    if not file.exists():
        return {}
    return {line["key"]: _run(file, name, line) for line in _lines(name, preset) if "meta" in line}


def record(names: Sequence[str] = ()) -> list[str]:
    """Write the records of all committed artifacts, or of those made of these experiments.

    What an artifact needs is in its provenance. Runs that are not on this machine are taken from
    the record as it is. Returns a line for each file; a UserError names artifacts that were built
    before provenance said which arrays they read, runs that are nowhere, and files too large.
    """
    wanted = _wanted()
    for name in names:
        known = sorted({place[0] for place in wanted})
        if name not in known:
            raise UserError(f"no artifact is made from runs of {name!r}: {nearest(name, known)}")
    return [
        _write(place, needed)
        for place, needed in sorted(wanted.items())
        if not names or place[0] in names
    ]


def _wanted() -> dict[Place, dict[str, set[str]]]:
    """Which runs and arrays the artifacts of each experiment and preset need, by key of the run."""
    wanted: dict[Place, dict[str, set[str]]] = {}
    for file in sorted((runs.results() / "artifacts").glob("*/*.json")):
        tier = file.parent.name
        if tier == "smoke":  # made anew by everybody, in a minute
            continue
        numbers = json.loads(file.read_bytes())["numbers"]
        if "arrays" not in numbers:
            continue  # made before its provenance said so; it is in no record
        places = [(numbers["experiment"], tier), *(tuple(each) for each in numbers["second"])]
        for key in numbers["runs"]:
            for place in places:
                needed = wanted.setdefault(place, {}).setdefault(key, set())
                needed.update(numbers["arrays"].get(key, ()))
    return wanted


def _write(place: Place, needed: Arrays) -> str:
    name, preset = place
    known = {run.key: run for run in load(name, preset)}
    lines, kept, missing = [], 0, []
    for entry in planned(name, preset):
        line: dict[str, Any] = dict(entry)
        if entry["key"] in needed:
            run = known.get(entry["key"])
            if run is None:
                missing.append(entry["key"])
                continue
            line |= {"metrics": run.metrics, "meta": run.meta}
            line["arrays"] = {each: _packed(run, each) for each in sorted(needed[run.key])}
            kept += 1
        lines.append(line)
    if missing:
        raise UserError(
            f"{counted(len(missing), 'run')} of {name} {preset} that artifacts need "
            f"({', '.join(missing[:3])}) are neither here nor recorded: `{_again(name, preset)}`"
        )
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    content = gzip.compress(text.encode(), mtime=0)
    if len(content) > LARGEST:
        raise UserError(_too_large(place, len(content), lines))
    file = path(name, preset)
    file.parent.mkdir(parents=True, exist_ok=True)
    disk.write_file(file, content)
    return f"{quoted(file)}: {counted(kept, 'run')}, {len(content):,} bytes"


def _too_large(place: Place, size: int, lines: Sequence[Mapping[str, Any]]) -> str:
    sizes: dict[str, int] = {}
    for line in lines:
        for name, packed in line.get("arrays", {}).items():
            sizes[name] = sizes.get(name, 0) + len(packed["xz"])
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
    return (
        f"the record of {' '.join(place)} has {size:,} bytes, {LARGEST:,} are allowed (largest: "
        f"{', '.join(f'{name} {each:,}' for name, each in largest)}): let the runs keep a smaller "
        "summary, and the artifact read that"
    )


def _again(name: str, preset: str) -> str:
    return f"python -m experiments.{name} --preset {preset}"


@cache
def _text(file: Path, size: int, changed: int) -> str:
    return gzip.decompress(file.read_bytes()).decode()


def _lines(name: str, preset: str) -> Iterator[dict[str, Any]]:
    file = path(name, preset)
    try:
        facts = file.stat()
        for text in _text(file, facts.st_size, facts.st_mtime_ns).splitlines():
            line = json.loads(text)
            if digest(line["config"]) != line["key"]:
                raise ValueError(f"the config of {line['key']} was changed")
            yield line
    except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
        raise _damaged(file, error) from error


def _run(file: Path, name: str, line: Mapping[str, Any]) -> Recorded:
    try:
        meta, metrics = line["meta"], line["metrics"]
        if disk.checksum(run_files.as_json(metrics)) != meta["files"]["metrics.json"]:
            raise ValueError(f"the metrics of {line['key']} were changed")
        arrays = {
            each: _unpacked(packed, meta["arrays"][each]["sha256"])
            for each, packed in line["arrays"].items()
        }
    except (ValueError, LookupError, TypeError, lzma.LZMAError) as error:
        raise _damaged(file, error) from error
    return Recorded(file, name, line["key"], line["config"], metrics, meta, arrays)


def _damaged(file: Path, error: Exception) -> UserError:
    return UserError(
        f"{quoted(file)} cannot be read ({error}): `git checkout -- {quoted(file)}` brings a "
        "committed one back"
    )


def _packed(run: Run, name: str) -> dict[str, Any]:
    """An array as text: its bytes, those of equal rank in their numbers side by side, in xz."""
    array = np.asarray(run.array(name), order="C")
    grouped = np.frombuffer(array.tobytes(), np.uint8).reshape(-1, array.itemsize).T
    packed = base64.b85encode(lzma.compress(grouped.tobytes())).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "xz": packed}


def _unpacked(packed: Mapping[str, Any], wanted: str) -> np.ndarray:
    """The array again, if the checksum of its file is the wanted one."""
    dtype = np.dtype(packed["dtype"])
    grouped = np.frombuffer(lzma.decompress(base64.b85decode(packed["xz"])), np.uint8)
    content = grouped.reshape(dtype.itemsize, -1).T.tobytes()
    array = np.frombuffer(content, dtype).reshape(packed["shape"])
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    if disk.checksum(file.getvalue()) != wanted:
        raise ValueError("an array was changed")
    return array
