"""An index on disk: index.json, the rows or FAISS's own file, and rows to recognise it by."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from methods.attributor import Fitted
from methods.errors import MethodError
from methods.search.nearest import Index, probed, width
from methods.search.search import HNSW, IVF, Exact, Search, load_faiss
from methods.task import Examples, count, take

KINDS: dict[str, type[Search]] = {kind.__name__: kind for kind in (Exact, HNSW, IVF)}
CLOSE = 1e-3  # a row computed again, in another batch or on another machine, relative


def save(index: Index, folder: Path | str) -> None:
    """Write the index to a new folder: all of it, or nothing."""
    folder = Path(folder)
    if folder.exists():
        raise MethodError(f"{folder} exists: remove it, or save to another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder.parent) as parent:
            draft = Path(parent) / folder.name
            draft.mkdir()
            _write_engine(index, draft)
            np.save(draft / "probe.npy", index.probe.numpy())
            about = {
                "method": {"type": type(index.method).__name__, **vars(index.method)},
                "n": index.n,
                "dim": index.dim,
                "sha256": {path.name: _sha256(path) for path in sorted(draft.iterdir())},
            }
            (draft / "index.json").write_text(json.dumps(about, indent=1) + "\n")
            draft.rename(folder)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MethodError(f"cannot write {folder}: {reason}") from error


def load(folder: Path | str, fitted: Fitted, candidates: Examples) -> Index:
    """Read an index of these candidates' rows; one of others is refused, as is a damaged one.

    A few candidates' rows are computed again and compared with those it was built from.
    """
    folder = Path(folder)
    index = _read(folder)
    again = "build it again, or load it with what it was built from"
    n, dim = count(candidates), width(fitted, candidates)
    if index.n != n:
        raise MethodError(f"{folder} indexes {index.n} candidates, these are {n}: {again}")
    if index.dim != dim:
        raise MethodError(f"{folder} has rows of {index.dim} numbers, these have {dim}: {again}")
    rows = fitted.train_rows(take(candidates, probed(n))).dense().cpu()
    gaps = (rows - index.probe).norm(dim=1)
    wrong = gaps > CLOSE * index.probe.norm(dim=1)
    if wrong.any():
        place = int(probed(n)[wrong][0])
        raise MethodError(
            f"{folder} has another row for candidate {place}: it is of other candidates, another "
            f"model, other checkpoints or another projection; {again}"
        )
    return index


def _read(folder: Path) -> Index:
    try:
        about = json.loads((folder / "index.json").read_text())
        changed = [n for n, digest in about["sha256"].items() if _sha256(folder / n) != digest]
        if changed:
            raise ValueError(f"{changed[0]} was changed or cut off")
        settings = dict(about["method"])
        method = KINDS[settings.pop("type")](**settings)
        probe = torch.from_numpy(np.load(folder / "probe.npy"))
        return Index(method, _read_engine(method, folder), about["n"], about["dim"], probe)
    except FileNotFoundError as error:
        raise MethodError(
            f"no index in {folder} ({Path(error.filename).name} is missing): build and save one"
        ) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise MethodError(
            f"{folder} is a damaged index ({error}): remove it with `rm -r {folder}`, then build "
            "and save it again"
        ) from error


def _write_engine(index: Index, folder: Path) -> None:
    if isinstance(index.method, Exact):
        np.save(folder / "rows.npy", index.engine.numpy())
    else:
        load_faiss().write_index(index.engine, str(folder / "index.faiss"))


def _read_engine(method: Search, folder: Path) -> Any:
    if isinstance(method, Exact):
        return torch.from_numpy(np.load(folder / "rows.npy"))
    return load_faiss().read_index(str(folder / "index.faiss"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
