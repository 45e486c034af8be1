"""The sources that a run depends on, and one digest of them: code with another may compute another.

They are those of the modules that define its config and its computation (its roots), and all that
these import from `methods` and `experiments`, also inside functions. They are read from the files,
each once a process, before anything is computed: no module is imported for it.
"""

import functools
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

from experiments.laboratory.provenance import REPOSITORY

FLOORS = ("methods", "experiments")
LONGEST = 100  # of the lists in a config that are looked through for objects
INSTALLED = {"site-packages", "dist-packages"}
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]*)|import[ \t]+([^\n#]+))",
    re.M,
)


@dataclass(frozen=True)
class Code:
    """The modules that a run starts from, and the SHA-256 of their sources and all they import."""

    roots: tuple[str, ...]
    sha256: str

    def described(self) -> dict[str, Any]:
        """As JSON, for meta.json."""
        return {"sha256": self.sha256, "roots": list(self.roots)}


def code(*values: Any) -> Code:
    """The code of a run from its config and computation: dataclasses, functions and partials."""
    found: set[str] = set()
    _collect(values, found, set())
    names = {_real_name(name) for name in found if name}  # some objects name no module
    roots = tuple(sorted(name for name in names if _path(name) is not None))
    return Code(roots, digest(roots) or "")


@functools.cache
def digest(roots: tuple[str, ...]) -> str | None:
    """The SHA-256 of the sources of modules and of all they import; None if one is not here."""
    waiting, sums = list(roots), {}
    while waiting:
        name = waiting.pop()
        source = _source(name)
        if source is None and name in roots:
            return None
        if source is not None and name not in sums:
            sums[name], imported = source
            waiting += imported
    lines = "".join(f"{name} {sums[name]}\n" for name in sorted(sums))
    return hashlib.sha256(lines.encode()).hexdigest()


def same(described: Any) -> bool:
    """Whether code as `described` in meta.json is what is here, as far as that can be known.

    Runs of earlier versions have no description: they were made by other code.
    """
    if not isinstance(described, Mapping):
        return False
    roots, recorded = described.get("roots"), described.get("sha256")
    if not isinstance(roots, list) or not all(isinstance(name, str) for name in roots):
        return False
    return digest(tuple(roots)) in (recorded, None)


def _collect(value: Any, found: set[str], seen: set[int]) -> None:
    """Add the modules that define a value, and what it holds or closes over."""
    if id(value) in seen or (type(value).__module__ == "builtins" and not _holds(value)):
        return
    seen.add(id(value))
    if isinstance(value, FunctionType | type):
        found.add(value.__module__)
    elif not isinstance(value, tuple | list):
        found.add(type(value).__module__)
    for part in _parts(value):
        _collect(part, found, seen)


def _holds(value: Any) -> bool:
    return isinstance(value, tuple | list | type | FunctionType | MethodType)


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        yield from value[:LONGEST]
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # a name that is not bound yet
                continue
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif is_dataclass(value) and not isinstance(value, type):
        yield from (getattr(value, field.name, None) for field in fields(value))


def _real_name(name: str) -> str:
    """A module's name, also where it was started as a program."""
    if name not in ("__main__", "__mp_main__"):
        return name
    module = sys.modules.get(name)
    spec, file = getattr(module, "__spec__", None), getattr(module, "__file__", None)
    if spec is not None:
        return str(spec.name)
    if file is None:
        return name
    path = Path(file).resolve()
    inside = path.is_relative_to(REPOSITORY)
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts) if inside else path.stem


@functools.cache
def _path(name: str) -> Path | None:
    """The source of a module of ours or of the user; None for an installed one."""
    stem = REPOSITORY.joinpath(*name.split("."))
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    for module_name in (name, "__main__"):
        module = sys.modules.get(module_name)
        file = getattr(module, "__file__", None)
        if file and file.endswith(".py") and _real_name(module_name) == name:
            path = Path(file)
            installed = INSTALLED & set(path.parts) or name.split(".")[0] in sys.stdlib_module_names
            return None if installed else path
    return None


def _is_package(name: str) -> bool:
    path = _path(name)
    return path is not None and path.name == "__init__.py"


@functools.cache
def _source(name: str) -> tuple[str, Sequence[str]] | None:
    """The checksum of a module's source, and what it imports of ours."""
    path = _path(name)
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return hashlib.sha256(content).hexdigest(), _imported(content.decode(errors="replace"))


def _imported(text: str) -> list[str]:
    """Modules of ours that a source imports; some of the names may be those of objects."""
    names: list[str] = []
    for package, objects, modules in _IMPORT.findall(text):
        if package:
            names.append(package)
            if package.startswith(FLOORS) and _is_package(package):
                inside = re.findall(r"(\w+)(?:[ \t]+as[ \t]+\w+)?", re.sub(r"#.*", "", objects))
                names += [f"{package}.{one}" for one in inside]
        else:
            names += [one.split()[0] for one in modules.split(",") if one.strip()]
    return [name for name in names if name.split(".")[0] in FLOORS]
