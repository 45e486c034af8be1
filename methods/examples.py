"""Examples: columns of tensors, or a source of them that is read in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from methods.errors import MethodError, kind
from methods.sources import Column, Examples, Source, has_positions


def sourced(given: Any) -> Examples:
    """Examples as methods take them: a dict as it is, anything else that can be read as a Source.

    A DataLoader stands for its data set and its collate function, in the order of the data set.
    """
    if isinstance(given, Mapping | Tensor | str | bytes | np.ndarray) or given is None:
        return cast(Examples, given)
    if isinstance(given, DataLoader) and not isinstance(given.dataset, IterableDataset):
        if given.batch_sampler is None:
            raise MethodError(
                "a DataLoader without batch_size reads whole batches: give Source(its data set)"
            )
        if left_out := _may_leave_out(given):
            raise MethodError(
                f"a DataLoader is taken by its data set, and its {left_out} may leave examples "
                "out: give torch.utils.data.Subset(dataset, positions)"
            )
        custom = None if given.collate_fn is default_collate else given.collate_fn
        return Source(given.dataset, custom, given.num_workers)
    if isinstance(given, DataLoader):
        given = given.dataset  # which says why not
    rows = isinstance(given, tuple | list)
    if rows and not (isinstance(given, list) and given and isinstance(given[0], Mapping | tuple)):
        return cast(Examples, given)
    if isinstance(given, IterableDataset | Dataset) or has_positions(given):
        return Source(given)
    return cast(Examples, given)


def _may_leave_out(loader: DataLoader[Any]) -> str | None:
    """What of a loader does not read each example of its data set once, if anything."""
    batches: Any = loader.batch_sampler
    sampler: Any = loader.sampler
    examples: Any = loader.dataset
    own: bool = type(batches) is not BatchSampler or vars(batches)["sampler"] is not sampler
    if own:
        return type(batches).__name__
    known = type(sampler) in (SequentialSampler, RandomSampler)
    repeats = getattr(sampler, "replacement", False)
    whole: bool = known and not repeats and len(sampler) == len(examples)
    return None if whole else type(sampler).__name__


def in_memory(given: Any) -> Examples:
    """Examples of any form, all of them read."""
    examples = sourced(given)
    return examples.read(slice(None)) if isinstance(examples, Source) else examples


def count(examples: Examples) -> int:
    """Number of examples: the length every column must share."""
    columns = examples.items() if isinstance(examples, Mapping) else ()
    if ragged := [n for n, c in columns if isinstance(c, Tensor) and c.is_nested]:
        raise MethodError(
            f"{ragged[0]} is a nested tensor: pad it (torch.nested.to_padded_tensor), and give the "
            "lengths or a mask as another column"
        )
    if sparse := [n for n, c in columns if isinstance(c, Tensor) and c.layout != torch.strided]:
        raise MethodError(
            f"{sparse[0]} is a sparse tensor: give {sparse[0]}.to_dense(), or a data set of rows "
            "that are"
        )
    wrong = [
        f"{name}: {kind(column)}"
        for name, column in columns
        if not (isinstance(column, Tensor | Column) and len(column.shape))
    ]
    if wrong or not columns:
        raise MethodError(
            "examples are a dict of tensors with one row per example: found "
            f'{wrong[0] if wrong else kind(examples)}; give {{"image": ..., "label": ...}} (of '
            "arrays: torch.as_tensor of each), or a data set"
        )
    lengths = {name: len(column) for name, column in columns}
    if len(set(lengths.values())) != 1:
        raise MethodError(f"columns of different lengths: {lengths}; give one row per example")
    return next(iter(lengths.values()))


def take(examples: Examples, index: Tensor | slice) -> Examples:
    """The examples at `index`, every column alike; a source is read."""
    if isinstance(examples, Source):
        return examples.read(index)
    return {name: column[index] for name, column in examples.items()}


def chunks(examples: Examples, size: int) -> Iterator[Examples]:
    """Yield the examples in order, at most `size` at a time."""
    yield from examples.chunks(size) if isinstance(examples, Source) else parts(examples, size)


def parts(examples: Examples, size: int) -> Iterator[Examples]:
    """The same, of which a part of a source is a source, not read yet."""
    for start in range(0, count(examples), size):
        some = slice(start, start + size)
        yield examples.part(some) if isinstance(examples, Source) else take(examples, some)
