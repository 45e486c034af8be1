"""Which experiments there are: the top-level files of `experiments` that define EXPERIMENT."""

import ast
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from experiments.laboratory.errors import UserError, nearest, one_line
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


def described(name: str) -> tuple[list[str], str]:
    """The presets and the summary of an experiment, as its file says, which is only read.

    To import it may take seconds, most of them PyTorch's. What the file does not say in so many
    words is left out; one that cannot be parsed says why.
    """
    try:
        body = ast.parse((FOLDER / f"{name}.py").read_text()).body
    except (SyntaxError, ValueError) as error:
        return ["broken"], f"{type(error).__name__}: {one_line(error)}"
    constants = dict(_assigned(body))
    call = constants["EXPERIMENT"]
    presets, summary = None, None
    if isinstance(call, ast.Call):
        given = dict(zip(("name", "run", "presets", "summary"), call.args, strict=False))
        given |= {word.arg: word.value for word in call.keywords if word.arg}
        presets, summary = (_value(given.get(part), constants) for part in ("presets", "summary"))
    keys = presets.keys if isinstance(presets, ast.Dict) else []
    names = [str(key.value) for key in keys if isinstance(key, ast.Constant)]
    return names, str(summary.value) if isinstance(summary, ast.Constant) else ""


def _value(node: ast.expr | None, constants: Mapping[str, ast.expr]) -> ast.expr | None:
    """What a name stands for on the top level of its file; anything else itself."""
    return constants.get(node.id) if isinstance(node, ast.Name) else node


def _assigned(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    """What is assigned on the top level of a file, by name."""
    for node in body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name):
                yield target.id, node.value


def _defines_experiment(path: Path) -> bool:
    try:
        return "EXPERIMENT" in dict(_assigned(ast.parse(path.read_text()).body))
    except (SyntaxError, ValueError):
        return True
