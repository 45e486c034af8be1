"""Pieces of a long computation that a killed job does not repeat."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from experiments import scratch as disk

Arrays = Mapping[str, np.ndarray]


def kept(
    scratch: Path,
    name: str,
    compute: Callable[[], Arrays],
    agree: Callable[[bool], bool] = bool,
) -> Arrays:
    """The arrays of one piece: read if an earlier attempt at the run left them, else computed.

    `scratch` is the folder that a run is given: it belongs to one config, and goes with the run.
    Processes that compute together `agree` on whether it is there: each has a folder of its own.
    """
    path = scratch / f"{name}.npz"
    if agree(path.exists()):
        with np.load(path) as found:
            return dict(found)
    made, content = compute(), io.BytesIO()
    np.savez(content, allow_pickle=False, **made)
    disk.write(path, content.getvalue())
    return made
