"""Examples that are read when they are needed: columns, and sources of several."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from methods.errors import MethodError, kind, one_line

Examples = dict[str, Tensor]

READ_TWICE = 5  # examples, spread over a data set, that are read twice to see that they stay


class Column(ABC):
    """A column that makes its rows when they are read, in place of a tensor too large to keep.

    It stands in examples where a tensor (n, ...) would. `column[index]` is the tensor of the rows
    at some positions, on whatever device it is made; `shape` and `dtype` are those of all rows.
    Methods that project gradients on few directions read as many rows at once as they embed:
    a `Source` is for more.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """The rows at these positions."""

    @abstractmethod
    def fingerprint(self) -> bytes:
        """Bytes that differ if any row does."""

    def then(self, change: Callable[[Tensor], Tensor]) -> Column:
        """The column whose rows are changed when they are read, in place or type alone."""
        return _Changed(self, change)


class _Changed(Column):
    def __init__(self, column: Column, change: Callable[[Tensor], Tensor]) -> None:
        self.shape, self.dtype = column.shape, column.dtype
        self.column, self.change = column, change

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return self.change(self.column[index])

    def fingerprint(self) -> bytes:
        return self.column.fingerprint()


class Source(dict[str, Tensor]):
    """Examples that are read when they are needed, one chunk at a time.

    data        what has a length and gives, at a position, one item: a torch `Dataset`, a list; or,
                at a slice, a dict of columns: a data set of Hugging Face, a table of your own
    collate_fn  makes a batch of a list of items, as a `DataLoader` has it: pads what varies in
                length, names columns. A batch is a dict of tensors; the columns of tuples are
                named 0, 1, ...
    workers     processes that read ahead, where examples are read in order

    Items are read again in every pass, and must be the same each time. As a dict it has a `Column`
    under each name, with the shape and type that the first item shows.
    """

    def __init__(
        self, data: Any, collate_fn: Callable[[list[Any]], Any] | None = None, workers: int = 0
    ) -> None:
        super().__init__()
        self._reader, self._workers = _Reader(data, collate_fn), workers
        self._then: tuple[Callable[[Examples], Examples], ...] = ()
        self._span = range(len(data))
        first = self.read(slice(0, 1))
        for i in dict.fromkeys(np.linspace(0, len(data) - 1, READ_TWICE).round().astype(int)):
            self._refuse_random(int(i))
        self._known = {name: (tuple(c.shape[1:]), c.dtype) for name, c in first.items()}
        self._name_columns()

    def _refuse_random(self, i: int) -> None:
        """Raise if example i is another when it is read again."""
        try:
            one, again = (self.read(slice(i, i + 1)) for _ in range(2))
        except MethodError:
            return  # which the pass that needs it will raise
        for name, column in one.items():
            other = again.get(name)
            if other is None or not _same(column, other):
                raise MethodError(
                    f"column {name} of example {i} differs between two reads: switch off what is "
                    "random in the data set (augmentation, dropout of tokens)"
                )

    def _name_columns(self) -> None:
        n = len(self._span)
        known = self._known.items()
        fields = {name: _Field(self, name, (n, *shape), kind) for name, (shape, kind) in known}
        self.update(cast(Examples, fields))

    def _with(self, **changes: Any) -> Source:
        made = Source.__new__(Source)
        vars(made).update({**vars(self), **changes})
        made._name_columns()
        return made

    def part(self, index: slice) -> Source:
        """Some of the examples, not read yet."""
        return self._with(_span=self._span[index])

    def then(self, change: Callable[[Examples], Examples]) -> Source:
        """The same with a change made to each batch when it is read."""
        return self._with(_then=(*self._then, change))

    def read(self, index: Tensor | slice) -> Examples:
        """The examples at some positions, in memory."""
        where: Sequence[int]
        if isinstance(index, slice):
            where = self._span[index]
        else:
            places = index.nonzero()[:, 0] if index.dtype == torch.bool else index
            where = [self._span[i] for i in places.tolist()]
        return self._changed(self._reader.read(where))

    def chunks(self, size: int) -> Iterator[Examples]:
        """All of them in order, at most `size` at a time."""
        spans = [self._span[i : i + size] for i in range(0, len(self._span), size)]
        if not self._workers:
            yield from (self._changed(self._reader.read(span)) for span in spans)
            return
        loader: DataLoader[Any] = DataLoader(
            _Spans(self._reader, spans),
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=min(self._workers, len(spans)),
            generator=torch.Generator(),  # the seed of workers is not drawn from the global one
        )
        for some in loader:
            if isinstance(some, str):
                raise MethodError(some)
            yield self._changed(some)

    def _changed(self, batch: Examples) -> Examples:
        for change in self._then:
            batch = change(batch)
        return batch


class _Field(Column):
    """One column of a source."""

    def __init__(self, source: Source, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.source, self.name, self.shape, self.dtype = source, name, shape, dtype

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return self.source.read(index)[self.name]

    def fingerprint(self) -> bytes:
        digest = hashlib.sha256()
        for some in self.source.chunks(1024):
            digest.update(some[self.name].cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.digest()


class _Reader:
    """Reads positions of a data set as columns; what fails is one line. Processes may copy it."""

    def __init__(self, data: Any, collate_fn: Callable[[list[Any]], Any] | None) -> None:
        if isinstance(data, IterableDataset) or not has_positions(data):
            raise MethodError(
                f"{kind(data)} cannot be read at a position: give a data set with a length and "
                "items by number (map-style), such as list(data)"
            )
        if not len(data):
            raise MethodError("the data set has no examples: give one at least")
        self.data, self.collate_fn = data, collate_fn
        self.sliced = False
        if collate_fn is None and not isinstance(data, Dataset | list):
            try:
                self.sliced = isinstance(data[0:1], Mapping)
            except Exception:  # whatever it raises: it has no slices
                self.sliced = False

    def read(self, where: Sequence[int]) -> Examples:
        """The columns of the examples at these positions."""
        if not len(where):
            return {name: column[:0] for name, column in self.read([0]).items()}
        try:
            batch = self._columns(where)
        except MethodError:
            raise
        except Exception as error:  # the user's own code
            last = f" to {where[-1]}" if len(where) > 1 else ""
            found = "" if isinstance(self.data, Dataset | list) else f" ({kind(self.data)})"
            cure = "; give what has items by number, or a dict of tensors" if found else ""
            raise MethodError(
                f"example {where[0]}{last} of the data set{found} cannot be read: "
                f"{one_line(error)}{cure}"
            ) from error
        for name, column in batch.items():
            if column.ndim == 0 or len(column) != len(where):
                raise MethodError(
                    f"column {name} is {kind(column)} for {len(where)} examples of the data set: "
                    "give one row per example"
                )
        return batch

    def _columns(self, where: Sequence[int]) -> Examples:
        if self.sliced:
            if isinstance(where, range):
                return _named(self.data[where.start : where.stop])
            single = [_named(self.data[i : i + 1]) for i in where]
            rows = [{name: column[0] for name, column in each.items()} for each in single]
            return _named(_transposed(rows))
        many = getattr(self.data, "__getitems__", None)
        items = [self.data[i] for i in where] if many is None else many(list(where))
        return _named(_transposed(items) if self.collate_fn is None else self.collate_fn(items))


class _Spans(Dataset[Any]):
    """Whole chunks as items, for the processes of a DataLoader; an error goes back as its text."""

    def __init__(self, reader: _Reader, spans: list[range]) -> None:
        self.reader, self.spans = reader, spans

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, i: int) -> Examples | str:
        try:
            return self.reader.read(self.spans[i])
        except MethodError as error:
            return str(error)


def _unchanged(batch: Any) -> Any:
    return batch


def has_positions(data: Any) -> bool:
    return all(hasattr(type(data), name) for name in ("__len__", "__getitem__"))


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _transposed(items: list[Any]) -> dict[Any, list[Any]]:
    """Columns of items that are dicts, tuples or single values."""
    first = _fields(items[0])
    columns: dict[Any, list[Any]] = {name: [] for name in first}
    for item in items:
        fields = _fields(item)
        if fields.keys() != columns.keys():
            raise MethodError(
                f"items of the data set have other columns, {_listed(first)} and "
                f"{_listed(fields)}: give each the same"
            )
        for name, value in fields.items():
            columns[name].append(value)
    return columns


def _fields(item: Any) -> Mapping[Any, Any]:
    if isinstance(item, Mapping):
        return item
    return dict(enumerate(item)) if isinstance(item, tuple | list) else {0: item}


def _listed(names: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, names)) or "none"


def _named(batch: Any) -> Examples:
    """A batch as a dict of tensors."""
    fields = _fields(batch)
    if not fields:
        raise MethodError("items of the data set have no columns: give a dict or a tuple of some")
    return {name: _column(name, values) for name, values in fields.items()}


def _column(name: Any, values: Any) -> Tensor:
    """Rows as one tensor; they are a tensor, an array or a sequence of tensors, arrays, numbers."""
    if isinstance(values, Tensor):
        return values
    sequence = isinstance(values, Sequence) and not isinstance(values, str | bytes)
    rows = list(values) if sequence else values
    if sequence and any(isinstance(row, Tensor) for row in rows):
        rows = [torch.as_tensor(row) for row in rows]
        if all(row.shape == rows[0].shape for row in rows):
            return torch.stack(rows)
        raise _ragged(name, (tuple(row.shape) for row in rows))
    try:
        array = np.asarray(rows)
    except ValueError as error:  # rows of several lengths
        raise _ragged(name, map(np.shape, map(_if_even, rows))) from error
    if array.dtype.kind not in "biufc":
        found = kind(rows[0]) if sequence and rows else kind(values)
        raise MethodError(
            f"column {name} of the data set has {found}, which is no number: leave it out "
            "(remove_columns, or a collate_fn), or make it a tensor there"
        )
    return torch.tensor(array)


def _if_even(row: Any) -> Any:
    try:
        return np.asarray(row)
    except ValueError:
        return np.empty(len(row))


def _ragged(name: Any, shapes: Any) -> MethodError:
    several = " and ".join(map(str, islice(dict.fromkeys(shapes), 2)))
    return MethodError(
        f"column {name} of the data set has rows of other shapes, {several}: give a collate_fn "
        "that pads them, Source(data, collate_fn), and let the loss leave the padding out"
    )
