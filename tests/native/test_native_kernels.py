"""The inner loops of the native engine: every set that this processor has computes what the portable one does."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int32, c_size_t, c_void_p
from fractions import Fraction
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

import edgeq.native
from edgeq.lowering.weights import trellis_bytes, unit_channels
from edgeq.native.program import DEPTH, LANES, Flag, Kind, Step
from edgeq.numerics.trellis import sequences
from edgeq.numerics.weights import HIGHEST_REDUCED, WIDTHS, BitWidth, QuantTensor, packed_shape

SOURCES: Final = Path(edgeq.native.__file__).parent / "sources"
COMPILER: Final = shlex.split(os.environ.get("CC", "cc"))
SETS: Final = ("portable", "avx2", "avx_vnni", "vnni", "neon")

Bytes = NDArray[np.uint8]
Array = NDArray[Any]

pytestmark = pytest.mark.skipif(not shutil.which(COMPILER[0]), reason=f"there is no C compiler {COMPILER[0]}")


class Primitives(Structure):
    """`eq_primitives`."""

    _fields_ = (
        ("name", c_char_p),
        ("multiply_rows", CFUNCTYPE(None, c_void_p, c_void_p, c_size_t, c_int32, c_void_p, c_size_t)),
        ("depthwise_rows", CFUNCTYPE(None, c_void_p, c_void_p, c_int32, *[c_void_p] * 4)),
        ("decode", CFUNCTYPE(None, c_void_p, c_int32, c_void_p)),
        ("add_bytes", CFUNCTYPE(None, *[c_void_p] * 4, c_int32)),
        ("quantize_pixels", CFUNCTYPE(None, c_void_p, c_void_p, *[c_int32] * 3, c_void_p)),
    )


class Unit(Structure):
    """`eq_unit`."""

    _fields_ = (
        *((name, c_void_p) for name in ("weights", "biases", "multipliers", "offsets")),
        *((name, c_int32) for name in ("channels", "depth", "zero", "least", "most", "small", "integer")),
    )


class Packed(Structure):
    """`eq_packed`."""

    _fields_ = (
        *((name, c_void_p) for name in ("bytes", "trellis", "windows")),
        *((name, c_int32) for name in ("weights_a_byte", "pitch", "length", "place", "lead", "channels", "lanes")),
    )


@cache
def _library() -> ctypes.CDLL:
    """All kernels, by the compiler of this machine, which has nothing to say about them."""
    with TemporaryDirectory() as folder:
        library = Path(folder) / "libedgeq.so"
        flags = ["-std=c99", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-Wall", "-Wextra", "-pedantic", "-Werror"]
        subprocess.run([*COMPILER, *flags, *map(str, SOURCES.glob("*.c")), "-o", str(library), "-lm"], check=True)
        return ctypes.CDLL(str(library))


@cache
def _sets() -> tuple[list[Primitives], Primitives]:
    """The sets that this processor has besides the portable one, and that."""
    found = _library().eq_set
    found.restype = POINTER(Primitives)
    sets = []
    for place in count():
        one = found(place)
        if not one:
            break
        sets.append(one.contents)
    return sets[:-1], sets[-1]


def _agree(compute: Callable[[Primitives, Array], None], like: Array) -> None:
    """Every set makes the same of an array as the portable one: bit for bit, also where nothing is to be written."""
    others, portable = _sets()
    expected = np.full_like(like, 0xAA)
    compute(portable, expected)
    for one in others:
        made = np.full_like(like, 0xAA)
        compute(one, made)
        assert made.tobytes() == expected.tobytes(), one.name.decode()


def _at(array: Array | None) -> int | None:
    return None if array is None else array.ctypes.data


@pytest.mark.parametrize("features", ["armv8-a", "armv8.2-a+dotprod", "armv8.2-a+dotprod+i8mm"])
def test_arm(features: str, tmp_path: Path) -> None:
    """On an emulated processor."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if not (compiler and emulator):
        pytest.skip("there is no aarch64-linux-gnu-gcc, or no qemu-aarch64")
    program = tmp_path / "compare_sets"
    sources = [
        Path(__file__).with_name("compare_sets.c"),
        *(SOURCES / f"{name}.c" for name in ("here", "integer", *SETS)),
    ]
    flags = [f"-march={features}", "-std=c99", "-O3", "-ffp-contract=off", "-static", "-I", str(SOURCES)]
    subprocess.run([compiler, *flags, *map(str, sources), "-o", str(program)], check=True)
    result = subprocess.run([emulator, "-cpu", "max", str(program)], check=True, capture_output=True, text=True)
    assert result.stdout == "NEON: as portable\n"


seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def _levels(rng: np.random.Generator, small: bool, size: tuple[int, ...]) -> NDArray[np.int8]:
    """Weights, often the largest there are."""
    least, most = (-HIGHEST_REDUCED, HIGHEST_REDUCED) if small else (-128, 127)
    levels = rng.integers(least, most, size, endpoint=True)
    return np.where(rng.random(size) < 0.2, rng.choice(np.array([least, most]), size), levels).astype(np.int8)


def _codes(rng: np.random.Generator, size: int | tuple[int, ...]) -> Bytes:
    codes = rng.integers(0, 255, size, endpoint=True)
    return np.where(rng.random(size) < 0.2, 255, codes).astype(np.uint8)


def _multipliers(rng: np.random.Generator, channels: int) -> NDArray[np.float32]:
    """Such that codes are spread, but often some make numbers beyond all integers, and some nothing."""
    usual = np.exp(rng.uniform(-12, 0, channels))
    if rng.random() < 0.5:  # below 1, for which some sets have a fast way
        return usual.astype(np.float32)
    return np.where(rng.random(channels) < 0.1, rng.choice([1e-30, 1e6], channels), usual).astype(np.float32)


def _range(rng: np.random.Generator) -> tuple[int, int, int]:
    """A zero point, and the least and most code."""
    least, most = sorted(rng.integers(0, 255, 2, endpoint=True).tolist())
    return int(rng.choice(np.array([0, 255, rng.integers(256)]))), *((least, most) if rng.random() < 0.5 else (0, 255))


def test_the_portable_set_is_the_last_and_names_differ() -> None:
    others, portable = _sets()
    assert portable.name == b"portable"
    assert len({one.name for one in others} | {portable.name}) == len(others) + 1


@example(rng=np.random.default_rng(0), channels=64, groups=24, pixels=9, small=True, floats=False)
@example(rng=np.random.default_rng(0), channels=24, groups=4, pixels=49, small=False, floats=False)
@given(
    rng=seeds, channels=st.integers(1, 64), groups=st.integers(1, 80), pixels=st.integers(1, 30), small=st.booleans(),
    floats=st.booleans(),
)  # fmt: skip
def test_products_of_rows(
    rng: np.random.Generator, channels: int, groups: int, pixels: int, small: bool, floats: bool
) -> None:
    depth, lanes = groups * DEPTH, -(-channels // LANES) * LANES
    stride, out_stride = depth + int(rng.integers(9)), channels + int(rng.integers(9))
    weights, inputs = _levels(rng, small, (groups, lanes, DEPTH)), _codes(rng, (pixels - 1) * stride + depth)
    biases = rng.integers(-(2**20), 2**20, channels).astype(np.int32)
    multipliers = _multipliers(rng, channels)
    offsets = rng.standard_normal(channels).astype(np.float32) if floats else None
    unit = Unit(
        _at(weights), _at(biases), _at(multipliers), _at(offsets), channels, depth, *_range(rng), int(small)
    )  # fmt: skip

    def compute(one: Primitives, made: Array) -> None:
        one.multiply_rows(ctypes.addressof(unit), _at(inputs), stride, pixels, _at(made), out_stride)

    _agree(compute, np.empty(pixels * out_stride + 64, np.float32 if floats else np.uint8))


def test_products_of_rows_are_sums_of_products() -> None:
    """The portable loop against NumPy: the other sets are compared with the portable one only."""
    rng, channels, depth, pixels, zero = np.random.default_rng(0), 40, 36, 5, 7
    weights = _levels(rng, False, (depth // DEPTH, 48, DEPTH))
    inputs, biases = _codes(rng, (pixels, depth)), rng.integers(-999, 999, channels).astype(np.int32)
    multipliers = np.full(channels, 2.0**-9, np.float32)
    unit = Unit(_at(weights), _at(biases), _at(multipliers), None, channels, depth, zero, 3, 200, 0)
    made = np.empty((pixels, channels), np.uint8)
    _sets()[1].multiply_rows(ctypes.addressof(unit), _at(inputs), depth, pixels, _at(made), channels)
    flat = weights[:, :channels].transpose(0, 2, 1).reshape(depth, channels).astype(int)
    expected = np.rint((inputs.astype(int) @ flat + biases) * 2.0**-9) + zero
    np.testing.assert_array_equal(made, np.clip(expected, 3, 200))


geometry = st.fixed_dictionaries({
    "kernel_rows": st.integers(1, 6), "kernel_columns": st.integers(1, 7), "stride_columns": st.integers(1, 3),
    "dilation_columns": st.integers(1, 4), "left": st.integers(0, 7), "columns": st.integers(1, 60),
    "stride_rows": st.integers(1, 3), "dilation_rows": st.integers(1, 2), "out_rows": st.integers(1, 3),
})  # fmt: skip
three = {"kernel_rows": 3, "kernel_columns": 3, "dilation_columns": 1}
"""For which some sets have loops of their own."""


@example(rng=np.random.default_rng(0), channels=96, small=True, window={
    **three, "stride_columns": 2, "left": 1, "columns": 112, "stride_rows": 2, "dilation_rows": 1, "out_rows": 2,
})  # fmt: skip
@example(rng=np.random.default_rng(0), channels=8, small=False, window={
    "kernel_rows": 5, "kernel_columns": 7, "stride_columns": 1, "dilation_columns": 30, "left": 90, "columns": 20,
    "stride_rows": 1, "dilation_rows": 1, "out_rows": 1,
})  # fmt: skip
@example(rng=np.random.default_rng(0), channels=8, small=True, window={  # whose size int32 does not hold
    "kernel_rows": 32, "kernel_columns": 2, "stride_columns": 1, "dilation_columns": 2**29, "left": 1, "columns": 20,
    "stride_rows": 1, "dilation_rows": 1, "out_rows": 1,
})  # fmt: skip
@given(
    rng=seeds, channels=st.integers(1, 140), small=st.booleans(),
    window=geometry | geometry.map(lambda window: {**window, **three}),
)  # fmt: skip
def test_rows_of_channels_by_themselves(
    rng: np.random.Generator, channels: int, small: bool, window: dict[str, int]
) -> None:
    columns, taps = window["columns"], window["kernel_rows"] * window["kernel_columns"]
    extent = (window["kernel_columns"] - 1) * window["dilation_columns"] + 1
    out_columns = max((columns + 2 * window["left"] - extent) // window["stride_columns"] + 1, 1)
    zero, least, most = _range(rng)
    step = Step(
        Kind.DEPTHWISE, Flag.SMALL if small else Flag(0), **window, channels=channels, out_channels=channels,
        out_columns=out_columns, groups=channels, to_zero=zero, least=least, most=most,
        from_zero=int(rng.integers(256)),
    )  # fmt: skip
    weights = _levels(rng, small, (-(-channels // LANES), taps, LANES))
    read = (step.out_rows - 1) * step.stride_rows + (step.kernel_rows - 1) * step.dilation_rows + 1
    rows = [_codes(rng, columns * channels) for _ in range(read)]
    pointers = np.array([_at(row) for row in rows], np.uintp)
    biases, multipliers = rng.integers(-(2**14), 2**14, channels).astype(np.int32), _multipliers(rng, channels)
    packed = step.pack()

    def compute(one: Primitives, made: Array) -> None:
        places = (_at(weights), _at(biases), _at(multipliers), _at(made))
        one.depthwise_rows(packed, _at(pointers), step.out_rows, *places)

    _agree(compute, np.empty(step.out_rows * out_columns * channels + 64, np.uint8))


@example(rng=np.random.default_rng(0), bits=4, out=200, first=64, channels=64, groups=3)
@example(rng=np.random.default_rng(0), bits=2, out=160, first=64, channels=64, groups=3)
@given(
    rng=seeds, bits=st.sampled_from([width.bits for width in WIDTHS]), out=st.integers(1, 300),
    first=st.integers(0, 299), channels=st.integers(1, 64) | st.sampled_from([16, 32, 48, 64]),
    groups=st.integers(1, 20),
)  # fmt: skip
def test_decoding(rng: np.random.Generator, bits: float, out: int, first: int, channels: int, groups: int) -> None:
    """Of some channels from `first` on, which begin and end anywhere in a row and in a sequence."""
    width = BitWidth(bits)
    first = min(first, out - 1)
    channels = min(channels, unit_channels(width), out - first)
    lanes = -(-channels // LANES) * LANES
    shape = (out, groups * DEPTH)
    weight = QuantTensor(
        rng.integers(0, 255, packed_shape(shape, width), np.uint8, endpoint=True),
        shape,
        np.ones(out, np.float32),
        width,
    )
    rows, row = len(weight.data), first // width.per_byte
    data = weight.data.reshape(rows, groups, DEPTH).transpose(1, 0, 2).copy()
    length = 1 if bits == 8 else sequences(rows)[1]
    code = np.frombuffer(b"" if bits == 8 else trellis_bytes(width.trellis), np.uint8)
    packed = Packed(
        data.ctypes.data + row * DEPTH, _at(code), None, width.per_byte, rows * DEPTH, length, row % length,
        first % width.per_byte, channels, lanes,
    )  # fmt: skip

    def compute(one: Primitives, made: Array) -> None:
        one.decode(ctypes.addressof(packed), groups, _at(made))

    _agree(compute, np.empty(groups * lanes * DEPTH + 64, np.uint8))
    decoded = np.empty((groups, lanes, DEPTH), np.int8)
    compute(_sets()[1], decoded)
    levels = weight.levels().reshape(out, groups, DEPTH).transpose(1, 0, 2)
    np.testing.assert_array_equal(decoded[:, :channels], levels[:, first : first + channels])
    assert not decoded[:, channels:].any()


@given(rng=seeds, start=st.integers(0, 40), scales=st.tuples(*[st.floats(2**-10, 8, width=32)] * 3))
def test_sums(rng: np.random.Generator, start: int, scales: tuple[float, float, float]) -> None:
    """Of all pairs of codes."""
    a, b = np.repeat(np.arange(256, dtype=np.uint8), 256)[start:], np.tile(np.arange(256, dtype=np.uint8), 256)[start:]
    zeros = rng.integers(0, 255, 3, endpoint=True).tolist()
    step = Step(
        Kind.ADD, from_scale=scales[0], other_scale=scales[1], to_scale=scales[2], from_zero=zeros[0],
        other_zero=zeros[1], to_zero=zeros[2],
    ).pack()  # fmt: skip

    def compute(one: Primitives, made: Array) -> None:
        one.add_bytes(step, _at(a), _at(b), _at(made), len(a))

    _agree(compute, np.empty(len(a) + 64, np.uint8))


@given(
    rng=seeds, channels=st.integers(1, 5), pixels=st.integers(1, 70), begin=st.integers(0, 20),
    zero=st.integers(0, 255), scale=st.floats(2**-10, 8, width=32),
)  # fmt: skip
def test_codes_of_floats(
    rng: np.random.Generator, channels: int, pixels: int, begin: int, zero: int, scale: float
) -> None:
    """Of numbers, many of which lie half between two codes, and of what is none."""
    plane = begin + pixels + 3
    values = (np.float32(scale) * (rng.integers(-600, 600, (channels, plane)) / 2)).astype(np.float32)
    odd = rng.random(values.shape) < 0.1
    values[odd] = rng.choice(np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, -0.0], np.float32), odd.sum())
    step = Step(Kind.QUANTIZE, channels=channels, to_scale=scale, to_zero=zero).pack()

    def compute(one: Primitives, made: Array) -> None:
        one.quantize_pixels(step, _at(values), plane, begin, begin + pixels, _at(made))

    _agree(compute, np.empty(pixels * channels + 64, np.uint8))


# --- scaling in integers --------------------------------------------------------------------------------------------


@given(
    st.integers(-(2**31), 2**31 - 1), st.floats(2.0**-40, 8.0, width=32), st.integers(0, 255),
    st.tuples(st.integers(0, 255), st.integers(0, 255)).map(sorted),
)  # fmt: skip
@example(1, 0.5, 0, [0, 255])  # halves to even
@example(3, 0.5, 0, [0, 255])
@example(-1, 0.5, 9, [0, 255])
def test_an_exact_product_is_rounded_to_the_nearest(sum_: int, multiplier: float, zero: int, ends: list[int]) -> None:
    scaled = _library().eq_requantize_integer
    scaled.argtypes, scaled.restype = [c_int32, ctypes.c_float, c_int32, c_int32, c_int32], ctypes.c_uint8
    exact = round(Fraction(multiplier) * sum_) + zero  # round() has halves to even
    assert scaled(sum_, multiplier, zero, *ends) == min(max(exact, ends[0]), ends[1])


@given(
    *[st.floats(2.0**-10, 8.0, width=32)] * 3,
    st.tuples(*[st.integers(0, 255)] * 3),
)  # fmt: skip
def test_sums_are_off_by_rounding_alone(a: float, b: float, made: float, zeros: tuple[int, int, int]) -> None:
    codes = np.arange(256, dtype=np.uint8)
    x, y = (np.ascontiguousarray(each.reshape(-1)) for each in np.meshgrid(codes, codes))
    step = Step(
        Kind.ADD, from_scale=a, other_scale=b, to_scale=made, from_zero=zeros[0], other_zero=zeros[1], to_zero=zeros[2]
    ).pack()
    found = np.zeros(x.size, np.uint8)
    arrays = (c_void_p(array.ctypes.data) for array in (x, y, found))
    _library().eq_add_integer(step, *arrays, c_int32(x.size))
    ratios = [float(np.float32(scale) / np.float32(made)) for scale in (a, b)]
    exact = (x.astype(float) - zeros[0]) * ratios[0] + (y.astype(float) - zeros[1]) * ratios[1] + zeros[2]
    inside = (exact > 0) & (exact < 255)
    assert np.abs(found[inside] - exact[inside]).max(initial=0) <= 0.5 + 1e-4
    np.testing.assert_array_equal(found[~inside], np.clip(exact[~inside], 0, 255).astype(np.uint8))
