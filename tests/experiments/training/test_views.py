"""Views of images: what moves them, and the ten of test-time augmentation."""

import numpy as np
import pytest
import torch

from experiments.training.augmentation import CropAndFlip, Photographed, Shifted

IMAGE = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PHOTOS = [
    (255 * torch.rand(3, *size, generator=torch.Generator().manual_seed(1))).to(torch.uint8)
    for size in ((40, 60), (70, 45))
]


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
    found = view.plain(PHOTOS[:1])[0]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


def test_the_parts_of_a_photograph_are_those_torchvision_draws():
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(5)
    found = Photographed(side=16).moved(PHOTOS[:1])[0]
    torch.manual_seed(5)
    expected = RandomResizedCrop(16, antialias=True)(PHOTOS[0].float() / 255)
    close = [np.abs(found.numpy() - one.numpy()).max() for one in (expected, expected.flip(-1))]
    assert min(close) == pytest.approx(0, abs=1e-5)
