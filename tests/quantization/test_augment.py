"""Crops: of pictures that hold their own coordinates, so that a crop tells where it was taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgeq.quantization.augment import crops, in_half

SIZE = 32


def cropped(images: Tensor, seed: int = 0) -> Tensor:
    return crops(images, torch.Generator().manual_seed(seed))


def coordinates(count: int) -> Tensor:
    """Pictures whose channels are the column and the row of each pixel, from -1 at one border to 1 at the other."""
    at = 2 * (torch.arange(SIZE) + 0.5) / SIZE - 1
    return torch.stack((at.expand(SIZE, SIZE), at[:, None].expand(SIZE, SIZE))).expand(count, 2, SIZE, SIZE)


def extents(found: Tensor) -> tuple[Tensor, Tensor]:
    """Width, negative if mirrored, and height of crops of `coordinates`, 1 for the whole picture.

    They are the slopes, taken away from the border, where half a pixel may be reflected.
    """
    first, last = 4, SIZE - 5
    scale = SIZE / (last - first) / 2
    width = (found[:, 0, SIZE // 2, last] - found[:, 0, SIZE // 2, first]) * scale
    height = (found[:, 1, last, SIZE // 2] - found[:, 1, first, SIZE // 2]) * scale
    return width, height


def test_crops_have_the_shape_of_the_images_and_are_channels_last() -> None:
    found = cropped(torch.randn(5, 3, 8, 12))
    assert found.shape == (5, 3, 8, 12)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_the_seed_chooses_the_crops() -> None:
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(cropped(images), cropped(images))
    assert not torch.equal(cropped(images), cropped(images, seed=1))


def test_each_image_has_a_crop_of_its_own() -> None:
    picture = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = cropped(picture.expand(20, 3, 16, 16))
    assert all(not torch.equal(found[i], found[k]) for i in range(20) for k in range(i))


def test_crops_take_half_of_the_area_at_least() -> None:
    width, height = extents(cropped(coordinates(1000)))
    area = width.abs() * height
    assert 0.495 < area.min() < 0.52
    assert 0.95 < area.max() < 1.005


def test_the_aspect_of_crops_is_at_most_4_to_3() -> None:
    width, height = extents(cropped(coordinates(1000)))
    assert 1.3 < (width.abs() / height).max() < 4 / 3 + 0.01
    assert 1.3 < (height / width.abs()).max() < 4 / 3 + 0.01


def test_half_of_the_crops_are_mirrored_and_none_is_upside_down() -> None:
    """500 expected of 1000, standard deviation 16."""
    width, height = extents(cropped(coordinates(1000)))
    assert 430 < int((width < 0).sum()) < 570
    assert (height > 0).all()


def test_crops_lie_inside_the_picture_and_reach_all_its_borders() -> None:
    found = cropped(coordinates(1000))
    width, height = extents(found)
    for channel, extent in ((0, width.abs()), (1, height)):
        middle = found[:, channel].mean(dim=(1, 2))  # of a crop, whether mirrored or not
        assert (middle.abs() + extent).max() < 1.01
        assert (middle + extent).max() > 0.99
        assert (middle - extent).min() < -0.99


def test_an_image_of_one_colour_stays_what_it_is() -> None:
    """Also at the border, which some of so many crops touch: nothing black comes in."""
    colours = torch.tensor([[0.5, -2.0, 7.0], [1.0, 0.0, -1.0]]).repeat(200, 1)[:, :, None, None].expand(400, 3, 9, 9)
    torch.testing.assert_close(cropped(colours), colours)


def test_values_in_half_precision_are_cropped_in_float() -> None:
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    assert torch.equal(cropped(images), cropped(images.float()))


@pytest.mark.parametrize("shape", [(4, 7), (4, 2, 5), (2, 3, 4, 4, 4)], ids=str)
def test_what_is_no_image_is_left_as_it_is(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape).half()
    found = cropped(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, x.float())


# --- half precision -------------------------------------------------------------------------------------------------


def test_in_half_precision_unless_a_value_is_too_large() -> None:
    """The largest number of float16 is 65504; from 65520 on it is infinity."""
    assert in_half(torch.tensor([65504.0, -1.0])).dtype == torch.float16
    large = torch.tensor([65520.0, 0.1])
    assert torch.equal(in_half(large), large)
    assert in_half(large).dtype == torch.float32
