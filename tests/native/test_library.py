"""The engine from Python: what it takes and refuses, and that no damaged program is run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_engine import compiled, packed, program
from nets import SHAPE, images
from numpy.typing import NDArray

from edgeq.errors import ArtifactError, DataError, UnsupportedError
from edgeq.lowering.lower import lower
from edgeq.native import library as library_module
from edgeq.native.library import Engine, library
from edgeq.native.program import Flag, Kind, Program, Step

pytestmark = compiled
NETWORKS = ("residual", "moved", "ragged", "flat")


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    library.cache_clear()
    monkeypatch.setattr(library_module, "find_spec", lambda name: None)
    yield
    library.cache_clear()


@pytest.mark.usefixtures("no_kernels")
def test_without_a_compiler_it_says_so_in_one_line() -> None:
    with pytest.raises(UnsupportedError, match=r"no C compiler .* install gcc or clang, then edgeq again$"):
        Engine.of(program(), "net")


def test_the_package_has_the_sources_of_its_kernels() -> None:
    found = importlib.util.find_spec("edgeq.native")
    assert found
    assert found.origin
    names = {path.name for path in (Path(found.origin).parent / "sources").iterdir()}
    assert {"edgeq.h", "portable.c", "check.c"} <= names


@pytest.mark.parametrize("name", NETWORKS)
def test_a_mapped_file_and_bytes_in_memory_compute_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.eqp"
    path.write_bytes(program(name).to_bytes())
    x = images(3)
    (expected,) = Engine.of(program(name), "net")([x])
    (found,) = Engine.mapped(path)([x])
    assert expected.shape == (3, program(name).outputs[0].elements)
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(found, expected)
    for i in range(3):  # images do not know of each other
        np.testing.assert_array_equal(Engine.of(program(name), "net")([x[i : i + 1]])[0][0], expected[i])


def test_arrays_that_do_not_lie_as_the_kernels_read_them() -> None:
    engine, x = Engine.of(program(), "net"), images(4)
    (expected,) = engine([x])
    (found,) = engine([np.asfortranarray(x)])
    np.testing.assert_array_equal(found, expected)
    (found,) = engine([np.repeat(x, 2, 0)[::2]])
    np.testing.assert_array_equal(found, expected)
    odd = np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    np.testing.assert_array_equal(engine([odd])[0], expected)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_threads_of_a_program(name: str, threads: int) -> None:
    """Of 7 images some run side by side, and the last on all threads."""
    engine, x = Engine.of(lower(packed(name), threads=threads), "net"), images(7)
    (expected,) = Engine.of(program(name), "net")([x])
    for count in range(1, 8):
        np.testing.assert_array_equal(engine([x[:count]])[0], expected[:count])
    with ThreadPoolExecutor(4) as pool:  # teams do not wait for each other's threads
        parts = list(pool.map(lambda i: engine([x[i : i + 1]])[0], [*range(7)] * 3))
    np.testing.assert_array_equal(np.concatenate(parts), np.tile(expected, (3, 1)))


def test_threads_share_an_engine() -> None:
    engine, x = Engine.of(program(), "net"), images(64)
    (expected,) = engine([x])
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda i: engine([x[i : i + 4]])[0], [*range(0, 64, 4)] * 3))
    np.testing.assert_array_equal(np.concatenate(parts), np.tile(expected, (3, 1)))


@pytest.mark.parametrize(
    "arrays",
    [
        [], [np.zeros((1, *SHAPE), np.float64)], [np.zeros((1, *SHAPE), np.uint8)], [np.zeros(SHAPE, np.float32)],
        [np.zeros((1, 3, 16, 15), np.float32)], [np.zeros((1, *SHAPE), np.float32)] * 2, [np.float32(1)],
        [np.zeros((0, 3, 16, 15), np.float32)],
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit(arrays: list[NDArray[Any]]) -> None:
    with pytest.raises(DataError, match=r"^net: expected \[n, 768\] of float32 for n images, found ") as caught:
        Engine.of(program(), "net")(list(map(np.asarray, arrays)))
    assert "\n" not in str(caught.value)


# --- files that are no programs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: b"", lambda file: b"EQP2", lambda file: b"EQP2" + file[4:], lambda file: file[:-1],
        lambda file: file + b"0", lambda file: file[:4] + b"\xff\xff\xff\x7f" + file[8:],
    ],
)  # fmt: skip
def test_a_file_that_is_no_program(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "net.eqp").write_bytes(damage(program().to_bytes()))
    with pytest.raises(ArtifactError, match=r"net\.eqp: expected a program of the native engine, found "):
        Engine.mapped(tmp_path / "net.eqp")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.eqp", tmp_path):
        with pytest.raises(ArtifactError, match="expected a program of the native engine, found "):
            Engine.mapped(path)


def changed(name: str, of: Kind, /, **values: Any) -> Program:
    """A program with other values in its first step of a kind."""
    found = program(name)
    place = next(i for i, step in enumerate(found.steps) if step.kind == of)
    steps = [replace(step, **values) if i == place else step for i, step in enumerate(found.steps)]
    return replace(found, steps=steps)


@pytest.mark.parametrize(
    ("name", "kind", "values"),
    [
        ("residual", Kind.CONVOLUTION, {"to": 2**20}),
        ("residual", Kind.CONVOLUTION, {"to": -1}),
        ("residual", Kind.CONVOLUTION, {"from_": -2}),
        ("residual", Kind.CONVOLUTION, {"rows": 2**15, "columns": 2**15}),
        ("residual", Kind.CONVOLUTION, {"channels": 7}),
        ("residual", Kind.CONVOLUTION, {"channels": 0}),
        ("residual", Kind.CONVOLUTION, {"groups": 0}),
        ("residual", Kind.CONVOLUTION, {"per_byte": 7}),
        ("residual", Kind.CONVOLUTION, {"trellis": 2**30}),  # what its bytes stand for is not there
        ("residual", Kind.CONVOLUTION, {"weights": -64}),
        ("residual", Kind.CONVOLUTION, {"biases": 2**30}),
        ("residual", Kind.CONVOLUTION, {"multipliers": 4}),
        ("residual", Kind.CONVOLUTION, {"scratch": 2**20}),
        ("residual", Kind.CONVOLUTION, {"decoded": 0}),
        ("residual", Kind.CONVOLUTION, {"kernel_rows": 2**30, "dilation_rows": 4}),
        ("residual", Kind.CONVOLUTION, {"stride_columns": -1}),
        ("residual", Kind.CONVOLUTION, {"from_zero": 256}),
        ("residual", Kind.CONVOLUTION, {"least": -1}),
        ("residual", Kind.CONVOLUTION, {"to_kept": 0}),
        ("residual", Kind.DEPTHWISE, {"groups": 1}),
        ("residual", Kind.DEPTHWISE, {"stride_columns": 0}),  # which vectors are divided by
        ("residual", Kind.ADD, {"other": -1}),
        ("residual", Kind.ADD, {"stride_columns": 2**20}),
        ("residual", Kind.GLOBAL_AVERAGE, {"from_": -1}),
        ("residual", Kind.QUANTIZE, {"channels": 4, "out_channels": 4}),
        ("residual", Kind.QUANTIZE, {"from_": -2}),
        ("residual", Kind.DEQUANTIZE, {"to": -2}),
        ("residual", Kind.DEQUANTIZE, {"channels": 99, "out_channels": 99}),
        ("moved", Kind.MAX_POOL, {"out_channels": 9}),
        ("moved", Kind.MOVE, {"to": 2**20}),
        ("moved", Kind.MOVE, {"weights": 64}),  # what lies there is no move
    ],
)  # fmt: skip
def test_a_step_beyond_its_memory(name: str, kind: Kind, values: dict[str, int]) -> None:
    with pytest.raises(ArtifactError, match="found a damaged program: a step beyond its memory"):
        Engine.of(changed(name, kind, **values), "net")


def test_a_depthwise_layer_whose_result_would_overwrite_where_its_rows_are() -> None:
    found = program("residual")
    step = next(step for step in found.steps if step.kind == Kind.DEPTHWISE)
    with pytest.raises(ArtifactError, match="a step beyond its memory"):
        Engine.of(changed("residual", Kind.DEPTHWISE, to=step.scratch), "net")


@pytest.mark.parametrize(
    "values", [{"together": 0}, {"together": 9}, {"together": 99}, {"flags": Flag.ROWS}, {"kind": 99}]
)
def test_steps_that_cannot_be_run(values: dict[str, int]) -> None:
    with pytest.raises(ArtifactError, match="found a damaged program: "):
        Engine.of(changed("residual", Kind.QUANTIZE, **values), "net")


def test_rows_that_the_step_before_does_not_make() -> None:
    found = program("residual")
    first = next(i for i, step in enumerate(found.steps) if step.together > 1)
    steps = list(found.steps)
    steps[first + 1] = replace(steps[first + 1], rows=steps[first + 1].rows + 1)
    with pytest.raises(ArtifactError, match="steps that cannot be computed together"):
        Engine.of(replace(found, steps=steps), "net")


@given(
    st.sampled_from(NETWORKS), st.integers(0, 99), st.sampled_from([field.name for field in fields(Step)]),
    st.integers(-70, 300),
)  # fmt: skip
def test_what_is_opened_can_be_run(name: str, place: int, field: str, value: int) -> None:
    """Whatever one word of a step is: this process lives on."""
    found = program(name)
    steps, changes = list(found.steps), dict[str, Any]([(field, value)])
    steps[place % len(steps)] = replace(steps[place % len(steps)], **changes)
    try:
        engine = Engine.of(replace(found, steps=steps), "net")
    except ArtifactError as error:
        assert "damaged program" in str(error)
    else:
        assert engine([images(1)])[0].shape == (1, found.outputs[0].elements)
