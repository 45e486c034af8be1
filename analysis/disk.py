"""Files written whole or not at all."""

import os
import uuid
from pathlib import Path

from experiments.runs import UserError

ELSEWHERE = "free or permit that folder, or set RETRACE_RESULTS to another one"


def write(path: Path, content: bytes, remedy: str = ELSEWHERE) -> None:
    """Replace a file atomically, making its folder first.

    A folder that cannot be written or a full disk is a UserError that ends with `remedy` and
    leaves the old file.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        said = error.strerror or error
        raise UserError(f"cannot write {shown(path)}: {said}; {remedy}") from error


def read(path: Path, remedy: str) -> bytes:
    """A file's bytes; a missing one is a UserError that ends with `remedy`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {shown(path)}: {error.strerror}: {remedy}") from error


def shown(path: Path) -> str:
    """The path as a person at this prompt would type it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
