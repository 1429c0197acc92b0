"""The quantized network in PyTorch: packed layers, activation quantizers, and the file they are kept in.

The file is one safetensors file. Its metadata has one entry, `edgeq`, the JSON of

    {"format": "edgeq-packed", "version": 3, "graph": {...}, "layers": {NAME: {"bits": 4, "shape": [..]}, ..}}

and its tensors are, for each layer NAME in `layers`, `NAME.packed` (uint8), `NAME.scale` and `NAME.bias` (`[out]`,
float16 if that loses nothing, else float32), for each layer left in float `NAME.weight` and `NAME.bias` (float32), and
for each operator in float its constant tensors, `NAME.ARGUMENT` (float32).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edgeq.activations import ActivationQuantizer
from edgeq.errors import ArtifactError, EdgeqError
from edgeq.float_operators import FloatOperator
from edgeq.forms import COUNT, TEXT, Form, misfit
from edgeq.graph import CLIPPING, INPUT, LARGEST, Graph, Node
from edgeq.hard_sigmoid import from_minus_three, on_levels
from edgeq.network import WITH_MODULE, Network, as_tensor, float_layer
from edgeq.ops import packed_conv2d, packed_linear
from edgeq.plan import PrecisionPlan
from edgeq.quantize import ActivationRange, BitWidth, QuantLayer, QuantTensor, as_stored, packed_shape
from edgeq.record import CalibrationRecord

VERSION: Final = 3
_FORM: Final[Form] = {
    "graph": {"input_shape": [COUNT], "nodes": [{"name": TEXT, "op": TEXT, "inputs": [TEXT], "shape": [COUNT]}]},
    "layers": {str: {"bits": COUNT, "shape": [COUNT]}},
}


class PackedConv2d(nn.Module):
    """A convolution that holds packed bytes, scales and a bias, and no float weights.

    Args:
        packed: weights `[out, in / groups, height, width]`.
        bias: float32 `[out]`.
        stride, padding, dilation: rows, columns.
        groups: as in `nn.Conv2d`.
    """

    packed: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(
        self,
        packed: QuantTensor,
        bias: Tensor,
        *,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> None:
        super().__init__()
        _hold(self, packed, bias)
        self.shape, self.bits = list(packed.shape), packed.width.bits
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def forward(self, x: Tensor) -> Tensor:
        """Convolve float32 `[n, in, h, w]`."""
        y: Tensor = packed_conv2d(
            x, self.packed, self.scale, self.bias, shape=self.shape, bits=self.bits,
            stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups,
        )  # fmt: skip
        return y


class PackedLinear(nn.Module):
    """A linear layer that holds packed bytes; arguments as in `PackedConv2d`, weights `[out, in]`."""

    packed: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, packed: QuantTensor, bias: Tensor) -> None:
        super().__init__()
        _hold(self, packed, bias)
        self.shape, self.bits = list(packed.shape), packed.width.bits

    def forward(self, x: Tensor) -> Tensor:
        """Multiply float32 `[n, in]`."""
        y: Tensor = packed_linear(x, self.packed, self.scale, self.bias, shape=self.shape, bits=self.bits)
        return y


def _hold(module: nn.Module, packed: QuantTensor, bias: Tensor) -> None:
    module.register_buffer("packed", torch.from_numpy(packed.data.copy()))
    module.register_buffer("scale", torch.from_numpy(packed.scale.copy()))
    module.register_buffer("bias", bias.clone())


def packed_network(
    network: Network, quantized: Mapping[str, QuantLayer], record: CalibrationRecord, plan: PrecisionPlan
) -> Network:
    """Put a quantized network together.

    Args:
        network: the float network.
        quantized: from `edgeq.quantize`.
        record: gives the activation ranges.
        plan: gives the width of the activations.

    Returns:
        A `Network` whose layers are packed and, with 8-bit activations, whose graph has a `quantize` node wherever a
        value is stored in uint8. This network is what is exported, and what an exported file is compared with.

    Raises:
        ArtifactError: the record is of another network.

    Example:
        >>> packed = edgeq.pack(network, layers, record, plan)
        >>> sorted(packed.layer("0").state_dict())
        ['bias', 'packed', 'scale']
    """
    graph = _with_quantizers(network.graph, record.activations) if plan.act_bits == 8 else network.graph
    layers: dict[str, nn.Module] = {}
    for node in graph.nodes:
        if node.name in quantized:
            found = quantized[node.name]
            layers[node.name] = _packed_layer(node, found.weight, as_tensor(found.bias))
        elif node.op == "quantize":
            layers[node.name] = _quantizer(node)
        elif node.op in WITH_MODULE:
            layers[node.name] = network.layer(node.name)
    return Network(graph, layers).eval()


def _packed_layer(node: Node, packed: QuantTensor, bias: Tensor) -> PackedConv2d | PackedLinear:
    return PackedLinear(packed, bias) if node.op == "linear" else PackedConv2d(packed, bias, **node.attrs)


def _quantizer(node: Node) -> ActivationQuantizer:
    scale, zero_point = node.attrs["scale"], node.attrs["zero_point"]
    if not (0 < scale < float("inf") and 0 <= zero_point <= 255):
        raise ArtifactError(f"node {node.name}: scale {scale} or zero point {zero_point} is out of range")
    return ActivationQuantizer(scale, zero_point)


def _with_quantizers(graph: Graph, ranges: Mapping[str, ActivationRange]) -> Graph:
    """Insert a `quantize` node behind every value that is stored in uint8, and drop the ReLUs it performs itself.

    A hard swish of a value whose lowest level is -3 becomes a product with a hard sigmoid, which integers can do.
    """
    shapes = graph.shapes()
    points = {name for group in graph.quantizer_groups() for name in group} - graph.answers()
    if missing := points - ranges.keys():
        raise ArtifactError(f"the record has no range for {min(missing)}; calibrate this network again")
    points -= on_levels(graph, ranges)
    current = {INPUT: INPUT}  # where the value of an original node is now found
    made: list[Node] = []

    def quantize(name: str, source: str) -> None:
        current[name] = f"{name}.q"
        found = ranges[name]
        attrs = {"scale": found.scale, "zero_point": found.zero_point}
        made.append(Node(current[name], "quantize", (source,), shapes[name], attrs))

    if INPUT in points:
        quantize(INPUT, INPUT)
    for node in graph.nodes:
        source = node.name
        if node.op in CLIPPING and node.inputs[0] not in points and _clips(ranges[node.name], node):
            source = current[node.inputs[0]]
        elif node.op == "hardswish" and from_minus_three(ranges[node.inputs[0]]):
            x, gate = current[node.inputs[0]], f"{node.name}.hardsigmoid"
            made.append(Node(gate, "hardsigmoid", (x,), node.shape))
            made.append(Node(node.name, "mul", (x, gate), node.shape))
        else:
            made.append(replace(node, inputs=tuple(current[name] for name in node.inputs)))
        current[node.name] = source
        if node.name in points:
            quantize(node.name, source)
    return Graph(graph.input_shape, tuple(made))


def _clips(found: ActivationRange, node: Node) -> bool:
    """Whether a quantizer of this range does what the ReLU or clip before it does."""
    return found.zero_point == 0 and found.high <= node.attrs.get("max", float("inf")) * (1 + 1e-6)


def save_packed(network: Network, path: Path) -> None:
    """Write a network, packed or float, as one safetensors file.

    Raises:
        OSError: the file cannot be written.
    """
    layers: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for node in network.graph.nodes:
        if node.op in WITH_MODULE and node.op != "quantize":
            layer = network.layer(node.name)
            state = {key: value.contiguous() for key, value in layer.state_dict().items()}
            if isinstance(layer, PackedConv2d | PackedLinear):
                layers[node.name] = {"bits": layer.bits, "shape": layer.shape}
                state |= {key: torch.from_numpy(as_stored(state[key].cpu().numpy())) for key in ("scale", "bias")}
            tensors |= {f"{node.name}.{key}": value for key, value in state.items()}
    head = {"format": "edgeq-packed", "version": VERSION, "graph": network.graph.to_dict(), "layers": layers}
    path.write_bytes(save(tensors, metadata={"edgeq": json.dumps(head)}))  # so that its errors are those of any file


def load_packed(path: Path) -> Network:
    """Read what `save_packed` wrote; nothing is unpickled.

    Args:
        path: of the .safetensors file that `edgeq.export` puts beside the ONNX file.

    Returns:
        The network that was exported, in evaluation mode.

    Raises:
        ArtifactError: not such a file, another version, or its parts do not fit each other.

    Example:
        >>> loaded = edgeq.load_packed(Path("net.safetensors"))
        >>> x = torch.from_numpy(batches[0])
        >>> torch.equal(loaded(x), packed(x))
        True
    """
    try:
        with safe_open(path, framework="pt") as file:
            head = json.loads((file.metadata() or {}).get("edgeq", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file") from error
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: expected a packed network (safetensors), found {_line(error)}") from error
    if not isinstance(head, dict) or head.get("format") != "edgeq-packed":
        raise ArtifactError(f"{path}: expected a packed network, found a safetensors file of something else")
    if head.get("version") != VERSION:
        raise ArtifactError(f"{path}: expected version {VERSION}, found {head.get('version')}; export it again")
    try:
        if problem := misfit(head, _FORM):
            raise ArtifactError(f"its {problem}")
        return _assemble(head, tensors)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError, EdgeqError) as error:
        raise ArtifactError(f"{path}: a damaged packed network ({_line(error)}); export it again") from error


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _assemble(head: Mapping[str, Any], tensors: dict[str, Tensor]) -> Network:
    graph = Graph.from_dict(head["graph"])
    layers: dict[str, nn.Module] = {}
    for node in graph.nodes:
        if node.op == "quantize":
            layers[node.name] = _quantizer(node)
        elif node.op == "float":
            a = node.attrs
            values = {key: _take(tensors, f"{node.name}.{key}", torch.float32) for key in a["tensors"]}
            layers[node.name] = FloatOperator(a["operator"], a["reads"], a["arguments"], values)
        elif node.name in head["layers"]:
            entry = head["layers"][node.name]
            shape, width = tuple(entry["shape"]), BitWidth(entry["bits"])
            data = _take(tensors, f"{node.name}.packed", torch.uint8, packed_shape(shape, width))
            scale, bias = (_take_floats(tensors, f"{node.name}.{key}", shape[:1]) for key in ("scale", "bias"))
            layers[node.name] = _packed_layer(node, QuantTensor(data.numpy(), shape, scale.numpy(), width), bias)
        elif node.op in WITH_MODULE:
            weight = _take(tensors, f"{node.name}.weight", torch.float32)
            layers[node.name] = float_layer(node, weight, _take(tensors, f"{node.name}.bias", torch.float32))
    if tensors:
        raise ArtifactError(f"tensor {min(tensors)} belongs to no layer")
    network = Network(graph, layers).eval()
    _check_shapes(network)
    return network


def _check_shapes(network: Network) -> None:
    """Run on shapes alone: tensors that do not fit the graph would fail only when an image comes."""
    graph, runner = network.graph, copy.deepcopy(network).to("meta")
    values = {INPUT: torch.empty(1, *graph.input_shape, dtype=torch.float32, device="meta")}
    for node in graph.nodes:
        made = values[node.name] = runner.run(node, [values[name] for name in node.inputs])
        if tuple(made.shape[1:]) != node.shape:
            raise ArtifactError(
                f"node {node.name}: expected an output {list(node.shape)}, its layers make {list(made.shape[1:])}"
            )
    if sizes := [list(value.shape) for value in values.values() if value.numel() > LARGEST]:
        raise ArtifactError(f"expected values of at most {LARGEST} numbers an image, found {sizes[0]}")


def _take_floats(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """A scale or bias, stored in float16 or float32."""
    half = tensors[name].dtype == torch.float16
    return _take(tensors, name, torch.float16 if half else torch.float32, shape).float()


def _take(tensors: dict[str, Tensor], name: str, dtype: torch.dtype, shape: tuple[int, ...] | None = None) -> Tensor:
    found = tensors.pop(name)
    if found.dtype != dtype or (shape is not None and tuple(found.shape) != shape):
        raise ArtifactError(f"tensor {name}: expected {dtype} {shape}, found {found.dtype} {tuple(found.shape)}")
    if dtype.is_floating_point and not torch.isfinite(found).all():
        raise ArtifactError(f"tensor {name}: NaN or infinite values")
    return found
