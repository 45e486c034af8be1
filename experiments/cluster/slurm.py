"""The commands of Slurm: read its queue, ask it, submit a job. No other file calls them."""

import getpass
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.laboratory.errors import UserError

# Job, array, index, state; the comment comes last, because it may contain anything.
FORMAT = "%A|%F|%K|%T|%k"


@dataclass(frozen=True)
class Queued:
    """A task that is waiting, running or about to be requeued."""

    job: str
    array: str
    index: int | None
    state: str
    comment: str


def present() -> bool:
    """Whether jobs can be submitted from here."""
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None


def queue(mine: bool = True) -> list[Queued]:
    """Tasks in the queue, one entry per task of an array; `mine` leaves out other users' tasks."""
    words = ["squeue", "--noheader", "--array", f"--format={FORMAT}"]
    tasks = []
    for line in _output([*words, "--me"] if mine else words).splitlines():
        job, array, word, state, comment = line.split("|", 4)
        index = int(word) if re.fullmatch("[0-9]+", word) else None
        tasks.append(Queued(job, array, index, state, comment))
    return tasks


def submit(words: Sequence[str]) -> str:
    """Submit a job; `words` are the arguments of sbatch. Return the job's id."""
    return _output(["sbatch", "--parsable", *words]).strip().split(";")[0]


def told(*words: str) -> str:
    """What a command of Slurm prints; "" if it is not there, fails, or does not answer soon."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def user() -> str:
    """The name by which Slurm knows this user; "" if this machine knows none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def _output(words: Sequence[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    except FileNotFoundError as error:
        raise UserError(f"no {words[0]} here: go to a login node of the cluster") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{words[0]} did not answer for two minutes: see `scontrol ping`, and try again later"
        ) from error
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise UserError(
            f"{words[0]} failed ({reason}): correct that and run the same command again"
        )
    return done.stdout
