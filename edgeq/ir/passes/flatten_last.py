"""Values of one pixel stay maps, and are flattened as late as possible."""

from __future__ import annotations

from dataclasses import replace

from edgeq.ir.graph import Graph
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS


def flattens_last(graph: Graph) -> Graph:
    """Let what is computed between layers of flat values be computed on maps of one pixel.

    Such layers are convolutions of 1x1, since runtimes have an int8 convolution that takes one scale per channel, but
    multiply an int8 matrix only through slower or float kernels. So each of them sees its input as one pixel and
    flattens its output; here, what lies between two of them goes. The network computed is the same.
    """
    shapes = graph.shapes()
    now: dict[str, str] = {}  # what was one pixel again, as it is called here
    pixels: dict[str, str] = {}  # flat values, `[channels]`, that are here as `[channels, 1, 1]`
    flat: dict[str, str] = {}  # and the flat values of these, where there are some
    larger: dict[str, str] = {}  # flat values of larger maps, as long as nothing reads them
    made: list[Node] = []

    def as_read(name: str) -> str:
        if name in larger and name not in pixels:
            made.append(Node(name, "flatten", (larger.pop(name),), shapes[name]))
        if name not in pixels:
            return now.get(name, name)
        pixel = pixels[name]
        if pixel not in flat:
            flat[pixel] = f"{pixel}.flatten"
            made.append(Node(flat[pixel], "flatten", (pixel,), shapes[name]))
        return flat[pixel]

    for node in graph.nodes:
        source = node.inputs[0]
        if node.op == "flatten" and shapes[source][1:] == (1, 1):
            pixels[node.name] = now.get(source, source)
        elif node.op == "flatten" and len(shapes[source]) > 1:
            larger[node.name] = now.get(source, source)
        elif node.op == "reshape" and node.shape == (*shapes[source], 1, 1) and source in pixels:
            now[node.name] = pixels[source]
        elif node.op == "reshape" and node.shape == (*shapes[source], 1, 1):
            made.append(replace(node, inputs=(larger.get(source, source),)))
            flat.update({} if source in larger else {node.name: source})
            pixels[source] = node.name
        elif pixels.keys() >= {*node.inputs} and (OPS[node.op].pointwise or node.op in ("add", "mul")):
            made.append(replace(node, inputs=tuple(pixels[name] for name in node.inputs), shape=(*node.shape, 1, 1)))
            pixels[node.name] = node.name
        else:
            made.append(replace(node, inputs=tuple(as_read(name) for name in node.inputs)))
    outputs = tuple(replace(output, value=as_read(output.value)) for output in graph.outputs)
    return replace(graph, nodes=tuple(made), outputs=outputs)
