"""LSTM and GRU."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from edgeq.frontends.onnx.call import Call, Handler, aten

_GATES: Final = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}
"""ONNX's gates in the order that PyTorch has: input, forget, cell, output; and reset, update, new."""

_USUAL: Final = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}


def _recurrent(call: Call, x: Tensor, *others: Tensor | None) -> tuple[Tensor, ...]:
    """Sequences `[time, n, in]` to `[time, directions, n, hidden]` and the last states `[directions, n, hidden]`."""
    given: list[Tensor | None] = [*others, *[None] * (7 - len(others))]
    weights, recurrent, biases, lengths = given[:4]
    _check(call, lengths)
    if weights is None or recurrent is None:
        raise call.refuse("without weights; expected inputs 1 and 2")
    batch_first, direction = bool(call.integer("layout", 0)), call.text("direction", "forward")
    x = x.transpose(0, 1) if batch_first else x
    x = x.flip(0) if direction == "reverse" else x
    directions, hidden = len(weights), recurrent.shape[-1]
    states = [_state(state, x.shape[1], (directions, hidden), x) for state in given[4 : 5 + (call.op == "LSTM")]]
    parameters = []
    for d in range(directions):
        parameters += [_ordered(call, weights[d]), _ordered(call, recurrent[d])]
        if biases is not None:
            parameters += [_ordered(call, half) for half in biases[d].chunk(2)]
    run = aten("lstm.input" if call.op == "LSTM" else "gru.input")
    start = states if call.op == "LSTM" else states[0]
    y, *last = run(x, start, parameters, biases is not None, 1, 0.0, False, directions == 2, False)
    y = y.unflatten(-1, (directions, hidden)).transpose(1, 2)
    y = y.flip(0) if direction == "reverse" else y
    if batch_first:
        return y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in last)
    return y, *last


def _check(call: Call, lengths: Tensor | None) -> None:
    usual = _USUAL[call.op]
    activations = [one.decode() for one in call.attributes.get("activations", [])]
    if activations and activations != usual * (len(activations) // len(usual)):
        raise call.refuse(f"with activations {activations}; expected {usual}")
    if call.op == "GRU" and not call.integer("linear_before_reset", 0):
        raise call.refuse("with linear_before_reset=0; expected 1, as PyTorch has it")
    if lengths is not None:
        raise call.refuse("with lengths of sequences; expected them all as long as the input")
    if call.integer("input_forget", 0) or "clip" in call.attributes:
        raise call.refuse("with input_forget or clip; expected neither")
    if call.has(7) and call.constant(7).any():
        raise call.refuse("with peepholes; expected none")


def _state(given: Tensor | None, count: int, sizes: tuple[int, int], like: Tensor) -> Tensor:
    """The first state of every image."""
    directions, hidden = sizes
    state = torch.zeros((directions, 1, hidden), device=like.device) if given is None else given
    return state.expand(directions, count, hidden)


def _ordered(call: Call, value: Tensor) -> Tensor:
    gates = _GATES[call.op]
    parts = value.chunk(len(gates))
    return torch.cat([parts[gate] for gate in gates])


RECURRENT: Final[dict[str, Handler]] = {"LSTM": _recurrent, "GRU": _recurrent}
