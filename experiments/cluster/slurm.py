"""What is asked of Slurm: its queue, and to take a job. Nothing else knows its commands."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.laboratory.errors import UserError

# Individual job, array, index, state, and last, as it may hold anything, the comment.
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
    """Tasks in the queue, one each also where an array waits as a whole."""
    words = ["squeue", "--noheader", "--array", f"--format={FORMAT}"]
    found = []
    for line in _asked([*words, "--me"] if mine else words).splitlines():
        job, array, index, state, comment = line.split("|", 4)
        found.append(Queued(job, array, int(index) if index.isdigit() else None, state, comment))
    return found


def submit(words: Sequence[str]) -> str:
    """Submit a job, `words` being the options and the script of sbatch; return its id."""
    return _asked(["sbatch", "--parsable", *words]).strip().split(";")[0]


def _asked(words: Sequence[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    except FileNotFoundError as error:
        raise UserError(f"no {words[0]} here: go to a login node of the cluster") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{words[0]} did not answer for two minutes: see `scontrol ping`, and try again later"
        ) from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise UserError(f"{words[0]} refused ({said}): mend that, and run the same command again")
    return done.stdout
