from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import get_args

import matplotlib
import numpy as np
import pytest

from edgeq.data import glyphs

SPLITS: tuple[glyphs.Split, ...] = get_args(glyphs.Split)


def digests(split: glyphs.Split, count: int) -> list[str]:
    return [sha256(glyphs.render(split, index).tobytes()).hexdigest() for index in range(count)]


def test_classes_are_distinct_and_leave_out_lookalikes() -> None:
    assert len(glyphs.CLASSES) == len(set(glyphs.CLASSES)) == 43
    assert not set("OoIlcqgsuvwxz") & set(glyphs.CLASSES)


def test_labels_take_turns() -> None:
    assert [glyphs.label(index) for index in (0, 1, 42, 43, 87)] == [0, 1, 42, 0, 1]


def test_image_is_rgb_bytes_of_the_documented_size() -> None:
    image = glyphs.render("test", 7)
    assert image.dtype == np.uint8
    assert image.shape == (96, 96, 3)


def test_no_image_is_drawn_twice_within_or_across_splits() -> None:
    drawn = [digest for split in SPLITS for digest in digests(split, 60)]
    assert len(set(drawn)) == 180


def test_pixels_do_not_depend_on_order_or_thread() -> None:
    expected = digests("calib", 16)
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda index: glyphs.render("calib", index), reversed(range(16))))
    assert [sha256(image.tobytes()).hexdigest() for image in reversed(drawn)] == expected


def test_another_process_draws_the_same_pixels() -> None:
    script = (
        "import hashlib; from edgeq.data import glyphs;"
        "print(*[hashlib.sha256(glyphs.render('train', i).tobytes()).hexdigest() for i in range(4)])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert found == digests("train", 4)


def test_matplotlib_ships_every_font() -> None:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    assert [name for name in glyphs._FONTS if not (folder / f"{name}.ttf").is_file()] == []


@pytest.mark.parametrize("seed", range(5))
def test_ink_stands_out_from_the_background(seed: int) -> None:
    background, ink = glyphs._colours(np.random.default_rng(seed))
    assert np.sqrt(((background - ink) ** 2).sum()) >= 80


@pytest.mark.parametrize("character", glyphs.CLASSES)
def test_every_character_is_drawn_whole(character: str) -> None:
    """In many random fonts and poses: some ink, not a blot, and next to none of it on the frame."""
    for seed in range(20):
        mask = np.asarray(glyphs._warped_glyph(character, np.random.default_rng(seed))) / 255.0
        frame = mask.sum() - mask[1:-1, 1:-1].sum()
        assert 0.01 < mask.mean() < 0.5
        assert frame <= 0.05 * mask.sum()
