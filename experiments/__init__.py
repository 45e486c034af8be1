"""The experiments: one file each, run as `python -m experiments.NAME`.

A file on this level defines EXPERIMENT (a config, `run(config)` and its presets). What several
experiments share belongs in a room beside them. An experiment never imports another experiment,
nor anything of analysis.
"""

import os
import signal
import sys
from types import FrameType

from experiments.laboratory import spelling

spelling.answer(
    __name__,
    __path__[0],
    "experiment",
    "`python -m experiments` lists them",
    {
        "runs": "runs",
        "status": "status",
        "tracking": "track",
        "cluster": "submit",
        "array": "array",
    },
)


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
