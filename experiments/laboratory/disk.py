"""Files that survive a kill and a power cut: replaced as a whole, and flushed."""

import contextlib
import hashlib
import io
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

Arrays = Mapping[str, np.ndarray]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block succeeds."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Replace a file atomically: readers find the old one or the new one, even after a kill."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        sync(file)


def publish(draft: Path, path: Path) -> None:
    """Give a complete folder its name; if another process was first, its folder stays."""
    try:
        draft.rename(path)
    except OSError:
        if not path.is_dir():
            raise
    sync_folder(path.parent)


def checkpointed(
    scratch: Path, name: str, compute: Callable[[], Arrays], agree: Callable[[bool], bool] = bool
) -> Arrays:
    """Arrays that a killed and restarted run reads instead of computing them again.

    `scratch` is the folder a run is given: it belongs to one config and is removed with success.
    Processes that compute together must `agree` whether to read: each has a folder of its own.
    """
    path = scratch / f"{name}.npz"
    if agree(path.exists()):
        with np.load(path) as saved:
            return dict(saved)
    arrays, content = compute(), io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_file(path, content.getvalue())
    return arrays


def sync(file: BinaryIO) -> None:
    """Make what was written to a file survive a power cut."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder, not only its files, survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(content: bytes) -> str:
    """SHA-256, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
