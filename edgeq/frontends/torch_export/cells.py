"""Single steps of recurrent layers, written as linear layers and gates.

PyTorch's own ways to take them apart ask for the number of images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def gru_cell(
    x: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One step of a GRU: the new state `[n, hidden]`."""
    (reset, update, new), (own_reset, own_update, own_new) = (
        F.linear(value, weight, bias).chunk(3, -1) for value, weight, bias in ((x, w_ih, b_ih), (hx, w_hh, b_hh))
    )
    new = torch.tanh(new + torch.sigmoid(reset + own_reset) * own_new)
    return new + torch.sigmoid(update + own_update) * (hx - new)


def lstm_cell(
    x: Tensor,
    hx: Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM: the new states, `[n, hidden]` each."""
    gates = F.linear(x, w_ih, b_ih) + F.linear(hx[0], w_hh, b_hh)
    take, keep, new, show = gates.chunk(4, -1)
    cell = torch.sigmoid(keep) * hx[1] + torch.sigmoid(take) * torch.tanh(new)
    return torch.sigmoid(show) * torch.tanh(cell), cell
