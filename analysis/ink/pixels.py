"""Images drawn from the bytes in a cell of the CSV."""

import numpy as np
from matplotlib.axes import Axes

from analysis.numbers.cells import unpacked
from analysis.numbers.table import Row


def show(axes: Axes, row: Row, frame: str, linewidth: float) -> None:
    """Draw the image of a row: its `pixels`, in `height` lines, of one channel or `channels`."""
    pixels = np.frombuffer(unpacked(row["pixels"]), dtype=np.uint8)
    height, channels = int(row["height"]), int(row.get("channels", 1))
    if channels == 1:
        axes.imshow(pixels.reshape(height, -1), cmap="gray_r", vmin=0, vmax=255)
    else:
        axes.imshow(pixels.reshape(height, -1, channels))
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set(visible=True, color=frame, linewidth=linewidth)
