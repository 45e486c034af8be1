"""Tensors on their way from files to the device, and the batches of a training set there."""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from methods.memory import available
from methods.sources import Column

SHARE = 0.5  # of a device's free memory that data may take


def mapped(array: np.ndarray) -> Tensor:
    """An array of a run as a tensor: it stays in its file, which nothing may write to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the file is read-only
        return torch.from_numpy(array)


def fits(size: int, device: torch.device) -> bool:
    """Whether data of so many bytes may be kept on a device, beside what computes with it."""
    return size <= SHARE * available(device)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values of the CPU on a device; a GPU copies them while both go on."""
    if device.type != "cuda" or values.device.type == "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


class Feed:
    """Columns of a training set, and the batches of a device from them.

    They are moved to the device once if they fit there. What does not fit stays where it is, which
    may be a file mapped into memory: each batch is gathered there and copied while the device
    computes the batches before it. The columns `on_host`, and their batches, stay on the CPU.
    """

    def __init__(
        self, train: Mapping[str, Tensor], device: torch.device, on_host: Collection[str] = ()
    ) -> None:
        self.device = device
        made = {n for n, c in train.items() if isinstance(c, Column)}  # where they say, when read
        away = {n for n in train if n not in {*on_host, *made} and train[n].device != device}
        size = sum(train[name].numel() * train[name].element_size() for name in away)
        self.streamed = {*on_host, *made, *(() if fits(size, device) else away)}
        self.columns = {
            name: column.to(device) if name in away - self.streamed else column
            for name, column in train.items()
        }
        self.on_host = on_host

    def batches(self, rows: Sequence[Tensor]) -> Iterator[dict[str, Tensor]]:
        """The examples of each step, whose rows are (b,), or (K, b) for a stack of K networks."""
        widths = [batch.shape[-1] for batch in rows]
        there = sent(torch.cat(list(rows), -1), self.device).split(widths, -1) if rows else ()
        for here, moved in zip(rows, there, strict=True):
            yield {
                name: self._streamed(name, here) if name in self.streamed else column[moved]
                for name, column in self.columns.items()
            }

    def _streamed(self, name: str, rows: Tensor) -> Tensor:
        batch = self.columns[name][rows]
        return batch if name in self.on_host else sent(batch, self.device)
