"""Every handler against the test cases that ONNX has for its operator."""

from __future__ import annotations

import warnings
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases
from torch import Tensor

from edgeq.errors import UnsupportedError
from edgeq.frontends.onnx.call import Call
from edgeq.frontends.onnx.operators.table import OPERATORS
from edgeq.frontends.onnx.tensors import as_tensor

REFUSED = (
    "select_last_index", "training", "averagepool_2d_dilations", "averagepool_3d_dilations", "lppool_2d_dilations",
    "gathernd_example_int32_batch_dim1", "test_gru_defaults", "test_gru_with_initial_bias", "test_gru_seq_length",
    "test_gru_batchwise", "test_gru_reverse", "test_gru_bidirectional", "test_layer_normalization", "peepholes",
    "maxpool_with_argmax", "exclude_outside", "cubic_asymmetric", "antialias", "tf_crop_and_resize",
    "half_pixel_symmetric", "not_larger", "not_smaller", "reduction_mul", "reduction_max", "reduction_min",
)  # fmt: skip
"""Parts of the names of cases that are an error, as they cannot be computed with PyTorch or do not occur in CNNs."""

OTHERWISE = (
    "empty_set",  # of no numbers
    "scales_linear_align_corners", "scales_cubic_align_corners",  # ONNX Runtime does as PyTorch does
    "top_k_same_values",  # PyTorch does not say which of equal numbers comes first
    "bfloat16", "dropout_default_mask",
)  # fmt: skip
"""Cases that are computed otherwise."""

RANGES = ("ConstantOfShape", "Range")
OF_SHAPES = ("Shape", "Size")


@cache
def cases() -> dict[str, list[Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    by_operator: dict[str, list[Any]] = {}
    for case in found:
        if case.model is not None and len(case.model.graph.node) == 1 and not case.model.graph.node[0].domain:
            by_operator.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return by_operator


def tensors(arrays: Any) -> list[Tensor]:
    return [as_tensor(numpy_helper.from_array(np.asarray(array))) for array in arrays]


def run(case: Any) -> tuple[Any, list[Tensor]]:
    """What the handler makes, and what is expected; all inputs but the first are constants."""
    (node,), (given, wanted) = case.model.graph.node, case.data_sets[0]
    named = dict(zip((value.name for value in case.model.graph.input), tensors(given), strict=True))
    inputs = [named.get(name) for name in node.input]
    node.name = "node"
    opset = next(one.version for one in case.model.opset_import if not one.domain)
    call = Call(node, opset, inputs if node.op_type in RANGES else [None, *inputs[1:]])
    made = OPERATORS[node.op_type](call, *inputs)
    found = made if isinstance(made, tuple) else (made,)
    return [value for value, name in zip(found, node.output, strict=False) if name], tensors(wanted)


def numbers(case: Any) -> bool:
    """Whether all inputs and outputs are single tensors of numbers."""
    return all(
        isinstance(array, np.ndarray | np.generic) and array.dtype.kind in "fiub" for array in chain(*case.data_sets[0])
    )


@pytest.mark.parametrize("operator", sorted(OPERATORS.keys() - OF_SHAPES))
def test_computes_what_onnx_expects(operator: str) -> None:
    for case in cases().get(operator, []):
        if any(part in case.name for part in OTHERWISE) or not numbers(case):
            continue
        if any(part in case.name for part in REFUSED):
            with pytest.raises(UnsupportedError, match=f"^node node: {operator} "):
                run(case)
            continue
        found, wanted = run(case)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one.float(), other.float(), rtol=1e-3, atol=1e-5, equal_nan=True)
