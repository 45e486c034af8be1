"""Files that survive a kill and a power cut: replaced as a whole, and flushed."""

import contextlib
import hashlib
import io
import os
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from experiments.laboratory.errors import one_line, quoted

Arrays = Mapping[str, np.ndarray]

BLOCK = 1 << 20  # bytes read at once
BEFORE = ".before"
SEAL_BYTES = len("\nsha256 \n") + 64


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


class Damaged(ValueError):
    """A file without its seal: cut off, changed, or of another name."""


def seal(path: Path, content: bytes | memoryview) -> bytes:
    """The last line of a file that holds `content` under that name: the checksum of both."""
    return f"\nsha256 {_sum(path, [content])}\n".encode()


def write_sealed(path: Path, content: bytes, keep: bool = False) -> None:
    """Replace a file atomically by content and its seal; `keep` the file as it was, too.

    After a kill between the two, only the one that was kept is there.
    """
    if keep:
        with contextlib.suppress(FileNotFoundError):
            path.replace(before(path))
    write_file(path, content + seal(path, content))


def read_sealed(path: Path) -> bytes:
    """The content of a file that `write_sealed` wrote; Damaged if it is not as it was written."""
    whole = path.read_bytes()
    content = memoryview(whole)[:-SEAL_BYTES]
    if len(whole) < SEAL_BYTES or whole[-SEAL_BYTES:] != seal(path, content):
        raise Damaged(f"{path.name} is not as it was written")
    return whole[:-SEAL_BYTES]


def check_sealed(path: Path) -> None:
    """Read a file in blocks; Damaged if it is not as it was written."""
    left = path.stat().st_size - SEAL_BYTES
    with path.open("rb") as file:
        found = _sum(path, iter(lambda: file.read(min(BLOCK, max(0, left - file.tell()))), b""))
        if left < 0 or file.read() != f"\nsha256 {found}\n".encode():
            raise Damaged(f"{path.name} is not as it was written")


def before(path: Path) -> Path:
    """Where a file lies that `write_sealed` kept."""
    return path.with_name(f"{path.name}{BEFORE}")


def intact(path: Path) -> Iterator[tuple[Path, bytes]]:
    """A sealed file and its content, then the one before; a damaged one is said and removed."""
    for one in (path, before(path)):
        try:
            content = read_sealed(one)
        except FileNotFoundError:
            continue
        except (OSError, Damaged) as error:
            discard(one, error)
            continue
        yield one, content


def discard(path: Path, error: Exception) -> None:
    """Say in one line that a saved file cannot be used and what is done instead; remove it.

    One that the system failed to read stays: it may be whole.
    """
    reason = one_line(error)[:200] or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        reason = f"{error.strerror.lower()}: {Path(error.filename or path).name}"
    earlier = not path.name.endswith(BEFORE) and before(path).exists()
    instead = "work goes on from the one before it" if earlier else "that work is done again"
    print(f"{quoted(path)} is discarded ({reason}): {instead}", file=sys.stderr)
    if not isinstance(error, OSError):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _sum(path: Path, blocks: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256(path.name.removesuffix(BEFORE).encode() + b"\0")
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


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
    saved = next((_arrays(content) for _, content in intact(path)), None)
    if agree(saved is not None):
        assert saved is not None, "all have agreed"
        return saved
    arrays, content = compute(), io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_sealed(path, content.getvalue())
    return arrays


def _arrays(content: bytes) -> Arrays:
    with np.load(io.BytesIO(content)) as saved:
        return dict(saved)


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


def file_checksum(path: Path) -> str:
    """The same of a file, read in blocks."""
    with path.open("rb") as file:
        return stream_checksum(file)


def stream_checksum(file: IO[bytes]) -> str:
    """The same of what is left to read."""
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(BLOCK), b""):
        digest.update(block)
    return digest.hexdigest()


def checksum(content: bytes) -> str:
    """SHA-256, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
