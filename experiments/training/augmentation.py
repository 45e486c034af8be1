"""How a classifier sees images: moved at random in training, plain, or in several views."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.data.photos import Photos
from experiments.laboratory.tensors import sent
from experiments.training.plans import Loss, hits

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random crop, as torchvision draws it
PLACES = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))  # of the several views
GATHERED = 1 << 26  # pixels of photographs resized at a time, each of them some 13 bytes


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
    return loss if augment is None else _Augmented(loss, augment)


@dataclass(frozen=True)
class _Augmented:
    loss: Loss
    augment: CropAndFlip

    def __call__(self, model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        return self.loss(model, self._moved(batch))

    @property
    def hits(self) -> Loss | None:
        """Which moved images are right, if the loss says that of images."""
        own = hits(self.loss)
        return None if own is None else lambda model, batch: own(model, self._moved(batch))

    def _moved(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**batch, "image": self.augment(batch["image"])}


def moved(image: Tensor, pad: int, mirror: bool) -> Tensor:
    """Random crops of images (b, channels, height, width) with black margins, as large as they are.

    With `mirror`, half of them are mirrored. Random numbers come from torch's global generator.
    """
    (b, _, height, width), device = image.shape, image.device
    draws = torch.randint(0, 2 * pad + 1, (2, b, 1))
    if mirror:
        draws = torch.cat([draws, torch.randint(0, 2, (1, b, 1), dtype=torch.bool)])
    top, left, *mirrored = sent(draws, device)  # drawn on the CPU, moved in one copy
    columns = torch.arange(width, device=device).expand(b, width)
    if mirror:
        columns = torch.where(mirrored[0] != 0, columns.flip(1), columns)
    rows, columns = top + torch.arange(height, device=device), left + columns
    padded = F.pad(image, (pad,) * 4).permute(0, 2, 3, 1)
    each = torch.arange(b, device=device)[:, None, None]
    return padded[each, rows[:, :, None], columns[:, None]].movedim(3, 1)


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


class Look(NamedTuple):
    """What is seen of a photograph: a box of it, resized, and of that a square.

    top, left, height, width  the box
    rows, columns             its size after resizing
    down, right, side         where in it the square begins, and its side
    mirror                    whether the square is mirrored
    """

    top: int
    left: int
    height: int
    width: int
    rows: int
    columns: int
    down: int
    right: int
    side: int
    mirror: bool


@dataclass(frozen=True)
class Photographed:
    """Photographs (3, height, width) uint8 of many sizes, seen as usual for ImageNet.

    Training sees a random part, resized to `side` pixels, half of them mirrored. The plain view is
    the middle of the photograph, resized to a shorter side of `shorter` pixels; the several views
    are its corners and middle, and their mirror images: 10.
    """

    side: int = 224
    shorter: int = 256

    def moved(self, photos: Photos) -> Tensor:
        """A random part of each photograph, (b, 3, side, side), by torch's global generator."""
        from torchvision.transforms import RandomResizedCrop

        looks, whole = [], (self.side, self.side, 0, 0, self.side)
        for photo in photos:
            box = RandomResizedCrop.get_params(photo, list(SCALE), list(RATIO))
            mirror = bool(torch.rand(1) < 0.5)
            looks.append(Look._make((*box, *whole, mirror)))
        return seen(photos, looks)

    def plain(self, photos: Photos) -> Tensor:
        """The middle of each photograph, (b, 3, side, side)."""
        return self._looked(photos, 0.5, 0.5, mirror=False)

    def several(self, photos: Photos) -> Iterator[Tensor]:
        """All photographs, one view after another."""
        for down, right in PLACES:
            for mirror in (False, True):
                yield self._looked(photos, down, right, mirror)

    def _looked(self, photos: Photos, down: float, right: float, mirror: bool) -> Tensor:
        looks = []
        for height, width in photos.sizes.tolist():
            factor = self.shorter / min(height, width)
            rows, columns = (max(self.shorter, round(factor * n)) for n in (height, width))
            corner = round(down * (rows - self.side)), round(right * (columns - self.side))
            looks.append(Look(0, 0, height, width, rows, columns, *corner, self.side, mirror))
        return seen(photos, looks)


def seen(photos: Photos, looks: Sequence[Look]) -> Tensor:
    """What each look sees of its photograph, (b, 3, side, side) float32 in [0, 1].

    On the CPU one photograph after another; elsewhere many at once, the same to rounding.
    """
    if photos.pixels.device.type == "cpu":
        return torch.stack([_one(*pair) for pair in zip(photos, looks, strict=True)])
    return many(photos, looks)


def _one(photo: Tensor, look: Look) -> Tensor:
    part = photo[None, :, look.top : look.top + look.height, look.left : look.left + look.width]
    resized = F.interpolate(
        part.float() / 255,
        (look.rows, look.columns),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )[0]
    square = resized[:, look.down : look.down + look.side, look.right : look.right + look.side]
    return square.flip(2) if look.mirror else square


def many(photos: Photos, looks: Sequence[Look]) -> Tensor:
    """The same by two products with matrices of weights, for GATHERED numbers at a time."""
    boxes = np.array([(look.height, look.width) for look in looks])
    size = max(1, GATHERED // (3 * int(boxes.max(0).prod())))
    numbers = torch.from_numpy(np.concatenate([photos.starts[:, None], photos.sizes, looks], 1))
    groups = sent(numbers, photos.pixels.device).split(size)
    extents = [boxes[start : start + size].max(0).tolist() for start in range(0, len(boxes), size)]
    with torch.autocast(photos.pixels.device.type, enabled=False):
        parts = [
            _resampled(photos.pixels, group, height, width, looks[0].side)
            for group, (height, width) in zip(groups, extents, strict=True)
        ]
    return torch.cat(parts)


def _resampled(pixels: Tensor, numbers: Tensor, height: int, width: int, side: int) -> Tensor:
    """Looks (b, 13): start and size of the photograph, then a Look; no box is larger than given."""
    start, rows, columns, *look = numbers.T[..., None]
    top, left, *box, down, right, _, mirror = look
    y, x = (torch.arange(size, device=pixels.device) for size in (height, width))
    vertical = _weights(box[0], box[2], down, y, side)
    horizontal = _weights(box[1], box[3], right, x, side)
    horizontal = torch.where(mirror[..., None] != 0, horizontal.flip(1), horizontal)
    # Beyond a box, which has no weight, its last pixel stands for those that may not exist.
    y, x = top + y.minimum(box[0] - 1), left + x.minimum(box[1] - 1)
    channel = start + torch.arange(3, device=pixels.device) * rows * columns
    place = channel[:, :, None, None] + (y * columns)[:, None, :, None] + x[:, None, None]
    return vertical[:, None] @ (pixels[place].float() / 255) @ horizontal.mT[:, None]


def _weights(size: Tensor, resized: Tensor, first: Tensor, pixel: Tensor, side: int) -> Tensor:
    """Each pixel's weight in each of the resized ones from `first` on, (b, side, pixels).

    As torch's antialiased bilinear interpolation: a triangle of one resized pixel to each side.
    """
    scale = size.float() / resized
    centre = scale * (first + torch.arange(side, device=size.device) + 0.5)
    distance = (pixel + 0.5 - centre[..., None]).abs() / scale.clamp_min(1)[..., None]
    weights = (1 - distance).clamp_min(0) * (pixel < size)[:, None]
    return weights / weights.sum(2, keepdim=True)


def _five(images: Tensor, height: int, width: int, mirror: bool) -> Iterator[Tensor]:
    for down, right in PLACES:
        view = _crop(images, down, right, height, width)
        yield view
        if mirror:
            yield view.flip(-1)


def _crop(images: Tensor, down: float, right: float, height: int, width: int) -> Tensor:
    """A part of images (..., h, w); `down` and `right` are 0 to 1, from the top left corner."""
    top = round(down * (images.shape[-2] - height))
    left = round(right * (images.shape[-1] - width))
    return images[..., top : top + height, left : left + width]
