"""LSTM and GRU in ONNX: one node a layer, for both directions."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from edgeq.exporters.onnx.float_call import Call, Floats, Translation

_GATES: Final = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
"""PyTorch's gates in the order that ONNX has: input, output, forget, cell; and update, reset, new."""


def _recurrent(op: str) -> Translation:
    """Sequences `[n, time, in]` with the time first, through all layers, and back; or the last states."""

    def write(c: Call) -> str:
        directions, value = 1 + c["bidirectional"], c.make("Transpose", c.x, perm=[1, 0, 2])
        options: dict[str, Any] = {"direction": "bidirectional" if c["bidirectional"] else "forward"}
        options |= {"linear_before_reset": 1} if op == "GRU" else {}
        states = []
        for layer in range(c["num_layers"]):
            weights, recurrent, biases = _parameters(c, op, layer, directions)
            inputs = [value, weights, recurrent, biases, None, *_first_states(c, layer, directions, value)]
            hidden, outputs = c.held["params_1"].shape[1], 3 if op == "LSTM" else 2
            made = c.make(op, *inputs, hidden_size=hidden, outputs=outputs, **options)
            states.append(f"{made}.{c.result}")
            if layer < c["num_layers"] - 1 or not c.result:
                turned = c.make("Transpose", made, perm=[0, 2, 1, 3])
                value = c.make("Reshape", turned, c.ints([0, 0, directions * hidden]))
        if c.result:
            value = c.make("Concat", *states, axis=0) if len(states) > 1 else states[0]
        return c.make("Transpose", value, perm=[1, 0, 2])

    return write


def _parameters(c: Call, op: str, layer: int, directions: int) -> tuple[str, str, str | None]:
    """Weights of the input and of the state, and biases, for all directions of a layer."""
    count = 4 if c["has_biases"] else 2

    def of_all(number: int) -> Floats:
        first = layer * directions
        parts = (c.held[f"params_{(first + d) * count + number}"] for d in range(directions))
        return np.stack([_ordered(part, _GATES[op]) for part in parts])

    def constant(name: str, array: Floats) -> str:
        return c.writer.constant(f"{c.name}.{layer}.{name}", array)

    biases = np.concatenate([of_all(2), of_all(3)], axis=1) if c["has_biases"] else None
    bias = None if biases is None else constant("bias", biases)
    return constant("weight", of_all(0)), constant("recurrent", of_all(1)), bias


def _ordered(array: Floats, gates: tuple[int, ...]) -> Floats:
    parts = np.split(array, len(gates))
    return np.concatenate([parts[gate] for gate in gates])


def _first_states(c: Call, layer: int, directions: int, value: str) -> list[str | None]:
    """States before the first step, `[directions, n, hidden]`; none where they are 0."""
    found: list[str | None] = []
    for name in ("hx", "hx_0", "hx_1"):
        if name in c.held:
            state = c.held[name][0, layer * directions : (layer + 1) * directions, None]
            if not state.any():
                found.append(None)
                continue
            images = c.make("Shape", value, start=1, end=2)
            shape = c.make("Concat", c.ints([directions]), images, c.ints([state.shape[-1]]), axis=0)
            first = c.writer.constant(f"{c.name}.{layer}.{name}", np.ascontiguousarray(state))
            found.append(c.make("Expand", first, shape))
    return found


RECURRENT: Final[Mapping[str, Translation]] = MappingProxyType(
    {"lstm.input": _recurrent("LSTM"), "gru.input": _recurrent("GRU")}
)
"""By the names of `edgeq.ir.ops.float_operators.OPERATORS`."""
