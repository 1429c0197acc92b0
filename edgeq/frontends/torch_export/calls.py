"""What the calls of an exported program say of themselves."""

from __future__ import annotations

from typing import Final

import torch
from torch import fx

from edgeq.errors import UnsupportedError

_NOT_TAGGED: Final = frozenset({"aten.hardswish.default", "aten.log_sigmoid.default"})

_WRITES: Final = (
    "aten.copy.", "aten.copy_.", "aten.index_put", "aten.slice_scatter.", "aten.select_scatter.",
    "aten.diagonal_scatter.", "aten.as_strided_scatter.", "aten.masked_scatter",
)  # fmt: skip


POST_PROCESSING: Final = (
    "Post-processing, such as non-maximum suppression, may stay in an ONNX file for edgeq.load: "
    "torch.onnx.export(..., dynamo=False)"
)
"""The way out for what no program of torch.export has."""


def is_elementwise(node: fx.Node) -> bool:
    """Whether a call computes each number of its result from those at the same place, after broadcasting."""
    return torch.Tag.pointwise in getattr(node.target, "tags", ()) or target_name(node) in _NOT_TAGGED


def module_path(node: fx.Node) -> str:
    """The name of the module that makes a call."""
    stack = node.meta.get("nn_module_stack") or {"": ("", "")}
    return str(list(stack.values())[-1][0])


def target_name(node: fx.Node) -> str:
    """The name of what is called; `relu_` in place computes what `relu` does."""
    return str(node.target).replace("_.", ".")


def written(node: fx.Node) -> fx.Node:
    """The call that the module makes, of which a call may be a part (`edgeq.frontends.torch_export.decompose`)."""
    call: fx.Node = node.meta.get("written", node)
    return call


def unknown(node: fx.Node) -> UnsupportedError:
    """An error about a call that edgeq makes nothing of."""
    target = str(written(node).target)
    if target.startswith(_WRITES):
        other = "let it make a new tensor, as torch.cat and torch.where do"
        return unsupported(node, f"edgeq does not know {target}, by which it writes into a part of a tensor; {other}")
    known = "replace it by a supported operation, or split the network before it"
    return unsupported(node, f"edgeq does not know {target}; {known}")


def unsupported(node: fx.Node, text: str) -> UnsupportedError:
    """An error about one call."""
    path = module_path(node)
    return UnsupportedError(f"layer {path or written(node).name}: {text}", path)
