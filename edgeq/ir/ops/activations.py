"""Ops that compute every value of their output from the same one of their input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F

from edgeq.ir.node import Node
from edgeq.ir.ops.op import Op, Writer, as_it_is

_FUNCTION: Final = "a function that runtimes compute in float, from 8 bits and to 8 bits"


def _of_one_slope(args: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A PReLU with the same slope for all channels."""
    return {"slope": float(args["weight"])} if args["weight"].numel() == 1 else None


def _of_the_mean_slope(args: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What an RReLU computes outside of training."""
    return None if args["training"] else {"slope": (float(args["lower"]) + float(args["upper"])) / 2}


def _clip_to_onnx(writer: Writer, node: Node) -> None:
    ends = [writer.constant(f"clip{v:g}", np.array(v, np.float32)) for v in (0.0, node.attrs["max"])]
    writer.call("Clip", node, *ends)


def _slopes(args: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Those of a PReLU, one for each channel."""
    return {"slopes": args["weight"].tolist()} if args["weight"].numel() > 1 else None


def _prelu_to_onnx(writer: Writer, node: Node) -> None:
    """`max(x, 0) + slopes * min(x, 0)`, which takes ONNX Runtime a third of the time of its PRelu.

    The slopes get the shape of the channels: ONNX would take them for the last dimension's.
    """
    slopes = np.array(node.attrs["slopes"], np.float32).reshape(-1, *[1] * (len(node.shape) - 1))
    source = writer.value(node.inputs[0])
    below = writer.node("Min", [source, writer.constant("zero", np.array(0, np.float32))])
    scaled = writer.node("Mul", [below, writer.constant(f"{node.name}.slopes", slopes)])
    writer.write(node, "Add", [writer.node("Relu", [source]), scaled], name=node.name)


ACTIVATIONS: Final = (
    Op(
        "relu",
        lambda x, _: F.relu(x[0]),
        aten={
            "aten.relu.default": as_it_is,
            "aten.threshold.default": lambda args: {} if args["threshold"] == args["value"] == 0 else None,
        },
        onnx="Relu",
        clipping=True,
        pointwise=True,
    ),
    Op(  # from 0 to `max`
        "clip",
        lambda x, a: x[0].clamp(0.0, a["max"]),
        aten={"aten.relu6.default": lambda _: {"max": 6.0}},
        onnx=_clip_to_onnx,
        clipping=True,
        pointwise=True,
    ),
    Op(
        "leaky_relu",
        lambda x, a: F.leaky_relu(x[0], a["slope"]),
        aten={
            "aten.leaky_relu.default": lambda args: {"slope": float(args["negative_slope"])},
            "aten.prelu.default": _of_one_slope,
            "aten.rrelu.default": _of_the_mean_slope,
        },
        onnx=lambda writer, node: writer.call("LeakyRelu", node, alpha=node.attrs["slope"]),
        pointwise=True,
        in_islands=True,
    ),
    Op(  # of a slope for each channel, or one for all
        "prelu",
        lambda x, a: F.prelu(x[0], torch.tensor(a["slopes"], dtype=x[0].dtype, device=x[0].device)),
        aten={"aten.prelu.default": _slopes},
        onnx=_prelu_to_onnx,
        pointwise=True,
        in_islands=True,
        in_float=_FUNCTION,
    ),
    Op(
        "sigmoid",
        lambda x, _: torch.sigmoid(x[0]),
        aten={"aten.sigmoid.default": as_it_is},
        onnx="Sigmoid",
        pointwise=True,
        in_islands=True,
    ),
    Op(
        "tanh",
        lambda x, _: torch.tanh(x[0]),
        aten={"aten.tanh.default": as_it_is},
        onnx="Tanh",
        pointwise=True,
        in_islands=True,
        in_float=_FUNCTION,
    ),
    Op(
        "gelu",
        lambda x, _: F.gelu(x[0]),
        aten={"aten.gelu.default": lambda args: {} if args["approximate"] == "none" else None},
        onnx="Gelu",
        opset=20,
        pointwise=True,
        in_islands=True,
        in_float=_FUNCTION,
    ),
    Op(
        "hardsigmoid",
        lambda x, _: F.hardsigmoid(x[0]),
        aten={"aten.hardsigmoid.default": as_it_is},
        onnx=lambda writer, node: writer.call("HardSigmoid", node, alpha=1 / 6, beta=0.5),
        pointwise=True,
        in_float=_FUNCTION,
    ),
    Op(
        "hardswish",
        lambda x, _: F.hardswish(x[0]),
        aten={"aten.hardswish.default": as_it_is},
        onnx="HardSwish",
        pointwise=True,
        in_float=_FUNCTION,
    ),
)
