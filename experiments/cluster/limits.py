"""What Slurm takes at once, asked of it: sizes of arrays, and jobs of a user in the queue.

Where it does not answer, or keeps no accounts, a limit is its default or none.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from experiments.cluster import slurm

ARRAY = 1_001  # Slurm's default
NONE = 10**9


@dataclass(frozen=True)
class Limits:
    """array: indices lie below it; tasks: of one array; jobs: of this user in the queue."""

    array: int = ARRAY
    tasks: int = ARRAY
    jobs: int = NONE


def asked(account: str = "", qos: str = "") -> Limits:
    """The limits of this cluster, and of this user's jobs for an account and a QOS."""
    config = slurm.told("scontrol", "show", "config")
    settings = dict(re.findall(r"^(\w+) *= *(.*?) *$", config, re.M))
    array = _number(settings.get("MaxArraySize", "")) or ARRAY
    tasks = re.search(r"max_array_tasks=(\d+)", settings.get("SchedulerParameters", ""))
    jobs = [_number(settings.get("MaxJobCount", "")), *_of_user(account, qos)]
    known = [number for number in jobs if number is not None]
    most = min(array, int(tasks[1])) if tasks else array
    return Limits(array, max(1, most), min(known, default=NONE))


def _of_user(account: str, qos: str) -> Iterable[int | None]:
    """Limits of submitted jobs of this user's associations, and of their quality of service."""
    names = "Account", "DefaultQOS", "MaxSubmitJobs", "GrpSubmitJobs"
    own = slurm.user()
    rows = _table("assoc", names, f"user={own}")
    some = [row for row in rows if not account or row["Account"] == account]
    for row in some:
        yield _number(row["MaxSubmitJobs"])
        yield _number(row["GrpSubmitJobs"])
    wanted = {qos} if qos else {row["DefaultQOS"] or "normal" for row in some}
    for row in _table("qos", ("Name", "MaxSubmitPU", "MaxSubmitPA", "GrpSubmit")):
        if row["Name"] in wanted:
            yield from map(_number, (row["MaxSubmitPU"], row["MaxSubmitPA"], row["GrpSubmit"]))


def _table(kind: str, names: Sequence[str], *where: str) -> list[dict[str, str]]:
    words = ["sacctmgr", "--noheader", "--parsable2", "show", kind, *where]
    lines = slurm.told(*words, f"format={','.join(names)}").splitlines()
    rows = [line.split("|") for line in lines]
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def _number(word: str) -> int | None:
    return int(word) if re.fullmatch("[0-9]+", word) else None
