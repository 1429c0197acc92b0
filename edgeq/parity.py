"""Does the exported file compute what the PyTorch module computes?

Two correct implementations of the same float arithmetic differ in the last bit. Where a value lies between two levels,
that bit decides which one it becomes, and every further layer spreads the difference: after fifty layers of MobileNetV2
the logits of two correct runtimes are steps apart. So each node is compared by itself, on the values that the runtime
computed for its inputs, which leaves nothing to spread; what comes out at the end is measured too, with more tolerance.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import helper

from edgeq.errors import DataError, ParityError
from edgeq.evaluate import PIXEL_TYPE, onnx_runner
from edgeq.graph import INPUT
from edgeq.network import Network
from edgeq.onnx_export import INPUT_NAME, value_names
from edgeq.pixel_groups import ungrouped
from edgeq.preprocess import interleaved, planar

_NODE_TOLERANCE: Final = 0.999  # of a node's values within one step
_END_ERROR: Final = 0.25  # of the variance of the logits; 12 % in the network that spreads last bits the furthest
_NODE_IMAGES: Final = 2  # all values of an image are kept at once


@dataclass(frozen=True)
class Parity:
    """How close ONNX Runtime comes to the PyTorch module.

    Attributes:
        images: images compared.
        step: size of one output quantization step.
        nodes_within_one_step: share of values at most one step apart, each node computed from the runtime's own
            inputs, optimizations off; of the worst node.
        within_one_step: share of logits at most one step apart, optimizations off.
        within_eight_steps: the same for eight steps.
        top1: share of images with the same top-1, optimizations off.
        optimized_within_eight_steps: share of logits at most eight steps apart, all optimizations on.
        optimized_top1: share of images with the same top-1, all optimizations on.
    """

    images: int
    step: float
    nodes_within_one_step: float
    within_one_step: float
    within_eight_steps: float
    top1: float
    optimized_within_eight_steps: float
    optimized_top1: float


def output_point(network: Network) -> str:
    """The value of the float network whose range is the range of the output."""
    last = network.graph.nodes[-1]
    return last.name.removesuffix(".q") if last.op == "quantize" else last.name


def compare(network: Network, path: Path, step: float, batches: Iterable[NDArray[np.float32]]) -> Parity:
    """Run an ONNX file and the PyTorch module on the same images.

    Args:
        network: the PyTorch module.
        path: the ONNX file made of it.
        step: the unit that differences of the output are counted in.
        batches: float32 `[n, *input_shape]` each.

    Raises:
        ParityError: more than a tolerated share of the values of a node differs, or the outputs do by too much.
        DataError: no images.
    """
    plain, optimized = onnx_runner(path, optimize=False), onnx_runner(path)
    worst, name = 1.0, ""
    results: list[tuple[NDArray[np.float32], ...]] = []
    for batch in batches:
        if not results:
            worst, name = worst_node(network, path, batch[:_NODE_IMAGES])
        with torch.inference_mode():
            results.append((network(torch.from_numpy(batch)).numpy(), plain(batch), optimized(batch)))
    if not results:
        raise DataError("no images to compare the exported file on; expected at least one")
    ours, theirs, fused = (np.concatenate(column) for column in zip(*results, strict=True))

    def within(found: NDArray[np.float32], steps: int) -> float:
        return float((np.abs(ours - found) <= (steps + 0.01) * step).mean())

    parity = Parity(
        images=len(ours),
        step=step,
        nodes_within_one_step=worst,
        within_one_step=within(theirs, 1),
        within_eight_steps=within(theirs, 8),
        top1=float((_classes(ours) == _classes(theirs)).mean()),
        optimized_within_eight_steps=within(fused, 8),
        optimized_top1=float((_classes(ours) == _classes(fused)).mean()),
    )
    if worst < _NODE_TOLERANCE:
        raise ParityError(
            f"ONNX Runtime and PyTorch disagree at {name}: expected {_NODE_TOLERANCE:.1%} of its values within 1 step, "
            f"found {worst:.2%}; no file was written, please report this network"
        )
    spread = max(float(ours.var()), step**2)
    error = max(float(np.square(ours - found).mean()) / spread for found in (theirs, fused))
    if error > _END_ERROR:
        raise ParityError(
            f"ONNX Runtime and PyTorch disagree: expected outputs whose error has at most {_END_ERROR:.0%} of their "
            f"variance, found {error:.0%}; no file was written, please report this network"
        )
    return parity


def _classes(answers: NDArray[np.float32]) -> NDArray[Any]:
    """The class of every image, or of every position; of answers that are one number an image, these as they are."""
    return answers.argmax(1) if answers.ndim > 1 else answers


def worst_node(network: Network, path: Path, x: NDArray[np.float32]) -> tuple[float, str]:
    """Compare every node by itself, optimizations off.

    Returns:
        The smallest share of a node's values within one step of PyTorch's, and the name of that node. The step is
        that of a quantizer, and elsewhere 1/255 of the largest magnitude.
    """
    found = _runtime_values(network, path, x)
    worst, name = 1.0, ""
    with torch.inference_mode():
        for node in network.graph.nodes:
            ours = network.run(node, [torch.from_numpy(found[source]) for source in node.inputs]).numpy()
            if node.name not in found:  # a step on the way to another node's value, in the file
                found[node.name] = ours
            step = node.attrs["scale"] if node.op == "quantize" else np.abs(ours).max() / 255
            share = float((np.abs(ours - found[node.name]) <= 1.01 * step).mean())
            if share < worst:
                worst, name = share, node.name
    return worst, name


def _runtime_values(network: Network, path: Path, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Every value of the graph that the file has, as ONNX Runtime computes it, by its name in the graph."""
    names = value_names(network)
    model = onnx.load(path)
    have = {output.name for output in model.graph.output}
    made = {output for node in model.graph.node for output in node.output}
    nodes = [node for node in network.graph.nodes if names[node.name] in made]
    wanted = [node.name for node in nodes]
    model.graph.output.extend(
        helper.make_empty_tensor_value_info(names[name]) for name in wanted if names[name] not in have
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    takes_pixels = session.get_inputs()[0].type == PIXEL_TYPE
    values = session.run([names[name] for name in wanted], {INPUT_NAME: interleaved(x) if takes_pixels else x})
    floats = [planar(value) if value.dtype == np.uint8 else value for value in values]
    shapes = [node.shape for node in nodes]
    maps = [ungrouped(value, shape) if len(shape) == 3 else value for value, shape in zip(floats, shapes, strict=True)]
    return {INPUT: x, **dict(zip(wanted, maps, strict=True))}
