"""The part of wandb that pages are made with, in memory."""

import contextlib
import io
from collections.abc import Iterator
from types import SimpleNamespace


class Artifact:
    """Files by name, and the metadata."""

    def __init__(self, name: str, type: str, metadata: dict) -> None:
        assert len(name) <= 128
        self.name, self.type, self.metadata = name, type, metadata
        self.files: dict[str, str] = {}

    @contextlib.contextmanager
    def new_file(self, name: str, mode: str) -> Iterator[io.StringIO]:
        assert mode == "w"
        file = io.StringIO()
        yield file
        self.files[name] = file.getvalue()

    def add_file(self, path: str, name: str, policy: str) -> None:
        assert policy == "immutable"
        self.files[name] = path


class Page:
    """A run of W&B."""

    def __init__(self, given: dict) -> None:
        self.given, self.logged, self.summary, self.code = given, {}, {}, None
        self.history, self.preempting, self.name = [], False, given["name"]
        self.used: list[Artifact] = []
        self.made: list[Artifact] = []

    def log(self, values: dict) -> None:
        assert self.code is None, "logged after the end"
        self.logged |= values
        self.history.append(values)

    def define_metric(self, name: str, step_metric: str) -> None:
        assert name in ("training/*", "machine/*")
        assert step_metric == "training/epoch"

    def use_artifact(self, artifact: Artifact) -> None:
        self.used.append(artifact)

    def log_artifact(self, artifact: Artifact) -> None:
        self.made.append(artifact)

    def mark_preempting(self) -> None:
        self.preempting = True

    def finish(self, exit_code: int = 0) -> None:
        self.code = exit_code


class Fake(SimpleNamespace):
    """The module."""

    Artifact = Artifact

    def __init__(self) -> None:
        super().__init__(pages=[], broken=None)

    def init(self, **given) -> Page:
        if self.broken:
            raise self.broken
        self.pages.append(Page(given))
        return self.pages[-1]

    def Table(self, columns, data):
        for column in zip(*data, strict=True):
            assert len({type(value) for value in column if value is not None}) <= 1
        return ("table", columns, data)

    def Histogram(self, np_histogram):
        return ("histogram", int(np_histogram[0].sum()))

    def Image(self, what, caption=None):
        return ("image", what if isinstance(what, str) else what.shape, caption)
