"""Maps in another size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, floor
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.artifacts.onnx_files import LARGEST_PADDING
from edgeq.frontends.onnx.call import Call, Handler

_FROM: Final[Mapping[str, Callable[[int, float, int, int], float]]] = {
    "half_pixel": lambda x, scale, _, __: (x + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda x, scale, _, out: (x + 0.5) / scale - 0.5 if out > 1 else 0.0,
    "align_corners": lambda x, _, size, out: x * (size - 1) / (out - 1) if out > 1 else 0.0,
    "asymmetric": lambda x, scale, _, __: x / scale,
    "tf_half_pixel_for_nn": lambda x, scale, _, __: (x + 0.5) / scale,
}
"""Where a pixel comes from, by its place, the scale, the size before and behind."""

_NEAREST: Final[Mapping[str, Callable[[float], int]]] = {
    "round_prefer_floor": lambda x: ceil(x - 0.5),
    "round_prefer_ceil": lambda x: floor(x + 0.5),
    "floor": floor,
    "ceil": ceil,
}
_SMOOTH: Final = {
    ("linear", 1): "linear",
    ("linear", 2): "bilinear",
    ("linear", 3): "trilinear",
    ("cubic", 2): "bicubic",
}


def _resize(call: Call, x: Tensor, *_: Tensor | None) -> Tensor:
    axes = call.integers("axes", range(x.dim()))
    scales, sizes = _scales(call, x, axes)
    if max(sizes) > LARGEST_PADDING or min(sizes) < 1:
        raise call.refuse(f"to {sizes}; expected sizes of 1 to {LARGEST_PADDING}")
    first = next((axis for axis in range(x.dim()) if sizes[axis] != x.shape[axis] or scales[axis] != 1), x.dim())
    if first < 2:
        raise call.refuse("of the batch or the channels; expected the size of maps")
    mode = call.text("mode", "nearest")
    if (
        call.integer("antialias", 0)
        or call.integer("exclude_outside", 0)
        or call.text("keep_aspect_ratio_policy", "stretch") != "stretch"
    ):
        raise call.refuse("with antialias, exclude_outside or keep_aspect_ratio_policy; expected none of them")
    usual = "asymmetric" if call.op == "Upsample" or call.opset < 11 else "half_pixel"
    where = call.text("coordinate_transformation_mode", usual)
    if where not in _FROM:
        raise call.refuse(f"with coordinates {where}; expected one of {', '.join(_FROM)}")
    if mode == "nearest":
        return _nearest(call, x, scales, sizes, where)
    return _smooth(call, x, (mode, where), scales[2:], sizes[2:])


def _scales(call: Call, x: Tensor, axes: list[int]) -> tuple[list[float], list[int]]:
    """Scale and size of every axis; 1 and its own size of those that are left alone."""
    place = 2 if call.op == "Resize" and call.opset >= 11 else 1
    given = [float(one) for one in (call.numbers(place) if call.has(place) else call.attributes.get("scales", []))]
    wanted = [int(one) for one in (call.numbers(3) if call.has(3) else [])]
    if len(given or wanted) != len(axes):
        raise call.refuse(f"with {len(given or wanted)} sizes; expected {len(axes)}")
    scales, sizes = [1.0] * x.dim(), list(x.shape)
    for number, axis in enumerate(axes):
        if given and given[number] != 1:
            scales[axis], sizes[axis] = given[number], floor(x.shape[axis] * given[number])
        elif wanted and not (axis % x.dim() == 0 and wanted[number] == 1):  # the batch stays
            scales[axis], sizes[axis] = wanted[number] / x.shape[axis], wanted[number]
    return scales, sizes


def _nearest(call: Call, x: Tensor, scales: list[float], sizes: list[int], where: str) -> Tensor:
    """Rows and columns by their places, which may be any."""
    usual = "floor" if call.op == "Upsample" or call.opset < 11 else "round_prefer_floor"
    rounded = _NEAREST.get(call.text("nearest_mode", usual), floor)
    for axis in range(2, x.dim()):
        size, out, scale = x.shape[axis], sizes[axis], scales[axis]
        places = [rounded(_FROM[where](place, scale, size, out)) for place in range(out)]
        numbers = [min(max(place, 0), size - 1) for place in places]
        if numbers != list(range(size)):
            x = x.index_select(axis, torch.tensor(numbers, device=x.device))
    return x


def _smooth(call: Call, x: Tensor, how: tuple[str, str], scales: list[float], sizes: list[int]) -> Tensor:
    (mode, where), rank = how, x.dim() - 2
    known = _SMOOTH.get((mode, rank))
    plain = where == "half_pixel" or (where == "pytorch_half_pixel" and min(sizes) > 1)
    usual = mode == "linear" or (mode == "cubic" and call.real("cubic_coeff_a", -0.75) == -0.75)
    if usual and known and where == "align_corners":
        return F.interpolate(x, sizes, mode=known, align_corners=True)
    if usual and known and plain:
        if all(out == size * scale for out, size, scale in zip(sizes, x.shape[2:], scales, strict=True)):
            return F.interpolate(x, sizes, mode=known, align_corners=False)
        return F.interpolate(x, scale_factor=scales, mode=known, align_corners=False, recompute_scale_factor=False)
    if mode != "linear":
        raise call.refuse(
            f"of {rank} axes with mode {mode} and coordinates {where}; expected nearest or linear, or cubic of 2 axes "
            "with half_pixel or align_corners"
        )
    for axis, (out, scale) in enumerate(zip(sizes, scales, strict=True), 2):
        x = _between(x, axis, [_FROM[where](place, scale, x.shape[axis], out) for place in range(out)])
    return x


def _between(x: Tensor, axis: int, places: list[float]) -> Tensor:
    """Values of one axis between two neighbours, in proportion to how near they are."""
    size = x.shape[axis]
    if places == list(range(size)):
        return x
    inside = [min(max(place, 0.0), size - 1.0) for place in places]
    first = [floor(place) for place in inside]
    share = torch.tensor([place - low for place, low in zip(inside, first, strict=True)], dtype=torch.float32)
    share = share.to(x.device).reshape(-1, *[1] * (x.dim() - axis - 1))
    low, high = (
        x.index_select(axis, torch.tensor([min(one + more, size - 1) for one in first], device=x.device))
        for more in (0, 1)
    )
    return low * (1 - share) + high * share


def _grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    modes = {"linear": "bilinear", "cubic": "bicubic"}
    mode = call.text("mode", "bilinear")
    return F.grid_sample(
        x, grid, modes.get(mode, mode), call.text("padding_mode", "zeros"), bool(call.integer("align_corners", 0))
    )


RESIZES: Final[dict[str, Handler]] = {"Resize": _resize, "Upsample": _resize, "GridSample": _grid_sample}
