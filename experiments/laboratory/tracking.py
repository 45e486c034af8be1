"""W&B as a mirror of the runs on disk: they are sent there, and nothing is ever read back.

    python -m experiments track replay [NAME]     send the runs that are not there yet
The mirror is online if there are credentials; WANDB_MODE (online, offline, disabled), WANDB_PROJECT
and WANDB_ENTITY are honoured. If W&B fails, one line says so, and the experiment goes on.
"""

import contextlib
import csv
import hashlib
import importlib
import json
import netrc
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np

from experiments.laboratory import disk, progress, runs
from experiments.laboratory.errors import Parser, UserError, nearest
from experiments.laboratory.runs import MissingRuns, Run
from experiments.laboratory.table import flatten

TABLE_ROWS = 1_000  # longer arrays are sent as a histogram
IMAGES = 30
FACTS = ("commit", "dirty", "device", "seconds", "peak_memory_bytes", "data", "slurm", "resumed")
CURVE = "train_loss"  # the loss of each epoch, by experiments.training: only trained models have it
SETTINGS = {
    "silent": True,
    "console": "off",
    "init_timeout": 30,
    # Without a network, wandb would wait forever for a run to be sent.
    "finish_timeout": 120,
    "finish_timeout_raises": True,
}


def mode() -> tuple[str, str]:
    """The mode that wandb's variables ask for, and why W&B is off: "" if it is on."""
    word = os.environ.get("WANDB_MODE", "").lower()
    chosen = {"": "online", "run": "online", "dryrun": "offline"}.get(word, word)
    if chosen == "disabled":
        return chosen, "WANDB_MODE is disabled"
    if chosen not in ("online", "offline"):
        return chosen, f"WANDB_MODE is {word!r}: {nearest(word, ['online', 'offline', 'disabled'])}"
    if chosen == "online" and not _credentials():
        return chosen, "no credentials: `wandb login`, or WANDB_MODE=offline, turns it on"
    return chosen, ""


def project() -> str:
    """The project that everything is sent to."""
    return os.environ.get("WANDB_PROJECT") or "retrace"


def entity() -> str | None:
    """The user or team that everything is sent to; None for wandb's own default."""
    return os.environ.get("WANDB_ENTITY")


def destination(chosen_mode: str) -> str:
    """Mode, entity and project as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{chosen_mode}-{entity() or ''}-{project()}")


def _credentials() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for path in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if path and netrc.netrc(str(path)).authenticators(host):
                return True
    return False


def kind(run: Run) -> str:
    """The job type of a run that cells are made of: `train` if it is a trained model."""
    return "train" if CURVE in run.meta["arrays"] else "score"


def curve(run: Run) -> Iterator[dict[str, float]]:
    """The training loss by epoch, from 1 on."""
    if kind(run) == "train":
        for epoch, loss in enumerate(run.array(CURVE).tolist(), start=1):
            yield {"training/epoch": epoch, "training/loss": loss}


def media(wandb: Any, run: Run) -> dict[str, Any]:
    """The arrays of a run that a person can look at: tables, histograms and images."""
    shown: dict[str, Any] = {}
    columns: dict[int, dict[str, np.ndarray]] = {}
    for name in run.meta["arrays"]:
        array = run.array(name)
        if array.ndim == 1 and 0 < len(array) <= TABLE_ROWS:
            columns.setdefault(len(array), {})[name] = array
        elif array.ndim == 1 and array.dtype.kind in "biuf":
            values = array[np.isfinite(array)].astype(np.float64)
            counted = np.histogram(values, bins=64)
            shown[f"histograms/{name}"] = wandb.Histogram(np_histogram=counted)
        elif array.ndim == 3 and array.dtype == np.uint8:
            shown[f"images/{name}"] = [wandb.Image(np.asarray(image)) for image in array[:IMAGES]]
    for length, arrays in columns.items():
        rows = zip(*(array.tolist() for array in arrays.values()), strict=True)
        table = wandb.Table(columns=list(arrays), data=[list(row) for row in rows])
        shown[f"tables/{length}_rows"] = table
    return shown


def overview(wandb: Any, finished: Sequence[Run]) -> Any:
    """Settings and metrics of many runs as one table."""
    return _table(wandb, [flatten(run.config) | run.metrics for run in finished])


def committed_artifacts(name: str, preset: str) -> dict[Path, dict[str, Any]]:
    """The figures made of a preset's runs, with their provenance."""
    figures = {}
    for path in sorted((runs.results() / "artifacts" / preset).glob("*.json")):
        about = json.loads(path.read_bytes())
        if about["numbers"]["experiment"] == name and path.with_suffix(".png").exists():
            figures[path.with_suffix(".png")] = about
    return figures


def artifact(wandb: Any, image: Path, about: dict[str, Any]) -> dict[str, Any]:
    """One artifact: its figure, captioned with title and verdict, and its numbers as a table."""
    caption = f"{about['title']}: {about['verdict']['word']}"
    shown = {f"figures/{image.stem}": wandb.Image(str(image), caption=caption)}
    if image.with_suffix(".csv").exists():
        with image.with_suffix(".csv").open(newline="") as file:
            records = [{k: _value(v) for k, v in row.items()} for row in csv.DictReader(file)]
        shown[f"numbers/{image.stem}"] = _table(wandb, records)
    return shown


def _table(wandb: Any, records: Sequence[dict[str, Any]]) -> Any:
    names = list(dict.fromkeys(name for record in records for name in record))
    kinds = {name: {type(r[name]) for r in records if r.get(name) is not None} for name in names}
    plain = {name for name, kind in kinds.items() if len(kind) == 1 and list not in kind}

    def cell(record: dict[str, Any], name: str) -> Any:
        # A column of W&B has one type: values of several types become text.
        value = record.get(name)
        return value if value is None or name in plain else str(value)

    return wandb.Table(columns=names, data=[[cell(r, name) for name in names] for r in records])


def _value(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text


class Mirror:
    """Sends each run of one preset once; a marker beside the runs records which were sent."""

    def __init__(self, name: str, preset: str) -> None:
        self.name, self.preset, self.sent = name, preset, 0
        self.mode, self.off = mode()
        self.wandb: Any = None
        self._wandb_run: Any = None
        if os.environ.get("RANK", "0") != "0":
            self.off = "only the first process of a cell mirrors it"
            return
        if not self.off:
            try:
                self.wandb = importlib.import_module("wandb")
            except ImportError:
                self.off = "wandb is not installed: `pip install wandb`"
        if self.off:
            print(f"W&B: off, {self.off}", file=sys.stderr)

    @contextlib.contextmanager
    def watching(self, config: Any) -> Iterator[None]:
        """Show a cell while it is computed: its reported numbers, and the load of the machine.

        A cell that is stopped and requeued continues in the same run of W&B.
        """
        key = runs.key(config)
        if self.off or self._marker(self.name, key).exists() or runs.find(self.name, config):
            yield
            return
        with self._safely():
            self._wandb_run = self._open(key, "score", flatten(runs.describe(config)), watched=True)
        try:
            with progress.watched_by(self._log):
                yield
        except BaseException as error:
            with self._safely():
                self._leave(preempted=isinstance(error, KeyboardInterrupt))
            raise

    def send(self, run: Run) -> None:
        """Mirror a finished cell, after the runs it is made of, such as the models it trained."""
        self._send(run, "score")

    def finish(self) -> None:
        """Mirror a complete preset as one run of W&B: a table of its runs, and their artifacts."""
        if self.off or self.preset == "custom":
            return
        try:
            finished = runs.load(self.name, self.preset)
        except MissingRuns:
            return
        with self._safely():
            artifacts = committed_artifacts(self.name, self.preset)
            csvs = [about["csv_sha256"] for about in artifacts.values()]
            marker = self._marker(self.name, f"summary-{self.preset}")
            content = _digest("".join([run.key for run in finished] + csvs))
            if marker.is_file() and marker.read_text() == content:
                return
            wandb_run = self._open(f"{self.name}-{self.preset}", "artifact", {})
            with _finishing(wandb_run):
                wandb_run.log({"runs": overview(self.wandb, finished)})
                for image, about in artifacts.items():
                    wandb_run.log(artifact(self.wandb, image, about))
                    wandb_run.summary[f"verdict/{image.stem}"] = about["verdict"]["word"]
            self._done(marker, content)

    def _send(self, run: Run, job: str) -> None:
        marker = self._marker(run.name, run.key)
        with self._safely():
            if self.off or marker.exists():
                return
            for part in run.meta["parts"]:
                self._send_part(runs.results() / "runs" / part["name"] / part["key"])
            if self.off:
                return
            wandb_run, self._wandb_run = self._wandb_run, None
            if wandb_run is None:
                wandb_run = self._open(run.key, job, flatten(run.config))
            with _finishing(wandb_run):
                for point in curve(run):
                    wandb_run.log(point)
                wandb_run.log({**run.metrics, **media(self.wandb, run)})
                facts = {f"meta/{name}": run.meta.get(name) for name in FACTS}
                wandb_run.summary.update(facts)
            self._done(marker, "sent")

    def _send_part(self, path: Path) -> None:
        """Mirror a run that another is made of, unless its folder is gone."""
        if path.is_dir():
            ours, self._wandb_run = self._wandb_run, None
            try:
                part = Run.at(path)
                self._send(part, kind(part))
            finally:
                self._wandb_run = ours

    def _log(self, values: dict[str, float]) -> None:
        if self._wandb_run is not None:
            with self._safely():
                self._wandb_run.log({f"training/{name}": value for name, value in values.items()})

    def _leave(self, preempted: bool = False) -> None:
        wandb_run, self._wandb_run = self._wandb_run, None
        if wandb_run is not None:
            if preempted:
                wandb_run.mark_preempting()
            wandb_run.finish(exit_code=1)

    @contextlib.contextmanager
    def _safely(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # no error of wandb may end an experiment
            self._wandb_run = None
            self.off = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            again = f"python -m experiments track replay {self.name}"
            print(f"W&B: off from here, {self.off}; later: `{again}`", file=sys.stderr)

    def _open(self, run_id: str, job: str, config: dict[str, Any], watched: bool = False) -> Any:
        # The load of this machine says nothing about a run that is only sent from here.
        wandb_run = self.wandb.init(
            project=project(),
            entity=entity(),
            id=run_id,
            name=run_id,
            group=f"{self.name}/{self.preset}",
            job_type=job,
            config=config,
            resume="allow",
            reinit="create_new",
            mode=self.mode,
            dir=str(runs.results()),
            settings=SETTINGS | {"x_disable_stats": not watched},
        )
        wandb_run.define_metric("training/*", step_metric="training/epoch")
        return wandb_run

    def _marker(self, name: str, run_id: str) -> Path:
        file = f"{run_id}.{destination(self.mode)}"
        return runs.results() / "runs" / name / "tracked" / file

    def _done(self, marker: Path, content: str) -> None:
        marker.parent.mkdir(exist_ok=True)
        disk.write_file(marker, content.encode())
        self.sent += 1


def replay(name: str | None = None) -> int:
    """Send the finished runs, of one experiment or of all, that are not mirrored yet."""
    home = runs.results() / "runs"
    known = sorted(path.parent.name for path in home.glob("*/presets"))
    if name is not None and name not in known:
        raise UserError(f"no runs of {name!r} in {home}: {nearest(name, known)}")
    for each in [name] if name else known:
        presets = [path.stem for path in (home / each / "presets").glob("*.json")]
        for preset in sorted(presets, key=lambda preset: (preset == "custom", preset)):
            mirror = Mirror(each, preset)
            if mirror.off:
                return 2
            finished = runs.load(each, preset, partial=True)
            with progress.show() as display:
                for run in display.track(finished, f"{each} {preset}"):
                    mirror.send(run)
                mirror.finish()
            print(
                f"{each}/{preset}: {len(finished)} runs, {mirror.sent} W&B runs sent {mirror.mode}"
            )
            if mirror.off:
                return 2
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of the mirror."""
    parser = Parser(
        prog="python -m experiments track", description="Send finished runs to W&B, each once."
    )
    parser.add_argument("command", choices=["replay"])
    parser.add_argument("name", nargs="?", help="one experiment (default: all)")
    return parser.run(argv, lambda given: replay(given.name))


@contextlib.contextmanager
def _finishing(wandb_run: Any) -> Iterator[None]:
    try:
        yield
    except BaseException:
        wandb_run.finish(exit_code=1)
        raise
    wandb_run.finish()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
