"""Folders that are written whole or not at all, and read only if no file of them has changed."""

from __future__ import annotations

import hashlib
import json
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from methods.errors import MethodError


def write(
    folder: Path | str, name: str, about: dict[str, Any], fill: Callable[[Path], None]
) -> None:
    """Make a new folder of what `fill` writes into it, and `about` as the JSON file `name`.

    The JSON also holds the SHA-256 of every file.
    """
    folder = Path(folder)
    if folder.exists():
        raise MethodError(f"{quoted(folder)} exists: remove it, or save to another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder.parent) as parent:
            unfinished = Path(parent) / folder.name
            unfinished.mkdir()
            fill(unfinished)
            digests = {path.name: _sha256(path) for path in sorted(unfinished.iterdir())}
            whole = json.dumps({**about, "sha256": digests}, indent=1)
            (unfinished / name).write_text(whole + "\n")
            unfinished.rename(folder)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MethodError(f"cannot write {quoted(folder)}: {reason}") from error


def read(folder: Path | str, name: str, what: str, load: Callable[[Path, Any], Any]) -> Any:
    """Return `load(folder, about)` of a folder that `write` made and that is unchanged since.

    what  a noun for error messages: "fitted method"
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / name).read_text())
        changed = [n for n, digest in about["sha256"].items() if _sha256(folder / n) != digest]
        if changed:
            raise ValueError(f"{changed[0]} was changed or cut off")
        return load(folder, about)
    except FileNotFoundError as error:
        raise MethodError(
            f"no {what} in {quoted(folder)} ({Path(error.filename).name} is missing): save "
            "one there"
        ) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise MethodError(
            f"{quoted(folder)} is a damaged {what} ({_reason(error)}): save it again, in "
            "another folder"
        ) from error


def quoted(folder: Path | str) -> str:
    """A path as messages show it: a shell that it is pasted into takes it for this path alone."""
    return shlex.quote(str(folder))


def _reason(error: Exception) -> str:
    """What is wrong with a folder, in words."""
    if isinstance(error, KeyError):
        return f"its description lacks {error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
