"""Float operators over some dimensions, or of other places in them, in ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from types import MappingProxyType
from typing import Final

from onnx import TensorProto

from edgeq.exporters.onnx.float_call import Call, Translation


def _argument(op: str) -> Translation:
    return lambda c: c.cast(c.make(op, c.x, axis=c.dims()[0], keepdims=int(bool(c["keepdim"]))))


def _vector_norm(c: Call) -> str:
    order = 2 if c["ord"] is None else c["ord"]
    if order in (1, 2):
        return c.reduced(f"ReduceL{int(order)}", c.x)
    return c.make("Pow", c.reduced("ReduceSum", c.make("Pow", c.make("Abs", c.x), float(order))), 1 / order)


def _variance(c: Call) -> str:
    count, correction = prod(c.size[d] for d in c.dims()), 1 if c["correction"] is None else c["correction"]
    centred = c.make("Sub", c.x, c.reduced("ReduceMean", c.x, keep=True))
    return c.make("Mul", c.reduced("ReduceMean", c.make("Mul", centred, centred)), count / max(count - correction, 0.5))


def _ordered(c: Call, count: int, descending: bool) -> str:
    """The values or the positions of the largest or smallest ones, in order."""
    dim = -1 if c["dim"] is None else c["dim"]
    values = c.make("TopK", c.x, c.ints([count]), axis=dim, largest=int(descending), outputs=2)
    return c.cast(f"{values}.1") if c.result else values


def _positions(c: Call, argument: str = "index") -> str:
    return c.cast(c.tensor(argument), TensorProto.INT64)


def _updates(c: Call) -> str:
    """As many of the source as there are positions."""
    have, wanted = c.shapes["src"][1:], c.shapes["index"][1:]
    cut = [dim for dim, sizes in enumerate(zip(have, wanted, strict=True), 1) if sizes[0] != sizes[1]]
    ends = [wanted[dim - 1] for dim in cut]
    source = c.tensor("src")
    return c.make("Slice", source, c.ints([0] * len(cut)), c.ints(ends), c.ints(cut)) if cut else source


def _scattered(reduction: str = "none") -> Translation:
    def write(c: Call) -> str:
        places = _positions(c)
        source = _updates(c) if c.has("src") else c.make("Expand", float(c["value"]), c.make("Shape", places))
        return c.make("ScatterElements", c.x, places, source, axis=c["dim"], reduction=reduction)

    return write


REDUCTIONS: Final[Mapping[str, Translation]] = MappingProxyType(
    {
        "amax.default": lambda c: c.reduced("ReduceMax", c.x),
        "amin.default": lambda c: c.reduced("ReduceMin", c.x),
        "argmax.default": _argument("ArgMax"),
        "argmin.default": _argument("ArgMin"),
        "linalg_vector_norm.default": _vector_norm,
        "logsumexp.default": lambda c: c.reduced("ReduceLogSumExp", c.x),
        "mean.dim": lambda c: c.reduced("ReduceMean", c.x),
        "std.correction": lambda c: c.make("Sqrt", _variance(c)),
        "sum.dim_IntList": lambda c: c.reduced("ReduceSum", c.x),
        "var.correction": _variance,
        "cumsum.default": lambda c: c.make("CumSum", c.x, c.ints([c["dim"]])),
        "prod.dim_int": lambda c: c.reduced("ReduceProd", c.x),
        "sort.default": lambda c: _ordered(c, c.shape[-1 if c["dim"] is None else c["dim"]], bool(c["descending"])),
        "topk.default": lambda c: _ordered(c, c["k"], c["largest"] in (None, True)),
        "embedding.default": lambda c: c.make("Gather", c.tensor("weight"), _positions(c, "indices")),
        "gather.default": lambda c: c.make("GatherElements", c.x, _positions(c), axis=c["dim"]),
        "scatter.src": _scattered(),
        "scatter.value": _scattered(),
        "scatter_add.default": _scattered("add"),
    }
)
"""By the names of `edgeq.ir.ops.float_operators.OPERATORS`."""
