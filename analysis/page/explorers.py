"""Pages beside the report: every query of an experiment, with what each method found for it.

They are made from runs. Where these are not on the machine, a page that was made before stays.
"""

from collections.abc import Sequence
from pathlib import Path

from analysis.numbers.verdict import SIZES
from analysis.page.artifact import Artifact, shown_path, write
from analysis.page.gallery import laid_out
from experiments.laboratory import records, runs


def page(experiment: str, tier: str) -> Path:
    """Where the page of an experiment's tier lies."""
    return runs.results() / "report" / f"{experiment}-{tier}.html"


def build(artifacts: Sequence[Artifact], only: str | None = None) -> list[str]:
    """Write the pages of the artifacts that have some, and return a line for each.

    only    the one tier, or kept list, whose pages are made; else of each that has runs
    """
    lines: dict[Path, str] = {}
    for artifact in artifacts:
        for tier in artifact.tiers():
            path, size = page(artifact.experiment, tier), artifact.size(tier)
            if artifact.explore is None or path in lines or only not in (None, tier):
                continue
            preset = artifact.presets.get(tier, tier)
            finished = records.load(artifact.experiment, preset)
            if not finished:
                continue
            queries = artifact.explore(finished, size)
            if not queries:
                again = f"`python -m experiments runs remake {artifact.experiment}` makes them anew"
                lines[path] = f"the runs of {artifact.experiment} {tier} hold no queries: {again}"
                continue
            title = f"{artifact.experiment}: {artifact.explored}"
            note = f"Tier {tier}, {SIZES[size]}: all {len(queries):,} queries of the first seed."
            write(path, laid_out(queries, title, note, "index.html").encode())
            lines[path] = (
                f"{len(queries):,} queries of {artifact.experiment} {tier}  {shown_path(path)}"
            )
    return list(lines.values())
