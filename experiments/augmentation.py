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
        b, _, height, width = image.shape
        top, left = torch.randint(0, 2 * self.pad + 1, (2, b, 1))
        flip = torch.randint(0, 2, (b, 1), dtype=torch.bool)
        across = torch.arange(width).expand(b, width)
        columns = left + torch.where(flip, across.flip(1), across)
        rows = top + torch.arange(height)
        padded = F.pad(image, (self.pad,) * 4).permute(0, 2, 3, 1)
        device = image.device
        rows, columns = rows.to(device)[:, :, None], columns.to(device)[:, None]
        return padded[torch.arange(b, device=device)[:, None, None], rows, columns].movedim(3, 1)

    def loss(self, loss: Loss) -> Loss:
        """The loss of moved images."""
        return lambda model, batch: loss(model, {**batch, "image": self(batch["image"])})
