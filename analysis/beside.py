"""Runs of a second experiment that an artifact shows too, and where all its numbers come from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments import runs
from experiments.runs import Run


@dataclass(frozen=True)
class Beside:
    """Another experiment, of whose runs a part of an artifact is made.

    Of the artifact's own tier if all that are needed are there, else of the highest below that has
    them; without any, that part of the artifact is `not run`.
    """

    experiment: str
    needs: Callable[[dict[str, Any]], bool] = field(default=lambda config: True, repr=False)

    def found(self, tiers: Sequence[str]) -> tuple[str, list[Run]]:
        """The tier, the first of `tiers` that has them all, and its runs; "" and none if none."""
        for tier in tiers:
            try:
                planned = runs.planned(self.experiment, tier)
            except runs.MissingRuns:
                continue
            wanted = {entry["key"] for entry in planned if self.needs(entry["config"])}
            there = [
                one for one in runs.load(self.experiment, tier, partial=True) if one.key in wanted
            ]
            if wanted and len(there) == len(wanted):
                return tier, there
        return "", []


def provenance(experiment: str, found: Sequence[Run], missing: int) -> dict[str, Any]:
    """Which runs numbers come from, made by which code, where and of which data."""
    metas = [run.meta for run in found]
    versions: dict[str, set[str]] = {}
    data: dict[str, Any] = {}
    for meta in metas:
        data |= meta.get("data") or {}
        for name, number in (meta.get("versions") or {}).items():
            versions.setdefault(name, set()).add(number)
    return {
        "experiment": experiment,
        "runs": [run.key for run in found],
        "missing": missing,
        "commits": sorted({_commit(meta) for meta in metas}),
        "devices": sorted({str(meta.get("device")) for meta in metas}),
        "seconds": round(sum(float(meta.get("seconds") or 0) for meta in metas), 1),
        "peak_memory_bytes": max(int(meta.get("peak_memory_bytes") or 0) for meta in metas),
        "versions": {name: sorted(numbers) for name, numbers in sorted(versions.items())},
        "data": dict(sorted(data.items())),
    }


def _commit(meta: Mapping[str, Any]) -> str:
    return f"{meta.get('commit') or 'unknown'}{' and changes' if meta.get('dirty') else ''}"
