"""Where data sets are, and how their files are read, noted and downloaded."""

import hashlib
import http.client
import os
import shutil
import ssl
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from experiments.laboratory.errors import UserError, quoted
from experiments.laboratory.provenance import REPOSITORY, note

HUGGING_FACE = "https://huggingface.co"
PROBE_SECONDS = 4.0
T = TypeVar("T")


def root() -> Path:
    """$RETRACE_DATA (which `--data DIR` sets), or `data` in the repository."""
    return Path(os.environ.get("RETRACE_DATA") or REPOSITORY / "data").expanduser()


def model_folder(name: str) -> Path | None:
    """The folder of a model under the data folder, or at the path `name`; None if there is none."""
    return next((path for path in (root() / name, Path(name)) if path.is_dir()), None)


def missing(what: str, reason: str, remedy: str, contents: str) -> UserError:
    """The error for data that is not here; `contents` is what a data folder with it has."""
    return UserError(
        f"{what} and {reason}: {remedy}, or name another place with --data DIR or "
        f"RETRACE_DATA=DIR, where DIR has {contents}"
    )


def replace(path: Path) -> str:
    """The remedy for a damaged file that is never downloaded."""
    return f"remove it with `rm {quoted(path)}` and copy a complete one there"


def read(path: Path, remedy: str, kind: str = "") -> bytes:
    """A file's content; runs note its checksum, after what `kind` of data it is."""
    try:
        content = path.read_bytes()
        note_file(path, kind)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if path.is_dir():
            remedy = remedy.replace("`rm ", "`rm -r ")
        raise UserError(f"cannot read {quoted(path)} ({reason}): {remedy}") from error
    return content


def read_text(path: Path, remedy: str, kind: str = "") -> str:
    """The same of a UTF-8 text, without the mark that some editors begin it with."""
    try:
        return read(path, remedy, kind).decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise not_utf8(path, error, remedy) from error


def not_utf8(
    path: Path, error: UnicodeDecodeError, remedy: str, line: int | None = None
) -> UserError:
    """The error for a text in another encoding, such as Latin-1."""
    where = f"line {line}" if line else f"byte {error.start:,}"
    return UserError(
        f"{quoted(path)} is not UTF-8 text ({where} has 0x{error.object[error.start]:02x}): "
        f"{remedy}, or convert it, as by `iconv -f latin1 -t utf-8`"
    )


def checksum(path: Path) -> str:
    """The md5 of a file, computed again only after the file has changed."""
    about = path.stat()
    return _checksum(path, (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns))


@cache
def _checksum(path: Path, _version: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def note_file(path: Path, kind: str = "") -> None:
    """Note the checksum of a file under the data folder, after what `kind` of data it is."""
    digest = f"md5 {checksum(path)}"
    note("data", {str(path.relative_to(root())): f"{kind}, {digest}" if kind else digest})


def note_content(name: str, *parts: bytes) -> None:
    """Note the checksum of data that is in no file of its own."""
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        digest.update(part)
    note("data", {name: f"md5 {digest.hexdigest()}"})


def reachable(*addresses: str, refusals: bool = False) -> bool:
    """Whether any server answers within seconds: libraries that download retry for minutes.

    With `refusals`, an error is an answer too, as of a server that expects credentials. Each is
    asked in a thread, as resolving a name may take minutes to fail.
    """
    answered = threading.Event()

    def ask(address: str) -> None:
        try:
            request = urllib.request.Request(address, method="HEAD")
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None)
            there = isinstance(error, urllib.error.HTTPError) or isinstance(reason, ssl.SSLError)
            if not (refusals and there):
                return
        answered.set()

    threads = [threading.Thread(target=ask, args=(each,), daemon=True) for each in addresses]
    for thread in threads:
        thread.start()
    waits = PROBE_SECONDS
    while waits > 0 and not answered.wait(0.1) and any(thread.is_alive() for thread in threads):
        waits -= 0.1
    return answered.is_set()


def download(
    folder: Path,
    addresses: list[str],
    fetch: Callable[[str], object],
    pattern: str,
    failure: Callable[[str], UserError],
) -> None:
    """Put into `folder` what a download brings: complete files or none.

    fetch    downloads into the temporary folder it is given
    pattern  which files or folders of that are wanted; existing ones are kept
    failure  makes an error of a reason
    """
    if not reachable(*addresses):
        raise failure("no server that has it answers")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder) as draft:
            fetch(draft)
            for path in Path(draft).glob(pattern):
                if not (folder / path.name).exists():
                    path.replace(folder / path.name)
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(next(p for p in folder.absolute().parents if p.is_dir())).free
        raise failure(f"its download failed ({error}; {free:,} bytes free)") from error


def from_hub(folder: Path, load: Callable[[str], T], failure: Callable[[str], UserError]) -> T:
    """The result of `load(folder)`, whose Hugging Face libraries download into `folder`."""
    if not folder.exists() and not reachable(HUGGING_FACE):
        raise failure(f"{HUGGING_FACE} does not answer")
    try:
        return load(str(folder))
    except Exception as error:  # the libraries raise errors of many kinds, with one remedy
        raise failure(f"reading it failed ({error})") from error
