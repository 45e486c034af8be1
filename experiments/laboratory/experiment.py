"""An experiment: a function of a config, presets (lists of configs), and its command line."""

import argparse
import importlib
import itertools
import math
import os
import re
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import experiments
from experiments.laboratory import (
    cost,
    listing,
    lists,
    outdated,
    process,
    progress,
    provenance,
    runs,
)
from experiments.laboratory.cost import Estimate
from experiments.laboratory.errors import (
    USER_MISTAKE,
    Once,
    Parser,
    UserError,
    failed,
    nearest,
    number,
    one_line,
    quoted,
    say,
)
from experiments.laboratory.lists import CUSTOM
from experiments.laboratory.options import device_options, hand_down
from experiments.laboratory.overrides import changed, check_counts, in_ranges
from experiments.laboratory.runs import Outcome, Run
from experiments.laboratory.sweeps import sweep
from experiments.laboratory.table import aligned, counted, duration, summarise, width
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
    the cost card. `forecast(runs)` returns a line for it, computed from the finished runs. `look`
    is an artifact that shows people a single run: `python -m analysis.LOOK --look KEY` ends a
    command that made one.
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
    look: str = ""

    def tiers(self) -> list[str]:
        """Names of its presets, then of the lists of cells that are kept here."""
        return [
            *self.presets,
            *(name for name in lists.kept(self.name) if name not in self.presets),
        ]

    def cells(self, tier: str) -> list[Any]:
        """The configs of a preset or of a kept list; a UserError suggests the nearest name."""
        if tier in lists.kept(self.name):
            return lists.read(self.name, tier, self.presets)
        if tier not in self.presets:
            raise UserError(f"no preset {tier!r}: {nearest(tier, self.tiers())}")
        return list(self.presets[tier])

    def readable(self) -> dict[str, list[Any]]:
        """The cells of every tier; a kept list that cannot be read is said and left out."""
        found: dict[str, list[Any]] = {}
        for tier in self.tiers():
            try:
                found[tier] = self.cells(tier)
            except UserError as error:
                say(f"error: {one_line(error)}")
        return found

    def preset_of(self, tier: str) -> str:
        """The preset that the cells of a tier are of: its own name, if it is no kept list."""
        return lists.of(self.name, tier) if tier in lists.kept(self.name) else tier

    def uses_gpu(self, tier: str) -> bool:
        """Whether a cell of a tier can use a GPU: not if every config says `device="cpu"`."""
        cells = self.cells(tier) if tier in self.tiers() else ()
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
        large = self.preset_of(preset) not in ("smoke", "small")
        gpu = unit == "GPU" and large and self.uses_gpu(preset)
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
    given, settings = parser.parse_known_args(_one_by_one(argv, "--cell"))
    if given.data_folder:
        os.environ["RETRACE_DATA"] = given.data_folder
    hand_down(given)
    if given.help:
        parser.epilog = _below_options(experiment, given)
        parser.print_help()
        return 0
    preset, cells, chosen, said = _cells(experiment, given, argv, settings, parser)
    if given.gpus and not given.workers:
        raise UserError(f"--gpus {given.gpus} is for --workers N: give both, or --device cuda:0")
    made: list[Run] = []
    if given.count:
        print(len(chosen))
    elif given.list:
        print(listing.cells_and_runs(experiment.name, cells, chosen, width()))
    elif given.plan:
        some = [cells[i] for i in chosen]
        print(experiment.cost_card(preset, some, speed=given.rate, price=given.price))
        if stages := _stages(experiment, preset, given, len(some) == len(cells)):
            print(f"\n{stages}")
    elif given.workers:
        _check_whole(preset, given, len(chosen) == len(cells))
        if code := _on_workers(experiment, preset, given):
            return code
    else:
        provenance.commit()  # of the code in memory, whatever is committed while it runs
        with runs.remaking(given.remake), outdated.telling(process.is_first()):
            if given.only:
                _make_only(experiment, [cells[i] for i in chosen], given.only)
            else:
                made = _run(experiment, preset, cells, chosen)
    if said and not given.count:
        print(f"\n{said}", flush=True)
    if experiment.look and len(made) == 1 and process.is_first():
        return _look(experiment.look, made[0])
    return 0


def _cells(
    experiment: Experiment,
    given: argparse.Namespace,
    argv: Sequence[str],
    settings: Sequence[str],
    parser: argparse.ArgumentParser,
) -> tuple[str, list[Any], list[int], str]:
    """The tier that is asked for, its cells, the places of those chosen, and what was made of it.

    Changed cells are a tier of their own: `custom`, or the list that they are kept as.
    """
    preset, cells = given.preset, experiment.cells(given.preset)
    chosen = _places(given.cell, preset, len(cells))
    if given.replace and not given.name:
        raise UserError("--replace is for --as NAME: give both")
    if not (settings or given.sweep or given.name is not None):
        return preset, cells, chosen, ""
    made = [cells[i] for i in chosen]
    if settings or given.sweep:
        standard = [option for action in parser._actions for option in action.option_strings]
        made = changed(cells, chosen, settings, given.sweep or [], standard)
        check_counts(made, itertools.chain.from_iterable(experiment.presets.values()))
    which = "all" if len(chosen) == len(cells) else in_ranges(chosen)
    words = [*settings, *(word for axis in given.sweep or [] for word in ("--sweep", axis))]
    said = f"{given.name or CUSTOM} is {counted(len(made), 'cell')}: {which} of {preset}"
    said += f", with {shlex.join(words)}" if words else ""
    combinations = math.prod(axis.count(",") + 1 for axis in given.sweep or [])
    said += ", equal ones once" if len(made) < len(chosen) * combinations else ""
    if given.name is not None:
        command = shlex.join(["python", "-m", f"experiments.{experiment.name}", *argv])
        path = lists.keep(
            experiment.name,
            given.name,
            experiment.presets,
            made,
            of=experiment.preset_of(preset),
            words=[command],
            replace=given.replace,
        )
        said += f"; kept in {quoted(path)}, `python -m analysis --preset {given.name}` draws it"
    return given.name or CUSTOM, made, list(range(len(made))), said


def _places(words: Sequence[str] | None, preset: str, count: int) -> list[int]:
    """The places that `--cell 0 13 20-29` names, in order, each once; all without it."""
    if words is None:
        return list(range(count))
    found: dict[int, None] = {}
    for word in words:
        numbers = re.fullmatch(r"(-?[0-9]+)(?:-([0-9]+))?", word)
        if not numbers:
            raise UserError(f"--cell {word}: give numbers of cells, as --cell 0 13 20-29")
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        for place in (first, last):
            if not 0 <= place < count:
                raise UserError(f"no cell {place}: preset {preset} has cells 0 to {count - 1}")
        if last < first:
            raise UserError(f"--cell {word}: the smaller number first, as --cell {last}-{first}")
        found |= dict.fromkeys(range(first, last + 1))
    return list(found)


def _one_by_one(argv: Sequence[str], option: str) -> list[str]:
    """Words in which an option with several numbers, `--cell 0 13`, is given once for each."""
    words: list[str] = []
    follows = False
    for word in argv:
        if follows and re.fullmatch("[0-9]+(-[0-9]+)?", word):
            if words[-1] != option:
                words.append(option)
            words.append(word)
        else:
            follows = word == option
            words.append(word)
    return words


def _below_options(experiment: Experiment, given: argparse.Namespace) -> str:
    """The end of the help: presets, and the fields of the cell that was named, or of the first."""
    cells = experiment.cells(given.preset)
    place = _places(given.cell, given.preset, len(cells))[0]
    return "\n\n".join(
        [
            listing.tiers_and_cost(experiment.name, experiment.readable(), experiment.seconds),
            listing.fields_of(cells[place], f"cell {place} of preset {given.preset}"),
        ]
    )


def _stages(experiment: Experiment, preset: str, given: argparse.Namespace, whole: bool) -> str:
    """The stages of a whole preset, as an array or the workers of one machine compute it."""
    if preset == CUSTOM or not whole:
        return ""
    stages = importlib.import_module("experiments.cluster.stages")
    return str(stages.card(experiment, preset, given.workers, given.rate))


def _check_whole(preset: str, given: argparse.Namespace, whole: bool) -> None:
    """Refuse workers for what is no tier: their tasks find their cells by its name."""
    if given.remake:
        raise UserError("--workers does not remake runs: leave out --workers, or --remake")
    if preset == CUSTOM or not whole:
        raise UserError(
            "--workers does a whole preset: leave out --cell and settings, or keep these cells "
            "under a name by --as NAME"
        )


def _on_workers(experiment: Experiment, preset: str, given: argparse.Namespace) -> int:
    """Compute a preset by processes of this machine, then print its numbers; the exit code."""
    cells = experiment.cells(preset)
    local = importlib.import_module("experiments.cluster.local")
    start = _start(experiment, cells)
    code: int = local.compute(experiment, preset, given.workers, given.gpus)
    if not code:
        _run(experiment, preset, cells, list(range(len(cells))), start)
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
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,  # it shows the fields of the cell that is named, and so comes last
    )
    parser.add_argument(
        "-h", "--help", action="store_true", help="of --cell I too: the fields of that cell"
    )
    first = "smoke" if "smoke" in experiment.presets else next(iter(experiment.presets))
    names = ", ".join(experiment.presets)
    parser.add_argument(
        "--preset", action=Once, default=first, help=f"{names}, or a kept list (default: {first})"
    )
    parser.add_argument(
        "--cell", action="append", metavar="I", help="only these cells: --cell 0 13 20-29"
    )
    parser.add_argument(
        "--sweep",
        action="append",
        metavar="FIELD=A,B",
        help="each cell with each of these values; several axes are crossed",
    )
    parser.add_argument(
        "--as",
        action=Once,
        dest="name",
        metavar="NAME",
        help="keep these cells as a list, which every command takes as a preset",
    )
    parser.add_argument(
        "--replace", action="store_true", help="of --as: in place of other cells of that name"
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
        *_names_of_data_folder(experiment),
        dest="data_folder",
        metavar="DIR",
        help="the folder of data sets (default: $RETRACE_DATA, data)",
    )
    device_options(parser)
    return parser


def _names_of_data_folder(experiment: Experiment) -> list[str]:
    """`--data` too, unless the configs have a field of that name: a file of one's own."""
    fields = {name for cells in experiment.presets.values() for name in vars(next(iter(cells)))}
    return ["--data-folder"] if "data" in fields else ["--data-folder", "--data"]


def _look(artifact: str, run: Run) -> int:
    """Draw a run for people, by a process of its own, as experiments import no analysis."""
    words = [sys.executable, "-m", f"analysis.{artifact}", "--look", run.key]
    return subprocess.run(words, check=False).returncode


def _start(experiment: Experiment, cells: Sequence[Any]) -> tuple[float, int]:
    """The time now, and how many of the cells have a run."""
    return time.perf_counter(), sum(runs.find(experiment.name, c) is not None for c in cells)


def _run(
    experiment: Experiment,
    preset: str,
    cells: list[Any],
    chosen: list[int],
    start: tuple[float, int] | None = None,
) -> list[Run]:
    """Compute what is missing and print the numbers, with what was computed since the start."""
    began, present = start or _start(experiment, [cells[i] for i in chosen])
    runs.plan(experiment.name, preset, cells)
    if present < len(chosen):
        _choose_device(experiment, [cells[i] for i in chosen])
    with trackers.Trackers(experiment.name, preset) as shown:
        finished = _compute(experiment, preset, cells, chosen, shown)
        if process.is_first():  # of several processes of a cell, only the first prints
            made, seconds = len(finished) - present, time.perf_counter() - began
            took = f"{made} computed now, in {duration(seconds)}"
            print(f"{_summary(experiment, finished)}: {took}", flush=True)
    return finished


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
