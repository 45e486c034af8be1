"""How a classifier sees images: moved at random in training, plain, or in several views."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.training.plans import Loss

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random crop, as torchvision draws it


@dataclass(frozen=True)
class CropAndFlip:
    """Add `pad` black pixels on each side, crop to the original size, mirror half of the time.

    He et al. (2016), Sec. 4.2. Random numbers are from torch's global generator, seeded every step.
    """

    pad: int = 4

    def __call__(self, image: Tensor) -> Tensor:
        """Move each image of (b, channels, height, width) independently."""
        return moved(image, self.pad, mirror=True)


def augmented(loss: Loss, augment: CropAndFlip | None) -> Loss:
    """The loss on moved images; the loss itself without augmentation."""
    if augment is None:
        return loss
    return lambda model, batch: loss(model, {**batch, "image": augment(batch["image"])})


def moved(image: Tensor, pad: int, mirror: bool) -> Tensor:
    """Random crops of images (b, channels, height, width) with black margins, as large as they are.

    With `mirror`, half of them are mirrored. Random numbers come from torch's global generator.
    """
    b, _, height, width = image.shape
    top, left = torch.randint(0, 2 * pad + 1, (2, b, 1))
    columns = torch.arange(width).expand(b, width)
    if mirror:
        mirrored = torch.randint(0, 2, (b, 1), dtype=torch.bool)
        columns = torch.where(mirrored, columns.flip(1), columns)
    rows, columns = top + torch.arange(height), left + columns
    padded = F.pad(image, (pad,) * 4).permute(0, 2, 3, 1)
    device = image.device
    rows, columns = rows.to(device)[:, :, None], columns.to(device)[:, None]
    return padded[torch.arange(b, device=device)[:, None, None], rows, columns].movedim(3, 1)


@dataclass(frozen=True)
class Shifted:
    """Small images (b, channels, height, width) with `pad` black pixels added on each side.

    Training sees a random crop of the original size, half of them mirrored if `mirror`. The 5 views
    are the crops at the corners and in the middle; if `mirror`, their mirror images make them 10.
    """

    pad: int = 4
    mirror: bool = True

    def moved(self, images: Tensor) -> Tensor:
        """Each image moved independently, by torch's global generator."""
        return moved(images, self.pad, self.mirror)

    def plain(self, images: Tensor) -> Tensor:
        """The images themselves."""
        return images

    def several(self, images: Tensor) -> Iterator[Tensor]:
        """All images, one view after another."""
        _, _, height, width = images.shape
        padded = F.pad(images, (self.pad,) * 4)
        yield from _five(padded, height, width, self.mirror)


@dataclass(frozen=True)
class Photographed:
    """Photographs (3, height, width) uint8 of many sizes, seen as usual for ImageNet.

    Training sees a random part, resized to `side` pixels, half of them mirrored. The plain view is
    the middle of the photograph, resized to a shorter side of `shorter` pixels; the several views
    are its corners and middle, and their mirror images: 10.
    """

    side: int = 224
    shorter: int = 256

    def moved(self, photos: Sequence[Tensor]) -> Tensor:
        """A random part of each photograph, (b, 3, side, side), by torch's global generator."""
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
        """All photographs, one view after another."""
        views = [list(_five(self._whole(p)[None], self.side, self.side, True)) for p in photos]
        for same in zip(*views, strict=True):
            yield torch.cat(same)

    def _whole(self, photo: Tensor) -> Tensor:
        _, height, width = photo.shape
        factor = self.shorter / min(height, width)
        return _resized(photo, *(max(self.shorter, round(factor * n)) for n in (height, width)))


def _five(images: Tensor, height: int, width: int, mirror: bool) -> Iterator[Tensor]:
    for down, right in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5)):
        view = _crop(images, down, right, height, width)
        yield view
        if mirror:
            yield view.flip(-1)


def _crop(images: Tensor, down: float, right: float, height: int, width: int) -> Tensor:
    """A part of images (..., h, w); `down` and `right` are 0 to 1, from the top left corner."""
    top = round(down * (images.shape[-2] - height))
    left = round(right * (images.shape[-1] - width))
    return images[..., top : top + height, left : left + width]


def _resized(photo: Tensor, height: int, width: int) -> Tensor:
    """The photograph in float32, in [0, 1], of another size."""
    pixels = photo[None].float() / 255
    return F.interpolate(
        pixels, (height, width), mode="bilinear", align_corners=False, antialias=True
    )[0]
