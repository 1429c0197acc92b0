from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import quantized
from numpy.typing import NDArray

from edgeq.numerics.weights import BitWidth, QuantLayer, QuantTensor
from edgeq.quantization.tune import _TunedLayer
from edgeq.rounding.steps import Steps, layer_steps, least_scales, stored_bias

FLOAT_INPUT = Steps(None, 0.01)
INT32 = 2**31


def bias_of(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_stored_bias_by_hand() -> None:
    """Units of 0.1 * 0.5 = 0.05 and of 0.2 * 0.5 = 0.1; then float16: 0.15 is 0.1500244140625 there."""
    bias, scale = bias_of(0.16, 0.16, -0.04), bias_of(0.1, 0.2, 0.1)
    found = stored_bias(bias, scale, Steps(0.5, 0.01))
    assert found.dtype == np.float32
    assert found.tolist() == [0.1500244140625, 0.199951171875, -0.04998779296875]
    assert stored_bias(bias, scale, FLOAT_INPUT).tolist() == [0.1600341796875, 0.1600341796875, -0.040008544921875]


def test_a_large_bias_that_products_take_off_again_is_not_rounded_to_float16() -> None:
    """Between 2048 and 4096 float16 has steps of 2: a quarter of an output step of 0.01 is far less."""
    assert stored_bias(bias_of(3001.0), bias_of(1.0), FLOAT_INPUT).tolist() == [3001.0]
    assert stored_bias(bias_of(3001.0), bias_of(1.0), Steps(None, 8.0)).tolist() == [3000.0]


def test_least_scale_of_a_bias_by_hand() -> None:
    """Of 2^31 - 1, 2 * 100 * 127 * 255 = 6477000 are left for products: 1.15 * 0.8 / (2141006647 * 0.00169)."""
    found = least_scales(bias_of(0.8, -0.8, 0.0), Steps(0.00169, 0.01), fan_in=100, spread=0)
    assert found.tolist() == pytest.approx([2.5426e-7, 2.5426e-7, 2.0**-100], rel=1 / 8)
    assert (found[:2] >= 0.8 / (2141006647 * 0.00169)).all()


def test_least_scale_of_weights_that_nobody_sees() -> None:
    """The largest level, 63, at this scale: a sixteenth of a step of the output, for inputs that vary by 2 in all."""
    (found,) = least_scales(bias_of(0.0), Steps(None, 0.32), 9, spread=2)
    assert found == np.float32(np.float16(1.15 * 0.02 / 126))
    assert least_scales(bias_of(5.0), FLOAT_INPUT, 9, spread=0).tolist() == [2.0**-100]


POSITIVE = st.floats(2.0**-20, 2.0**20, width=32)


@given(st.floats(-1e6, 1e6, width=32), POSITIVE, st.integers(1, 30_000))
def test_a_bias_and_all_products_fit_into_int32(bias: float, step: float, fan_in: int) -> None:
    """Also after rounding the weights has moved the bias by as much as the products can add up to."""
    (scale,) = least_scales(bias_of(bias), Steps(step, 1.0), fan_in, spread=0)
    products = fan_in * 127 * 255
    assert abs(bias) / (float(scale) * step) + 2 * products <= INT32


def test_steps_of_layers() -> None:
    """The range of the stem's output is that of the ReLU6 behind it; float activations have no step."""
    found = quantized("residual", "4bit")
    ranges, (stem, *_) = found.record.activations, found.network.graph.layers
    behind = next(node.name for node in found.network.graph.nodes if stem.name in node.inputs)
    assert behind in ranges
    assert stem.name not in ranges
    steps = layer_steps(found.network.graph, stem, ranges, 8)
    assert steps == Steps(ranges["input"].scale, ranges[behind].scale)
    assert layer_steps(found.network.graph, stem, ranges, 32) == Steps(None, ranges[behind].scale)
    last = found.network.graph.layers[-1]
    assert layer_steps(found.network.graph, last, ranges, 8).output == ranges[last.name].scale


def test_a_trained_scale_stays_as_large_as_its_bias_needs() -> None:
    """Training has made the scale a tenth smaller, and the bias no longer fits."""
    (node, *_) = quantized("flat", "8bit").network.graph.layers
    shape = tuple(quantized("flat", "8bit").layers[node.name].weight.shape)
    step = 0.001
    steps = Steps(step, 0.01)
    scale = least_scales(np.full(shape[0], 0.8, np.float32), steps, math.prod(shape[1:]), spread=0)
    levels = QuantTensor(np.ones((shape[0], math.prod(shape[1:])), np.uint8), shape, scale, BitWidth(8))
    layer = _TunedLayer(node, QuantLayer(levels, np.full(shape[0], 0.8, np.float32)))
    with torch.no_grad():
        layer.stretch.fill_(math.log(0.9))
    tuned = layer.finished(steps)
    assert (tuned.weight.scale >= scale).all()
    assert (tuned.bias / (tuned.weight.scale * step) < INT32).all()
