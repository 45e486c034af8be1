"""What began the work that a killed process left, and whether this process may go on from it.

A state says nothing of the code that made it. Beside the work of a slot lies its origin: commit and
digest of the sources, and what its bits depend on besides. Work of other code is refused, unless
RETRACE_RESUME_ANYWAY (`--resume-anyway`) asks for it; then meta.json has both origins.
"""

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from experiments.laboratory import disk, provenance, sources
from experiments.laboratory.errors import UserError
from experiments.laboratory.scratch import Slot

ANYWAY = "RETRACE_RESUME_ANYWAY"
BITS = {"threads": "threads", "cpu": "CPU", "torch": "PyTorch", "device": "device"}


def anyway() -> bool:
    """Whether states of other code are to be resumed, too."""
    return os.environ.get(ANYWAY, "0") not in ("", "0")


def begin(
    slot: Slot, address: str, code: sources.Code, agree: Callable[[bool], bool] = bool
) -> list[dict[str, Any]]:
    """Write down that this process works in a slot; return the origins of what is there, ours last.

    A UserError refuses work of other code. Processes that compute together must `agree`.
    """
    ours = _here(code)
    earlier = _origins(slot) if slot.resumed else []
    fits = anyway() or not slot.resumed or (bool(earlier) and sources.same(earlier[-1]["code"]))
    if not agree(fits):
        raise _refusal(address, earlier, ours)
    if slot.resumed:
        _tell(address, earlier, ours)
    origins = earlier if earlier and earlier[-1] == ours else [*earlier, ours]
    disk.write_sealed(slot.origin, json.dumps(origins).encode())
    return origins


def commit_of(facts: Mapping[str, Any]) -> str:
    """The commit in meta.json or an origin, in words."""
    commit = facts.get("commit")
    changed = " and changes" if facts.get("dirty") else ""
    return f"commit {str(commit)[:8]}{changed}" if commit else "an unknown commit"


def _refusal(address: str, earlier: list[dict[str, Any]], ours: dict[str, Any]) -> UserError:
    before = commit_of(earlier[-1]) if earlier else "code that did not write down which it is"
    return UserError(
        f"{address} has a state of other code ({before}; this is {commit_of(ours)}): remove it "
        f"with `python -m experiments runs clean {address}`, or go on from it with --resume-anyway"
    )


def _tell(address: str, earlier: list[dict[str, Any]], ours: dict[str, Any]) -> None:
    """Say on what the bits depend that is no longer what it was."""
    before = earlier[-1] if earlier else {}
    changes = [
        f"{word} {before[name]} became {ours[name]}"
        for name, word in BITS.items()
        if name in before and None not in (before[name], ours[name]) and before[name] != ours[name]
    ]
    if before and not sources.same(before["code"]):
        changes.insert(0, f"{commit_of(before)} became {commit_of(ours)}")
    if changes:
        print(
            f"{address} goes on from a state, but {', '.join(changes)}: its numbers may differ "
            "from those of a run that was not interrupted",
            file=sys.stderr,
        )


def _here(code: sources.Code) -> dict[str, Any]:
    torch = sys.modules.get("torch")
    return {
        **provenance.commit(),
        "code": code.described(),
        "threads": None if torch is None else torch.get_num_threads(),
        "cpu": _cpu(),
        "torch": None if torch is None else str(torch.__version__),
        "device": provenance.latest_device(),
    }


def _origins(slot: Slot) -> list[dict[str, Any]]:
    """The origins of the work in a slot, the first first; none if they cannot be read."""
    try:
        origins = json.loads(disk.read_sealed(slot.origin))
    except (OSError, ValueError):
        return []
    listed = origins if isinstance(origins, list) else []
    return [one for one in listed if isinstance(one, dict) and "code" in one]


@cache
def _cpu() -> str:
    """The kind of the CPU, on which the order of sums depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
