"""A process of its own that sends to W&B, so that a server never holds up an experiment.

    python -m experiments.laboratory.tracking.relay NAME PRESET PID
It reads commands for a mirror, one line of JSON each, and ends after the last of them. The
experiment never waits for it but at its own end, and then only for `patience` seconds: a server
that hangs, refuses or answers late costs no more. What was not sent by then, a replay sends.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from experiments.laboratory import process
from experiments.laboratory.errors import UserError, say
from experiments.laboratory.provenance import REPOSITORY
from experiments.laboratory.tracking import wandb_server
from experiments.laboratory.tracking.interface import Ended
from experiments.laboratory.tracking.mirror import Mirror
from experiments.laboratory.tracking.wandb_pages import WandB

PATIENCE = {"online": 5.0, "offline": 60.0}  # seconds; offline, nothing but the disk is waited for
WAITING = 10_000  # commands; points of lines beyond them are dropped


class Relay:
    """A mirror in another process, with the methods of `Mirror`."""

    def __init__(self, name: str, preset: str, patience: float | None = None) -> None:
        self.name = name
        mode, self.off = wandb_server.mode()
        self._patience = _patience(mode) if patience is None else patience
        if self.off:
            say(f"{WandB.label}: off, {self.off}")
            return
        self._waiting = queue.SimpleQueue[list[Any] | None]()
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__, name, preset, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,  # ctrl-C is for the experiment, which then says how it ended
        )
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def watch(self, key: str, config: Mapping[str, Any]) -> None:
        self._tell("watch", key, config)

    def log(self, lines: Mapping[str, float]) -> None:
        if not self.off and self._waiting.qsize() < WAITING:
            self._tell("log", lines)

    def leave(self, ended: Ended) -> None:
        self._tell("leave", ended)

    def send(self, key: str) -> None:
        self._tell("send", key)

    def finish(self) -> None:
        self._tell("finish")

    def close(self) -> None:
        """Wait for what is not sent yet, but not for long."""
        if self.off:
            return
        self.off = "it has ended"
        self._waiting.put(None)
        try:
            self._child.wait(self._patience)
        except subprocess.TimeoutExpired:
            say(
                f"{WandB.label}: not all was sent within {self._patience:g} seconds of the end; "
                f"later: `python -m experiments track replay {self.name}`"
            )
        finally:
            # wandb's own process ends when the one that started it is gone.
            self._child.kill()
            self._child.wait()

    def _tell(self, command: str, *given: Any) -> None:
        if not self.off:
            self._waiting.put([command, *given])

    def _write(self) -> None:
        pipe = self._child.stdin
        assert pipe is not None
        with contextlib.suppress(OSError), pipe:  # the process may be gone
            for command in iter(self._waiting.get, None):
                pipe.write(json.dumps(command).encode() + b"\n")
                pipe.flush()


def started(name: str, preset: str) -> Mirror | Relay:
    """What sends a preset to W&B while it is computed."""
    return Relay(name, preset)


def obey(mirror: Mirror, commands: IO[str]) -> None:
    """Carry out commands until there are no more: then the experiment has ended, or was killed."""
    known: dict[str, Callable[..., None]] = {
        "watch": mirror.watch,
        "log": mirror.log,
        "leave": mirror.leave,
        "send": mirror.send,
        "finish": mirror.finish,
    }
    for line in commands:
        command, *given = json.loads(line)
        known[command](*given)
    mirror.leave("failed")


def main(argv: Sequence[str]) -> int:
    """The process that sends."""
    for number in (signal.SIGINT, *process.SIGNALS):
        signal.signal(number, signal.SIG_IGN)  # Slurm signals every process of a task
    name, preset, pid = argv
    obey(Mirror(name, preset, WandB(int(pid))), sys.stdin)
    return 0


def _patience(mode: str) -> float:
    """Seconds to wait for at the end, by $RETRACE_TRACK_SECONDS."""
    given = os.environ.get("RETRACE_TRACK_SECONDS")
    try:
        return float(given) if given else PATIENCE.get(mode, 0.0)
    except ValueError as error:
        raise UserError(f"RETRACE_TRACK_SECONDS is {given!r}: give a number, as 30") from error


def _environment() -> dict[str, str]:
    """That of this process, in which the package is found from any folder."""
    path = os.environ.get("PYTHONPATH")
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *([path] if path else [])])
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
