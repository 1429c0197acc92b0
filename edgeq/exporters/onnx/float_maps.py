"""Float operators that normalize, pool, pad or resize maps, in ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, prod
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.exporters.onnx.float_call import Call, Translation


def _affine(c: Call, value: str, shape: Sequence[int]) -> str:
    """Times a weight and plus a bias of this shape, where there are any."""
    for argument, op in (("weight", "Mul"), ("bias", "Add")):
        if c.has(argument):
            value = c.make(op, value, c.make("Reshape", c.tensor(argument), c.ints(shape)))
    return value


def _by_groups(c: Call, groups: int) -> str:
    """Normalize what the channels of a group have in common."""
    size, eps = c.size, 1e-5 if c["eps"] is None else c["eps"]
    seen = c.make("Reshape", c.x, c.ints([0, groups, -1]))
    one, zero = (c.floats(np.full(groups, value, np.float32)) for value in (1, 0))
    normal = c.make("InstanceNormalization", seen, one, zero, epsilon=float(eps))
    return _affine(c, c.make("Reshape", normal, c.ints([0, *size[1:]])), [size[1], *[1] * (len(size) - 2)])


def _layer_norm(c: Call) -> str:
    shape, eps = c["normalized_shape"], 1e-5 if c["eps"] is None else c["eps"]
    scale = c.tensor("weight") if c.has("weight") else c.floats(np.ones(shape, np.float32))
    shift = c.tensor("bias") if c.has("bias") else c.floats(np.zeros(shape, np.float32))  # without it, a crash
    return c.make("LayerNormalization", c.x, scale, shift, axis=-len(shape), epsilon=float(eps))


def _rms_norm(c: Call) -> str:
    dims = [-i for i in range(len(c["normalized_shape"]), 0, -1)]
    eps = float(np.finfo(np.float32).eps) if c["eps"] is None else c["eps"]
    power = c.make("ReduceMean", c.make("Mul", c.x, c.x), c.ints(dims), keepdims=1)
    found = c.make("Div", c.x, c.make("Sqrt", c.make("Add", power, eps)))
    return c.make("Mul", found, c.tensor("weight")) if c.has("weight") else found


def _windows(inputs: int, outputs: int) -> list[tuple[int, int]]:
    """Starts and ends of the windows of an adaptive pooling."""
    return [(floor(i * inputs / outputs), ceil((i + 1) * inputs / outputs)) for i in range(outputs)]


def _adaptive_average(c: Call) -> str:
    """A product with a matrix of means from the left for rows, from the right for columns."""
    means = []
    for inputs, outputs in zip(c.size[2:], c.shape[2:], strict=True):
        matrix = np.zeros((outputs, inputs), np.float32)
        for row, (start, end) in zip(matrix, _windows(inputs, outputs), strict=True):
            row[start:end] = 1 / (end - start)
        means.append(matrix)
    rows = c.writer.constant(f"{c.name}.rows", means[0])
    columns = c.writer.constant(f"{c.name}.columns", np.ascontiguousarray(means[1].T))
    return c.make("MatMul", c.make("MatMul", rows, c.x), columns)


def _adaptive_maximum(c: Call) -> str:
    """The largest of every window of rows, then of columns."""
    value = c.x
    for axis in (2, 3):
        ends = _windows(c.size[axis], c.shape[axis])
        parts = [c.make("Slice", value, c.ints([start]), c.ints([end]), c.ints([axis])) for start, end in ends]
        largest = [c.make("ReduceMax", part, c.ints([axis]), keepdims=1) for part in parts]
        value = c.make("Concat", *largest, axis=axis)
    return value


def _average(c: Call) -> str:
    rank = len(c.size) - 2

    def each(name: str, default: int) -> list[int]:
        given = c[name] if isinstance(c[name], list) else [default if c[name] is None else c[name]]
        return [int(v) for v in given or c["kernel_size"]] * (rank // max(len(given or c["kernel_size"]), 1))

    kernel = each("kernel_size", 1)
    pads, stride = each("padding", 0), each("stride", 0) if c["stride"] else kernel
    divisor = c["divisor_override"]
    if c["ceil_mode"] and divisor is not None:
        raise UnsupportedError(f"layer {c.name}: expected ceil_mode=False beside a divisor_override, found True")
    counted = c["count_include_pad"] in (None, True) or divisor is not None
    found = c.make(
        "AveragePool", c.x, kernel_shape=kernel, strides=stride, pads=[*pads, *pads],
        ceil_mode=int(bool(c["ceil_mode"])), count_include_pad=int(counted),
    )  # fmt: skip
    return found if divisor is None else c.make("Mul", found, prod(kernel) / divisor)


def _pad(c: Call) -> str:
    sides = [*c["pad"], *[0] * (2 * len(c.size) - len(c["pad"]))]
    pads = [*reversed(sides[0::2]), *reversed(sides[1::2])]
    return c.make("Pad", c.x, c.ints(pads), float(c["value"] or 0.0))


def _resize(mode: str, **attributes: Any) -> Translation:
    """To a size or by factors; the coordinates are those of the factors that were given.

    A size is given as factors, too: of a size for some dimensions, ONNX Runtime loses track when it puts channels last.
    """

    def write(c: Call) -> str:
        how = "align_corners" if c["align_corners"] else "half_pixel"
        sizes = zip(c.size[2:], c.shape[2:], c["scale_factors"] or [None] * len(c.size[2:]), strict=True)
        factors = np.array([1, 1, *(_factor(*size) for size in sizes)], np.float32)
        options = attributes | {"mode": mode, "coordinate_transformation_mode": how}
        return c.make("Resize", c.x, None, c.floats(factors), **options)

    return write


def _factor(before: int, after: int, given: float | None) -> np.float32:
    """The factor between two sizes: the one that was given, or the least with which the right size is reached."""
    factor = np.float32(given or after / before)
    if floor(before * float(factor)) != after:
        factor = np.float32(after / before)
    while before * float(factor) < after:
        factor = np.nextafter(factor, np.float32(np.inf))
    return factor


def _sampled(c: Call) -> str:
    mode = ("linear", "nearest", "cubic")[c["interpolation_mode"]]
    padding = ("zeros", "border", "reflection")[c["padding_mode"]]
    corners = int(bool(c["align_corners"]))
    return c.make("GridSample", c.x, c.tensor("grid"), mode=mode, padding_mode=padding, align_corners=corners)


def _columns_to_map(c: Call) -> str:
    pads = [*c["padding"], *c["padding"]]
    options = {"strides": c["stride"], "dilations": c["dilation"], "pads": pads}
    return c.make("Col2Im", c.x, c.ints(c["output_size"]), c.ints(c["kernel_size"]), **options)


MAPS: Final[Mapping[str, Translation]] = MappingProxyType(
    {
        "group_norm.default": lambda c: _by_groups(c, c["num_groups"]),
        "instance_norm.default": lambda c: _by_groups(c, c.size[1]),
        "layer_norm.default": _layer_norm,
        "rms_norm.default": _rms_norm,
        "adaptive_avg_pool2d.default": _adaptive_average,
        "adaptive_max_pool2d.default": _adaptive_maximum,
        "avg_pool2d.default": _average,
        "avg_pool3d.default": _average,
        "pad.default": _pad,
        "upsample_bicubic2d.vec": _resize("cubic", cubic_coeff_a=-0.75),
        "upsample_bilinear2d.vec": _resize("linear"),
        "upsample_trilinear3d.vec": _resize("linear"),
        "col2im.default": _columns_to_map,
        "grid_sampler_2d.default": _sampled,
    }
)
"""By the names of `edgeq.ir.ops.float_operators.OPERATORS`."""
