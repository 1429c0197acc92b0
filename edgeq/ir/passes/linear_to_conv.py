"""Linear layers of flat values become 1x1 convolutions over maps of one pixel."""

from __future__ import annotations

from dataclasses import replace

from edgeq.ir.network import POINT, Network, float_layer
from edgeq.ir.node import Node
from edgeq.ir.ops.registry import OPS


def linear_as_conv(network: Network) -> Network:
    """Turn linear layers of flat values into 1x1 convolutions, and flatten as late as possible.

    Runtimes have an int8 convolution that takes one scale per channel, but multiply an int8 matrix only through
    slower or float kernels; the network computed is the same. What was a 1x1 map before it was flattened is read as
    it was, other values are seen as one.
    """
    graph = network.graph
    shapes = graph.shapes()
    layers = {node.name: network.layer(node.name) for node in graph.nodes if OPS[node.op].has_module}
    maps: dict[str, str] = {}  # flat values of the network that are still maps here: [channels] as [channels, 1, 1]
    same: dict[str, str] = {}  # values that were such maps again in the network
    flat: dict[str, str] = {}  # the flat values of maps that are read as such, too
    larger: dict[str, str] = {}  # flat values that are larger maps here, as long as nothing reads them
    made: list[Node] = []

    def flattened(name: str) -> str:
        if name in larger and name not in flat:
            flat[name] = name
            made.append(Node(name, "flatten", (same.get(larger[name], larger[name]),), shapes[name]))
        elif name in maps and name not in flat:
            flat[name] = f"{maps[name]}.flatten"
            made.append(Node(flat[name], "flatten", (maps[name],), shapes[name]))
        return flat.get(name, same.get(name, name))

    def as_map(name: str) -> None:
        source = larger.get(name, name)
        maps[name], shape = f"{name}.map", (*shapes[name], 1, 1)
        flat.update({} if name in larger else {name: same.get(name, name)})
        made.append(Node(maps[name], "reshape", (same.get(source, source),), shape, {"sizes": list(shape)}))

    for node in graph.nodes:
        source = node.inputs[0]
        if node.op == "linear" and source not in maps:
            as_map(source)
        if node.op == "flatten" and shapes[source][1:] == (1, 1):
            maps[node.name] = same.get(source, source)
        elif node.op == "flatten" and source not in maps:
            larger[node.name] = source
        elif node.op == "reshape" and source in maps and node.shape == (*shapes[source], 1, 1):
            same[node.name] = maps[source]
        elif maps.keys() >= {*node.inputs} and (OPS[node.op].pointwise or node.op in ("add", "mul", "linear")):
            read = replace(node, inputs=tuple(maps[name] for name in node.inputs), shape=(*node.shape, 1, 1))
            if node.op == "linear":
                weight, bias = network.weight_and_bias(node.name)
                read = replace(read, op="conv2d", attrs=POINT)
                layers[node.name] = float_layer(read, weight[:, :, None, None], bias)
            made.append(read)
            maps[node.name] = node.name
        else:
            made.append(replace(node, inputs=tuple(flattened(name) for name in node.inputs)))
    outputs = tuple(replace(output, value=flattened(output.value)) for output in graph.outputs)
    return Network(replace(graph, nodes=tuple(made), outputs=outputs), layers, network.trained)
