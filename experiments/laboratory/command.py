"""The command line every experiment has."""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from experiments.laboratory import cost, process, progress, runs, tracking
from experiments.laboratory.errors import Parser, UserError, nearest
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.overrides import CUSTOM, options, override, parts
from experiments.laboratory.table import aligned, counted, flatten, summarise, varying

USER_MISTAKE, INTERRUPTED = 2, 130
OF_PYTORCH = ".*torch.jit.script. is deprecated"  # its forward mode warns of its own code


def main(experiment: Experiment, argv: Sequence[str] | None = None) -> int:
    """Parse, run, print; return the exit code: 2 for a user's mistake, 130 if interrupted."""
    try:
        with process.heed():
            return _main(experiment, sys.argv[1:] if argv is None else list(argv))
    except SystemExit as end:  # --help
        return int(end.code or 0)
    except KeyboardInterrupt:
        message = "interrupted: finished cells are kept; the same command goes on from there"
        print(f"\n{message}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # --list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not _mendable(error):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_MISTAKE


def _mendable(error: Exception) -> bool:
    # An error of a method is told as plainly; if none was imported, none was raised.
    task = sys.modules.get("methods.errors")
    return isinstance(error, UserError) or (
        task is not None and isinstance(error, task.MethodError)
    )


def _main(experiment: Experiment, argv: list[str]) -> int:
    warnings.filterwarnings("ignore", message=OF_PYTORCH)
    process.keep_freed()
    parser = _parser(experiment)
    given, rest = parser.parse_known_args(argv)
    if given.data:
        os.environ["RETRACE_DATA"] = given.data
    preset = given.preset
    if preset not in experiment.presets:
        raise UserError(f"no preset {preset!r}: {nearest(preset, experiment.presets)}")
    cells = list(experiment.presets[preset])
    chosen = list(range(len(cells))) if given.cell is None else given.cell
    for cell in chosen:
        if not 0 <= cell < len(cells):
            raise UserError(f"no cell {cell}: preset {preset} has cells 0 to {len(cells) - 1}")
    if rest:
        standard = [option for action in parser._actions for option in action.option_strings]
        place, cell = override([cells[i] for i in chosen], rest, standard)
        changed = f"\n{CUSTOM} is cell {chosen[place]} of {preset}, with {' '.join(rest)}"
        cells, preset, chosen = [cell], CUSTOM, [0]
    if given.count:
        print(len(chosen))
    elif given.list:
        _list(experiment, cells, chosen)
    elif given.plan:
        print(cost.card(experiment, preset, [cells[i] for i in chosen]))
    else:
        _run(experiment, preset, cells, chosen)
    if rest and not given.count:
        print(changed)
    return 0


def _joined(experiment: Experiment) -> AbstractContextManager[Any]:
    """The processes that torchrun started, if the experiment can use several."""
    if experiment.processes == 1:
        return nullcontext()
    from methods.workers import joined

    return joined()


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
        "--cell", type=int, action="append", metavar="I", help="run this cell alone, or each named"
    )
    parser.add_argument("--count", action="store_true", help="print the number of cells, no more")
    parser.add_argument("--list", action="store_true", help="print the cells and which are there")
    parser.add_argument("--plan", action="store_true", help="print what is missing and its cost")
    parser.add_argument(
        "--data", metavar="DIR", help="where data is (default: $RETRACE_DATA, data)"
    )
    return parser


def _epilog(experiment: Experiment) -> str:
    lines = ["presets:"]
    width = max(map(len, experiment.presets))
    for name, cells in experiment.presets.items():
        lines.append(
            f"  {name:{width}}  {counted(len(cells), 'cell')}, {cost.told(experiment, name)}"
        )
    name, cells = next(iter(experiment.presets.items()))
    lines += ["", f"any field of a cell may be set; those of cell 0 of preset {name}:"]
    lines += [f"  --{option} {value}" for option, value in options(cells[0]).items()]
    if several := parts(cells[0]):
        lines += ["", "after them, a whole part may be chosen:"]
        lines += [f"  {' '.join(kinds)}" for kinds in several.values()]
    lines += ["", "What was set is run as a preset named `custom`, which no artifact reads."]
    return "\n".join(lines)


def _list(experiment: Experiment, cells: Sequence[Any], chosen: Sequence[int]) -> None:
    settings = [flatten(runs.describe(cell)) for cell in cells]
    names = varying(settings) or list(settings[0])
    rows = []
    for i in chosen:
        there = "present" if runs.find(experiment.name, cells[i]) else "missing"
        values = [str(settings[i].get(name, "")) for name in names]
        rows.append([str(i), runs.key(cells[i]), there, *values])
    print(aligned(["cell", "key", "run", *names], rows))


def _run(experiment: Experiment, preset: str, cells: list[Any], chosen: list[int]) -> None:
    began = time.perf_counter()
    present = sum(runs.find(experiment.name, cells[i]) is not None for i in chosen)
    runs.plan(experiment.name, preset, cells)
    mirror = tracking.Mirror(experiment.name, preset)
    finished = []
    with _joined(experiment), progress.show() as display:
        for i in display.track(chosen, f"{experiment.name} {preset}"):
            try:
                with mirror.watching(cells[i]):
                    finished.append(experiment.once(cells[i]))
            except Exception as error:
                if not _mendable(error) or len(cells) == 1:
                    raise
                raise UserError(f"cell {i} of preset {preset}: {error}") from error
            mirror.send(finished[-1])
        if len(chosen) == len(cells):  # else whoever gathers does: it looks at every cell
            mirror.finish()
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes of a cell, the first speaks
    header, rows = (
        experiment.table(finished) if experiment.table else summarise(finished, experiment.columns)
    )
    print(aligned(header, rows))
    home = runs.results() / "runs" / experiment.name
    if home.is_relative_to(os.getcwd()):
        home = home.relative_to(os.getcwd())
    computed = len(finished) - present
    seconds = time.perf_counter() - began
    made = counted(len(finished), "run")
    print(f"\n{made} in {home}: {computed} computed now, in {cost.span(seconds)}")
