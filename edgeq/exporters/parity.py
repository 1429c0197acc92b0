"""Does the exported file compute what the PyTorch module computes?

Two correct implementations of the same float arithmetic differ in the last bit. Where a value lies between two levels,
that bit decides which one it becomes, and every further layer spreads the difference: after fifty layers of MobileNetV2
the logits of two correct runtimes are steps apart. So each node is compared by itself, on the values that the runtime
computed for its inputs, which leaves nothing to spread. The nodes are those of the network that passes prepared for the
file (`edgeq.exporters.onnx.model`), whose values are all in the file. This is done twice: in the graph as it stands in
the file, and in the integer kernels that the runtime's optimizations make of it, whose results are read behind every
quantizer. In both, nearly all values of a node are within one step of PyTorch's, and no channel is off by more than one
on average: an error of that size is what rounding does anyway.

What comes out at the end is compared with the network as it was before the passes, with more tolerance, as single steps
of difference spread: an error of a quarter of the variance of the logits comes about that way in deep networks with
random weights, and goes with as much change as quantization itself. Attention with random weights may amplify last bits
even more; how much, is measured in PyTorch alone.

Kernels of x86 CPUs without VNNI add two products in 16 bits, and overflow unless weights are within -63..63. That is a
property of the CPU and not of the file. On such a CPU, a file with larger weights is compared in exact arithmetic, and
what the kernels of the CPU make of it is measured as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeq.data.preprocess import interleaved
from edgeq.errors import DataError, ParityError
from edgeq.exporters.onnx.model import Translation
from edgeq.ir.batches import Batch, Images
from edgeq.ir.graph import Graph, Output
from edgeq.ir.network import Network, as_tensor
from edgeq.numerics.activations import LEVELS, ActivationRange
from edgeq.numerics.weights import HIGHEST_REDUCED
from edgeq.packed.modules import PackedConv2d
from edgeq.runtimes.onnxruntime import EXACT, session_of
from edgeq.system.environment import int8_overflows
from edgeq.tasks.classification import classes

_NODE_TOLERANCE: Final = 0.999  # of a node's values within one step
_CHANNEL_TOLERANCE: Final = 1.01  # steps: root mean square of a channel's differences
_END_ERROR: Final = 0.25  # of the variance of the logits; 12 % in the network that spreads last bits the furthest
_NATURAL: Final = 4  # times the error that a change of the last bits of all values makes by itself
_LAST_BITS: Final = 2.0**-20  # of a value: what sums of thousands of products may be off by
_NODE_IMAGES: Final = 2  # all values of an image are kept at once
_CANCELLED: Final = 2.0**-20  # of the largest input of a node: eight units in the last place of float32
_TINY: Final = 1e-30  # a step of values that are all 0


@dataclass(frozen=True)
class OutputParity:
    """How close ONNX Runtime comes to the PyTorch module at one output.

    Attributes:
        step: the unit that differences are counted in: the scale of the output's quantizer, or of a float output 1/255
            of its largest magnitude.
        within_one_step: share of values at most one step apart, optimizations off.
        within_eight_steps: the same for eight steps.
        top1: share of images with the same top-1, optimizations off; None if the output is no class scores.
        optimized_within_eight_steps: share of values at most eight steps apart, all optimizations on.
        optimized_top1: share of images with the same top-1, all optimizations on, or None.
        overflowing: share of values that kernels of this CPU, which overflow, get more than eight steps away from what
            they should be; 0 on CPUs whose kernels do not overflow.
    """

    step: float
    within_one_step: float
    within_eight_steps: float
    top1: float | None
    optimized_within_eight_steps: float
    optimized_top1: float | None
    overflowing: float


@dataclass(frozen=True)
class Parity:
    """How close ONNX Runtime comes to the PyTorch module.

    Attributes:
        images: images compared.
        nodes_within_one_step: share of values at most one step apart, each node computed from the runtime's own
            inputs; of the worst node, with optimizations or without.
        worst_channel: root mean square of the differences in a channel of a node, in steps; of the worst channel, with
            optimizations or without.
        outputs: every output, by its name.
    """

    images: int
    nodes_within_one_step: float
    worst_channel: float
    outputs: Mapping[str, OutputParity]


def compare(made: Translation, path: Path, ranges: Mapping[str, ActivationRange], batches: Iterable[Batch]) -> Parity:
    """Run an ONNX file and the PyTorch module on the same images.

    Args:
        made: the translation of the PyTorch module.
        path: of its ONNX file.
        ranges: of the values of the float network that get a quantizer.
        batches: what the network takes for some images each.

    Raises:
        ParityError: more than a tolerated share of the values of a node differs, or the outputs do by too much.
        DataError: no images.
    """
    exact, graph = overflows(made.source), made.source.graph
    plain, here = runner(made, path, optimize=False), runner(made, path)
    optimized = runner(made, path, exact=True) if exact else here
    nodes = NodeParity()
    results: list[tuple[_Values, ...]] = []
    seen: list[Images] = []
    for images in Images.each(graph, batches):
        if not seen:
            nodes = compare_nodes(made, path, images[:_NODE_IMAGES])
        seen.append(images)
        fused = optimized(images)
        results.append((_computed(made.source, images), plain(images), fused, here(images) if exact else fused))
    if not results:
        raise DataError("no images to compare the exported file on; expected at least one")
    _check_nodes(nodes)
    found = {}
    for i, output in enumerate(graph.outputs):
        each = [np.concatenate(column) for column in zip(*([run[i] for run in runs] for runs in results), strict=True)]
        stored = ranges.get(output.value.removesuffix(".q"))
        step = stored.scale if stored else max(float(np.abs(each[0]).max()) / LEVELS, _TINY)
        error = max(_error(each[0], run, step) for run in each[1:3])
        if error > _END_ERROR:
            changed = np.concatenate([_blurred(made.source, images)[i] for images in seen])
            _check_end(output.name, error, max(_END_ERROR, _NATURAL * _error(each[0], changed, step)))
        found[output.name] = _at_output(graph, output, step, *each)
    return Parity(len(each[0]), nodes.within_one_step, nodes.worst_channel, found)


def _computed(network: Network, images: Images) -> _Values:
    """The outputs of the PyTorch module."""
    wanted = [output.value for output in network.graph.outputs]
    with torch.inference_mode():
        values = network.values([as_tensor(array) for array in images.arrays], wanted)
    return [values[name].numpy() for name in wanted]


def _blurred(network: Network, images: Images) -> _Values:
    """The outputs of the PyTorch module if the last bits of what every node makes are changed at random."""
    generator, graph = torch.Generator().manual_seed(0), network.graph
    values = dict(zip(graph.input_values, map(as_tensor, images.arrays), strict=True))
    with torch.inference_mode():
        for node in graph.nodes:
            x = network.run(node, [values[name] for name in node.inputs])
            if node.op != "quantize":
                x = x * (1 + _LAST_BITS * torch.randn(x.shape, generator=generator, dtype=torch.float32))
            values[node.name] = x
            for name in network.last_reads(node):
                if name not in graph.returned:
                    del values[name]
    return [values[output.value].numpy() for output in graph.outputs]


def _at_output(
    graph: Graph,
    output: Output,
    step: float,
    ours: NDArray[Any],
    theirs: NDArray[Any],
    fused: NDArray[Any],
    as_run: NDArray[Any],
) -> OutputParity:
    """Compare one output of PyTorch with the runtime's, without and with optimizations, and with this CPU's kernels."""
    axis, shape = graph.class_axis(output.value), graph.shapes()[output.value]
    scores = shape == graph.shapes()[graph.logits(output.value)] and shape[axis : axis + 1] != (1,)

    def within(found: NDArray[Any], steps: int, expected: NDArray[Any] = ours) -> float:
        return float((np.abs(expected - found) <= (steps + 0.01) * step).mean())

    def top1(found: NDArray[Any]) -> float | None:
        if output.task != "classification":
            return None
        expected, chosen = (classes(values, axis if scores else None) for values in (ours, found))
        return float((expected == chosen).mean())

    return OutputParity(
        step=step,
        within_one_step=within(theirs, 1),
        within_eight_steps=within(theirs, 8),
        top1=top1(theirs),
        optimized_within_eight_steps=within(fused, 8),
        optimized_top1=top1(fused),
        overflowing=1 - within(as_run, 8, fused),
    )


@dataclass(frozen=True)
class NodeParity:
    """How close every node comes to PyTorch by itself.

    Attributes:
        within_one_step: share of the values of a node at most one step apart; of the worst node.
        worst_node: its name.
        worst_channel: root mean square of the differences in a channel, in steps; of the worst channel.
        channel_node: name of the node that it belongs to.
        not_chance: as `within_one_step`, of the nodes where more than one value is further apart: one may be rounded
            twice, by quantizers behind each other.
        not_chance_node: name of the worst of them.
    """

    within_one_step: float = 1.0
    worst_node: str = ""
    worst_channel: float = 0.0
    channel_node: str = ""
    not_chance: float = 1.0
    not_chance_node: str = ""

    def worse(self, node: str, differences: NDArray[np.float32]) -> NodeParity:
        """This, or what is worse in a node with these differences in steps, `[n, channels, ...]`."""
        found = self
        apart = int((np.abs(differences) > 1.01).sum())
        if (share := 1 - apart / differences.size) < found.within_one_step:
            found = replace(found, within_one_step=share, worst_node=node)
        if apart > 1 and share < found.not_chance:
            found = replace(found, not_chance=share, not_chance_node=node)
        squares = np.square(differences, dtype=np.float64)
        channels = squares.mean(axis=tuple(i for i in range(squares.ndim) if i != 1))
        if (deviation := float(np.sqrt(channels.max()))) > found.worst_channel:
            found = replace(found, worst_channel=deviation, channel_node=node)
        return found


def compare_nodes(made: Translation, path: Path, images: Images) -> NodeParity:
    """Compare every node by itself, on what the runtime computed for its inputs.

    The graph as it stands in the file gives the value of every node. With optimizations, only what is stored in uint8
    is there: from one quantizer to the next, PyTorch computes from the runtime's values. A step is 1 for codes, the
    scale of a quantizer for what it makes, and elsewhere 1/255 of the largest magnitude, see `_step`.

    Args:
        made: the translation of the PyTorch module.
        path: of its ONNX file.
        images: what the network takes for some images.
    """
    scales = {node.name: node.attrs["scale"] for node in made.source.graph.nodes if node.op == "quantize"}
    nodes = made.network.graph.nodes
    found = NodeParity()
    for optimize, wanted in ((False, [node.name for node in nodes]), (True, [n for n in scales if n in made.names])):
        values = _runtime_values(made, path, images, wanted, optimize)
        with torch.inference_mode():
            for node in nodes:
                ours = made.network.run(node, [as_tensor(values[source]) for source in node.inputs]).numpy()
                theirs = values.setdefault(node.name, ours)
                step = scales.get(node.name) or _step(ours, [values[source] for source in node.inputs])
                difference = ours.astype(np.float32, copy=False) - theirs.astype(np.float32, copy=False)
                found = found.worse(node.name, difference / max(step, _TINY))
    return found


def _step(made: NDArray[Any], inputs: Sequence[NDArray[Any]]) -> float:
    """The unit for what a node makes of its inputs; where these cancel out, float32 has no finer one than theirs."""
    if made.dtype == np.uint8:
        return 1.0
    return max(float(np.abs(made).max()) / 255, *(_CANCELLED * float(np.abs(x).max()) for x in inputs))


def _check_nodes(found: NodeParity) -> None:
    if found.not_chance < _NODE_TOLERANCE:
        raise ParityError(
            f"ONNX Runtime and PyTorch disagree at {found.not_chance_node}: expected {_NODE_TOLERANCE:.1%} of its "
            f"values within 1 step, found {found.not_chance:.2%}; no file was written, please report this network"
        )
    if found.worst_channel > _CHANNEL_TOLERANCE:
        raise ParityError(
            f"ONNX Runtime and PyTorch disagree at {found.channel_node}: expected no channel off by more than 1 step, "
            f"found one off by {found.worst_channel:.1f}; no file was written, please report this network"
        )


def _error(ours: NDArray[Any], found: NDArray[Any], step: float) -> float:
    """The mean squared error of an output, as a share of its variance."""
    return float(np.square(ours - found).mean()) / max(float(ours.var()), step**2)


def _check_end(name: str, error: float, allowed: float) -> None:
    """Refuse an output with too large an error.

    A network that amplifies the last bits of its values shows those by which correct arithmetic differs.
    """
    if error > allowed:
        raise ParityError(
            f"ONNX Runtime and PyTorch disagree at output {name}: expected an error of at most {allowed:.0%} of its "
            f"variance, found {error:.0%}; no file was written, please report this network"
        )


def _runtime_values(
    made: Translation, path: Path, images: Images, wanted: Sequence[str], optimize: bool
) -> dict[str, NDArray[Any]]:
    """The inputs and some values of a translated network, by name, as ONNX Runtime computes them from its file."""
    model = onnx.load(path)
    taken = _as_taken(made, images)
    found = dict(zip(made.network.graph.input_values, taken.values(), strict=True))
    if not wanted:
        return found
    outputs = [made.names[name] for name in wanted]
    have = {output.name for output in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs if name not in have)
    if exact := optimize and overflows(made.source):
        _add_zero_points(model)
    session = session_of(model.SerializeToString(), optimize, settings=EXACT if exact else None)
    return found | dict(zip(wanted, session.run(outputs, taken), strict=True))


def overflows(network: Network) -> bool:
    """Whether kernels of this CPU may overflow on the weights of a quantized network."""
    packed = (network.layer(node.name) for node in network.graph.layers)
    largest = max((_largest(layer) for layer in packed if isinstance(layer, PackedConv2d)), default=0)
    return network.graph.quantized and largest > HIGHEST_REDUCED and int8_overflows()


def _largest(layer: PackedConv2d) -> int:
    """The largest magnitude of the levels of a layer."""
    return int(layer.packed.view(torch.int8).short().abs().max()) if layer.bits == 8 else HIGHEST_REDUCED


_Values = Sequence[NDArray[Any]]
"""The outputs of a network in their order."""


def runner(made: Translation, path: Path, optimize: bool = True, exact: bool = False) -> Callable[[Images], _Values]:
    """An exported file in ONNX Runtime; with `exact`, without overflow on any CPU."""
    model = onnx.load(path)
    if exact:
        _add_zero_points(model)
    session = session_of(model.SerializeToString(), optimize, settings=EXACT if exact else None)
    names = [output.name for output in made.source.graph.outputs]
    return lambda images: [np.asarray(found) for found in session.run(names, _as_taken(made, images))]


def _add_zero_points(model: onnx.ModelProto) -> None:
    """Name the zero points that DequantizeLinear takes for 0: ONNX Runtime's exact kernels need those of weights."""
    scales = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    casts = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 2:
            shape = scales.get(casts.get(node.input[1], node.input[1]))
            if shape:
                zeros = numpy_helper.from_array(np.zeros(shape, np.int8), f"{node.output[0]}.zero")
                model.graph.initializer.append(zeros)
                node.input.append(zeros.name)


def _as_taken(made: Translation, images: Images) -> dict[str, NDArray[Any]]:
    """Images as the file takes them, by the names of its inputs: pixels with their channels last, where a pass has
    made the network take such."""
    inputs = zip(made.source.graph.inputs, made.network.graph.inputs, images.arrays, strict=True)
    return {
        own.name: array.astype(np.float32, copy=False) if own.shape == taken.shape else interleaved(array)
        for own, taken, array in inputs
    }
