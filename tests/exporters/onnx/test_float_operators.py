"""Every operator that stays in float: PyTorch and ONNX Runtime agree on it, as the file stands and optimized."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from float_cases import CASES, SHAPE, Case, network_of

from edgeq.exporters.onnx.float_operators import TRANSLATIONS
from edgeq.exporters.onnx.model import to_onnx
from edgeq.ir.ops.float_operators import OPERATORS
from edgeq.runtimes.onnxruntime import session_of


@pytest.mark.parametrize("optimize", [False, True], ids=["as it stands", "optimized"])
@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_onnx_computes_what_pytorch_does(operator: str, optimize: bool) -> None:
    for case in CASES[operator]:
        network = network_of(operator, case)
        x = np.random.default_rng(0).normal(0, 2, (3, *case.shape)).astype(np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(x)).numpy()
        assert expected.shape[1:] == network.graph.nodes[-1].shape
        (found,) = session_of(to_onnx(network).SerializeToString(), optimize).run(None, {"image": x})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_files_export_what_is_computed_and_nothing_else() -> None:
    assert TRANSLATIONS.keys() == OPERATORS == CASES.keys()


def test_what_is_no_number_becomes_one() -> None:
    network = network_of("nan_to_num.default", Case(arguments={"nan": 3.0, "posinf": 5.0}))
    x = np.zeros((1, *SHAPE), np.float32)
    x[0, 0, 0, :3] = np.nan, np.inf, -np.inf
    (found,) = session_of(to_onnx(network).SerializeToString(), False).run(None, {"image": x})
    assert found[0, 0, 0, :3].tolist() == [3.0, 5.0, float(np.finfo(np.float32).min)]
