"""Numbers of work in progress as lines of a chart."""

import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

EACH = 16  # networks with a line of their own; of more, the mean and a band are drawn
BAND = {"low": 0.05, "high": 0.95}  # quantiles


def lines(values: Mapping[str, Any]) -> dict[str, float]:
    """Reported numbers by the name of their line; of K networks, (K,), their mean and each one's.

    If there are more than EACH, a band replaces the lines of each.
    """
    shown: dict[str, float] = {}
    for name, value in values.items():
        shown[f"training/{name}"] = value if isinstance(value, int) else float(np.mean(value))
        if np.ndim(value):
            each = np.ravel(value)
            if len(each) <= EACH:
                named = {str(place): one for place, one in enumerate(each)}
            else:
                named = {name: np.quantile(each, share) for name, share in BAND.items()}
            shown |= {f"training/{name}/{line}": float(one) for line, one in named.items()}
    return shown


class Machine:
    """What a cell takes: hours since it began here, and of a GPU its hours and its memory."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def lines(self) -> dict[str, float]:
        """The numbers of now; nothing waits for the GPU."""
        hours = (time.monotonic() - self._began) / 3600
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            return {"machine/hours": hours}
        return {
            "machine/hours": hours,
            "machine/gpu_hours": hours * _processes(),
            "machine/gpu_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
        }


def _processes() -> int:
    workers = sys.modules.get("methods.workers")
    return 1 if workers is None else int(workers.here().size)
