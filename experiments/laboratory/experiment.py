"""An experiment: a function of a config, and presets, which are lists of configs."""

import ast
import importlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from experiments.laboratory import runs
from experiments.laboratory.errors import UserError, nearest
from experiments.laboratory.runs import Outcome, Run

ConfigT = TypeVar("ConfigT")
Table = Callable[[list[Run]], tuple[list[str], list[list[str]]]]


@dataclass(frozen=True)
class Experiment:
    """`run(config, scratch)` returns metrics and arrays by name; a preset is a list of configs.

    `summary` is one line; `columns` are the metrics to print (all, if empty); `seconds` is the
    measured cost of a whole preset; `table(runs)` makes the header and rows printed at the end
    (default: a line a method, mean and 95% interval over seeds). `shared` is the field of a config
    that cells have in common, made once for all of them: on a cluster they are one task.
    `processes` is how many processes can work on one cell together: started by torchrun, they are
    `methods.workers.here()` to whatever the run calls. `gpu` says whether it computes on
    a GPU where there is one, each process on its own.
    `forecast(runs)` is a line of the cost card made of the finished runs.
    """

    name: str
    run: Callable[[Any, Path], Outcome]
    presets: Mapping[str, Sequence[Any]]
    summary: str = ""
    columns: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    table: Table | None = None
    shared: str = "model"
    processes: int = 1
    gpu: bool = False
    forecast: Callable[[list[Run]], str] | None = None

    def uses_gpu(self, preset: str) -> bool:
        """Whether a cell of a preset can use a GPU: not if every config says `device="cpu"`."""
        return self.gpu and {getattr(c, "device", "") for c in self.presets[preset]} != {"cpu"}

    def once(self, config: Any) -> Run:
        """The run of one config, computed if it must be."""
        agree: Callable[[bool], bool] = bool
        if self.processes > 1:
            from methods.workers import here

            agree = here().all
        return runs.once(self.name, config, lambda scratch: self.run(config, scratch), agree)

    def main(self, argv: Sequence[str] | None = None) -> int:
        """The command line: `sys.exit(EXPERIMENT.main())`."""
        from experiments.laboratory import command

        return command.main(self, argv)


def sweep(config: ConfigT, **axes: Iterable[Any]) -> list[ConfigT]:
    """Every combination of the values of some fields, the last axis varying fastest.

    A field of a field is written with two underscores: `sweep(Config(), model__seed=range(5))`.
    """
    for name, values in axes.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise UserError(f"sweep: {name} is {values!r}: give the list of its values")
    combinations = itertools.product(*axes.values())
    return [_with(config, dict(zip(axes, values, strict=True))) for values in combinations]


def _with(config: Any, values: Mapping[str, Any]) -> Any:
    for dotted, value in values.items():
        config = _replace(config, dotted.split("__"), value)
    return config


def _replace(config: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    known = [f.name for f in fields(config)] if is_dataclass(config) else []
    if name not in known:
        raise UserError(f"{type(config).__name__} has no field {name!r}: {nearest(name, known)}")
    return replace(
        config, **{name: _replace(getattr(config, name), rest, value) if rest else value}
    )


# Which experiments there are, found by listing this folder.


FOLDER = Path(__file__).resolve().parents[1]


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
