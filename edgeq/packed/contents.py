"""A description of the file of a packed network: sizes, widths and costs of its layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from edgeq.ir.node import Node
from edgeq.numerics.weights import as_stored
from edgeq.packed.file import load_packed
from edgeq.planning.cost import FLOAT_BITS, bitops, macs


def contents(path: Path) -> dict[str, Any]:
    """Describe a packed network and each of its layers as JSON values.

    Raises:
        ArtifactError: not a packed network, or a damaged one.
    """
    network = load_packed(path)
    act_bits = 8 if network.graph.quantized else 32
    layers = [_layer(node, network.layer(node.name), act_bits) for node in network.graph.layers]
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "act_bits": act_bits,
        "bitops": sum(layer["bitops"] for layer in layers),
        "layers": [{"position": i, **layer} for i, layer in enumerate(layers)],
    }


def _layer(node: Node, layer: nn.Module, act_bits: int) -> dict[str, Any]:
    tensors = layer.state_dict()
    packed = "packed" in tensors
    bits: float = getattr(layer, "bits", FLOAT_BITS)
    shape = [int(d) for d in getattr(layer, "shape", None) or tensors["weight"].shape]
    multiplies = macs(tuple(shape), node.shape)
    return {
        "name": node.name,
        "kind": node.op,
        "shape": shape,
        "bits": bits,
        "act_bits": act_bits,
        "macs": multiplies,
        "bytes": sum(
            (as_stored(tensor.numpy()) if packed and tensor.is_floating_point() else tensor).nbytes
            for tensor in tensors.values()
        ),
        "bitops": bitops(multiplies, bits, act_bits),
        "scales": [float(tensors["scale"].min()), float(tensors["scale"].max())] if packed else None,
    }
