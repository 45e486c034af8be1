"""Pages of W&B: online if there are credentials, else with WANDB_MODE=offline on disk alone.

WANDB_MODE (online, offline, disabled), WANDB_PROJECT and WANDB_ENTITY are honoured.
"""

import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.laboratory import data_folder, runs
from experiments.laboratory.tracking import sources, wandb_server
from experiments.laboratory.tracking.interface import Content, Ended, Page, Picture, Source, Table

BINS = 64
SETTINGS = {
    "silent": True,
    "console": "off",
    "init_timeout": 30,
    # wandb would send the host, the user, folders, the words of the command and all packages.
    "x_disable_meta": True,
    "x_save_requirements": False,
    "disable_git": True,
    "disable_code": True,
    "host": "",
    # Without a network, wandb would wait forever for a run to be sent.
    "finish_timeout": 120,
    "finish_timeout_raises": True,
}
STEPS = ("training/*", "machine/*")  # lines over epochs


class WandB:
    """W&B; the load of the machine is that of the process `pid`."""

    label = "W&B"

    def __init__(self, pid: int | None = None) -> None:
        self.mode, self._off = wandb_server.mode()
        self._pid = os.getpid() if pid is None else pid
        place = f"{self.mode}-{wandb_server.entity() or ''}-{wandb_server.project()}"
        self.destination = re.sub(r"[^A-Za-z0-9_-]", "_", place)

    def off(self) -> str:
        return self._off

    def lost(self, name: str, page_id: str) -> bool:
        """Whether the folder of an offline page is gone; of online pages, this is not known."""
        return self.mode == "offline" and not any(
            (runs.results() / "wandb").glob(f"offline-run-*-{page_id}")
        )

    def open(self, page: Page) -> "_Sheet":
        address = wandb_server.server()
        if self.mode == "online" and not wandb_server.answers(address):
            raise ConnectionError(
                f"{address} did not answer in {data_folder.PROBE_SECONDS:.0f} seconds"
            )
        os.environ.setdefault("WANDB_SILENT", "true")  # else it says where the login comes from
        wandb = importlib.import_module("wandb")
        # The load of this machine says nothing about a run that is only sent from here.
        load = {"x_disable_stats": not page.watched, "x_stats_pid": self._pid}
        opened = wandb.init(
            project=wandb_server.project(),
            entity=wandb_server.entity(),
            id=page.id,
            name=page.title,
            group=page.group,
            job_type=page.job,
            tags=list(page.tags),
            config=dict(page.config),
            resume="allow",
            reinit="create_new",
            mode=self.mode,
            dir=str(runs.results()),
            settings=SETTINGS | load,
        )
        for names in STEPS:
            opened.define_metric(names, step_metric="training/epoch")
        return _Sheet(wandb, opened, self.mode)


class _Sheet:
    def __init__(self, wandb: Any, opened: Any, mode: str) -> None:
        self._wandb, self._opened, self._mode = wandb, opened, mode

    def log(self, lines: Mapping[str, float]) -> None:
        self._opened.log(dict(lines))

    def show(self, title: str, content: Content) -> None:
        self._opened.name = title
        for point in content.lines:
            self.log(point)
        shown = {
            **content.numbers,
            **{name: self._table(table) for name, table in content.tables.items()},
            **{name: self._histogram(values) for name, values in content.histograms.items()},
            **{name: [*map(self._picture, some)] for name, some in content.pictures.items()},
        }
        self._opened.log(shown)
        self._opened.summary.update(dict(content.facts))
        if sources.limit():
            self._send_sources(content)

    def close(self, ended: Ended) -> None:
        if ended == "preempted":
            self._opened.mark_preempting()
        if ended == "finished":
            self._opened.finish()
        else:
            self._opened.finish(exit_code=1)

    def _table(self, table: Table) -> Any:
        return self._wandb.Table(columns=table.columns, data=table.rows)

    def _histogram(self, values: np.ndarray) -> Any:
        return self._wandb.Histogram(np_histogram=np.histogram(values, bins=BINS))

    def _picture(self, picture: Picture) -> Any:
        image = picture.image
        return self._wandb.Image(
            str(image) if isinstance(image, Path) else image, caption=picture.caption
        )

    def _send_sources(self, content: Content) -> None:
        """The Artifacts of a page; offline, wandb knows no inputs: they are in the metadata."""
        if self._mode == "online":
            for source in content.used:
                self._opened.use_artifact(self._artifact(source))
        for source in content.made:
            self._opened.log_artifact(self._artifact(source))

    def _artifact(self, source: Source) -> Any:
        """The same content every time: the server keeps one version of it, whoever sends it."""
        facts = dict(source.facts) | {"made_from": list(source.made_from)}
        made = self._wandb.Artifact(source.name, source.kind, metadata=facts)
        with made.new_file("facts.json", "w") as file:
            file.write(sources.as_text(facts))
        for name, path in source.files.items():
            made.add_file(str(path), name=name, policy="immutable")
        return made
