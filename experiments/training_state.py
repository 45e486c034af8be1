"""A training's state and checkpoints in its scratch, and when the state is due to be saved."""

import io
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import scratch as disk
from experiments.problems import UserError

SAVE_SECONDS = 5.0  # between two states on disk: the most that a kill can lose
SLOW_SAVE = 0.25  # seconds above which saving is rarer in proportion: a twentieth of the time


class Saved:
    """What is on disk of one training, whose `name` says all that its state depends on."""

    def __init__(self, scratch: Path, name: str) -> None:
        self.scratch, self.name = scratch, name
        self.pause = _pause()
        self.due_at = time.monotonic() + self.pause

    @property
    def due(self) -> bool:
        """Whether the last state is old enough for another."""
        return time.monotonic() > self.due_at

    def write(self, state: dict[str, Any]) -> None:
        began, content = time.monotonic(), io.BytesIO()
        torch.save(state, content)
        disk.write(self._state, content.getvalue())
        took = time.monotonic() - began
        self.due_at = time.monotonic() + self.pause * max(1.0, took / SLOW_SAVE)

    def read(self, device: torch.device) -> dict[str, Any] | None:
        """The state that was written last, of this process or of one before it."""
        if not self._state.exists():
            return None
        found: dict[str, Any] = torch.load(self._state, map_location=device, weights_only=True)
        return found

    def keep(self, index: int, checkpoint: np.ndarray) -> None:
        content = io.BytesIO()
        np.save(content, checkpoint)
        disk.write(self._checkpoint(index), content.getvalue())

    def kept(self, count: int) -> np.ndarray:
        """The first `count` checkpoints, one a row."""
        return np.stack([np.load(self._checkpoint(index)) for index in range(count)])

    @property
    def _state(self) -> Path:
        return self.scratch / f"{self.name}.pt"

    def _checkpoint(self, index: int) -> Path:
        return self.scratch / f"{self.name}-{index:04d}.npy"


def _pause() -> float:
    """Seconds between two states, which a cluster with a busy disk may want more of."""
    asked = os.environ.get("RETRACE_SAVE_SECONDS")
    try:
        return float(asked) if asked else SAVE_SECONDS
    except ValueError as error:
        raise UserError(f"RETRACE_SAVE_SECONDS is {asked!r}: give a number, as 60") from error
