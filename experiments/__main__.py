"""`python -m experiments`: every experiment in one line, found by listing this folder."""

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.problems import nearest
from experiments.table import aligned

FOLDER = Path(__file__).resolve().parent


def names() -> list[str]:
    """Modules here that define EXPERIMENT; one that cannot be parsed might, and is named."""
    return [path.stem for path in sorted(FOLDER.glob("[!_]*.py")) if _defines_experiment(path)]


def line(name: str) -> list[str]:
    """Name, cells a preset and summary; of a broken experiment, why it cannot be imported."""
    try:
        experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
        presets = [f"{preset} {len(cells)}" for preset, cells in experiment.presets.items()]
        return [name, ", ".join(presets), experiment.summary]
    except Exception as error:  # whatever is wrong with one, the others are listed
        return [name, "broken", f"{type(error).__name__}: {' '.join(str(error).split())}"]


def main(argv: Sequence[str]) -> int:
    """List the experiments, or run the one that is named."""
    if not argv or argv[0] in ("-h", "--help"):
        rows = [line(name) for name in names()]
        print(aligned(["experiment", "cells", "about"], rows) if rows else "no experiments yet")
        print("\nrun one: python -m experiments.NAME [--preset small]; its options: --help")
        return 0
    if argv[0] not in names():
        message = f"no experiment {argv[0]!r}: {nearest(argv[0], names())}"
        print(f"error: {message}", file=sys.stderr)
        return 2
    experiment = importlib.import_module(f"experiments.{argv[0]}").EXPERIMENT
    code: int = experiment.main(argv[1:])
    return code


def _defines_experiment(path: Path) -> bool:
    try:
        body = ast.parse(path.read_text()).body
    except (SyntaxError, ValueError):
        return True
    targets = [t for node in body if isinstance(node, ast.Assign) for t in node.targets]
    targets += [node.target for node in body if isinstance(node, ast.AnnAssign)]
    return any(isinstance(target, ast.Name) and target.id == "EXPERIMENT" for target in targets)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
