from __future__ import annotations

import io
import json
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torchvision import transforms
from torchvision.datasets.folder import default_loader

from edgeq.data import glyphs
from edgeq.data.preprocess import (
    EMBEDDED,
    IMAGENET,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ChannelOrder,
    Layout,
    Preprocess,
    interleaved,
)
from edgeq.errors import ArtifactError, DataError, UnsupportedError

TINY = Preprocess(4, 4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
PALETTE = [255, 0, 0, 0, 255, 0, 0, 0, 255]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def bytes_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb(image: Image.Image) -> NDArray[np.int64]:
    """Pixels `[H, W, 3]` as they come out of a preprocessing that changes nothing."""
    side = min(image.size)
    return np.rint(Preprocess(side, side, TINY.mean, TINY.std)(image) * 255).astype(np.int64).transpose(1, 2, 0)


SIDE = st.integers(1, 60)
TRIPLE = st.tuples(*[st.floats(0.0039, 1)] * 3)


@settings(max_examples=150)
@given(size=st.tuples(st.integers(1, 90), st.integers(1, 90)), resize=SIDE | st.tuples(SIDE, SIDE), data=st.data())
def test_preprocess_equals_torchvision(
    size: tuple[int, int], resize: int | tuple[int, int], data: st.DataObject
) -> None:
    rows, columns = resize if isinstance(resize, tuple) else (resize, resize)
    pair = st.tuples(st.integers(1, rows), st.integers(1, columns))
    crop = data.draw(st.integers(1, min(rows, columns)) | pair)
    mean, std, mode = data.draw(TRIPLE), data.draw(TRIPLE), data.draw(st.sampled_from(transforms.InterpolationMode))
    reference = transforms.Compose(
        [
            transforms.Resize(resize, mode),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    image = picture(*size)
    preprocess = Preprocess(resize, crop, mean, std, mode.value.removesuffix("-exact"))
    found = preprocess(image)
    assert found.shape == preprocess.shape
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, reference(image).numpy())


def test_channels_change_places_before_they_are_normalized() -> None:
    image = Image.new("RGB", (1, 1), (255, 0, 51))
    found = Preprocess(1, 1, (0.0, 0.25, 0.5), (0.2, 0.25, 0.5), channel_order="bgr")(image)
    # B = 0.2, G = 0, R = 1: (0.2 - 0) / 0.2, (0 - 0.25) / 0.25, (1 - 0.5) / 0.5
    np.testing.assert_allclose(found.flatten(), [1, -1, 1], rtol=1e-6)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_pixels_take_everything_back(order: ChannelOrder, layout: Layout) -> None:
    image = picture(16, 16)
    preprocess = Preprocess(16, 16, IMAGENET_MEAN, IMAGENET_STD, channel_order=order, layout=layout)
    found = preprocess.pixels(preprocess(image)[None])
    as_pixels = preprocess.to_pixels()
    assert as_pixels.layout == layout
    np.testing.assert_array_equal(found, replace(as_pixels, layout="channels_first")(image)[None])
    np.testing.assert_array_equal(found * 255, np.asarray(image).transpose(2, 0, 1)[None])


def test_channels_behind_the_pixels() -> None:
    image = picture(9, 7)
    first = Preprocess((7, 9), (5, 6), IMAGENET_MEAN, IMAGENET_STD, channel_order="bgr")
    last = replace(first, layout="channels_last")
    assert (first.shape, last.shape) == ((3, 5, 6), (5, 6, 3))
    found = last(image)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, first(image).transpose(1, 2, 0))
    assert str(first).endswith("channel order bgr")
    assert str(last).endswith("channel order bgr, layout channels_last")


def test_gray_is_one_channel_of_the_colours() -> None:
    """Of red, green and blue by hand: 0.299 of 255 is 76, 0.587 is 150, 0.114 is 29."""
    image = Image.new("RGB", (3, 1))
    for column, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        image.putpixel((column, 0), colour)
    gray = Preprocess((1, 3), (1, 3), (0.5,), (0.5,), channel_order="gray")
    assert gray.shape == (1, 1, 3)
    np.testing.assert_allclose(gray(image), [[[76 / 127.5 - 1, 150 / 127.5 - 1, 29 / 127.5 - 1]]], rtol=1e-6)
    assert gray.pixels(gray(image)[None]).tolist() == (gray.to_pixels()(image)[None]).tolist()
    assert gray.to_pixels() == Preprocess((1, 3), (1, 3), (0.0,), (1.0,), channel_order="gray")


@given(size=st.tuples(SIDE, SIDE), seed=st.integers(0, 99))
def test_gray_equals_torchvision(size: tuple[int, int], seed: int) -> None:
    image = picture(*size, seed)
    reference = transforms.Compose(
        [transforms.Grayscale(), transforms.Resize((8, 9)), transforms.ToTensor(), transforms.Normalize(0.3, 0.2)]
    )
    found = Preprocess((8, 9), (8, 9), (0.3,), (0.2,), channel_order="gray")(image)
    np.testing.assert_array_equal(found, reference(image).numpy())


@pytest.mark.parametrize("std", [1 / 255, 0.0039215686, 0.00392157])
def test_networks_of_0_to_255_have_a_tiny_std(std: float) -> None:
    """As the documentation of `--std` says, with as few digits as one may write."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    found = Preprocess(16, 16, (0.0,), (std,), channel_order="gray")(ramp)
    np.testing.assert_allclose(found.flatten(), np.arange(256), rtol=1e-5)


def test_a_photo_lies_as_torchvision_opens_it(tmp_path: Path) -> None:
    """Which does not turn it, whatever its EXIF data say."""
    image, exif = picture(40, 20), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image.save(tmp_path / "a.png", exif=exif)
    opened = Image.open(tmp_path / "a.png")
    assert ImageOps.exif_transpose(opened).size == (20, 40)
    found = Preprocess((20, 40), (20, 40), TINY.mean, TINY.std)(opened)
    np.testing.assert_array_equal(found, transforms.ToTensor()(default_loader(tmp_path / "a.png")).numpy())


def test_text() -> None:
    preprocess = Preprocess((96, 128), 64, (0.5, 0.5, 0.25), (0.5, 0.5, 1 / 255), "bicubic", "bgr")
    assert str(preprocess) == (
        "resize 96,128, crop 64, mean 0.5,0.5,0.25, std 0.5,0.5,0.00392156862745098, interpolation bicubic, "
        "channel order bgr"
    )


@pytest.mark.parametrize("size", [(500, 375), (375, 501), (257, 256), (256, 300), (224, 999)])
def test_imagenet_preset_equals_torchvision(size: tuple[int, int]) -> None:
    preset = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    image = picture(*size)
    np.testing.assert_array_equal(IMAGENET(image), preset(image).numpy())


def test_embedded_preset_only_normalizes() -> None:
    pixels = glyphs.render("test", 3)
    expected = (pixels.astype(np.float32) / 255.0 - np.float32(0.485)) / np.float32(0.229)
    np.testing.assert_array_equal(EMBEDDED(Image.fromarray(pixels))[0], expected[..., 0])


@pytest.mark.parametrize(
    "preprocess", [IMAGENET, Preprocess((9, 8), (7, 8), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), "box", "bgr")]
)
def test_preprocess_survives_json(preprocess: Preprocess) -> None:
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess


NONSENSE: dict[str, tuple[dict[str, Any], str]] = {
    "crop above resize": ({"crop": 257}, "1 <= crop <= resize, found crop 257 and resize 256; change one of them"),
    "a row too many": ({"resize": [9, 9], "crop": [10, 9]}, "1 <= crop <= resize, found crop 10,9 and resize 9,9; "),
    "a column too many": ({"resize": [9, 8], "crop": 9}, "1 <= crop <= resize, found crop 9 and resize 9,8; "),
    "no crop": ({"crop": 0}, "1 <= crop <= resize, found crop 0 and resize 256; "),
    "no resize": ({"resize": 0}, "1 <= crop <= resize, found crop 224 and resize 0; "),
    "gigantic": ({"resize": 10**6}, "resize to at most 89478485 pixels, found 1000000"),
    "half a pixel": ({"resize": 256.5}, "resize and crop as one or two whole numbers, "),
    "text": ({"crop": "224"}, "resize and crop as one or two whole numbers, "),
    "three sides": ({"crop": [1, 2, 3]}, "resize and crop as one or two whole numbers, "),
    "two channels": (
        {"mean": [0.5, 0.5]},
        "mean and std of 3 numbers each for channels in the order rgb, found mean 0.5,0.5 and std 0.229,0.224,0.225; "
        "change them or the channel order$",
    ),
    "colours for gray": (
        {"channel_order": "gray"},
        "mean and std of 1 number each for channels in the order gray, found mean 0.485,0.456,0.406 and std ",
    ),
    "no mean": ({"mean": None}, "resize and crop as one or two whole numbers, mean and std as numbers, "),
    "a mean of text": ({"mean": "abc"}, "resize and crop as one or two whole numbers, mean and std as numbers, "),
    "a mean beyond floats": ({"mean": [10**400, 0, 0]}, "resize and crop as one or two whole numbers, mean and std"),
    "a mean that is none": ({"mean": [float("nan"), 0, 0]}, "mean in 0..1 and std above 0, at most 1, "),
    "a mean of 0..255": ({"mean": [123.7, 116.3, 103.5]}, "mean in 0..1 .*; divide those of pixels in 0..255 by 255"),
    "a std of 0..255": ({"std": [58.4, 57.1, 57.4]}, "mean in 0..1 .*; divide those of pixels in 0..255 by 255"),
    "no std": ({"std": [0.2, 0, 0.2]}, "mean in 0..1 and std above 0, at most 1, both of pixels scaled to 0..1"),
    "a std that float32 lacks": ({"std": [1e-50, 1, 1]}, "mean in 0..1 and std above 0, at most 1, "),
    "a negative std": ({"std": [0.2, 0.2, -0.2]}, "mean in 0..1 and std above 0, at most 1, "),
    "a filter": ({"interpolation": "area"}, "one of nearest, box, bilinear, hamming, bicubic, lanczos, found 'area'"),
    "an order": ({"channel_order": "gbr"}, "one of rgb, bgr, gray, found 'gbr'"),
    "a layout": ({"layout": "nhwc"}, "one of channels_first, channels_last, found 'nhwc'"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_no_preprocess(case: str) -> None:
    change, message = NONSENSE[case]
    body = IMAGENET.to_dict() | change
    with pytest.raises(UnsupportedError, match=f"^expected {message}"):
        Preprocess(**body)
    with pytest.raises(ArtifactError, match=r"^expected resize, .* and layout of a preprocessing, found "):
        Preprocess.from_dict(body)


def test_files_from_before_there_were_layouts() -> None:
    body = {name: value for name, value in IMAGENET.to_dict().items() if name != "layout"}
    assert Preprocess.from_dict(body) == IMAGENET


@pytest.mark.parametrize("part", [name for name in IMAGENET.to_dict() if name != "layout"])
def test_every_part_is_recorded(part: str) -> None:
    body = {name: value for name, value in IMAGENET.to_dict().items() if name != part}
    with pytest.raises(ArtifactError, match="of a preprocessing, found "):
        Preprocess.from_dict(body)


@pytest.mark.parametrize("body", [{}, [], None], ids=repr)
def test_other_things_are_no_preprocess(body: Any) -> None:
    with pytest.raises(ArtifactError):
        Preprocess.from_dict(body)


# --- colour modes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"])
def test_modes_become_what_pillow_and_torchvision_make_of_them(mode: str) -> None:
    base = picture(9, 9).convert("L") if mode == "PA" else picture(9, 9)
    image = base.convert("RGBA").convert("P").convert("PA") if mode == "PA" else base.convert(mode)
    np.testing.assert_array_equal(rgb(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("transparency", [1, b"\x00\x80\xff"], ids=["one colour", "a table"])
def test_palette_with_transparency_keeps_its_colours_without_a_warning(transparency: int | bytes) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 0]], dtype=np.uint8)).convert("P")
    image.putpalette(PALETTE)
    stored = Image.open(io.BytesIO(bytes_of(image, "PNG", transparency=transparency)))
    assert stored.mode == "P"
    assert "transparency" in stored.info
    red, green, blue = [255, 0, 0], [0, 255, 0], [0, 0, 255]
    assert rgb(stored).tolist() == [[red, green], [blue, red]]


@pytest.mark.parametrize("kind", ["PNG", "PPM", "TIFF"])
def test_16_bits_are_scaled_not_clipped(kind: str) -> None:
    wide = np.array([[0, 128, 129], [32768, 32896, 257], [65406, 65407, 65535]], dtype=np.uint16)
    stored = Image.open(io.BytesIO(bytes_of(Image.fromarray(wide), kind)))
    assert rgb(stored)[..., 0].tolist() == [[0, 0, 1], [128, 128, 1], [254, 255, 255]]
    assert np.ptp(rgb(stored), axis=2).max() == 0


def test_big_endian_16_bits() -> None:
    stored = Image.frombytes("I;16B", (1, 1), struct.pack(">H", 0x8000))
    assert rgb(stored).tolist() == [[[128, 128, 128]]]


def test_16_bits_take_little_memory() -> None:
    """The largest images have 89 million pixels, of which no copy in 64 bits must be made."""
    image = Image.new("I;16", (1000, 1000), 300)
    tracemalloc.start()
    TINY(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 1000 * 1000


@pytest.mark.parametrize("pixel", [-1, 65536])
def test_32_bits_have_no_known_white(pixel: int) -> None:
    with pytest.raises(DataError, match="32-bit or signed pixels"):
        TINY(Image.new("I", (4, 4), pixel))


def test_float_pixels_have_no_known_white() -> None:
    with pytest.raises(DataError, match="floating-point pixels"):
        TINY(Image.new("F", (4, 4), 0.5))


def test_images_as_cameras_have_them() -> None:
    images = np.zeros((1, 3, 1, 2), np.float32)
    images[0, :, 0, 0], images[0, :, 0, 1] = (0, 1, 51 / 255), (2 / 255, 3 / 255, 4 / 255)
    assert interleaved(images).tolist() == [[[[0, 255, 51], [2, 3, 4]]]]
    assert interleaved(images).dtype == np.uint8


@pytest.mark.parametrize("preprocess", [IMAGENET, Preprocess(16, 16, (0.4, 0.6, 0.2), (0.2, 0.25, 0.5))])
def test_pixels_of_normalized_images(preprocess: Preprocess) -> None:
    every = np.arange(256, dtype=np.float32).reshape(1, 1, 16, 16).repeat(3, 1) / np.float32(255)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (preprocess.mean, preprocess.std))
    np.testing.assert_array_equal(preprocess.pixels((every - mean) / std), every)
