"""Images moved and mirrored at random in training."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Callable[[Tensor], Tensor], dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class CropAndFlip:
    """`pad` black pixels on each side, a crop of the original size, mirrored half of the time.

    He et al. (2016), Sec. 4.2. Numbers come from torch's global generator, which training seeds
    for every step.
    """

    pad: int = 4

    def __call__(self, image: Tensor) -> Tensor:
        """Move every image (b, channels, height, width) on its own."""
        return moved(image, self.pad, mirror=True)

    def loss(self, loss: Loss) -> Loss:
        """The loss of moved images."""
        return lambda model, batch: loss(model, {**batch, "image": self(batch["image"])})


def moved(image: Tensor, pad: int, mirror: bool) -> Tensor:
    """Crops of the original size of images (b, channels, height, width) with a black margin.

    With `mirror`, half of them are. Numbers come from torch's global generator.
    """
    b, _, height, width = image.shape
    top, left = torch.randint(0, 2 * pad + 1, (2, b, 1))
    columns = torch.arange(width).expand(b, width)
    if mirror:
        columns = torch.where(
            torch.randint(0, 2, (b, 1), dtype=torch.bool), columns.flip(1), columns
        )
    rows, columns = top + torch.arange(height), left + columns
    padded = F.pad(image, (pad,) * 4).permute(0, 2, 3, 1)
    device = image.device
    rows, columns = rows.to(device)[:, :, None], columns.to(device)[:, None]
    return padded[torch.arange(b, device=device)[:, None, None], rows, columns].movedim(3, 1)
