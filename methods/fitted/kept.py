"""Scores with what they are of: saved, read, and computed so that what was stopped goes on."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from methods import folders
from methods.errors import MethodError, kind
from methods.examples import Examples, count, take
from methods.finite import finite
from methods.fitted import zeros
from methods.fitted.origin import digest, examples_digest, identity
from methods.fitted.scoring import Fitted, checked
from methods.fitted.tiles import SIDES, Place, best, every
from methods.losses.failures import explained
from methods.memory import gigabytes, on_disk
from methods.precision import full_precision
from methods.rows.gradients import Late
from methods.search.searches import refuse_k
from methods.task import Task

log = logging.getLogger(__name__)

FILE, WHAT, PLACE = "scores.json", "set of scores", "place.npz"
ARRAYS = ("values", "queries", "candidates")
FEW = 8  # examples whose losses tell one loss function from another
Side = Literal["proponents", "opponents"]


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores, and what they are of.

    values      (n_query, n_candidates); or those of the k best of each query, best first, (n_query,
                k)
    queries     the queries' numbers in their data set, (n_query,)
    candidates  those of the candidates: (n_candidates,), or of the best (n_query, k)
    about       the method with its settings; digests of the model, of what was fitted and of both
                data sets; values of the loss and the measurement; versions: as JSON
    """

    values: Tensor
    queries: Tensor
    candidates: Tensor
    about: dict[str, Any]

    @classmethod
    @full_precision()
    def of(
        cls,
        fitted: Fitted,
        query: Examples,
        candidates: Examples,
        k: int | None = None,
        *,
        side: Side = "proponents",
        folder: Path | str | None = None,
        query_numbers: Any = None,
        candidate_numbers: Any = None,
    ) -> Scores:
        """Score every candidate for every query, or keep the k best of each.

        side    whether the best are the highest scores or the lowest
        folder  where the scores are saved as they are computed. The same call goes on where one
                before it was stopped, and returns what is there once it is complete; it refuses
                what was begun with another method, model, state or data.
        query_numbers, candidate_numbers  what to call them by, if not by their positions

        With a folder, a run that is stopped loses a fiftieth of its work at most, or 4096
        candidates. In memory meanwhile is one block of scores; the rest is mapped from the disk.
        """
        query, candidates = checked(fitted.task, query=query, candidates=candidates)
        if side not in SIDES:
            raise MethodError(f'side is {side!r}: give "proponents" or "opponents"')
        if k is not None:
            refuse_k(k, count(candidates))
        numbers = (
            _numbers("query_numbers", query_numbers, count(query)),
            _numbers("candidate_numbers", candidate_numbers, count(candidates)),
        )
        asked = _Asked(fitted, query, candidates, k, side)
        if folder is None:
            values, places = asked.arrays(None)
            asked.run(values, places, Place(), lambda place: None)
            about = _about(asked, numbers) if fitted.origin is not None else {}
            return cls(values, numbers[0], _named(numbers[1], places), about)
        return cls.load(_in_folder(asked, numbers, Path(folder)))

    def save(self, folder: Path | str) -> None:
        """Write them to a new folder, an array file each, and scores.json."""

        def fill(unfinished: Path) -> None:
            for name in ARRAYS:
                np.save(unfinished / f"{name}.npy", getattr(self, name).numpy())

        folders.write(folder, FILE, self.about, fill)

    @classmethod
    def load(cls, folder: Path | str) -> Scores:
        """Read what `save` or `of` wrote; the arrays are mapped from the disk, not read at once."""

        def load(folder: Path, about: Any) -> Scores:
            paths = [folder / f"{name}.npy" for name in ARRAYS]
            values, queries, numbers = (
                torch.from_numpy(np.load(path, mmap_mode="c")) for path in paths
            )
            rest = {name: about[name] for name in about if name != "sha256"}
            return cls(values, queries, numbers, rest)

        scores: Scores = folders.read(folder, FILE, WHAT, load)
        return scores


@dataclass(frozen=True)
class _Asked:
    """What is to be computed."""

    fitted: Fitted
    query: Examples
    candidates: Examples
    k: int | None
    side: Side

    def arrays(self, folder: Path | None) -> tuple[Tensor, Tensor | None]:
        """Values and, of the best, positions of candidates: in memory, or in files of a folder."""
        shape = count(self.query), self.k or count(self.candidates)
        values = _array(folder, "values", shape, self.fitted.task.dtype)
        return values, None if self.k is None else _array(folder, "places", shape, torch.int64)

    def run(self, values: Tensor, places: Tensor | None, place: Place, note: Any) -> None:
        """Go on from a place; from the beginning where a later batch shows that rows were wrong."""
        while True:  # ends: each `Late` has moved a parameter to a slower way
            try:
                self._run(values, places, place, note)
                break
            except Late as late:
                log.warning("%s", late)
                place = Place(late=True)
                note(place)
        if not finite([values]):
            raise MethodError("scores are not finite: look for NaN in the data or the parameters")
        zeros.refuse(values, self.fitted.terms(), self.query, self.candidates)

    def _run(self, values: Tensor, places: Tensor | None, place: Place, note: Any) -> None:
        what = self.fitted, self.query, self.candidates
        if places is None:
            every(*what, values, place, note)
        else:
            best(*what, SIDES[self.side], (values, places), place, note)


def _about(asked: _Asked, numbers: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """What identifies scores, as JSON."""
    origin = asked.fitted.origin
    if origin is None:
        raise MethodError(
            f"{type(asked.fitted).__name__} was not made by `fit`, so that nothing tells its "
            "scores from others: score without a folder"
        )
    task, query, candidates = origin.task, asked.query, asked.candidates
    data: dict[str, Any] = {
        "query": examples_digest(query),
        "candidates": examples_digest(candidates),
        "query numbers": digest({"numbers": numbers[0]}),
        "candidate numbers": digest({"numbers": numbers[1]}),
    }
    about: dict[str, Any] = {
        **identity(origin.method, task),
        "fit": {
            "state": digest(origin.state),
            "train": None if origin.train is None else examples_digest(origin.train),
        },
        "data": data,
        "kept": {"k": asked.k, "side": asked.side if asked.k else None},
        "functions": {
            "loss": _values(task, task.loss, candidates),
            "measurement": _values(task, task.measurement, query),
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "retrace": _version(),
            "device": str(task.device),
        },
    }
    found: dict[str, Any] = json.loads(json.dumps(about))
    return found


def _values(task: Task, function: Any, examples: Examples) -> list[float]:
    few = task.move(take(examples, slice(0, FEW)))
    with explained(task, function, few):
        values = task.function(function)(task.params, few).detach()
    return [float(value) for value in values.flatten()[:FEW]]


def _version() -> str | None:
    try:
        return metadata.version("retrace")
    except metadata.PackageNotFoundError:  # run from its sources
        return None


def _numbers(name: str, given: Any, n: int) -> Tensor:
    """The numbers of n examples, (n,)."""
    if given is None:
        return torch.arange(n)
    numbers = torch.as_tensor(given).cpu()
    if numbers.is_floating_point() or tuple(numbers.shape) != (n,):
        raise MethodError(f"{name} is {kind(given)}: give a whole number for each of {n} examples")
    return numbers.long()


def _named(numbers: Tensor, places: Tensor | None) -> Tensor:
    return numbers if places is None else numbers[places]


def _array(folder: Path | None, name: str, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """An array in memory, or in a file that is made unless it is there."""
    if folder is None:
        return torch.zeros(shape, dtype=dtype)
    path, number = folder / f"{name}.npy", np.dtype(str(dtype).removeprefix("torch."))
    if path.exists():
        array = np.load(path, mmap_mode="r+")
        if array.shape != shape or array.dtype != number:
            raise ValueError(f"{path.name} is {array.shape} of {array.dtype}")
    else:
        size, free = shape[0] * shape[1] * number.itemsize, on_disk(str(folder))
        if size > free:
            raise MethodError(
                f"the {name} take {gigabytes(size)}, and {gigabytes(free)} are free in "
                f"{folders.quoted(folder.parent)}: give another folder, or keep the k best alone"
            )
        array = np.lib.format.open_memmap(path, mode="w+", dtype=number, shape=shape)
    return torch.from_numpy(array)


def _in_folder(asked: _Asked, numbers: tuple[Tensor, Tensor], folder: Path) -> Path:
    """Compute the scores in a folder, or what is missing of them, and return it."""
    if folder.exists() and not (folder / FILE).exists():
        raise MethodError(f"{folders.quoted(folder)} exists and has no scores: give a new folder")
    about = _about(asked, numbers)
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        if not folder.exists():
            with _alone(unfinished, folder):
                if not folder.exists():  # which another process may have finished meanwhile
                    _compute(asked, about, unfinished, folder)
                    folders.write(folder, FILE, about, partial(_finish, unfinished, numbers))
                shutil.rmtree(unfinished)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MethodError(f"cannot write {folders.quoted(folder)}: {reason}") from error
    _same(folders.read(folder, FILE, WHAT, lambda _, found: found), about, folder)
    return folder


@contextmanager
def _alone(unfinished: Path, folder: Path) -> Iterator[None]:
    """A block that one process at a time is in; the lock of one that was killed is free."""
    unfinished.mkdir(parents=True, exist_ok=True)
    with (unfinished / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MethodError(
                f"another process is writing {folders.quoted(folder)}: wait for it, or give "
                "another folder"
            ) from None
        yield


def _compute(asked: _Asked, about: dict[str, Any], unfinished: Path, folder: Path) -> None:
    """Fill the arrays of an unfinished folder from the place that was reached in it."""
    description = unfinished / FILE
    try:
        if description.exists():
            _same(json.loads(description.read_text()), about, folder)
        else:
            _replace(description, lambda file: file.write(json.dumps(about, indent=1).encode()))
        values, places = asked.arrays(unfinished)
        place = _read_place(unfinished / PLACE)
    except (ValueError, LookupError, EOFError) as error:
        raise MethodError(
            f"what was begun in {folders.quoted(unfinished)} is damaged ({error}): remove it"
        ) from error
    if place.queries or place.candidates:
        log.info("going on at query %d, candidate %d", place.queries, place.candidates)

    last = count(asked.candidates)

    def note(reached: Place) -> None:
        if places is None or reached.candidates == last:  # the best are in the place until then
            for path in unfinished.glob("*.npy"):
                _flush(path)
        _write_place(unfinished / PLACE, reached)

    asked.run(values, places, place, note)


def _same(found: dict[str, Any], about: dict[str, Any], folder: Path) -> None:
    """Refuse scores of anything else than what is asked for."""
    for part in ("method", "model", "fit", "data", "kept"):
        for name in {**found[part], **about[part]}:
            have, want = found[part].get(name), about[part].get(name)
            if have != want:
                shown = part in ("method", "kept")
                differs = f"{name} is {have} there and {want} here" if shown else f"other {name}"
                raise MethodError(
                    f"{folders.quoted(folder)} has scores of another {part}: {differs}; give the "
                    "same again, or another folder"
                )
    for name, values in about["functions"].items():
        if not np.allclose(found["functions"][name], values, rtol=1e-3, equal_nan=True):
            raise MethodError(
                f"{folders.quoted(folder)} has scores of another {name}, whose values differ on "
                "the first examples; give the same again, or another folder"
            )
    for name, version in about["versions"].items():
        if found["versions"].get(name) != version:
            was = found["versions"].get(name)
            log.warning("scores were begun with %s %s, and here is %s", name, was, version)


def _finish(unfinished: Path, numbers: tuple[Tensor, Tensor], draft: Path) -> None:
    """Move the finished arrays to the draft of their folder, under the names that they keep."""
    try:
        os.link(unfinished / "values.npy", draft / "values.npy")
    except OSError:  # a file system without links
        shutil.copyfile(unfinished / "values.npy", draft / "values.npy")
    np.save(draft / "queries.npy", numbers[0].numpy())
    places = unfinished / "places.npy"
    found = torch.from_numpy(np.load(places)) if places.exists() else None
    np.save(draft / "candidates.npy", _named(numbers[1], found).numpy())


def _flush(path: Path) -> None:
    """Have the pages of a mapped file on the disk before anything says that they are."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _write_place(path: Path, place: Place) -> None:
    numbers = np.array([place.queries, place.block, place.candidates, place.late])
    arrays: dict[str, Any] = {str(i): part.numpy() for i, part in enumerate(place.best)}
    _replace(path, lambda file: np.savez(file, numbers=numbers, **arrays))


def _read_place(path: Path) -> Place:
    if not path.exists():
        return Place()
    with np.load(path) as saved:
        queries, block, candidates, late = map(int, saved["numbers"])
        best = tuple(torch.from_numpy(saved[name]) for name in ("0", "1") if name in saved)
    if late:  # found after the place was left, and not remembered by the rows of this process
        return Place()
    return Place(queries, block, candidates, best)


def _replace(path: Path, write: Any) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f"{path.name}.draft")
    with draft.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
