"""Which experiments there are: the top-level files of `experiments` that define EXPERIMENT."""

import ast
import importlib
from pathlib import Path

from experiments.laboratory.errors import UserError, nearest
from experiments.laboratory.experiment import Experiment

FOLDER = Path(__file__).resolve().parents[1]


def names() -> list[str]:
    """Names of the experiments; a file that cannot be parsed may be one, so it is listed."""
    return [path.stem for path in sorted(FOLDER.glob("[!_]*.py")) if _defines_experiment(path)]


def named(name: str) -> Experiment:
    """The experiment of that name; a UserError suggests the nearest if there is none."""
    known = names()
    if name not in known:
        raise UserError(f"no experiment {name!r}: {nearest(name, known)}")
    experiment: Experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
    return experiment


def _defines_experiment(path: Path) -> bool:
    try:
        body = ast.parse(path.read_text()).body
    except (SyntaxError, ValueError):
        return True
    targets = [t for node in body if isinstance(node, ast.Assign) for t in node.targets]
    targets += [node.target for node in body if isinstance(node, ast.AnnAssign)]
    return any(isinstance(target, ast.Name) and target.id == "EXPERIMENT" for target in targets)
