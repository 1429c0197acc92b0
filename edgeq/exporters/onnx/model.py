"""From a packed network to an ONNX model that stock runtimes run on their int8 kernels.

A layer of 4, 3 or 2 bits is kept as its packed bytes; standard operators turn them into int8 weights:

    packed uint8 [ceil(out / K), fan-in] -> Cast(int32) -> Gather(codebook int8 [256, K]) -> Transpose
      -> [Reshape -> Slice if out % K] -> Reshape(weight shape) -> DequantizeLinear

All of it before DequantizeLinear is constant. A runtime computes it once when it loads the file, finds int8 weights
between DequantizeLinear and Conv as in any quantized model, and fuses them into its integer convolution. 8-bit layers
are int8 initializers (plain QDQ). With float activations, DequantizeLinear would stay in the graph and run on every
inference, because runtimes keep it out of constant folding; there Cast and Mul do its work and fold.

A network that reads pixels takes them as cameras have them, uint8 `[batch, rows, columns, 3]`. Its border is put on in
this form. Then come DequantizeLinear and a Transpose, which cancels against the one of runtimes that convolve maps with
the channels last.

The convolution that reads the image does so by groups of pixels where it can (`edgeq.exporters.onnx.space_to_depth`):
its weights are laid out for them before DequantizeLinear, and a Reshape between two Transpose, which cancel too, views
the map around it in groups or as columns again.

Scales and biases of packed layers are float16 initializers with a Cast to float32, which folds too, wherever float16
holds all their values exactly; else they are float32. So the conversion never changes a result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Final, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgeq.errors import UnsupportedError
from edgeq.exporters.onnx.float_operators import TRANSLATIONS, Call
from edgeq.exporters.onnx.space_to_depth import PixelGroups, grouped
from edgeq.ir.graph import INPUT, Node
from edgeq.ir.network import Network
from edgeq.ir.ops.registry import OPS
from edgeq.ir.passes.hard_sigmoid import clipping
from edgeq.numerics.activations import LEVELS
from edgeq.numerics.weights import BitWidth, as_stored
from edgeq.packed.modules import PackedConv2d, PackedLinear

OPSET: Final = 17, 8
"""Of operators, and the version of the format (`ir_version`) that came with it."""
LATER_OPSET: Final = 20, 9
"""Of a GELU and of float operators."""
INPUT_NAME: Final = "image"
OUTPUT_NAME: Final = "logits"


def to_onnx(network: Network, pixels: bool = False) -> onnx.ModelProto:
    """Translate a network, packed or float, to ONNX with a dynamic batch dimension.

    Args:
        network: from `edgeq.packed.pack.pack`, or a float one.
        pixels: whether the network reads pixels (`edgeq.commands.pixels`) and the file shall take them in uint8.

    Returns:
        A checked model of opset 17, or 20 if it has a GELU or other float operators, with input `image` and output
        `logits`, both float32; or with an `image` in uint8 `[batch, rows, columns, channels]`.

    Raises:
        UnsupportedError: an op has no ONNX form.
    """
    rules = [_rule(node) for node in network.graph.nodes]
    builder = _Builder(network, pixels)
    for node, rule in zip(network.graph.nodes, rules, strict=True):
        if isinstance(rule, str):
            builder.call(rule, node)
        else:
            rule(builder, node)
    model = builder.model()
    onnx.checker.check_model(model, full_check=True)
    return model


def value_names(network: Network) -> dict[str, str]:
    """The ONNX name of every value of a network, by its name in the graph."""
    # Names of edgeq's own have no such ending, so no layer's name can collide with them.
    names = {node.name: f"{node.name}.out" for node in network.graph.nodes}
    return {INPUT: INPUT_NAME, **names, network.graph.output: OUTPUT_NAME}


class _Builder:
    """Collects nodes and initializers; equal constants are stored once."""

    def __init__(self, network: Network, pixels: bool) -> None:
        self.network = network
        self.pixels = pixels
        self.bytes = {INPUT: INPUT_NAME} if pixels else {}  # values in uint8, rows by columns by channels
        self.quantized = any(node.op == "quantize" for node in network.graph.nodes)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.names = value_names(network)
        self.clipping = clipping(network.graph)
        floats = {name for node in network.graph.nodes if node.name not in self.clipping for name in node.inputs}
        self.only_codes = {node.name for node in self.clipping.values()} - floats  # what nobody reads as floats
        self.codes: dict[str, str] = {}  # that quantizers have written
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.groups: dict[str, PixelGroups] = {}  # of the convolution that reads the image
        self.views: dict[str, list[int]] = {}  # rows, columns and channels as which a quantizer's map is seen
        self.missing = 0  # columns that the border of the image adds for the last group
        if start := grouped(network):
            image, conv, behind, groups = start
            channels, rows, columns = image.shape
            self.groups[conv.name], self.missing = groups, groups.missing
            self.views[image.name] = [rows, (columns + self.missing) // groups.size, channels * groups.size]
            self.views[behind.name] = [*conv.shape[1:], conv.shape[0]]
        if pixels and not self.quantized and all(node.op != "border" for node in network.graph.nodes):
            self.names[INPUT] = self.from_pixels(INPUT_NAME, f"{INPUT}.out")

    def value(self, name: str) -> str:
        """The ONNX name of a node's output."""
        return self.names[name]

    def node(self, op: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """One ONNX node; an output that nobody looks up is named by a number, since names are bytes too."""
        output = output or str(len(self.nodes))
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """An initializer, or the name of an equal one that is there already."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = name
            self.initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return self._constants[key]

    def call(self, op: str, node: Node, *extra: str, **attributes: Any) -> None:
        """One ONNX node for one node of the graph."""
        inputs = [self.value(name) for name in node.inputs]
        self.node(op, [*inputs, *extra], self.value(node.name), name=node.name, **attributes)

    def parameters(self, node: Node) -> tuple[str, str]:
        """Names of a layer's decoded weight and its bias."""
        layer, bias = self.network.layer(node.name), f"{node.name}.bias"
        if not isinstance(layer, PackedConv2d | PackedLinear):
            return self.constant(f"{node.name}.weight", _array(layer.weight)), self.constant(bias, _array(layer.bias))
        biases = self._floats(bias, _array(layer.bias))
        return self._decoded(node.name, layer), self._repeated(node.name, biases)

    def _decoded(self, name: str, layer: PackedConv2d | PackedLinear) -> str:
        width, packed = BitWidth(layer.bits), _array(layer.packed)
        scale = _array(layer.scale)
        if width.bits == 8:
            codes = self.constant(f"{name}.int8", packed.view(np.int8).reshape(layer.shape))
        else:
            codes = self._looked_up(name, self.constant(f"{name}.packed", packed), layer.shape, width)
        if self.quantized:
            if name in self.groups:
                codes = self._for_groups(name, codes, layer.shape)
            # Without a zero point DequantizeLinear takes 0, and each channel saves a byte.
            scales = self._repeated(name, self._floats(f"{name}.scale", scale))
            return self.node("DequantizeLinear", [codes, scales], f"{name}.weight", axis=0)
        factors = self._floats(f"{name}.scale", scale.reshape(-1, *[1] * (len(layer.shape) - 1)))
        floats = self.node("Cast", [codes], to=TensorProto.FLOAT)
        return self.node("Mul", [floats, factors], f"{name}.weight")

    def _floats(self, name: str, array: NDArray[np.float32]) -> str:
        """A constant in float32, kept in half the bytes where that loses nothing."""
        stored = as_stored(array)
        constant = self.constant(name, stored)
        return constant if stored.dtype == np.float32 else self.node("Cast", [constant], to=TensorProto.FLOAT)

    def _looked_up(self, name: str, packed: str, shape: list[int], width: BitWidth) -> str:
        table = self.constant(f"codebook{width.bits}", width.codebook)
        index = self.node("Cast", [packed], to=TensorProto.INT32)
        vectors = self.node("Gather", [table, index], axis=0)
        values = self.node("Transpose", [vectors], perm=[0, 2, 1])
        if shape[0] % width.per_byte:
            rows = self.node(
                "Reshape", [values, self.constant(f"{name}.rows", np.array([-1, prod(shape[1:])], np.int64))]
            )
            ends = [self.constant(f"int{v}", np.array([v], np.int64)) for v in (0, shape[0])]
            values = self.node("Slice", [rows, *ends])
        target = self.constant(f"{name}.shape", np.array(shape, np.int64))
        return self.node("Reshape", [values, target])

    def _for_groups(self, name: str, codes: str, shape: list[int]) -> str:
        """Weights `[out, in, rows, columns]` to `[outputs * out, size * in, rows, span]`, with zeros between them."""
        groups = self.groups[name]
        ends = self.constant(f"{name}.ends", np.array([0, 0, 0, 0, 0, 0, 0, 1], np.int64))
        taps = [self.node("Pad", [codes, ends]), self.constant(f"{name}.taps", groups.taps)]
        spread = self.node("Gather", taps, axis=3)
        ordered = self.node("Transpose", [spread], perm=[3, 0, 5, 1, 2, 4])
        size = [groups.outputs * shape[0], groups.size * shape[1], shape[2], groups.span]
        return self.node("Reshape", [ordered, self.constant(f"{name}.groups", np.array(size, np.int64))])

    def _repeated(self, name: str, values: str) -> str:
        """What each channel has, for each output of a group."""
        groups = self.groups.get(name)
        return self.node("Concat", [values] * groups.outputs, axis=0) if groups else values

    def last_to_first(self, value: str, view: Sequence[int] | None, output: str | None = None) -> str:
        """A map with its channels last, seen as rows, columns and channels of a view, to one with them first."""
        if view:
            shape = self.constant(f"view{len(self.nodes)}", np.array([-1, *view], np.int64))
            value = self.node("Reshape", [value, shape])
        return self.node("Transpose", [value], output, perm=[0, 3, 1, 2])

    def read(self, codes: Sequence[str], view: Sequence[int] | None, output: str) -> None:
        """Codes, their scale and maybe their zero point, to floats, of a map over groups as one over columns."""
        floats = self.node("DequantizeLinear", codes, None if view else output)
        if view:
            self.last_to_first(self.node("Transpose", [floats], perm=[0, 2, 3, 1]), view, output)

    def from_pixels(self, image: str, output: str, view: Sequence[int] | None = None) -> str:
        """Pixels in uint8, rows by columns by channels, to floats in 0..1, channels first."""
        scale = self.constant("pixel", np.array(1 / LEVELS, np.float32))
        return self.node("DequantizeLinear", [self.last_to_first(image, view), scale], output)

    def model(self) -> onnx.ModelProto:
        graph = self.network.graph
        channels, *size = graph.input_shape
        kind, shape = (TensorProto.UINT8, [*size, channels]) if self.pixels else (TensorProto.FLOAT, [channels, *size])
        classes = graph.nodes[-1].shape
        opset, version = LATER_OPSET if any(node.op in ("gelu", "float") for node in graph.nodes) else OPSET
        model = helper.make_model(
            helper.make_graph(
                self.nodes,
                "edgeq",
                [helper.make_tensor_value_info(INPUT_NAME, kind, ["batch", *shape])],
                [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", *classes])],
                self.initializers,
            ),
            producer_name="edgeq",
            opset_imports=[helper.make_opsetid("", opset)],
        )
        model.ir_version = version
        return model


def _array(value: Tensor | nn.Module) -> NDArray[Any]:
    return cast(Tensor, value).detach().contiguous().cpu().numpy()


def _pads(padding: Sequence[int]) -> list[int]:
    """Rows and columns, as ONNX wants them: begins, then ends."""
    return [*padding, *padding]


def _quantize(builder: _Builder, node: Node) -> None:
    """QuantizeLinear and DequantizeLinear, the pair that runtimes look for around an operator; of pixels the latter."""
    view = builder.views.get(node.name)
    if node.inputs[0] in builder.bytes:
        builder.from_pixels(builder.bytes[node.inputs[0]], builder.value(node.name), view)
        return
    scale = builder.constant(f"{node.name}.scale", np.array(node.attrs["scale"], np.float32))
    zero_point = builder.constant(f"{node.name}.zero", np.array(node.attrs["zero_point"], np.uint8))
    codes = builder.codes[node.name] = builder.node(
        "QuantizeLinear", [builder.value(node.inputs[0]), scale, zero_point]
    )
    if node.name not in builder.only_codes:
        builder.read([codes, scale, zero_point], view, builder.value(node.name))


def _border(builder: _Builder, node: Node) -> None:
    """Rows above and below, then columns on the left and the right, for as many images as there are."""
    image = builder.bytes[node.inputs[0]]
    top, left, bottom, right = node.attrs["pads"]
    rows, columns = node.shape[1:]
    right, columns = right + builder.missing, columns + builder.missing
    colour = np.rint(np.array(node.attrs["values"]) * LEVELS).astype(np.uint8)
    batch = builder.node("Shape", [INPUT_NAME], end=1)

    def strip(rows: int, columns: int) -> list[str]:
        if not rows * columns:
            return []
        size = builder.constant(f"strip{rows}x{columns}", np.array([rows, columns, len(colour)], np.int64))
        shape = builder.node("Concat", [batch, size], axis=0)
        return [builder.node("Expand", [builder.constant(f"{node.name}.colour", colour), shape])]

    inner = columns - left - right
    higher = builder.node("Concat", [*strip(top, inner), image, *strip(bottom, inner)], axis=1)
    output = builder.value(node.name)
    wider = [*strip(rows, left), higher, *strip(rows, right)]
    builder.bytes[node.name] = builder.node("Concat", wider, output if builder.quantized else None, axis=2)
    if not builder.quantized:
        builder.from_pixels(builder.bytes[node.name], output)


def _conv2d(builder: _Builder, node: Node) -> None:
    strides, pads = list(node.attrs["stride"]), _pads(node.attrs["padding"])
    if groups := builder.groups.get(node.name):
        strides[1], (pads[1], pads[3]) = 1, groups.pads
    builder.call(
        "Conv", node, *builder.parameters(node), strides=strides, pads=pads, dilations=node.attrs["dilation"],
        group=node.attrs["groups"],
    )  # fmt: skip


def _float(builder: _Builder, node: Node) -> None:
    """As `edgeq.exporters.onnx.float_operators` has it; its last operator makes the value of the node."""
    module = builder.network.layer(node.name)
    reads, sizes = node.attrs["reads"], builder.network.graph.shapes()
    parameters = {name: _array(getattr(module, name)) for name in node.attrs["tensors"]}
    values = {name: builder.value(source) for name, source in zip(reads, node.inputs, strict=True)}
    values |= {name: builder.constant(f"{node.name}.{name}", array) for name, array in parameters.items()}
    shapes = {name: (1, *sizes[source]) for name, source in zip(reads, node.inputs, strict=True)}
    shapes |= {name: array.shape for name, array in parameters.items()}
    call = Call(builder, node.name, values, shapes, node.attrs["arguments"], (1, *node.shape))
    TRANSLATIONS[node.attrs["operator"]](call)
    builder.nodes[-1].name, builder.nodes[-1].output[0] = node.name, builder.value(node.name)


def _hard_sigmoid(builder: _Builder, node: Node) -> None:
    """Of a value whose lowest level is -3, its codes clipped (`edgeq.ir.passes.hard_sigmoid`)."""
    source = builder.clipping.get(node.name)
    if source is None:
        builder.call("HardSigmoid", node, alpha=1 / 6, beta=0.5)
        return
    codes, highest = builder.codes[source.name], 2 * source.attrs["zero_point"]
    if highest < 255:
        codes = builder.node("Clip", [codes, "", builder.constant(f"code{highest}", np.array(highest, np.uint8))])
    scale = builder.constant(f"{node.name}.scale", np.array(source.attrs["scale"] / 6, np.float32))
    zero = builder.constant("code0", np.array(0, np.uint8))
    builder.read([codes, scale, zero], builder.views.get(source.name), builder.value(node.name))


RULES: Final[dict[str, Callable[[_Builder, Node], object]]] = {
    "quantize": _quantize,
    "border": _border,
    "conv2d": _conv2d,
    "hardsigmoid": _hard_sigmoid,
    "float": _float,
}
"""Ops whose ONNX form depends on more than the node; the entries of the others have it (`edgeq.ir.ops`)."""


def _rule(node: Node) -> str | Callable[[_Builder, Node], object]:
    """The ONNX operator that a node becomes, or what writes it."""
    rule = RULES.get(node.op) or OPS[node.op].onnx
    if rule is None:
        raise UnsupportedError(f"layer {node.name}: edgeq knows no ONNX form of {node.op}")
    return rule
