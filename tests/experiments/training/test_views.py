"""Views of images: what moves them, and the ten of test-time augmentation."""

import numpy as np
import pytest
import torch

from experiments.data.photos import Photos
from experiments.training import augmentation
from experiments.training.augmentation import CropAndFlip, Look, Photographed, Shifted, many, seen

IMAGE = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def photographs(*sizes: tuple[int, int]) -> Photos:
    draw = torch.Generator().manual_seed(1)
    return Photos.of([(255 * torch.rand(3, *s, generator=draw)).to(torch.uint8) for s in sizes])


PHOTOS = photographs((40, 60), (70, 45))
FIRST = PHOTOS.take([0], torch.device("cpu"))


def test_ten_views_are_the_corners_and_the_middle_and_their_mirrors():
    views = list(Shifted(pad=2).several(IMAGE))
    assert len(views) == 10
    assert all(view.shape == IMAGE.shape for view in views)
    for plain, mirrored in zip(views[::2], views[1::2], strict=True):
        torch.testing.assert_close(mirrored, plain.flip(-1), rtol=0, atol=0)
    torch.testing.assert_close(views[8], IMAGE, rtol=0, atol=0)
    first = views[0]  # the upper left: two black rows and columns, then the image
    assert not first[:, :, :2].any()
    assert not first[:, :, :, :2].any()
    torch.testing.assert_close(first[:, :, 2:, 2:], IMAGE[:, :, :-2, :-2], rtol=0, atol=0)
    torch.testing.assert_close(views[6][:, :, :-2, :-2], IMAGE[:, :, 2:, 2:], rtol=0, atol=0)


def test_digits_have_five_views_and_are_not_mirrored():
    views = list(Shifted(pad=1, mirror=False).several(IMAGE))
    assert len(views) == 5
    torch.testing.assert_close(views[4], IMAGE, rtol=0, atol=0)
    torch.manual_seed(0)
    moved = Shifted(pad=1, mirror=False).moved(IMAGE.expand(5, 3, 8, 8).repeat(40, 1, 1, 1))
    places = {tuple(row.flatten().tolist()) for row in moved[::5]}
    assert len(places) == 9, "every shift of one image, and no mirror image"


def test_moving_is_that_of_training_where_images_are_mirrored():
    torch.manual_seed(3)
    ours = Shifted(pad=4).moved(IMAGE)
    torch.manual_seed(3)
    torch.testing.assert_close(ours, CropAndFlip(4)(IMAGE), rtol=0, atol=0)
    still = Shifted(pad=0, mirror=False).moved(IMAGE)
    torch.testing.assert_close(still, IMAGE, rtol=0, atol=0)


def test_photographs_of_any_size_become_images_of_one():
    view = Photographed(side=16, shorter=20)
    torch.manual_seed(0)
    moved, again = view.moved(PHOTOS), view.moved(PHOTOS)
    plain = view.plain(PHOTOS)
    for images in (moved, plain, *view.several(PHOTOS)):
        assert images.shape == (2, 3, 16, 16)
        assert 0 <= images.min() <= images.max() <= 1
    assert not torch.equal(moved, again)
    assert len(list(view.several(PHOTOS))) == 10
    torch.testing.assert_close(list(view.several(PHOTOS))[8], plain)


def test_a_photograph_is_resized_as_torchvision_does():
    from torchvision.transforms.v2 import functional as F

    view = Photographed(side=16, shorter=20)
    whole = F.resize(PHOTOS[0].float() / 255, [20], antialias=True)
    expected = F.center_crop(whole, [16, 16])
    found = view.plain(FIRST)[0]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


def test_the_parts_of_a_photograph_are_those_torchvision_draws():
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(5)
    found = Photographed(side=16).moved(FIRST)[0]
    torch.manual_seed(5)
    expected = RandomResizedCrop(16, antialias=True)(PHOTOS[0].float() / 255)
    close = [np.abs(found.numpy() - one.numpy()).max() for one in (expected, expected.flip(-1))]
    assert min(close) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("gathered", [1, 10_000, 1 << 26])
def test_many_photographs_at_once_are_seen_as_each_alone(gathered, monkeypatch):
    monkeypatch.setattr(augmentation, "GATHERED", gathered)
    photos = photographs((40, 60), (70, 45), (33, 37), (9, 200), (16, 16), (500, 7))
    looks = [
        Look(0, 0, 40, 60, 20, 30, 2, 7, 16, mirror=True),  # smaller, in part
        Look(3, 5, 12, 9, 16, 16, 0, 0, 16, mirror=False),  # larger
        Look(32, 36, 1, 1, 16, 16, 0, 0, 16, mirror=True),  # the last pixel
        Look(0, 0, 9, 200, 16, 16, 0, 0, 16, mirror=False),  # one way larger, the other smaller
        Look(0, 0, 16, 16, 16, 16, 0, 0, 16, mirror=True),  # only mirrored
        Look(499, 0, 1, 7, 17, 300, 1, 284, 16, mirror=False),
    ]
    found = many(photos, looks)
    assert found.shape == (6, 3, 16, 16)
    torch.testing.assert_close(found, seen(photos, looks), rtol=0, atol=2e-5)
    torch.manual_seed(0)
    each = Photographed(side=16, shorter=20).moved(photos)
    monkeypatch.setattr(augmentation, "seen", many)
    torch.manual_seed(0)
    torch.testing.assert_close(
        Photographed(side=16, shorter=20).moved(photos), each, rtol=0, atol=2e-5
    )
