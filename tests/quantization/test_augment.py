"""Crops: of pictures that hold their own coordinates, so that a crop tells where it was taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgeq.quantization.augment import augmented, blurred, crops, in_half

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


def test_augmented_images_are_blurred_crops() -> None:
    images = torch.randn(40, 3, 150, 160, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(
        augmented(images, torch.Generator().manual_seed(1)), blurred(crops(images, generator), generator)
    )


@pytest.mark.parametrize("shape", [(4, 7), (4, 2, 5), (2, 3, 4, 4, 4)], ids=str)
def test_what_is_no_image_is_left_as_it_is(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape).half()
    found = cropped(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, x.float())


# --- blur -----------------------------------------------------------------------------------------------------------


def spread(count: int, height: int = 150, width: int = 180) -> Tensor:
    """What blurs make of pictures with one bright pixel in the middle."""
    points = torch.zeros(count, 2, height, width)
    points[:, :, height // 2, width // 2] = 1
    return blurred(points, torch.Generator().manual_seed(0))


def deviations(found: Tensor, dim: int) -> Tensor:
    """The standard deviation of what a point became, along the rows (2) or the columns (3)."""
    line = found.sum(5 - dim)[:, 0]
    at = torch.arange(line.shape[1]) - line.shape[1] // 2
    return (line * at.square()).sum(1).sqrt()


def test_half_of_the_images_are_blurred_by_up_to_a_150th_of_the_shorter_side() -> None:
    """Half of the blurs of up to one pixel are wider than half a pixel: 250 expected of 1000, standard deviation 14."""
    found = deviations(spread(1000), 2)
    assert 190 < int((found > 0.5).sum()) < 310
    assert 0.95 < found.max() < 1.01
    torch.testing.assert_close(found, deviations(spread(1000), 3))


def test_a_blur_is_a_gaussian_of_the_same_sum() -> None:
    found = spread(200)
    torch.testing.assert_close(found.sum((2, 3)), torch.ones(200, 2))
    assert torch.equal(found[:, 0], found[:, 1])
    widest = found[:, 0].amax((1, 2)).argmin()
    row = found[widest, 0, 75] / found[widest, 0, 75, 90]
    one, two = row[91], row[92]
    torch.testing.assert_close(two, one**4)  # exp(-4 c) and exp(-c)


def test_a_picture_of_one_colour_stays_so_in_a_blur() -> None:
    colours = torch.randn(50, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(50, 3, 200, 160)
    torch.testing.assert_close(blurred(colours, torch.Generator().manual_seed(0)), colours)


def test_the_seed_chooses_the_blur() -> None:
    images = torch.randn(8, 3, 150, 150, generator=torch.Generator().manual_seed(0))
    first, again, other = (blurred(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("shape", [(4, 7), (4, 2, 5), (2, 3, 4, 4, 4), (2, 1, 1, 1), (2, 3, 1, 400)], ids=str)
def test_what_is_too_small_for_a_blur_or_no_image_is_left_as_it_is(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(blurred(x, torch.Generator().manual_seed(0)), x)


# --- half precision -------------------------------------------------------------------------------------------------


def test_in_half_precision_unless_a_value_is_too_large() -> None:
    """The largest number of float16 is 65504; from 65520 on it is infinity."""
    assert in_half(torch.tensor([65504.0, -1.0])).dtype == torch.float16
    large = torch.tensor([65520.0, 0.1])
    assert torch.equal(in_half(large), large)
    assert in_half(large).dtype == torch.float32
