from __future__ import annotations

import io
import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms

from edgeq import glyphs
from edgeq.errors import ArtifactError, DataError, UnsupportedError
from edgeq.preprocess import EMBEDDED, IMAGENET, IMAGENET_MEAN, IMAGENET_STD, Preprocess

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


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    resize=st.integers(1, 60),
    data=st.data(),
)
def test_preprocess_equals_torchvision(size: tuple[int, int], resize: int, data: st.DataObject) -> None:
    crop = data.draw(st.integers(1, resize))
    image = picture(*size)
    reference = transforms.Compose(
        [
            transforms.Resize(resize),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    found = Preprocess(resize, crop, IMAGENET_MEAN, IMAGENET_STD)(image)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, reference(image).numpy())


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


def test_preprocess_survives_json() -> None:
    assert Preprocess.from_dict(json.loads(json.dumps(IMAGENET.to_dict()))) == IMAGENET


@pytest.mark.parametrize(
    ("resize", "crop", "mean", "std"),
    [
        (224, 225, IMAGENET_MEAN, IMAGENET_STD),
        (224, 0, IMAGENET_MEAN, IMAGENET_STD),
        (224, 224, (float("nan"), 0.0, 0.0), IMAGENET_STD),
        (224, 224, IMAGENET_MEAN, (0.2, 0.0, 0.2)),
    ],
    ids=["crop above resize", "no crop", "nan mean", "zero std"],
)
def test_impossible_preprocess(
    resize: int, crop: int, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> None:
    with pytest.raises(UnsupportedError, match=r"^expected .*, found "):
        Preprocess(resize, crop, mean, std)


@pytest.mark.parametrize(
    "change",
    [
        {"resize": 0},
        {"resize": 256.0},
        {"crop": "224"},
        {"crop": 300},
        {"mean": [0.5, 0.5]},
        {"mean": None},
        {"mean": "abc"},
        {"mean": [10**400, 0, 0]},
        {"std": [0.2, 0.2, -0.2]},
    ],
    ids=str,
)
def test_nonsense_is_no_preprocess(change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=r"^expected resize, crop, mean and std of a preprocessing, found {"):
        Preprocess.from_dict(IMAGENET.to_dict() | change)


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
