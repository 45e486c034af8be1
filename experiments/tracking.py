"""W&B as a mirror of the runs: what is on disk is sent there, nothing is ever read back.

    python -m experiments.tracking replay [NAME]     send what is not there yet
Online if there are credentials; WANDB_MODE (online, offline, disabled), WANDB_PROJECT and
WANDB_ENTITY are honoured. A mirror that breaks says so once; no experiment fails for it.
"""

import argparse
import contextlib
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

from experiments import progress, runs, scratch
from experiments.problems import UserError, nearest
from experiments.runs import MissingRuns, Run
from experiments.table import flatten

TABLE_ROWS = 1_000  # longer arrays are sent as a histogram
IMAGES = 30
SETTINGS = {"silent": True, "console": "off", "init_timeout": 30}


class Mirror:
    """Sends the runs of one preset, each once; a marker beside the runs remembers which."""

    def __init__(self, name: str, preset: str) -> None:
        self.name, self.preset, self.sent = name, preset, 0
        self.mode, off = _mode()
        self.wandb: Any = None
        if not off:
            try:
                self.wandb = importlib.import_module("wandb")
            except ImportError:
                off = "wandb is not installed: `pip install wandb`"
        self.off = off
        if off:
            print(f"W&B: off, {off}", file=sys.stderr)

    def send(self, run: Run) -> None:
        """Mirror a finished run: config, metrics, arrays as tables, histograms and images."""
        marker = self._marker(run.key)
        if self.off or marker.exists():
            return
        with self._safely():
            with self._open(run.key, flatten(run.config)) as page:
                page.log({**run.metrics, **self._media(run)}, step=0)
                facts = ("commit", "dirty", "device", "seconds", "peak_memory_bytes", "data")
                page.summary.update({f"meta/{name}": run.meta.get(name) for name in facts})
            self._done(marker, "sent")

    def finish(self) -> None:
        """Mirror a complete preset as one page: a table of its runs, and the artifacts of them."""
        if self.off or self.preset == "custom":
            return
        try:
            found = runs.load(self.name, self.preset)
        except MissingRuns:
            return
        with self._safely():
            artifacts = _artifacts(self.name, self.preset)
            csvs = [about["csv_sha256"] for about in artifacts.values()]
            marker = self._marker(f"summary-{self.preset}")
            content = _digest("".join([run.key for run in found] + csvs))
            if marker.is_file() and marker.read_text() == content:
                return
            with self._open(f"{self.name}-{self.preset}", {}) as page:
                page.log({"runs": self._table([flatten(r.config) | r.metrics for r in found])})
                for image, about in artifacts.items():
                    word = about["verdict"]["word"]
                    picture = self.wandb.Image(str(image), caption=f"{about['title']}: {word}")
                    page.log({f"figures/{image.stem}": picture})
                    page.summary[f"verdict/{image.stem}"] = word
            self._done(marker, content)

    @contextlib.contextmanager
    def _safely(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # wandb raises many kinds; none may end an experiment
            self.off = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            again = f"python -m experiments.tracking replay {self.name}"
            print(f"W&B: off from here, {self.off}; later: `{again}`", file=sys.stderr)

    @contextlib.contextmanager
    def _open(self, identity: str, config: dict[str, Any]) -> Iterator[Any]:
        page = self.wandb.init(
            project=_project(),
            entity=os.environ.get("WANDB_ENTITY"),
            id=identity,
            name=identity,
            group=f"{self.name}/{self.preset}",
            config=config,
            resume="allow",
            mode=self.mode,
            dir=str(runs.results()),
            settings=SETTINGS,
        )
        try:
            yield page
        except BaseException:
            page.finish(exit_code=1)
            raise
        page.finish()

    def _media(self, run: Run) -> dict[str, Any]:
        media: dict[str, Any] = {}
        columns: dict[int, dict[str, np.ndarray]] = {}
        for name, array in run.arrays().items():
            if array.ndim == 1 and 0 < len(array) <= TABLE_ROWS:
                columns.setdefault(len(array), {})[name] = array
            elif array.ndim == 1 and array.dtype.kind in "biuf":
                values = array[np.isfinite(array)].astype(np.float64)
                media[f"histograms/{name}"] = self.wandb.Histogram(np_histogram=_histogram(values))
            elif array.ndim == 3 and array.dtype == np.uint8:
                images = [self.wandb.Image(np.asarray(image)) for image in array[:IMAGES]]
                media[f"images/{name}"] = images
        for length, arrays in columns.items():
            rows = zip(*(array.tolist() for array in arrays.values()), strict=True)
            table = self.wandb.Table(columns=list(arrays), data=[list(row) for row in rows])
            media[f"tables/{length}_rows"] = table
        return media

    def _table(self, records: list[dict[str, Any]]) -> Any:
        names = list(dict.fromkeys(name for record in records for name in record))
        kinds = {
            name: {type(r[name]) for r in records if r.get(name) is not None} for name in names
        }
        plain = {name for name, kind in kinds.items() if len(kind) == 1 and list not in kind}
        # A column of W&B has one type: what varies is written out.
        rows = [
            [
                None if r.get(name) is None else r[name] if name in plain else str(r[name])
                for name in names
            ]
            for r in records
        ]
        return self.wandb.Table(columns=names, data=rows)

    def _marker(self, identity: str) -> Path:
        place = f"{self.mode}-{os.environ.get('WANDB_ENTITY', '')}-{_project()}"
        name = f"{identity}.{re.sub(r'[^A-Za-z0-9_-]', '_', place)}"
        return runs.results() / "runs" / self.name / "tracked" / name

    def _done(self, marker: Path, content: str) -> None:
        marker.parent.mkdir(exist_ok=True)
        scratch.write(marker, content.encode())
        self.sent += 1


def replay(name: str | None = None) -> int:
    """Send every finished run, or those of one experiment, that is not mirrored yet."""
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
            found = runs.load(each, preset, partial=True)
            with progress.show() as display:
                for run in display.track(found, f"{each} {preset}"):
                    mirror.send(run)
                mirror.finish()
            print(f"{each}/{preset}: {len(found)} runs, {mirror.sent} pages sent {mirror.mode}")
            if mirror.off:
                return 2
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of the mirror."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.tracking", description="Send finished runs to W&B, each once."
    )
    parser.add_argument("command", choices=["replay"])
    parser.add_argument("name", nargs="?", help="one experiment (default: all)")
    given = parser.parse_args(argv)
    try:
        return replay(given.name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _mode() -> tuple[str, str]:
    """The mode, and why it is off: "" if it is not."""
    asked = os.environ.get("WANDB_MODE", "").lower()
    mode = {"": "online", "run": "online", "dryrun": "offline"}.get(asked, asked)
    if mode == "disabled":
        return mode, "WANDB_MODE is disabled"
    if mode not in ("online", "offline"):
        return mode, f"WANDB_MODE is {asked!r}: {nearest(asked, ['online', 'offline', 'disabled'])}"
    if mode == "online" and not _credentials():
        return mode, "no credentials: `wandb login`, or WANDB_MODE=offline, turns it on"
    return mode, ""


def _credentials() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for path in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if path and netrc.netrc(str(path)).authenticators(host):
                return True
    return False


def _project() -> str:
    return os.environ.get("WANDB_PROJECT") or "retrace"


def _artifacts(name: str, preset: str) -> dict[Path, dict[str, Any]]:
    """Figures made of these runs, with their provenance."""
    found = {}
    for path in sorted((runs.results() / "artifacts" / preset).glob("*.json")):
        about = json.loads(path.read_bytes())
        if about["numbers"]["experiment"] == name and path.with_suffix(".png").exists():
            found[path.with_suffix(".png")] = about
    return found


def _histogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.histogram(values, bins=64)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
