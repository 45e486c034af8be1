"""An experiment: a function of a config, presets (lists of configs), and its command line."""

import argparse
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from experiments.laboratory import cost, process, progress, runs, tracking
from experiments.laboratory.errors import USER_MISTAKE, Parser, UserError, nearest
from experiments.laboratory.overrides import CUSTOM, options, override, parts
from experiments.laboratory.runs import Outcome, Run
from experiments.laboratory.table import aligned, counted, flatten, summarise, varying

ConfigT = TypeVar("ConfigT")
Table = Callable[[list[Run]], tuple[list[str], list[list[str]]]]

PYTORCH_WARNING = ".*torch.jit.script. is deprecated"  # its forward mode warns of its own code


@dataclass(frozen=True)
class Experiment:
    """`run(config, scratch)` returns metrics and arrays by name; a preset is a list of configs.

    `summary` is one line. `columns` are the metrics to print (all, if empty). `seconds` is the
    measured cost of a whole preset. `table(runs)` makes the header and rows printed at the end
    (default: one line per method, mean and 95% interval over seeds). `shared` is the field of a
    config that several cells have in common, computed once: on a cluster these cells are one task.
    `processes` is how many processes can work on one cell together: torchrun starts them, and
    they find each other by `methods.workers.here()`. `gpu` says whether the experiment computes
    on a GPU where there is one, one GPU per process. `forecast(runs)` returns a line for the cost
    card, computed from the finished runs.
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

    def cells(self, preset: str) -> list[Any]:
        """The configs of a preset; a UserError suggests the nearest name if there is none."""
        if preset not in self.presets:
            raise UserError(f"no preset {preset!r}: {nearest(preset, self.presets)}")
        return list(self.presets[preset])

    def uses_gpu(self, preset: str) -> bool:
        """Whether a cell of a preset can use a GPU: not if every config says `device="cpu"`."""
        return self.gpu and {getattr(c, "device", "") for c in self.presets[preset]} != {"cpu"}

    def once(self, config: Any) -> Run:
        """The run of one config, computed if it is not on disk yet."""
        agree: Callable[[bool], bool] = bool
        if self.processes > 1:
            from methods.workers import here

            agree = here().all
        return runs.once(self.name, config, lambda scratch: self.run(config, scratch), agree)

    def cost_card(
        self, preset: str, cells: Sequence[Any], per_task: int = 0, unit: str = "GPU"
    ) -> str:
        """Cells, what is missing, measured seconds, hours left and disk, by kind of method.

        With `per_task` devices of a unit (`GPU`, `core`) per task, also their hours.
        """
        declared = None
        if preset in self.seconds and self.presets.get(preset):
            declared = self.seconds[preset] / len(self.presets[preset])
        computed = [runs.find(self.name, cell) for cell in cells]
        estimate = cost.estimate(cells, computed, declared)
        finished = [run for run in computed if run is not None]
        lines = cost.lines(self.name, preset, estimate, finished)
        if self.forecast:
            lines.append(self.forecast(finished))
        if per_task:
            lines.append(cost.device_hours(self.name, preset, estimate, per_task, unit))
        return "\n".join(lines)

    def main(self, argv: Sequence[str] | None = None) -> int:
        """The command line, for `raise SystemExit(EXPERIMENT.main())`: parse, run, print.

        Return the exit code: 2 for a mistake the user can correct, 130 if interrupted.
        """
        try:
            with process.stoppable():
                return _main(self, sys.argv[1:] if argv is None else list(argv))
        except SystemExit as end:  # --help
            return int(end.code or 0)
        except KeyboardInterrupt:
            message = "interrupted: finished cells are kept; the same command continues from there"
            print(f"\n{message}", file=sys.stderr)
            return process.INTERRUPTED
        except BrokenPipeError:  # --list | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except Exception as error:
            if not _is_user_error(error):
                raise
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return USER_MISTAKE


def sweep(config: ConfigT, **axes: Iterable[Any]) -> list[ConfigT]:
    """Every combination of the values of some fields, the last axis varying fastest.

    A field of a field is written with two underscores: `sweep(Config(), model__seed=range(5))`.
    """
    for name, values in axes.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise UserError(f"sweep: {name} is {values!r}: give the list of its values")
    cells = []
    for combination in itertools.product(*axes.values()):
        cell = config
        for name, value in zip(axes, combination, strict=True):
            cell = _replace(cell, name.split("__"), value)
        cells.append(cell)
    return cells


def _replace(config: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    known = [f.name for f in fields(config)] if is_dataclass(config) else []
    if name not in known:
        raise UserError(f"{type(config).__name__} has no field {name!r}: {nearest(name, known)}")
    return replace(
        config, **{name: _replace(getattr(config, name), rest, value) if rest else value}
    )


def _is_user_error(error: Exception) -> bool:
    # Errors of methods count too. Importing methods would import torch; if nothing imported it,
    # nothing raised its error.
    methods = sys.modules.get("methods.errors")
    return isinstance(error, UserError) or (
        methods is not None and isinstance(error, methods.MethodError)
    )


def _main(experiment: Experiment, argv: list[str]) -> int:
    warnings.filterwarnings("ignore", message=PYTORCH_WARNING)
    process.keep_freed()
    parser = _parser(experiment)
    given, settings = parser.parse_known_args(argv)
    if given.data:
        os.environ["RETRACE_DATA"] = given.data
    preset = given.preset
    cells = experiment.cells(preset)
    chosen = list(range(len(cells))) if given.cell is None else given.cell
    for cell in chosen:
        if not 0 <= cell < len(cells):
            raise UserError(f"no cell {cell}: preset {preset} has cells 0 to {len(cells) - 1}")
    if settings:
        standard = [option for action in parser._actions for option in action.option_strings]
        place, cell = override([cells[i] for i in chosen], settings, standard)
        changed = f"\n{CUSTOM} is cell {chosen[place]} of {preset}, with {' '.join(settings)}"
        cells, preset, chosen = [cell], CUSTOM, [0]
    if given.count:
        print(len(chosen))
    elif given.list:
        _list(experiment, cells, chosen)
    elif given.plan:
        print(experiment.cost_card(preset, [cells[i] for i in chosen]))
    else:
        _run(experiment, preset, cells, chosen)
    if settings and not given.count:
        print(changed)
    return 0


def _parser(experiment: Experiment) -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"python -m experiments.{experiment.name}",
        description=experiment.summary or None,
        epilog=_epilog(experiment),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    first = "smoke" if "smoke" in experiment.presets else next(iter(experiment.presets))
    names = ", ".join(experiment.presets)
    parser.add_argument("--preset", default=first, help=f"{names} (default: {first})")
    parser.add_argument(
        "--cell", type=int, action="append", metavar="I", help="run only this cell (repeatable)"
    )
    parser.add_argument("--count", action="store_true", help="print only the number of cells")
    parser.add_argument(
        "--list", action="store_true", help="print the cells, and whether each has a run"
    )
    parser.add_argument("--plan", action="store_true", help="print what is missing and its cost")
    parser.add_argument(
        "--data", metavar="DIR", help="the folder of data sets (default: $RETRACE_DATA, data)"
    )
    return parser


def _epilog(experiment: Experiment) -> str:
    lines = ["presets:"]
    width = max(map(len, experiment.presets))
    for name, cells in experiment.presets.items():
        price = cost.in_words(experiment.name, cells, experiment.seconds.get(name))
        lines.append(f"  {name:{width}}  {counted(len(cells), 'cell')}, {price}")
    name, cells = next(iter(experiment.presets.items()))
    lines += ["", f"any field of a cell can be set; those of cell 0 of preset {name}:"]
    lines += [f"  --{option} {value}" for option, value in options(cells[0]).items()]
    if alternatives := parts(cells[0]):
        lines += ["", "after them, a whole part can be chosen:"]
        lines += [f"  {' '.join(kinds)}" for kinds in alternatives.values()]
    lines += ["", "A cell with settings runs as preset `custom`, which no artifact reads."]
    return "\n".join(lines)


def _list(experiment: Experiment, cells: Sequence[Any], chosen: Sequence[int]) -> None:
    settings = [flatten(runs.describe(cell)) for cell in cells]
    names = varying(settings) or list(settings[0])
    rows = []
    for i in chosen:
        state = "present" if runs.find(experiment.name, cells[i]) else "missing"
        values = [str(settings[i].get(name, "")) for name in names]
        rows.append([str(i), runs.key(cells[i]), state, *values])
    print(aligned(["cell", "key", "run", *names], rows))


def _run(experiment: Experiment, preset: str, cells: list[Any], chosen: list[int]) -> None:
    began = time.perf_counter()
    present = sum(runs.find(experiment.name, cells[i]) is not None for i in chosen)
    runs.plan(experiment.name, preset, cells)
    mirror = tracking.Mirror(experiment.name, preset)
    finished = []
    with _process_group(experiment), progress.show() as display:
        for i in display.track(chosen, f"{experiment.name} {preset}"):
            try:
                with mirror.watching(cells[i]):
                    finished.append(experiment.once(cells[i]))
            except Exception as error:
                if not _is_user_error(error) or len(cells) == 1:
                    raise
                raise UserError(f"cell {i} of preset {preset}: {error}") from error
            mirror.send(finished[-1])
        if len(chosen) == len(cells):  # otherwise the job that gathers all cells does it
            mirror.finish()
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes of a cell, only the first prints
    header, rows = (
        experiment.table(finished) if experiment.table else summarise(finished, experiment.columns)
    )
    print(aligned(header, rows))
    home = runs.results() / "runs" / experiment.name
    if home.is_relative_to(os.getcwd()):
        home = home.relative_to(os.getcwd())
    computed, seconds = len(finished) - present, time.perf_counter() - began
    print(
        f"\n{counted(len(finished), 'run')} in {home}: "
        f"{computed} computed now, in {cost.duration(seconds)}"
    )


def _process_group(experiment: Experiment) -> AbstractContextManager[Any]:
    """The processes that torchrun started, if the experiment can use several."""
    if experiment.processes == 1:
        return nullcontext()
    from methods.workers import joined

    return joined()
