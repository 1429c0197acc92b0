"""What an ONNX file of edgeq's holds besides weights, scales, biases and tables, weighed in real exports.

Planning under a budget counts the bytes of a file that is not written yet. Of nodes and names no formula is exact, so
the network is exported once at every width, and what each layer adds is looked up in these files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from edgeq.artifacts.record import CalibrationRecord, LayerInfo
from edgeq.exporters.onnx.model import to_onnx
from edgeq.ir.network import Network
from edgeq.numerics.weights import WIDTHS, BitWidth, QuantLayer, QuantTensor, fills, half_precision, packed_shape
from edgeq.packed.pack import pack
from edgeq.planning.cost import layer_bytes
from edgeq.planning.plan import plan


def overhead(
    network: Network, widths: Mapping[str, Mapping[float, QuantLayer]], record: CalibrationRecord
) -> tuple[int, int, int]:
    """Measure `graph_bytes`, `packed_layer_bytes` and `cut_layer_bytes` of a record.

    Constants that layers share are counted for each of them, so a file is smaller than the sum by a little; what all
    layers of a width share is counted by `edgeq.planning.cost.trellis_bytes`.

    Args:
        network: the float network.
        widths: every layer rounded to some widths, `[name][bits]`; those of 2 bits lend theirs to the others.
        record: complete but for these three numbers.
    """
    eight = plan(record, "8bit")
    rng, rest, made = np.random.default_rng(0), 0, dict[float, dict[str, int]]()
    for width in WIDTHS:
        layers = {name: found.get(width.bits) or _filled(found[2], width, rng) for name, found in widths.items()}
        # As exports have them; a bias that fits no half precision takes other bytes, and no node that casts it.
        layers = {name: replace(layer, bias=half_precision(layer.bias)) for name, layer in layers.items()}
        alone, made[width.bits] = _weigh(to_onnx(pack(network, layers, record, eight)), record.layers)
        rest = max(rest, alone)  # the numbers that nodes are named by get longer where there are more of them
    plain = {info.name: made[8][info.name] - layer_bytes(info, 8) for info in record.layers}
    filled, cut = [0], [0]
    for info, width in product(record.layers, (width for width in WIDTHS if width.bits < 8)):
        decode = made[width.bits][info.name] - layer_bytes(info, width.bits) - plain[info.name]
        (filled if fills(info.shape, width) else cut).append(decode)
    return rest + sum(plain.values()), max(filled), max(max(cut) - max(filled), 0)


def _filled(layer: QuantLayer, width: BitWidth, rng: np.random.Generator) -> QuantLayer:
    """The layer at another width, of any bytes: they take as much room as those that it would be rounded to."""
    shape, scale = layer.weight.shape, layer.weight.scale
    data = rng.integers(0, 256, packed_shape(shape, width), np.uint8)
    return replace(layer, weight=QuantTensor(data, shape, scale, width))


def _weigh(model: onnx.ModelProto, layers: tuple[LayerInfo, ...]) -> tuple[int, dict[str, int]]:
    """Bytes of everything that makes each layer's weights, without what layers share, and bytes of all the rest."""
    makers = {node.output[0]: node for node in model.graph.node}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = {node.name: node for node in model.graph.node if node.name}
    shared = {name for width in WIDTHS for name in _above(f"decoder{width.bits}", makers)}
    shared |= {node.input[0] for node in model.graph.node if node.op_type == "MatMulInteger"}
    seen = shared & {*constants, *makers}
    made = {}
    for info in layers:
        above = _above(readers[info.name].input[1], makers)
        seen |= above
        parts = [constants.get(name) or makers[name] for name in above - shared]
        made[info.name] = sum(map(_field_bytes, parts))
    return model.ByteSize() - sum(_field_bytes(constants.get(name) or makers[name]) for name in seen), made


def _above(value: str, makers: Mapping[str, NodeProto]) -> set[str]:
    """The value and all that it is computed from."""
    node = makers.get(value)
    return {value}.union(*(_above(name, makers) for name in node.input)) if node else {value}


def _field_bytes(part: NodeProto | TensorProto) -> int:
    """Bytes of a part in its file: a tag, its length in groups of 7 bits, itself."""
    size: int = part.ByteSize()
    return 1 + -(-size.bit_length() // 7) + size
