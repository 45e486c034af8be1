"""Images moved and mirrored at random in training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.training.plans import Loss


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


# How a classifier sees images: moved at random in training, plain, or in several views.


SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random crop, as torchvision draws it


@dataclass(frozen=True)
class Shifted:
    """Small images (b, channels, height, width), seen through `pad` black pixels on each side.

    In training a random crop of the original size, half of them mirrored if `mirror`. Several views
    are the crops at the corners and in the middle, and if `mirror` the same mirrored: 5 or 10.
    """

    pad: int = 4
    mirror: bool = True

    def moved(self, images: Tensor) -> Tensor:
        """Every image moved on its own; from torch's global generator."""
        return moved(images, self.pad, self.mirror)

    def plain(self, images: Tensor) -> Tensor:
        """The images themselves."""
        return images

    def several(self, images: Tensor) -> Iterator[Tensor]:
        """View after view of all images."""
        _, _, height, width = images.shape
        padded = F.pad(images, (self.pad,) * 4)
        yield from _five(padded, height, width, self.mirror)


@dataclass(frozen=True)
class Photographed:
    """Photographs (3, height, width) uint8 of many sizes, as ImageNet's usual pipeline has them.

    In training a random part, resized to `side` pixels, half of them mirrored. Plain is the middle
    of the photograph whose shorter side is `shorter`; several views are its corners and middle, and
    the same mirrored: 10.
    """

    side: int = 224
    shorter: int = 256

    def moved(self, photos: Sequence[Tensor]) -> Tensor:
        """A random part of each photograph, (b, 3, side, side); from torch's global generator."""
        from torchvision.transforms import RandomResizedCrop

        parts = []
        for photo in photos:
            top, left, height, width = RandomResizedCrop.get_params(photo, list(SCALE), list(RATIO))
            part = photo[:, top : top + height, left : left + width]
            part = _resized(part, self.side, self.side)
            parts.append(part.flip(2) if torch.rand(1) < 0.5 else part)
        return torch.stack(parts)

    def plain(self, photos: Sequence[Tensor]) -> Tensor:
        """The middle of each photograph, (b, 3, side, side)."""
        return torch.stack([_crop(self._whole(p), 0.5, 0.5, self.side, self.side) for p in photos])

    def several(self, photos: Sequence[Tensor]) -> Iterator[Tensor]:
        """View after view of all photographs."""
        views = [list(_five(self._whole(p)[None], self.side, self.side, True)) for p in photos]
        for same in zip(*views, strict=True):
            yield torch.cat(same)

    def _whole(self, photo: Tensor) -> Tensor:
        _, height, width = photo.shape
        factor = self.shorter / min(height, width)
        return _resized(photo, *(max(self.shorter, round(factor * n)) for n in (height, width)))


View = Shifted | Photographed


def _five(images: Tensor, height: int, width: int, mirror: bool) -> Iterator[Tensor]:
    for down, right in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5)):
        view = _crop(images, down, right, height, width)
        yield view
        if mirror:
            yield view.flip(-1)


def _crop(images: Tensor, down: float, right: float, height: int, width: int) -> Tensor:
    """A part of images (..., h, w), at shares of the way down and to the right."""
    top = round(down * (images.shape[-2] - height))
    left = round(right * (images.shape[-1] - width))
    return images[..., top : top + height, left : left + width]


def _resized(photo: Tensor, height: int, width: int) -> Tensor:
    """In [0, 1], float32."""
    pixels = photo[None].float() / 255
    return F.interpolate(
        pixels, (height, width), mode="bilinear", align_corners=False, antialias=True
    )[0]
