"""Steps in float compute what PyTorch does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine import Engine
from float_cases import CASES, Case, network_of, weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import Function
from single_ops import DRAWN, networks_of
from torch import Tensor, nn

from edgeq.errors import UnsupportedError
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.network import Network
from edgeq.lowering.floats import OPERATORS
from edgeq.lowering.lower import lower

LEFT = CASES.keys() - OPERATORS.keys()
"""Operators that the engine does not compute."""


def compared(network: Network, tolerance: float = 1e-4) -> None:
    """Three random inputs through the engine and through PyTorch."""
    generator = torch.Generator().manual_seed(0)
    engine = Engine(lower(network))
    for _ in range(3):
        inputs = [2 * torch.randn(1, *one.shape, generator=generator) for one in network.graph.inputs]
        with torch.inference_mode():
            expected = network(*inputs)
        found = engine(*(x[0].numpy() for x in inputs))
        for a, b in zip(found, expected if isinstance(expected, tuple) else [expected], strict=True):
            np.testing.assert_allclose(a, b[0].numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_every_operator_is_what_pytorch_computes(operator: str) -> None:
    for case in CASES[operator]:
        compared(network_of(operator, case))


@pytest.mark.parametrize("operator", sorted(LEFT))
def test_an_operator_that_is_left_is_named_with_its_layer(operator: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"layer alone: .* does not compute aten\.{operator} in float"):
        lower(network_of(operator, CASES[operator][0]))


@pytest.mark.parametrize("op", sorted(DRAWN.keys() - {"conv2d", "quantize"}))
@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_op_is_what_pytorch_computes(op: str, data: st.DataObject) -> None:
    compared(data.draw(networks_of(op)))


def test_what_is_no_number_becomes_one() -> None:
    engine = Engine(lower(network_of("nan_to_num.default", Case(arguments={"nan": 3.0, "posinf": 5.0}))))
    x = np.zeros(engine.program.inputs[0].shape, np.float32)
    x[0, 0, :3] = np.nan, np.inf, -np.inf
    (found,) = engine(x)
    assert found[0, 0, :3].tolist() == [3.0, 5.0, float(np.finfo(np.float32).min)]


def attention(_: nn.Module, x: Tensor) -> Tensor:
    """Heads beside each other, and a mask that repeats itself along them."""
    q, k, v = x.reshape(x.shape[0], 3, 2, 6, 4).unbind(1)
    weights = (q @ k.transpose(-1, -2) / 2).masked_fill(torch.ones(6, 6).tril() == 0, float("-inf")).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def two_ends(_: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An input that is returned as it is, too, and broadcasts in both directions."""
    return x, x.flatten(2).mean(2, keepdim=True) - y[:, None, :], (x.amax(1) * y[:, :1, None]).sum((1, 2))


MATRICES = {
    "a column behind": Case(("self",), tensors={"other": weights(6)}),
    "a row before": Case(("other",), tensors={"self": weights(6)}),
    "a matrix before": Case(("other",), tensors={"self": weights(3, 6)}),
    "matrices behind": Case(("self",), tensors={"other": weights(4, 6, 2)}),
    "of a vector": Case(("self",), tensors={"other": weights(5, 2)}, shape=(5,)),
    "of four dimensions": Case(("self",), tensors={"other": weights(1, 1, 3, 5, 2)}, shape=(2, 3, 4, 5)),
}


@pytest.mark.parametrize("case", MATRICES.values(), ids=MATRICES)
def test_products_of_matrices_and_vectors(case: Case) -> None:
    compared(network_of("matmul.default", case))


@pytest.mark.parametrize(
    ("function", "shapes"),
    [(attention, [(3, 2, 24)]), (two_ends, [(2, 3, 4), (5,)])],
    ids=["attention", "two ends"],
)
def test_functions_of_several_steps(function: object, shapes: list[tuple[int, ...]]) -> None:
    compared(trace(Function(function), shapes))  # type: ignore[arg-type]
