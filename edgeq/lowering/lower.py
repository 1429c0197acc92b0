"""From a packed network to a program: which steps compute it in integers, as ONNX Runtime's kernels do.

A node that a quantizer reads is computed together with it: a layer's sums become codes at once. Until then it waits. A
value that only moves stays in codes. What is computed from codes one by one is a table of 256 codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import floor, log, prod
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeq.errors import UnsupportedError
from edgeq.ir.network import Network
from edgeq.ir.node import Node
from edgeq.ir.ops.codes import to_codes
from edgeq.ir.ops.quantize import bordered
from edgeq.ir.ops.registry import OPS
from edgeq.ir.passes.hard_sigmoid import on_codes
from edgeq.ir.passes.uint8_input import with_uint8_input
from edgeq.lowering.builder import Builder, Levels, Stored
from edgeq.lowering.floats import lower_float, pointwise
from edgeq.lowering.logistic import logistic
from edgeq.lowering.loops import as_words, by_memory, loops, merged, strides_of
from edgeq.lowering.rearrange import as_end, in_arena, rearranged
from edgeq.lowering.weights import convolution_bytes, decoded_sizes, depthwise_bytes, trellis_bytes
from edgeq.native.program import DEPTH, LANES, THREADS, End, Flag, Kind, Program, Step, up_to
from edgeq.numerics.activations import LEVELS
from edgeq.numerics.weights import HIGHEST_REDUCED, BitWidth, QuantTensor
from edgeq.packed.modules import PackedConv2d

_MAP: Final = 3  # dimensions of a map
_POINTER: Final = 8  # bytes, at most
_RESERVE: Final = 5.0  # of the logarithm of the largest float, for sums of exponentials
_MOST: Final = 2**31 - 1  # that an int32 holds


def lower(network: Network, pixels: bool = False, threads: int = 1) -> Program:
    """Write a packed network as a program of the native engine.

    Args:
        network: from `edgeq.pack` or `edgeq.load_packed`, with 8-bit activations.
        pixels: whether it takes the image in uint8, its channels last.
        threads: how many can run it together, each with memory of its own in the arena, 1 to `THREADS`.

    Raises:
        UnsupportedError: a layer that the engine does not compute; it is named. Or more threads.
    """
    if not 1 <= threads <= THREADS:
        raise UnsupportedError(f"the native engine: expected 1 to {THREADS} threads, found {threads}")
    graph = on_codes(with_uint8_input(network.graph) if pixels else network.graph)
    lowering = _Lowering(network.with_graph(graph), pixels)
    for node in graph.nodes:
        lowering.take(node)
    return lowering.program(threads)


class _Lowering:
    """What is known of the values of a network, as its nodes are taken in order.

    Args:
        network: after `on_codes`.
        pixels: whether its image is uint8.
    """

    def __init__(self, network: Network, pixels: bool) -> None:
        self.network, self.graph, self.builder = network, network.graph, Builder()
        self.inputs = [End(one.name, one.shape, not pixels) for one in self.graph.inputs]
        levels = Levels(1.0, 0) if pixels else None
        self.stored = {one.value: Stored(-1 - i, one.shape, levels) for i, one in enumerate(self.graph.inputs)}
        self.floats = dict[str, Stored]()  # what is known in float, in the arena
        self.waiting: dict[str, Node] = {}

    def take(self, node: Node) -> None:
        """Lower a node, or let it wait for what reads it."""
        if node.op in ("quantize", "to_codes"):
            self.stored[node.name] = self._quantized(node)
        elif node.op in _ON_CODES:
            self.stored[node.name] = _ON_CODES[node.op](self, node)
        elif OPS[node.op].same_scale and (levels := self._common_levels(node)):
            self.stored[node.name] = self._moved(node, levels)
        else:
            self.waiting[node.name] = node

    def program(self, threads: int) -> Program:
        """The program of all nodes that were taken, with the network's outputs."""
        outputs = []
        for i, output in enumerate(self.graph.outputs):
            shape = self.graph.shapes()[output.value]
            outputs.append(End(output.name, shape, True))
            found = self.stored.get(output.value)
            if found is None or found.slot < 0:
                found = self._floats(output.value)
            kind = Kind.DEQUANTIZE if found.levels else Kind.COPY
            levels = found.levels or Levels(1.0, 0)
            channels, rows, columns = as_end(found.shape)
            self.builder.add(output.name, Step(
                kind, Flag.FLOATS, found.slot, to=-1 - i, rows=rows, columns=columns, channels=channels,
                out_rows=rows, out_columns=columns, out_channels=channels, from_kept=rows,
                from_scale=levels.scale, from_zero=levels.zero,
            ))  # fmt: skip
        return self.builder.program(self.inputs, outputs, threads)

    # --- quantizers -------------------------------------------------------------------------------------------------

    def _quantized(self, node: Node) -> Stored:
        """What a quantizer makes, together with the node that it reads."""
        levels, source = Levels(node.attrs["scale"], node.attrs["zero_point"]), node.inputs[0]
        if source in self.stored:
            found = self.stored[source]
            if found.levels is None:
                return self._from_floats(node, found, levels)
            return self._by_table(node, found, levels, _same)
        producer, least, most = self._behind_clips(self.waiting[source], levels)
        rule = _IN_INTEGERS.get(producer.attrs.get("operator", producer.op))
        if rule and all(self._levels_of(name) for name in producer.inputs):
            return rule(self, producer, levels, least, most)
        if self._is_table(self.waiting[source]):
            read = self.waiting[source]
            function = logistic if read.op == "sigmoid" else lambda x: self.network.run(read, [x])
            return self._by_table(read, self.stored[read.inputs[0]], levels, function)
        return self._from_floats(node, self._floats(source), levels)

    def _behind_clips(self, node: Node, levels: Levels) -> tuple[Node, int, int]:
        """The layer that activations clip, and the codes that they leave."""
        least, most = 0, 255
        while node.op in ("relu", "clip") and node.inputs[0] in self.waiting:
            ends = torch.tensor([0.0, node.attrs.get("max", float("inf"))])
            low, high = to_codes(ends, torch.tensor(levels.scale), levels.zero).tolist()
            least, most = max(least, low), min(most, high)
            node = self.waiting[node.inputs[0]]
        return node, least, most

    def _is_table(self, node: Node) -> bool:
        """Whether an op computes each code by itself, whatever its channel."""
        return len(node.inputs) == 1 and self._levels_of(node.inputs[0]) is not None and _same_for_all(node)

    def _levels_of(self, name: str) -> Levels | None:
        return self.stored[name].levels if name in self.stored else None

    def _common_levels(self, node: Node) -> Levels | None:
        """The levels that all inputs of a node have; None if they differ, or one is no codes."""
        found = {self._levels_of(name) for name in node.inputs}
        return found.pop() if len(found) == 1 else None

    def _by_table(self, node: Node, source: Stored, levels: Levels, function: Callable[[Tensor], Tensor]) -> Stored:
        """Codes that are a function of codes."""
        if source.levels == levels and function is _same:
            return source
        codes = torch.arange(256).reshape(1, 1, 1, 256)
        values = (codes.float() - source.codes.zero) * torch.tensor(source.codes.scale)
        with torch.inference_mode():
            made = function(values.expand(1, 1, 1, 256))
        table = to_codes(made, torch.tensor(levels.scale), levels.zero)
        return self._looked_up(node, source, levels, table.numpy().reshape(-1))

    def _looked_up(self, node: Node, source: Stored, levels: Levels, table: NDArray[np.uint8]) -> Stored:
        made = self.builder.room(source.shape, levels)
        self.builder.add(node.name, _over(source.shape, Step(
            Kind.TABLE, 0, source.slot, to=made.slot, weights=self.builder.constant(table),
        )))  # fmt: skip
        return made

    def _from_floats(self, node: Node, source: Stored, levels: Levels) -> Stored:
        made = self.builder.room(source.shape, levels)
        # Only inputs have their channels first.
        channels, rows, columns = as_end(source.shape) if source.slot < 0 else (1, 1, prod(source.shape))
        self.builder.add(node.name, Step(
            Kind.QUANTIZE, 0, source.slot, to=made.slot, rows=rows, columns=columns, channels=channels, out_rows=rows,
            out_columns=columns, out_channels=channels, from_kept=rows, to_kept=rows, to_scale=levels.scale,
            to_zero=levels.zero,
        ))  # fmt: skip
        return made

    # --- what stays codes -------------------------------------------------------------------------------------------

    def _moved(self, node: Node, levels: Levels) -> Stored:
        """The result of an op that moves codes, and makes none but those of zero."""
        if node.op == "max_pool2d":
            return self._pooled(Kind.MAX_POOL, node, levels, levels, 0, 255)
        return self._rearranged(node, [self.stored[name] for name in node.inputs], levels)

    def _rearranged(self, node: Node, sources: Sequence[Stored], levels: Levels | None) -> Stored:
        """The result of an op that moves values and puts zeros in between."""
        return rearranged(self.builder, node, lambda x: self.network.run(node, x), sources, node.shape, levels)

    def _clipped(self, node: Node) -> Stored:
        source = self.stored[node.inputs[0]]
        table = np.minimum(np.arange(256), node.attrs["max"]).astype(np.uint8)
        return self._looked_up(node, source, source.codes, table)

    def _dequantized(self, node: Node) -> Stored:
        return replace(self.stored[node.inputs[0]], levels=Levels(node.attrs["scale"], node.attrs["zero_point"]))

    def _pixels(self, node: Node) -> Stored:
        return replace(self.stored[node.inputs[0]], shape=node.shape, levels=Levels(float(np.float32(1 / LEVELS)), 0))

    def _bordered(self, node: Node) -> Stored:
        """Pixels `[rows, columns, channels]` in uint8, with a border of one colour."""
        source, (rows, columns, channels) = self.stored[node.inputs[0]], node.shape
        image = replace(source, shape=(channels, *source.shape[:2]))
        made = self._framed(node, image, (channels, rows, columns), bytes(map(int, node.attrs["values"])))
        return replace(made, shape=node.shape)

    def _framed(self, node: Node, source: Stored, shape: tuple[int, ...], pixel: bytes) -> Stored:
        """A map with a border of one pixel's bytes."""
        nothing, pads = [0.0] * shape[0], node.attrs["pads"]
        return rearranged(
            self.builder, node, lambda x: bordered(x[0], pads, nothing), [source], shape, source.levels, pixel
        )

    # --- in integers ------------------------------------------------------------------------------------------------

    def _convolved(self, node: Node, levels: Levels | None, least: int = 0, most: int = 255) -> Stored:
        """A layer, whose sums become codes of these levels, or floats."""
        source, layer = self.stored[node.inputs[0]], self.network.layer(node.name)
        if not isinstance(layer, PackedConv2d):
            raise UnsupportedError(f"layer {node.name}: the native engine computes layers of packed weights only")
        made, weight = self.builder.room(node.shape, levels), _weight(layer)
        (inputs, rows, columns), (outputs, out_rows, out_columns) = _as_map(source.shape), _as_map(node.shape)
        stride, padding, dilation, groups = (node.attrs[key] for key in ("stride", "padding", "dilation", "groups"))
        alone = groups == inputs == outputs and levels is not None
        if alone:
            data = depthwise_bytes(weight.data)
            units = [up_to(outputs, LANES) * prod(weight.shape[1:])]
            rows_read = (out_rows - 1) * stride[0] + (weight.shape[2] - 1) * dilation[0] + 1
            scratch = up_to(inputs * columns) + _POINTER * rows_read
        else:
            data = convolution_bytes(weight.data, weight.shape, groups, weight.width)
            units = decoded_sizes(weight.shape, groups, weight.width)
            scratch = up_to(prod(weight.shape[1:]), DEPTH) * out_columns
        decoded, everything = up_to(max(units)), up_to(sum(units))
        flags = Flag.SMALL if np.abs(weight.levels().astype(int)).max() <= HIGHEST_REDUCED else Flag(0)
        step = Step(
            Kind.DEPTHWISE if alone else Kind.CONVOLUTION, flags | (Flag(0) if levels else Flag.TO_FLOAT), source.slot,
            to=made.slot, rows=rows, columns=columns, channels=inputs, out_rows=out_rows, out_columns=out_columns,
            out_channels=outputs, kernel_rows=weight.shape[2], kernel_columns=weight.shape[3], stride_rows=stride[0],
            stride_columns=stride[1], dilation_rows=dilation[0], dilation_columns=dilation[1], above=padding[0],
            left=padding[1], groups=groups, per_byte=weight.width.per_byte, weights=self.builder.constant(data),
            trellis=0 if weight.width.bits == 8 else self.builder.constant(trellis_bytes(weight.width.trellis)),
            from_kept=rows, to_kept=out_rows, from_zero=source.codes.zero, from_scale=source.codes.scale, least=least,
            most=most, decoded=decoded,
        )  # fmt: skip
        self._scales(node, step, weight, np.asarray(layer.bias), levels)
        self.builder.add(node.name, step, decoded + scratch, everything)
        return made

    def _scales(
        self, node: Node, step: Step, weight: QuantTensor, bias: NDArray[np.float32], levels: Levels | None
    ) -> None:
        """The numbers by which sums become codes, computed in float32 as ONNX Runtime does."""
        unit, integers = np.float32(step.from_scale) * weight.scale, weight.levels().reshape(len(weight.scale), -1)
        moved = -integers.sum(1, dtype=np.int64) * step.from_zero
        if levels is None:
            step.multipliers, step.offsets = self.builder.constant(unit), self.builder.constant(bias)
            step.biases = self.builder.constant(moved.astype(np.int32))
            return
        moved += np.rint(bias / unit).astype(np.int64)
        ends = [
            moved + LEVELS * part.sum(1, dtype=np.int64) for part in (np.minimum(integers, 0), np.maximum(integers, 0))
        ]
        if max(np.abs(end).max() for end in ends) > _MOST:
            raise UnsupportedError(f"layer {node.name}: its sums do not fit int32, which the native engine adds in")
        step.biases = self.builder.constant(moved.astype(np.int32))
        step.multipliers = self.builder.constant((unit / np.float32(levels.scale)).astype(np.float32))
        step.to_scale, step.to_zero = levels.scale, levels.zero

    def _combined(self, node: Node, levels: Levels, least: int, most: int, *, kind: Kind) -> Stored:
        """The sum or product of two values, one of which may be repeated."""
        a, b = (self.stored[name] for name in node.inputs)
        if a.shape != node.shape:
            a, b = b, a
        a = self._repeated(node, a)
        b = self._repeated(node, b) if len(node.shape) > _MAP else b
        made = self.builder.room(node.shape, levels)
        depth, high, wide = _as_map((*[1] * (len(a.shape) - len(b.shape)), *b.shape))
        step = _over(node.shape, Step(
            kind, 0, a.slot, b.slot, made.slot, groups=int(depth > 1), stride_columns=depth * (wide > 1),
            stride_rows=depth * wide * (high > 1), other_kept=high, from_scale=a.codes.scale, from_zero=a.codes.zero,
            other_scale=b.codes.scale, other_zero=b.codes.zero, to_scale=levels.scale, to_zero=levels.zero,
        ))  # fmt: skip
        self.builder.add(node.name, step, step.channels)
        return self._limited(node, made, least, most)

    def _repeated(self, node: Node, source: Stored) -> Stored:
        """Codes repeated to the shape of a node."""
        shape = (1, *node.shape)
        return rearranged(self.builder, node, lambda x: x[0].expand(shape), [source], node.shape, source.levels)

    def _pooled(self, kind: Kind, node: Node, source: Levels, levels: Levels, least: int, most: int) -> Stored:
        """The largest or the mean of each window."""
        read, made, a = self.stored[node.inputs[0]], self.builder.room(node.shape, levels), node.attrs
        channels, rows, columns = read.shape
        window = {"kernel": [rows, columns], "stride": [1, 1], "padding": [0, 0]} if kind == Kind.GLOBAL_AVERAGE else a
        dilation = a.get("dilation", [1, 1])
        counted = Flag.COUNT_PADDING if a.get("count_padding") and any(window["padding"]) else Flag(0)
        self.builder.add(node.name, Step(
            kind, counted, read.slot, to=made.slot, rows=rows, columns=columns, channels=channels,
            out_rows=node.shape[1], out_columns=node.shape[2], out_channels=channels, kernel_rows=window["kernel"][0],
            kernel_columns=window["kernel"][1], stride_rows=window["stride"][0], stride_columns=window["stride"][1],
            dilation_rows=dilation[0], dilation_columns=dilation[1], above=window["padding"][0],
            left=window["padding"][1], from_kept=rows, to_kept=node.shape[1], from_zero=source.zero,
            from_scale=source.scale, to_zero=levels.zero, to_scale=levels.scale, least=least, most=most,
        ), 4 * channels if kind == Kind.AVERAGE_POOL else 0)  # fmt: skip
        return made

    def _averaged(self, node: Node, levels: Levels, least: int, most: int) -> Stored:
        kind = Kind.GLOBAL_AVERAGE if node.op == "global_avg_pool" else Kind.AVERAGE_POOL
        return self._pooled(kind, node, self.stored[node.inputs[0]].codes, levels, least, most)

    def _joined(self, node: Node, levels: Levels, least: int, most: int) -> Stored:
        """A concatenation of values of other scales."""
        parts = [self._by_table(node, self.stored[name], levels, _same) for name in node.inputs]
        return self._limited(node, self._rearranged(node, parts, levels), least, most)

    def _shared_out(self, node: Node, levels: Levels, least: int, most: int) -> Stored:
        """A softmax of codes, by a table of exponentials that is as high as sums of floats can be."""
        source, made = self.stored[node.inputs[0]], self.builder.room(node.shape, levels)
        strides = strides_of(source.shape)
        outer = loops((1, *source.shape), strides, strides)
        inner = outer.pop(node.attrs["arguments"]["dim"] % len(outer))
        room = max(0.0, log(float(np.finfo(np.float32).max) / inner.size) - _RESERVE)
        powers = np.exp((np.arange(256) - 255.0) * source.codes.scale + room).astype(np.float32)
        self.builder.add(node.name, Step(
            Kind.SOFTMAX_CODES, 0, in_arena(self.builder, node, source).slot, to=made.slot,
            weights=self.builder.constant(as_words(merged(by_memory(outer, 1), 2))),
            offsets=self.builder.constant(as_words([inner])), multipliers=self.builder.constant(powers),
            to_scale=floor(np.float32(1) / np.float32(levels.scale)), to_zero=levels.zero,
        ))  # fmt: skip
        return self._limited(node, made, least, most)

    def _limited(self, node: Node, made: Stored, least: int, most: int) -> Stored:
        if (least, most) == (0, 255):
            return made
        return self._looked_up(node, made, made.codes, np.clip(np.arange(256), least, most).astype(np.uint8))

    # --- in float ---------------------------------------------------------------------------------------------------

    def _floats(self, name: str) -> Stored:
        """A value in float, in the arena."""
        if name not in self.floats:
            self.floats[name] = self._from_stored(name) if name in self.stored else self._computed(self.waiting[name])
        return self.floats[name]

    def _from_stored(self, name: str) -> Stored:
        """Codes, or an input, as floats."""
        found, node = self.stored[name], Node(name, "dequantize", (name,), self.stored[name].shape)
        if found.levels is None:
            return in_arena(self.builder, node, found)
        made, count = self.builder.room(found.shape, None), prod(found.shape)
        self.builder.add(name, Step(
            Kind.DEQUANTIZE, 0, in_arena(self.builder, node, found).slot, to=made.slot, columns=count,
            out_columns=count, from_scale=found.levels.scale, from_zero=found.levels.zero,
        ))  # fmt: skip
        return made

    def _computed(self, node: Node) -> Stored:
        if node.op == "conv2d" and self._levels_of(node.inputs[0]):
            return self._convolved(node, None)
        sources = [self._floats(source) for source in node.inputs]
        if OPS[node.op].same_scale and node.op != "max_pool2d":
            return self._rearranged(node, sources, None)
        if node.op == "border":
            return self._framed(node, sources[0], node.shape, np.array(node.attrs["values"], np.float32).tobytes())
        return lower_float(self.builder, self.network, node, sources)


def _same(values: Tensor) -> Tensor:
    return values


def _same_for_all(node: Node) -> bool:
    """Whether an op computes every value from the same one of its input, in the same way."""
    if node.op == "float":
        return pointwise(node)
    return OPS[node.op].pointwise and node.op != "prelu"


def _as_map(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, rows and columns of a value as it lies in memory, with the channels last."""
    if len(shape) == 3:
        return shape
    if len(shape) > 3:
        return (1, 1, prod(shape))
    rows, channels = (1,) * (2 - len(shape)) + shape
    return (channels, 1, rows)


def _over(shape: tuple[int, ...], step: Step) -> Step:
    """A step that makes each value from the same one of what it reads."""
    channels, rows, columns = _as_map(shape)
    return replace(
        step, rows=rows, columns=columns, channels=channels, out_rows=rows, out_columns=columns, out_channels=channels,
        from_kept=rows, to_kept=rows,
    )  # fmt: skip


def _weight(layer: PackedConv2d) -> QuantTensor:
    return QuantTensor(layer.packed.numpy(), tuple(layer.shape), layer.scale.numpy(), BitWidth(layer.bits))


_ON_CODES: Final[Mapping[str, Callable[[_Lowering, Node], Stored]]] = {
    "clip_codes": _Lowering._clipped,
    "dequantize": _Lowering._dequantized,
    "read_pixels": _Lowering._pixels,
    "pixel_border": _Lowering._bordered,
}
"""Ops of a file's codes (`edgeq.ir.ops.codes`)."""

_IN_INTEGERS: Final[Mapping[str, Callable[..., Stored]]] = {
    "conv2d": _Lowering._convolved,
    "add": partial(_Lowering._combined, kind=Kind.ADD),
    "mul": partial(_Lowering._combined, kind=Kind.MULTIPLY),
    "avg_pool2d": _Lowering._averaged,
    "global_avg_pool": _Lowering._averaged,
    "cat": _Lowering._joined,
    "softmax.int": _Lowering._shared_out,
}
"""Ops and operators that are computed together with the quantizer behind them."""
