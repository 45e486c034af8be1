"""An experiment: a function of a config, presets (lists of configs), and its command line."""

import argparse
import importlib
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import experiments
from experiments.laboratory import cost, listing, outdated, process, progress, provenance, runs
from experiments.laboratory.cost import Estimate
from experiments.laboratory.errors import (
    USER_MISTAKE,
    Parser,
    UserError,
    failed,
    nearest,
    number,
    one_line,
    quoted,
    say,
)
from experiments.laboratory.options import device_options, hand_down
from experiments.laboratory.overrides import CUSTOM, check_counts, override
from experiments.laboratory.runs import Outcome, Run
from experiments.laboratory.sweeps import sweep
from experiments.laboratory.table import aligned, counted, summarise
from experiments.laboratory.tracking import trackers
from experiments.laboratory.work import RATES, Rate, Work, rate

__all__ = ["Experiment", "sweep"]

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
    on a GPU where there is one, one GPU per process. `work(config)` counts what a cell takes, for
    the cost card. `forecast(runs)` returns a line for it, computed from the finished runs.
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
    work: Callable[[Any], Work] | None = None
    forecast: Callable[[list[Run]], str] | None = None

    def cells(self, preset: str) -> list[Any]:
        """The configs of a preset; a UserError suggests the nearest name if there is none."""
        if preset not in self.presets:
            raise UserError(f"no preset {preset!r}: {nearest(preset, self.presets)}")
        return list(self.presets[preset])

    def uses_gpu(self, preset: str) -> bool:
        """Whether a cell of a preset can use a GPU: not if every config says `device="cpu"`."""
        cells = self.presets.get(preset, ())
        return self.gpu and {getattr(cell, "device", "") for cell in cells} != {"cpu"}

    def once(self, config: Any) -> Run:
        """The run of one config, computed if it is not on disk yet."""
        agree: Callable[[bool], bool] = bool
        if self.processes > 1:
            from methods.workers import here

            agree = here().all
        return runs.once(self.name, config, lambda scratch: self.run(config, scratch), agree)

    def works(self, preset: str, cells: Sequence[Any]) -> list[Work]:
        """What each cell takes: counted, or a share of the seconds declared for the preset."""
        of_preset, seconds = self.presets.get(preset), self.seconds.get(preset)
        each = seconds / len(of_preset) if seconds and of_preset else None
        made = [
            self.work(cell) if self.work else Work(cost.kind(cell), given=each) for cell in cells
        ]
        return [
            replace(work, name=self.name, config=cell)
            for work, cell in zip(made, cells, strict=True)
        ]

    def estimate(
        self, preset: str, works: Sequence[Work], unit: str = "GPU", speed: str | None = None
    ) -> tuple[Rate, Estimate]:
        """The rate of the device, and what is left of the cells' work at it."""
        whole, devices = self.presets.get(preset), _device_module()
        gpu = unit == "GPU" and self.uses_gpu(preset) and preset not in ("smoke", "small")
        name = devices.gpu_name() if devices else None
        here = rate(cost.asked(speed, "RETRACE_RATE"), name, gpu)
        declared = self.seconds.get(preset) if whole and len(works) == len(whole) else None
        return here, cost.estimate(works, here, declared)

    def cost_card(
        self,
        preset: str,
        cells: Sequence[Any],
        per_task: int = 0,
        unit: str = "GPU",
        *,
        speed: str | None = None,
        price: str | None = None,
    ) -> str:
        """Cells, what is missing, and the hours, memory and disk it takes, by kind of work.

        With `per_task` devices of a unit (`GPU`, `core`) per task, also their hours. `speed` is
        the device's rate as `--rate` has it, `price` that of an hour.
        """
        works = self.works(preset, cells)
        finished = [run for cell in cells if (run := runs.find(self.name, cell)) is not None]
        here, estimate = self.estimate(preset, works, unit, speed)
        money = cost.priced(cost.asked(price, "RETRACE_PRICE"))
        others = cost.elsewhere(works) if self.work else ""
        lines = cost.lines(self.name, preset, estimate, finished, here, others, money)
        if self.forecast:
            lines.append(self.forecast(finished))
        if per_task:
            lines.append(cost.device_hours(self.name, preset, estimate, per_task, unit))
        return "\n".join(lines)

    def main(self, argv: Sequence[str] | None = None) -> int:
        """The command line, for `raise SystemExit(EXPERIMENT.main())`: parse, run, print.

        Return the exit code: 2 for a mistake the user can correct, 130 if interrupted.
        """
        experiments.imported()
        try:
            try:
                with process.stoppable():
                    code = _main(self, sys.argv[1:] if argv is None else list(argv))
            except SystemExit as end:  # --help
                code = int(end.code or 0)
            sys.stdout.flush()  # a full disk may refuse only now what was printed
            return code
        except KeyboardInterrupt:
            message = "interrupted: finished cells are kept; the same command continues from there"
            say(f"\n{message}")
            return process.INTERRUPTED
        except OSError as error:
            return failed(error)
        except Exception as error:
            devices, line = _device_module(), str(error) if _is_user_error(error) else ""
            if not line and not (line := devices.unsupported(error) if devices else ""):
                raise
            say(f"error: {one_line(line)}")
            return USER_MISTAKE


def _is_user_error(error: Exception) -> bool:
    # Errors of methods count too. Importing methods would import torch; if nothing imported it,
    # nothing raised its error.
    methods = sys.modules.get("methods.errors")
    return isinstance(error, UserError) or (
        methods is not None and isinstance(error, methods.MethodError)
    )


def _device_module() -> Any:
    """The module that chooses the device; None if the code of no experiment has imported it."""
    return sys.modules.get("experiments.laboratory.device")


def _main(experiment: Experiment, argv: list[str]) -> int:
    warnings.filterwarnings("ignore", message=PYTORCH_WARNING)
    process.keep_freed()
    parser = _parser(experiment)
    given, settings = parser.parse_known_args(argv)
    if given.data:
        os.environ["RETRACE_DATA"] = given.data
    hand_down(given)
    preset = given.preset
    cells = experiment.cells(preset)
    chosen = list(range(len(cells))) if given.cell is None else given.cell
    for cell in chosen:
        if not 0 <= cell < len(cells):
            raise UserError(f"no cell {cell}: preset {preset} has cells 0 to {len(cells) - 1}")
    if settings:
        standard = [option for action in parser._actions for option in action.option_strings]
        place, cell = override([cells[i] for i in chosen], settings, standard)
        check_counts(cell, itertools.chain.from_iterable(experiment.presets.values()))
        changed = f"\n{CUSTOM} is cell {chosen[place]} of {preset}, with {' '.join(settings)}"
        cells, preset, chosen = [cell], CUSTOM, [0]
    if given.gpus and not given.workers:
        raise UserError(f"--gpus {given.gpus} is for --workers N: give both, or --device cuda:0")
    if given.count:
        print(len(chosen))
    elif given.list:
        print(listing.cells_and_runs(experiment.name, cells, chosen))
    elif given.plan:
        some = [cells[i] for i in chosen]
        print(experiment.cost_card(preset, some, speed=given.rate, price=given.price))
        if stages := _stages(experiment, preset, given):
            print(f"\n{stages}")
    elif given.workers:
        return _on_workers(experiment, given, chosen)
    else:
        provenance.commit()  # of the code in memory, whatever is committed while it runs
        with runs.remaking(given.remake), outdated.telling(process.is_first()):
            if given.only:
                _make_only(experiment, [cells[i] for i in chosen], given.only)
            else:
                _run(experiment, preset, cells, chosen)
    if settings and not given.count:
        print(changed)
    return 0


def _stages(experiment: Experiment, preset: str, given: argparse.Namespace) -> str:
    """The stages of a whole preset, as an array or the workers of one machine compute it."""
    if given.cell is not None or preset == CUSTOM:
        return ""
    stages = importlib.import_module("experiments.cluster.stages")
    return str(stages.card(experiment, preset, given.workers, given.rate))


def _on_workers(experiment: Experiment, given: argparse.Namespace, chosen: list[int]) -> int:
    """Compute a preset by processes of this machine, then print its numbers; the exit code."""
    cells = experiment.cells(given.preset)
    if len(chosen) != len(cells) or given.remake:
        raise UserError("--workers does a whole preset: leave out --cell, --remake and settings")
    local = importlib.import_module("experiments.cluster.local")
    start = _start(experiment, cells)
    code: int = local.compute(experiment, given.preset, given.workers, given.gpus)
    if not code:
        _run(experiment, given.preset, cells, chosen, start)
    return code


def _make_only(experiment: Experiment, cells: Sequence[Any], address: str) -> None:
    """Compute cells as far as the run NAME/KEY, which they need."""
    for cell in cells:
        if not runs.present(address):
            _choose_device(experiment, [cell])
            with _process_group(experiment), progress.show(), runs.until(address):
                experiment.once(cell)
    if not runs.present(address):
        raise UserError(f"there is no {address}, and these cells make none: leave out --only")
    if process.is_first():
        print(f"{address} is there")


def _parser(experiment: Experiment) -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"python -m experiments.{experiment.name}",
        description=experiment.summary or None,
        epilog=listing.presets_and_fields(experiment.name, experiment.presets, experiment.seconds),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    first = "smoke" if "smoke" in experiment.presets else next(iter(experiment.presets))
    names = ", ".join(experiment.presets)
    parser.add_argument("--preset", default=first, help=f"{names} (default: {first})")
    parser.add_argument(
        "--cell", type=int, action="append", metavar="I", help="run only this cell (repeatable)"
    )
    parser.add_argument("--only", metavar="NAME/KEY", help="compute only this run that it needs")
    parser.add_argument(
        "--workers", type=number(1), metavar="N", help="compute by N processes of this machine"
    )
    parser.add_argument(
        "--gpus", metavar="G", help="of --workers: all, or 0,1 (default: all, if a cell uses one)"
    )
    parser.add_argument("--count", action="store_true", help="print only the number of cells")
    parser.add_argument(
        "--list", action="store_true", help="print the cells, and whether each has a run"
    )
    parser.add_argument(
        "--remake", action="store_true", help="compute runs that other code made again"
    )
    parser.add_argument("--plan", action="store_true", help="print what is missing and its cost")
    parser.add_argument(
        "--rate",
        metavar="R",
        help=f"of --plan: operations a second, as 40e12, or {', '.join(RATES)} "
        "(default: $RETRACE_RATE, or the device here)",
    )
    parser.add_argument(
        "--price", metavar="P", help="of --plan: of an hour of the device (default: $RETRACE_PRICE)"
    )
    parser.add_argument(
        "--data", metavar="DIR", help="the folder of data sets (default: $RETRACE_DATA, data)"
    )
    device_options(parser)
    return parser


def _start(experiment: Experiment, cells: Sequence[Any]) -> tuple[float, int]:
    """The time now, and how many of the cells have a run."""
    return time.perf_counter(), sum(runs.find(experiment.name, c) is not None for c in cells)


def _run(
    experiment: Experiment,
    preset: str,
    cells: list[Any],
    chosen: list[int],
    start: tuple[float, int] | None = None,
) -> None:
    """Compute what is missing and print the numbers, with what was computed since the start."""
    began, present = start or _start(experiment, [cells[i] for i in chosen])
    runs.plan(experiment.name, preset, cells)
    if present < len(chosen):
        _choose_device(experiment, [cells[i] for i in chosen])
    with trackers.Trackers(experiment.name, preset) as shown:
        finished = _compute(experiment, preset, cells, chosen, shown)
        if process.is_first():  # of several processes of a cell, only the first prints
            made, seconds = len(finished) - present, time.perf_counter() - began
            took = f"{made} computed now, in {cost.duration(seconds)}"
            print(f"{_summary(experiment, finished)}: {took}", flush=True)


def _compute(
    experiment: Experiment,
    preset: str,
    cells: list[Any],
    chosen: list[int],
    shown: trackers.Trackers,
) -> list[Run]:
    finished = []
    with _process_group(experiment), progress.show() as display:
        for i in display.track(chosen, f"{experiment.name} {preset}"):
            try:
                with shown.watching(cells[i]):
                    finished.append(experiment.once(cells[i]))
            except Exception as error:
                if not _is_user_error(error) or len(cells) == 1:
                    raise
                raise UserError(f"cell {i} of preset {preset}: {error}") from error
            shown.send(finished[-1])
        if len(chosen) == len(cells):  # otherwise the job that gathers all cells does it
            shown.finish()
    return finished


def _summary(experiment: Experiment, finished: list[Run]) -> str:
    """The table of finished runs, and where they are."""
    header, rows = (
        experiment.table(finished) if experiment.table else summarise(finished, experiment.columns)
    )
    home = runs.results() / "runs" / experiment.name
    if home.is_relative_to(os.getcwd()):
        home = home.relative_to(os.getcwd())
    return f"{aligned(header, rows)}\n\n{counted(len(finished), 'run')} in {quoted(home)}"


def _choose_device(experiment: Experiment, cells: Sequence[Any]) -> None:
    """Choose the device before anything is computed; a UserError if that cannot be."""
    on_gpu = any(getattr(cell, "device", "") != "cpu" for cell in cells)
    computes = experiment.gpu and _device_module() is not None and on_gpu
    asked = os.environ.get("RETRACE_DEVICE", "auto") not in ("auto", "cpu")
    if computes or asked or process.deterministic():
        from experiments.laboratory.device import device

        if device().type != "cpu" and not computes:
            print(f"device: these cells of {experiment.name} stay on the CPU", file=sys.stderr)


def _process_group(experiment: Experiment) -> AbstractContextManager[Any]:
    """The processes that torchrun or srun started, if the experiment can use several."""
    if experiment.processes == 1:
        return nullcontext()
    from methods.workers import joined

    devices = _device_module()
    chosen = {"device": devices.device} if devices else {}
    return joined(**chosen, stop=process.stop_if_requested)
