"""Free memory, so that what would not fit is refused before it starts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")


def available(device: torch.device) -> int:
    """Bytes still free on a device; on the CPU, within the process's control group."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    limits = [_machine(), _group()]
    return min(limit for limit in limits if limit is not None)


def on_disk(folder: str) -> int:
    """Bytes free on the disk of a folder."""
    return shutil.disk_usage(folder).free


def gigabytes(count: float) -> str:
    """A number of bytes as text: `1.5 GB`."""
    return f"{count / 1e9:.3g} GB"


def _machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _group() -> int | None:
    """Bytes left below the limit of the process's control group, if any; page cache excluded."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        facts = (CGROUP / "memory.stat").read_text().splitlines()
        files = next(int(line.split()[1]) for line in facts if line.startswith("inactive_file "))
    except (OSError, StopIteration, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used + files)
