"""Assemble the quantized network: packed layers and activation quantizers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from edgeq.artifacts.record import CalibrationRecord
from edgeq.errors import ArtifactError
from edgeq.ir.network import Network, as_tensor
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS
from edgeq.ir.passes.insert_quantizers import with_quantizers
from edgeq.numerics.weights import QuantLayer, QuantTensor
from edgeq.packed.activations import ActivationQuantizer
from edgeq.packed.modules import PackedConv2d
from edgeq.planning.plan import PrecisionPlan


def pack(
    network: Network, quantized: Mapping[str, QuantLayer], record: CalibrationRecord, plan: PrecisionPlan
) -> Network:
    """Assemble the quantized network.

    Args:
        network: the float network.
        quantized: the rounded layers by name, from `edgeq.quantize` or `edgeq.tune`.
        record: calibration record, for the activation ranges.
        plan: precision plan, for the width of the activations.

    Returns:
        A `Network` with packed layers. With 8-bit activations, its graph has a `quantize` node wherever a value is
        stored in uint8. This network is what `edgeq.export` writes, and what it compares the file with.

    Raises:
        ArtifactError: the record is of another network.

    Example:
        >>> packed = edgeq.pack(network, layers, record, plan)
        >>> sorted(packed.layer("0").state_dict())
        ['bias', 'packed', 'scale']
    """
    graph = network.graph
    if plan.act_bits == 8:
        graph = with_quantizers(graph, record.activations, record.in_float)
    layers: dict[str, nn.Module] = {}
    for node in graph.nodes:
        if node.name in quantized:
            found = quantized[node.name]
            layers[node.name] = packed_layer(node, found.weight, as_tensor(found.bias))
        elif node.op == "quantize":
            layers[node.name] = quantizer(node)
        elif OPS[node.op].has_module:
            layers[node.name] = network.layer(node.name)
    return Network(graph, layers, original=network).eval()


def packed_layer(node: Node, packed: QuantTensor, bias: Tensor) -> PackedConv2d:
    """Return the module of a layer with these weights and this bias, float32 `[out]`."""
    return PackedConv2d(packed, bias, **node.attrs)


def quantizer(node: Node) -> ActivationQuantizer:
    """Return the module of a `quantize` node.

    Raises:
        ArtifactError: its scale or zero point is out of range.
    """
    scale, zero_point = node.attrs["scale"], node.attrs["zero_point"]
    if not (0 < scale < float("inf") and 0 <= zero_point <= 255):
        raise ArtifactError(f"node {node.name}: scale {scale} or zero point {zero_point} is out of range")
    return ActivationQuantizer(scale, zero_point)
