"""The file of a network, packed or float.

It is a safetensors file. Its metadata has one entry, `edgeq`, the JSON of

    {"format": "edgeq-packed", "version": 6, "graph": {...}, "layers": {NAME: {"bits": 4, "shape": [..]}, ..}}

Its tensors are

- for each layer NAME in `layers`: `NAME.packed` (uint8), `NAME.scale` and `NAME.bias` (`[out]`, float16 if that is
  exact, else float32),
- for each layer left in float: `NAME.weight` and `NAME.bias` (float32),
- for each float operator: its constant tensors `NAME.ARGUMENT` (float32).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edgeq.artifacts.schema import COUNT, TEXT, Schema, validate
from edgeq.errors import ArtifactError, EdgeqError
from edgeq.ir.graph import Graph
from edgeq.ir.network import Network, float_layer
from edgeq.ir.ops.float_operators import FloatOperator
from edgeq.ir.ops.registry import OPS
from edgeq.numerics.activations import MAX_ELEMENTS
from edgeq.numerics.weights import BitWidth, QuantTensor, as_stored, packed_shape
from edgeq.packed.modules import PackedConv2d
from edgeq.packed.pack import packed_layer, quantizer

VERSION: Final = 6
_SCHEMA: Final[Schema] = {
    "graph": {
        "inputs": [{"name": TEXT, "value": TEXT, "shape": [COUNT]}],
        "outputs": [{"name": TEXT, "value": TEXT, "task": TEXT}],
        "nodes": [{"name": TEXT, "op": TEXT, "inputs": [TEXT], "shape": [COUNT]}],
    },
    "layers": {str: {"bits": COUNT, "shape": [COUNT]}},
}


def save_packed(network: Network, path: Path) -> None:
    """Write a network, packed or float, as one safetensors file.

    Raises:
        OSError: the file cannot be written.
    """
    layers: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for node in network.graph.nodes:
        if OPS[node.op].has_module and node.op != "quantize":
            layer = network.layer(node.name)
            state = {key: value.contiguous() for key, value in layer.state_dict().items()}
            if isinstance(layer, PackedConv2d):
                layers[node.name] = {"bits": layer.bits, "shape": layer.shape}
                state |= {key: torch.from_numpy(as_stored(state[key].cpu().numpy())) for key in ("scale", "bias")}
            tensors |= {f"{node.name}.{key}": value for key, value in state.items()}
    head = {"format": "edgeq-packed", "version": VERSION, "graph": network.graph.to_dict(), "layers": layers}
    path.write_bytes(save(tensors, metadata={"edgeq": json.dumps(head)}))  # raises OSError, unlike `save_file`


def load_packed(path: Path | str) -> Network:
    """Read what `save_packed` wrote; nothing is unpickled.

    Args:
        path: the .safetensors file that `edgeq.export` writes beside the ONNX file.

    Returns:
        The network that was exported, in evaluation mode.

    Raises:
        ArtifactError: no such file, not a packed network of this version, or a damaged one.

    Example:
        >>> loaded = edgeq.load_packed(Path("net.safetensors"))
        >>> x = torch.from_numpy(batches[0])
        >>> torch.equal(loaded(x), packed(x))
        True
    """
    path = Path(path)
    if path.is_dir():
        raise ArtifactError(f"{path}: expected a packed network (safetensors), found a folder")
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
        if problem := validate(head, _SCHEMA):
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
            layers[node.name] = quantizer(node)
        elif node.op == "float":
            a = node.attrs
            values = {key: _take(tensors, f"{node.name}.{key}", torch.float32) for key in a["tensors"]}
            layers[node.name] = FloatOperator(a["operator"], a["reads"], a["arguments"], values, a.get("result", 0))
        elif node.name in head["layers"]:
            entry = head["layers"][node.name]
            shape, width = tuple(entry["shape"]), BitWidth(entry["bits"])
            data = _take(tensors, f"{node.name}.packed", torch.uint8, packed_shape(shape, width))
            scale, bias = (_take_floats(tensors, f"{node.name}.{key}", shape[:1]) for key in ("scale", "bias"))
            layers[node.name] = packed_layer(node, QuantTensor(data.numpy(), shape, scale.numpy(), width), bias)
        elif OPS[node.op].has_module:
            weight = _take(tensors, f"{node.name}.weight", torch.float32)
            layers[node.name] = float_layer(node, weight, _take(tensors, f"{node.name}.bias", torch.float32))
    if tensors:
        raise ArtifactError(f"tensor {min(tensors)} belongs to no layer")
    network = Network(graph, layers).eval()
    _check_shapes(network)
    return network


def _check_shapes(network: Network) -> None:
    """Run the network on the meta device, so that tensors that do not fit the graph are found when it is loaded.

    Raises:
        ArtifactError: a node with another output shape than the graph says, or a value that is too large.
    """
    graph, runner = network.graph, copy.deepcopy(network).to("meta")
    values = {one.value: torch.empty(1, *one.shape, dtype=torch.float32, device="meta") for one in graph.inputs}
    for node in graph.nodes:
        made = values[node.name] = runner.run(node, [values[name] for name in node.inputs])
        if tuple(made.shape[1:]) != node.shape:
            raise ArtifactError(
                f"node {node.name}: expected an output {list(node.shape)}, its layers make {list(made.shape[1:])}"
            )
    if sizes := [list(value.shape) for value in values.values() if value.numel() > MAX_ELEMENTS]:
        raise ArtifactError(f"expected values of at most {MAX_ELEMENTS} numbers an image, found {sizes[0]}")


def _take_floats(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """Take a scale or bias, stored in float16 or float32, as float32."""
    half = tensors[name].dtype == torch.float16
    return _take(tensors, name, torch.float16 if half else torch.float32, shape).float()


def _take(tensors: dict[str, Tensor], name: str, dtype: torch.dtype, shape: tuple[int, ...] | None = None) -> Tensor:
    """Remove a tensor from the dict and return it, after a check of its type, shape and values."""
    found = tensors.pop(name)
    if found.dtype != dtype or (shape is not None and tuple(found.shape) != shape):
        raise ArtifactError(f"tensor {name}: expected {dtype} {shape}, found {found.dtype} {tuple(found.shape)}")
    if dtype.is_floating_point and not torch.isfinite(found).all():
        raise ArtifactError(f"tensor {name}: NaN or infinite values")
    return found
