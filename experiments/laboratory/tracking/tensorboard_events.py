"""Pages as TensorBoard shows them: `tensorboard --logdir results/tensorboard`.

The step of a point is the number of steps of the training, or else its epoch.
"""

import importlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.laboratory import runs
from experiments.laboratory.tracking.interface import Content, Ended, Page, Picture

STEPS = ("training/step", "training/epoch")
SHOWN_ROWS = 100  # of a table, which TensorBoard shows as text
BINS = 64


class TensorBoard:
    """Event files in the folder of results, by torch.utils.tensorboard."""

    label, destination = "TensorBoard", "tensorboard"

    def off(self) -> str:
        try:
            importlib.import_module("torch.utils.tensorboard")
        except ImportError:
            return "it is not installed: `pip install tensorboard`"
        return ""

    def lost(self, name: str, page_id: str) -> bool:
        return not any((runs.results() / "tensorboard").glob(f"{name}/*/*{page_id}"))

    def open(self, page: Page) -> "_Sheet":
        return _Sheet(page)


class _Sheet:
    def __init__(self, page: Page) -> None:
        events = importlib.import_module("torch.utils.tensorboard")
        called = re.sub(r"[^\w.,=\[\]-]+", "_", page.title)
        preset = page.group.rpartition("/")[2]
        folder = runs.results() / "tensorboard" / page.name / preset / f"{called}-{page.id}"
        self._writer: Any = events.SummaryWriter(log_dir=str(folder))
        self._title, self._step = page.title, 0
        self._writer.add_text("settings", _block(dict(page.config)))
        self._writer.add_text("tags", ", ".join(page.tags))

    def log(self, lines: Mapping[str, float]) -> None:
        step = next((int(lines[name]) for name in STEPS if name in lines), self._step)
        self._step = max(self._step, step)
        for name, value in lines.items():
            self._writer.add_scalar(name, value, step)

    def show(self, title: str, content: Content) -> None:
        for point in content.lines:
            self.log(point)
        texts = {}
        for name, value in content.numbers.items():
            if isinstance(value, str):
                texts[name] = value
            else:
                self._writer.add_scalar(name, float(value), self._step)
        self._writer.add_text("summary", _block({"title": title} | texts | dict(content.facts)))
        for name, table in content.tables.items():
            rows = [table.columns, ["---"] * len(table.columns), *table.rows[:SHOWN_ROWS]]
            shown = "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
            self._writer.add_text(name, shown)
        for name, values in content.histograms.items():
            if len(values):
                self._writer.add_histogram(name, values, self._step, bins=BINS)
        for name, pictures in content.pictures.items():
            for place, picture in enumerate(pictures):
                self._writer.add_image(f"{name}/{place}", _pixels(picture), dataformats="HWC")

    def close(self, ended: Ended) -> None:
        self._writer.add_text("ended", ended)
        self._writer.close()


def _block(facts: Mapping[str, Any]) -> str:
    """Facts as a block of Markdown."""
    text = json.dumps(facts, indent=1, default=str)
    return "".join(f"    {line}\n" for line in text.splitlines())


def _pixels(picture: Picture) -> np.ndarray:
    """A picture as (height, width, colours)."""
    if isinstance(picture.image, np.ndarray):
        return picture.image[:, :, None]
    from PIL import Image

    with Image.open(picture.image) as image:
        return np.asarray(image.convert("RGB"))
