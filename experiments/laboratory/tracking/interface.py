"""What a tracker is: a place in which pages are opened, written and closed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

Ended = Literal["finished", "failed", "preempted"]


@dataclass(frozen=True)
class Page:
    """What a page is called and sorted by.

    id       unique and the same for ever: the key of a run, or NAME-PRESET
    name     of the experiment, or of the kind of model
    title    for people
    job      `train` for a trained model, `score` for a cell, `artifact` for a whole preset
    watched  whether it is open while its run is computed
    """

    id: str
    name: str
    title: str
    group: str
    job: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    watched: bool = False


@dataclass(frozen=True)
class Table:
    """Columns of one type each, and rows."""

    columns: list[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class Picture:
    """A figure on disk or an array of grey values or colours, with its caption."""

    image: Path | np.ndarray
    caption: str | None = None


@dataclass(frozen=True)
class Source:
    """Something that a page was made from, or made: a set of data, a model, a run, a table.

    `facts` say which one it is. `files` are its files by name, those that may be sent; `made_from`
    are the names of others.
    """

    name: str
    kind: Literal["dataset", "model", "run", "table"]
    facts: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)
    made_from: tuple[str, ...] = ()


@dataclass(frozen=True)
class Content:
    """What a page shows at its end: lines of a chart, numbers, tables, arrays and pictures.

    `facts` stand in its summary alone. The page used the sources `used` and made those `made`.
    """

    lines: Sequence[Mapping[str, float]] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    histograms: Mapping[str, np.ndarray] = field(default_factory=dict)
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    used: Sequence[Source] = ()
    made: Sequence[Source] = ()


class Sheet(Protocol):
    """An open page."""

    def log(self, lines: Mapping[str, float]) -> None:
        """Add a point to each of these lines."""

    def show(self, title: str, content: Content) -> None:
        """Show what is known at the end, under the title that is known then."""

    def close(self, ended: Ended) -> None:
        """End the page; one that was preempted may be opened again."""


class Tracker(Protocol):
    """A place that pages are sent to.

    label        in messages
    destination  part of the names of markers: pages sent to one are not yet sent to another
    """

    label: str
    destination: str

    def off(self) -> str:
        """Why nothing can be sent there; "" if it can."""

    def lost(self, name: str, page_id: str) -> bool:
        """Whether a page that was sent is not there any more, as far as this machine knows."""

    def open(self, page: Page) -> Sheet:
        """Open a page, the same again if it was opened before."""
