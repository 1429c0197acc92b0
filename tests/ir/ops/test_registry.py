"""Every op is complete, its traits are true, and PyTorch and the exported file agree on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from single_ops import DRAWN, networks_of
from torch import Tensor, nn

from edgeq.errors import ArtifactError, UnsupportedError
from edgeq.exporters.onnx.model import RULES, to_onnx
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.graph import INPUT, Graph
from edgeq.ir.network import Network, float_layer
from edgeq.ir.node import Node
from edgeq.ir.ops.codes import CODES
from edgeq.ir.ops.float_operators import FloatOperator
from edgeq.ir.ops.op import Op
from edgeq.ir.ops.registry import ENTRIES, OPS
from edgeq.packed.activations import ActivationQuantizer
from edgeq.runtimes.onnxruntime import session_of

INSERTED = {op.name for op in CODES}
"""Ops that passes insert on the way to a file, of values that are no floats: tests of the passes run them."""

ADDED = {"quantize", "border", *INSERTED}
"""Ops that no traced network has: passes put them into a graph, or others in their place."""

MODULES: dict[str, type[nn.Module]] = {"quantize": ActivationQuantizer, "float": FloatOperator}
"""Of ops that have other modules than a weight and a bias."""


class Calling(nn.Module):
    def __init__(self, function: Callable[..., Tensor], *parameters: Tensor) -> None:
        super().__init__()
        self.function, self.given = function, nn.ParameterList(parameters)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.given)


def normalized(x: Tensor, weight: Tensor) -> Tensor:
    return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight).permute(0, 3, 1, 2)


WAYS_IN: dict[str, nn.Module] = {
    "conv2d": nn.Conv2d(3, 4, 3),
    "layer_norm": Calling(normalized, torch.ones(3)),
    "relu": nn.ReLU(),
    "clip": nn.ReLU6(),
    "leaky_relu": nn.LeakyReLU(0.2),
    "prelu": Calling(F.prelu, torch.tensor([-0.5, 0.0, 1.5])),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "gelu": nn.GELU(),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(),
    "add": Calling(lambda x: x + x.relu()),
    "mul": Calling(lambda x: x * x.sigmoid()),
    "max_pool2d": nn.MaxPool2d(2),
    "avg_pool2d": nn.AvgPool2d(2),
    "global_avg_pool": nn.AdaptiveAvgPool2d(1),
    "flatten": nn.Flatten(),
    "reshape": nn.Flatten(2),
    "permute": Calling(lambda x: x.transpose(1, 2)),
    "cat": Calling(lambda x: torch.cat([x, x.relu()], 1)),
    "slice": Calling(lambda x: x[:, 1:]),
    "gather": Calling(lambda x: x.flip(2)),
    "pad": nn.ZeroPad2d(1),
    "depth_to_space": nn.ConvTranspose2d(3, 4, 2, 2),
    "space_to_depth": nn.PixelUnshuffle(2),
    "float": nn.Mish(),
}
"""A module that becomes each op."""


def missing(op: Op) -> Iterator[str]:
    if (op.run is None) != (op.module is not None or op.name in MODULES):
        yield "one way to run: a function, or a module"
    if (op.onnx is None) != (op.name in RULES or op.name == "border"):  # which a pass replaces
        yield "one ONNX form: in its entry, or among the rules of the exporter"
    if (op.name in WAYS_IN) == (op.name in ADDED):
        yield "a module that becomes it, in this test"
    if op.name not in DRAWN and op.name not in INSERTED:
        yield "how to draw one, in `single_ops`"


def contradictions(op: Op) -> Iterator[str]:
    if sum([op.weighted, op.same_scale, op.pointwise, op.averaging]) > 1:
        yield "no more than one of weighted, same_scale, pointwise and averaging"
    if op.clipping and not op.pointwise:
        yield "pointwise: what clips is"
    if op.weighted and op.module is None:
        yield "a module to hold the weights"
    if (op.same_scale or op.averaging) and not op.in_islands:
        yield "in_islands: no integers are needed to move or average floats"
    if op.in_islands and (op.has_module or op.clipping):
        yield "not in_islands: quantizers of its own, or its quantizer is all that it does"
    if op.in_float is not None and (op.weighted or op.same_scale or op.averaging or op.clipping):
        yield "no reason to be in float: runtimes have integers for it"


def test_no_op_lacks_anything() -> None:
    assert {op.name: found for op in ENTRIES if (found := list(missing(op)))} == {}


def test_no_op_contradicts_itself() -> None:
    assert {op.name: found for op in ENTRIES if (found := list(contradictions(op)))} == {}


def test_every_name_stands_for_one_op() -> None:
    assert [op.name for op in ENTRIES] == list(OPS)


@pytest.mark.parametrize("op", sorted(OPS.keys() - ADDED))
def test_a_module_becomes_it(op: str) -> None:
    network = trace(WAYS_IN[op], (3, 4, 4))
    assert op in {node.op for node in network.graph.nodes}
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(network(x), WAYS_IN[op].eval()(x), rtol=1e-5, atol=1e-5)


def test_an_op_without_an_onnx_form_is_refused() -> None:
    """A border, in a file that does not take uint8."""
    border = Node("frame", "border", (INPUT,), (3, 6, 6), {"pads": [1, 1, 1, 1], "values": [0.0, 0.0, 0.0]})
    with pytest.raises(UnsupportedError, match=r"^layer frame: edgeq knows no ONNX form of border$"):
        to_onnx(Network(Graph.of_image((3, 4, 4), (border,)), {}))


def test_an_op_without_a_weight_has_no_float_layer() -> None:
    with pytest.raises(ArtifactError, match=r"^node a: a relu has no weight and bias$"):
        float_layer(Node("a", "relu", (INPUT,), (3,)), torch.ones(3), None)


def image(network: Network, seed: int) -> NDArray[np.float32]:
    """Two images, with values beyond what any activation clips to."""
    shape = (2, *network.graph.image.shape)
    return np.random.default_rng(seed).normal(0, 4, shape).astype(np.float32)


def computed(network: Network, x: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        found: NDArray[np.float32] = network(torch.from_numpy(x)).numpy()
    return found


def having(trait: Callable[[Op], bool]) -> list[str]:
    return [op.name for op in ENTRIES if trait(op)]


# What a border is put around are bytes, in a file that takes uint8: tests of that file are elsewhere.
@pytest.mark.parametrize("op", sorted(OPS.keys() - {"border"} - INSERTED))
@settings(max_examples=20)
@given(data=st.data(), seed=st.integers(0, 99))
def test_onnx_computes_what_pytorch_does(op: str, data: st.DataObject, seed: int) -> None:
    network = data.draw(networks_of(op))
    x = image(network, seed)
    expected = computed(network, x)
    assert expected.shape[1:] == network.graph.nodes[-1].shape
    model = to_onnx(network).SerializeToString()
    for optimize in (False, True):
        (found,) = session_of(model, optimize).run(None, {"image": x})
        if OPS[op].same_scale:
            np.testing.assert_array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", having(lambda op: op.same_scale))
@given(data=st.data(), seed=st.integers(0, 99))
def test_an_op_of_the_same_scale_makes_no_new_values(op: str, data: st.DataObject, seed: int) -> None:
    network = data.draw(networks_of(op))
    x = image(network, seed)
    assert {0.0, *x.flat}.issuperset(computed(network, x).flat)


@pytest.mark.parametrize("op", having(lambda op: op.averaging))
@given(data=st.data(), seed=st.integers(0, 99))
def test_an_average_is_between_what_is_averaged(op: str, data: st.DataObject, seed: int) -> None:
    network = data.draw(networks_of(op))
    x = image(network, seed) + 5
    found = computed(network, x)
    assert found.max() <= x.max() * (1 + 1e-6)
    assert found.min() >= min(x.min(), 0) * (1 + 1e-6)


@pytest.mark.parametrize("op", having(lambda op: op.pointwise))
@given(data=st.data(), seed=st.integers(0, 99))
def test_a_pointwise_op_reads_one_value_for_each(op: str, data: st.DataObject, seed: int) -> None:
    network = data.draw(networks_of(op))
    x = image(network, seed)
    changed, place = x.copy(), tuple(int(i) for i in np.unravel_index(seed % x.size, x.shape))
    changed[place] += 1
    before, after = computed(network, x), computed(network, changed)
    before[place] = after[place]
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("op", having(lambda op: op.pointwise))
@given(data=st.data(), seed=st.integers(0, 99))
def test_a_pointwise_op_computes_flat_values_as_maps_of_one_pixel(op: str, data: st.DataObject, seed: int) -> None:
    network = data.draw(networks_of(op))
    (node,) = network.graph.nodes
    flat = torch.from_numpy(image(network, seed))[:, :, 0, 0]
    torch.testing.assert_close(network.run(node, [flat[:, :, None, None]]), network.run(node, [flat])[:, :, None, None])


@pytest.mark.parametrize("op", having(lambda op: op.clipping))
@given(data=st.data(), seed=st.integers(0, 99))
def test_a_quantizer_from_0_clips_as_the_op_does(op: str, data: st.DataObject, seed: int) -> None:
    network = data.draw(networks_of(op))
    x = image(network, seed)
    highest = network.graph.nodes[0].attrs.get("max", np.abs(x).max())
    quantizer = ActivationQuantizer(float(highest) / 255, 0)
    clipped = quantizer(torch.from_numpy(computed(network, x)))
    assert torch.equal(quantizer(torch.from_numpy(x)), clipped)
