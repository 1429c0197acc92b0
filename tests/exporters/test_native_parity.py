"""The native engine beside ONNX Runtime, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn import networks, through_stages
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from native_engine import compiled, packed, packed_of
from nets import Function, float_network, images, pixels
from test_uint8_files import WHOLE, recorded
from torch import nn

from edgeq.commands.export import reading_pixels
from edgeq.errors import DataError
from edgeq.exporters.native_parity import compare_native
from edgeq.exporters.onnx.model import Translation, translate
from edgeq.ir.network import Network
from edgeq.lowering.lower import lower
from edgeq.native.program import Flag, Kind
from edgeq.packed.pack import pack
from edgeq.planning.plan import plan
from edgeq.planning.recipe import Recipe
from edgeq.quantization.quantize import quantize

pytestmark = compiled


def saved(network: Network, path: Path, takes_pixels: bool = False) -> Translation:
    made = translate(network, takes_pixels)
    path.write_bytes(made.model.SerializeToString())
    return made


@pytest.mark.parametrize("scheme", ["8bit", "4bit", "2bit"])
@pytest.mark.parametrize("name", ["residual", "moved", "ragged", "flat"])
def test_every_bit_is_the_same(name: str, scheme: str, tmp_path: Path) -> None:
    made = saved(packed(name, scheme), tmp_path / "net.onnx")
    found = compare_native(made, tmp_path / "net.onnx", lower(made.source), [images(8, 5), images(3, 6)])
    assert found.images == 11
    assert [*found.equal.values()] == [1.0]


def test_images_in_uint8(tmp_path: Path) -> None:
    network, record = reading_pixels(float_network("residual"), recorded(float_network("residual"), WHOLE))
    chosen = plan(record, Recipe("4bit", input="uint8"))
    quantized = pack(network, quantize(network, record, chosen, [pixels(8, 1)]), record, chosen)
    made = saved(quantized, tmp_path / "net.onnx", takes_pixels=True)
    program = lower(quantized, pixels=True)
    assert [*compare_native(made, tmp_path / "net.onnx", program, [pixels(8, 3)]).equal.values()] == [1.0]


def test_rows_that_a_reshape_makes_others_of(tmp_path: Path) -> None:
    """Steps are computed together only where one reads the rows that the other makes."""
    layers = {"stem": nn.Conv2d(3, 8, 1), "middle": nn.Conv2d(8, 8, 1), "last": nn.Linear(8, 5)}
    module = Function(
        lambda net, x: net.last(net.middle(net.stem(x).relu().reshape(-1, 8, 256, 1)).relu().mean((2, 3))), **layers
    )
    made = saved(packed_of(module, "8bit"), tmp_path / "net.onnx")
    assert [*compare_native(made, tmp_path / "net.onnx", lower(made.source), [images(8, 5)]).equal.values()] == [1.0]


def test_another_bit_is_counted(tmp_path: Path) -> None:
    made = saved(packed("residual"), tmp_path / "net.onnx")
    program = lower(made.source)
    last = program.steps[-1]
    wrong = replace(last, from_scale=float(np.nextafter(np.float32(last.from_scale), np.float32(9))))
    program = replace(program, steps=[*program.steps[:-1], wrong])
    (equal,) = compare_native(made, tmp_path / "net.onnx", program, [images(8, 5)]).equal.values()
    assert equal < 0.5


@pytest.mark.parametrize("scheme", ["8bit", "4bit"])
@pytest.mark.parametrize("name", ["residual", "moved"])
def test_scaling_in_integers_moves_few_codes(name: str, scheme: str, tmp_path: Path) -> None:
    made = saved(packed(name, scheme), tmp_path / "net.onnx")
    program = lower(made.source).in_integers()
    (equal,) = compare_native(made, tmp_path / "net.onnx", program, [images(40, 5)]).equal.values()
    assert equal > 0.97


def test_no_images(tmp_path: Path) -> None:
    made = saved(packed("residual"), tmp_path / "net.onnx")
    with pytest.raises(DataError, match="no images to compare the native engine on"):
        compare_native(made, tmp_path / "net.onnx", lower(made.source), [])


@settings(max_examples=25, suppress_health_check=list(HealthCheck), derandomize=True)
@given(networks(), st.sampled_from(["8bit", "4bit", "2bit"]), st.booleans(), st.integers(0, 99))
def test_random_networks(
    tmp_path_factory: pytest.TempPathFactory, module: nn.Module, scheme: str, odd: bool, seed: int
) -> None:
    made = through_stages(module, scheme, odd, seed)
    path = tmp_path_factory.mktemp("drawn") / "net.onnx"
    translation = saved(made.packed, path)
    program = lower(made.packed)
    assume(all(step.kind < Kind.POINTWISE and not step.flags & Flag.TO_FLOAT for step in program.steps))
    assert [*compare_native(translation, path, program, made.batches).equal.values()] == [1.0]
