"""W&B as a mirror of the runs: what is on disk is sent there, nothing is ever read back.

    python -m experiments.tracking replay [NAME]     send what is not there yet
Online if there are credentials; WANDB_MODE (online, offline, disabled), WANDB_PROJECT and
WANDB_ENTITY are honoured. A mirror that breaks says so once; no experiment fails for it.
"""

import contextlib
import hashlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import live, pages, progress, runs, scratch, wandb_mode
from experiments.problems import Parser, UserError, nearest
from experiments.runs import MissingRuns, Run
from experiments.table import flatten

SETTINGS = {
    "silent": True,
    "console": "off",
    "init_timeout": 30,
    # Without a network, a page would be waited for without end.
    "finish_timeout": 120,
    "finish_timeout_raises": True,
}


class Mirror:
    """Sends the runs of one preset, each once; a marker beside the runs remembers which."""

    def __init__(self, name: str, preset: str) -> None:
        self.name, self.preset, self.sent = name, preset, 0
        self.mode, self.off = wandb_mode.mode()
        self.wandb: Any = None
        self._page: Any = None
        if os.environ.get("RANK", "0") != "0":
            self.off = "the first of the processes of a cell mirrors it"
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
        """Show a cell while it is computed: what is told of it, and what the machine does.

        A cell that is stopped, and requeued, goes on with the same page.
        """
        key = runs.key(config)
        if self.off or self._marker(self.name, key).exists() or runs.find(self.name, config):
            yield
            return
        with self._safely():
            self._page = self._open(key, "score", flatten(runs.describe(config)), seen=True)
        try:
            with live.watched_by(self._hear):
                yield
        except BaseException as error:
            with self._safely():
                self._leave(preempted=isinstance(error, KeyboardInterrupt))
            raise

    def send(self, run: Run) -> None:
        """Mirror a finished cell, and first the runs it is made of: the models it trained."""
        self._send(run, "score")

    def finish(self) -> None:
        """Mirror a complete preset as one page: a table of its runs, and the artifacts of them."""
        if self.off or self.preset == "custom":
            return
        try:
            found = runs.load(self.name, self.preset)
        except MissingRuns:
            return
        with self._safely():
            artifacts = pages.artifacts(self.name, self.preset)
            csvs = [about["csv_sha256"] for about in artifacts.values()]
            marker = self._marker(self.name, f"summary-{self.preset}")
            content = _digest("".join([run.key for run in found] + csvs))
            if marker.is_file() and marker.read_text() == content:
                return
            page = self._open(f"{self.name}-{self.preset}", "artifact", {})
            with _finishing(page):
                page.log({"runs": pages.overview(self.wandb, found)})
                for image, about in artifacts.items():
                    page.log(pages.artifact(self.wandb, image, about))
                    page.summary[f"verdict/{image.stem}"] = about["verdict"]["word"]
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
            page, self._page = self._page, None
            if page is None:
                page = self._open(run.key, job, flatten(run.config))
            with _finishing(page):
                for point in pages.curve(run):
                    page.log(point)
                page.log({**run.metrics, **pages.media(self.wandb, run)})
                facts = {f"meta/{name}": run.meta.get(name) for name in pages.FACTS}
                page.summary.update(facts)
            self._done(marker, "sent")

    def _send_part(self, path: Path) -> None:
        """Mirror what a run is made of on a page of its own, unless it was moved away."""
        if path.is_dir():
            ours, self._page = self._page, None
            try:
                part = Run.at(path)
                self._send(part, pages.kind(part))
            finally:
                self._page = ours

    def _hear(self, values: dict[str, float]) -> None:
        if self._page is not None:
            with self._safely():
                self._page.log({f"training/{name}": value for name, value in values.items()})

    def _leave(self, preempted: bool = False) -> None:
        page, self._page = self._page, None
        if page is not None:
            if preempted:
                page.mark_preempting()
            page.finish(exit_code=1)

    @contextlib.contextmanager
    def _safely(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # wandb raises many kinds; none may end an experiment
            self._page = None
            self.off = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            again = f"python -m experiments.tracking replay {self.name}"
            print(f"W&B: off from here, {self.off}; later: `{again}`", file=sys.stderr)

    def _open(self, identity: str, job: str, config: dict[str, Any], seen: bool = False) -> Any:
        # Of a run that is only sent, this process's use of the machine says nothing.
        page = self.wandb.init(
            project=wandb_mode.project(),
            entity=wandb_mode.entity(),
            id=identity,
            name=identity,
            group=f"{self.name}/{self.preset}",
            job_type=job,
            config=config,
            resume="allow",
            reinit="create_new",
            mode=self.mode,
            dir=str(runs.results()),
            settings=SETTINGS | {"x_disable_stats": not seen},
        )
        page.define_metric("training/*", step_metric="training/epoch")
        return page

    def _marker(self, name: str, identity: str) -> Path:
        file = f"{identity}.{wandb_mode.destination(self.mode)}"
        return runs.results() / "runs" / name / "tracked" / file

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
    parser = Parser(
        prog="python -m experiments.tracking", description="Send finished runs to W&B, each once."
    )
    parser.add_argument("command", choices=["replay"])
    parser.add_argument("name", nargs="?", help="one experiment (default: all)")
    try:
        given = parser.parse_args(argv)
        return replay(given.name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


@contextlib.contextmanager
def _finishing(page: Any) -> Iterator[None]:
    try:
        yield
    except BaseException:
        page.finish(exit_code=1)
        raise
    page.finish()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
