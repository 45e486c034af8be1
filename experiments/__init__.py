"""The experiments: one file each, run as `python -m experiments.NAME`.

A file on this level defines EXPERIMENT (a config, `run(config)` and its presets). What several
experiments share belongs in a room beside them. An experiment never imports another experiment,
nor anything of analysis.
"""

import difflib
import os
import shlex
import signal
import sys
from types import FrameType

_NOW_VERBS = {
    "experiments.runs": "runs",
    "experiments.status": "status",
    "experiments.tracking": "track",
    "experiments.cluster": "submit",
    "experiments.array": "array",
}

# While Python looks for the module named after -m it imports this package first, with "-m" in
# place of the program's path: the only place that can answer without a file for each old name.
if sys.argv[:1] == ["-m"]:
    _module = sys.orig_argv[-len(sys.argv)].removeprefix("-m")
    if _module in _NOW_VERBS:
        _command = shlex.join(["python", "-m", "experiments", _NOW_VERBS[_module], *sys.argv[1:]])
        print(f"error: {_module} is now a verb: `{_command}`", file=sys.stderr)
        sys.exit(2)
    _name, _known = _module.removeprefix("experiments."), os.listdir(os.path.dirname(__file__))
    _names = sorted(file.removesuffix(".py") for file in _known if not file.startswith("_"))
    if _name != _module and "." not in _name and _name not in _names:
        _near = difflib.get_close_matches(_name, _names, n=1)
        _cure = f"did you mean {_near[0]}?" if _near else "`python -m experiments` lists them"
        print(f"error: no experiment {_name!r}: {_cure}", file=sys.stderr)
        sys.exit(2)


def _interrupted(number: int, frame: FrameType | None) -> None:
    # Not by an exception: what imports a compiled module makes an ImportError of it, or hides it.
    os.write(2, b"\ninterrupted before anything was begun\n")
    os._exit(130)


# The imports that follow take seconds, in which ctrl-C finds no code of ours to end in one line.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _interrupted)


def imported() -> None:
    """Let ctrl-C raise KeyboardInterrupt again: a command has begun, and ends in its own way."""
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
