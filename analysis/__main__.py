"""Build every artifact whose runs exist, then the report: `python -m analysis`.

`python -m analysis docs` writes the tables and numbers of README.md and docs/ instead.
"""

import argparse
import importlib
import json
import pkgutil
import sys
from collections.abc import Sequence

import analysis
from analysis.page import docs, explorers, report
from analysis.page.artifact import Artifact, Unfit, add_options, known_tier, shown_path
from experiments.laboratory import lists, runs
from experiments.laboratory.runs import MissingRuns, Parser, UserError, guarded


def artifacts() -> tuple[list[Artifact], list[str]]:
    """The artifacts of this folder by name, and an error for each file that cannot be imported."""
    known, broken = [], []
    for module in pkgutil.iter_modules(analysis.__path__):
        if module.name == "__main__":
            continue
        try:
            loaded = importlib.import_module(f"analysis.{module.name}")
        except Exception as error:  # one broken file must not hide the others
            broken.append(f"analysis.{module.name} cannot be imported: {error!r}")
            continue
        if hasattr(loaded, "ARTIFACT"):
            known.append(loaded.ARTIFACT)
    return sorted(known, key=lambda one: one.id), broken


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if [*words] == ["docs"]:
        return docs.main()
    parser = Parser(prog="python -m analysis", description=__doc__)
    add_options(parser, default=None)
    parser.add_argument("--experiment", metavar="NAME", help="only what is made from its runs")

    def work() -> int:
        options = parser.parse_args(words)
        asked = options.preset and known_tier(options.preset, [*lists.TIERS, *lists.everywhere()])
        known, broken = artifacts()
        errors, shown = list(broken), 0
        chosen = [one for one in known if options.experiment in (None, *made_of(one))]
        if options.experiment is not None and not chosen and not broken:
            _check_has_runs(options.experiment, known)
        for artifact in chosen:
            for tier in [tier for tier in artifact.tiers() if asked in (None, tier)]:
                try:
                    built = _line(artifact, tier, options)
                except Unfit as unfit:
                    print(f"{artifact.id} {tier}: not drawn  {unfit}")
                    continue
                except UserError as error:
                    errors.append(f"{artifact.id} {tier}: {error}")
                    continue
                shown += built is not None
                if built is not None or options.preset is not None:
                    print(built or f"{artifact.id} {tier}: not run  {_how(artifact, tier)}")
        if not options.redraw:
            for line in explorers.build(chosen, asked):
                print(line)
        print(f"report  {shown_path(report.build(known))}")
        if not chosen:
            print(f"no artifact is made from runs of {options.experiment}")
        elif not shown and not errors:
            errors.append(f"no runs to draw from: {_how(chosen[0], asked or lists.TIERS[0])}")
        for line in errors:
            print(f"error: {line}", file=sys.stderr)
        return 2 if errors else 0

    return guarded(work)


def made_of(artifact: Artifact) -> list[str]:
    """The experiments whose runs an artifact is made from."""
    return [artifact.experiment, *([artifact.second.experiment] if artifact.second else [])]


def _check_has_runs(name: str, known: Sequence[Artifact]) -> None:
    """Raise a UserError on a name that neither an artifact nor a run has."""
    if not (runs.results() / "runs" / name).is_dir():
        nearest = runs.nearest(name, dict.fromkeys(each for one in known for each in made_of(one)))
        raise UserError(f"no artifact is made from runs of {name!r}, and there are none: {nearest}")


def _line(artifact: Artifact, tier: str, options: argparse.Namespace) -> str | None:
    """Build or redraw one artifact; return a line on it, None if there is nothing to draw from."""
    path = artifact.path(tier, "json")
    if options.redraw:
        return str(artifact.redraw(tier)) if path.exists() else None
    try:
        return str(artifact.build(tier, options.partial))
    except MissingRuns as missing:
        if not path.exists():
            begun = runs.load(artifact.experiment, tier, partial=True)
            return f"{artifact.id} {tier}: not run  {missing}" if begun else None
        word = json.loads(path.read_bytes())["verdict"]["word"]
        return f"{artifact.id} {tier}: {word}  as built before: its runs are not all here"


def _how(artifact: Artifact, tier: str) -> str:
    return f"`python -m experiments.{artifact.experiment} --preset {tier}`"


if __name__ == "__main__":
    sys.exit(main())
