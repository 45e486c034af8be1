"""Which experiments there are, found by listing this folder."""

import ast
import importlib
from pathlib import Path

from experiments.experiment import Experiment
from experiments.problems import UserError, nearest

FOLDER = Path(__file__).resolve().parent


def names() -> list[str]:
    """Modules here that define EXPERIMENT; one that cannot be parsed might, and is named."""
    return [path.stem for path in sorted(FOLDER.glob("[!_]*.py")) if _defines_experiment(path)]


def named(name: str) -> Experiment:
    """The experiment of that name; a UserError names the nearest if there is none."""
    if name not in names():
        raise UserError(f"no experiment {name!r}: {nearest(name, names())}")
    found: Experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
    return found


def _defines_experiment(path: Path) -> bool:
    try:
        body = ast.parse(path.read_text()).body
    except (SyntaxError, ValueError):
        return True
    targets = [t for node in body if isinstance(node, ast.Assign) for t in node.targets]
    targets += [node.target for node in body if isinstance(node, ast.AnnAssign)]
    return any(isinstance(target, ast.Name) and target.id == "EXPERIMENT" for target in targets)
