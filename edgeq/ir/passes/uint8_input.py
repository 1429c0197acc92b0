"""Take the image in uint8 with its channels last, `[rows, columns, channels]`, as cameras and image files have it.

The border of the image (`edgeq.ir.passes.fold_normalization`) is put on in uint8. A quantizer of pixels has nothing to
round: pixels are their own codes, of scale 1 / 255, so it only reads them as floats and puts the channels first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from edgeq.ir.graph import INPUT, Graph
from edgeq.ir.node import Node
from edgeq.numerics.activations import LEVELS

AS_FLOATS: Final = f"{INPUT}.floats"
"""The image in float, in a network that neither quantizes it nor puts a border around it."""


def with_uint8_input(graph: Graph) -> Graph:
    """Make a network of pixels in 0..1 take pixels in 0..255.

    Args:
        graph: takes pixels in 0..1, `[channels, rows, columns]`; float or quantized.

    Returns:
        A graph that takes uint8 `[rows, columns, channels]`. Values have the names that they had, but for a border that
        is not quantized: this name is then that of the image with its border, in float.
    """
    channels, *size = graph.image.shape
    shapes = graph.shapes()
    quantized = {name for node in graph.nodes if node.op == "quantize" for name in node.inputs}
    stored = {INPUT: INPUT}  # by the name of an image in float, that of the same in uint8
    made: list[Node] = []
    if any(INPUT in node.inputs for node in graph.nodes if node.op not in ("quantize", "border")):
        made.append(Node(AS_FLOATS, "read_pixels", (INPUT,), graph.image.shape))
    for node in graph.nodes:
        source = node.inputs[0]
        if node.op == "border":
            stored[node.name] = node.name if node.name in quantized else f"{node.name}.bytes"
            made.append(_in_uint8(node, stored[node.name], stored[source]))
            if node.name not in quantized:
                made.append(Node(node.name, "read_pixels", (stored[node.name],), node.shape))
        elif node.op == "quantize" and source in stored:
            made.append(Node(node.name, "read_pixels", (stored[source],), shapes[source]))
        else:
            made.append(replace(node, inputs=tuple(AS_FLOATS if name == INPUT else name for name in node.inputs)))
    return replace(graph, inputs=(replace(graph.image, shape=(*size, channels)),), nodes=tuple(made))


def _in_uint8(border: Node, name: str, image: str) -> Node:
    channels, *size = border.shape
    values = [round(value * LEVELS) for value in border.attrs["values"]]
    return Node(name, "pixel_border", (image,), (*size, channels), {"pads": border.attrs["pads"], "values": values})
