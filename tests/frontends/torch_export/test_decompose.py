"""Calls that edgeq does not know are taken apart into calls that it knows, which compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeq.errors import UnsupportedError
from edgeq.frontends.torch_export import decompose as decompose_module
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.network import Network

SHAPE = (3, 8, 8)


class Calls(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.part = nn.Conv2d(3, 4, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.function(self.part(x)).float()
        return found


def traced(function: Callable[..., Any]) -> Network:
    """Trace it, and compare it for a number of images that the tracer has not seen."""
    module = Calls(function).eval()
    network = trace(module, SHAPE)
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(network(x), module(x), rtol=1e-5, atol=1e-5)
    return network


def in_autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return x.relu() * 2


def without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        mean = x.mean((2, 3), keepdim=True)
    return x - mean


def causal(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, is_causal=True)


def masked(x: Tensor) -> Tensor:
    allowed = torch.eye(8, dtype=torch.bool) | (torch.arange(8) > 3)
    return F.scaled_dot_product_attention(x, x + 1, x, attn_mask=allowed, scale=0.3)


def unlikely(x: Tensor) -> Tensor:
    scores = x.masked_fill(torch.arange(8) > 5, -torch.inf)
    return scores.softmax(-1)


def grid(x: Tensor) -> Tensor:
    return F.affine_grid(x.flatten(1)[:, :6].reshape(-1, 2, 3), list(x.shape), align_corners=False)


def sampled(x: Tensor) -> Tensor:
    return F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False)


class InSteps(nn.Module):
    """A recurrent layer over columns, step by step."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Any:
        state = None
        for column in x.mean(2)[..., :3].unbind(-1):
            state = self.cell(column, state)
        return state[0] if isinstance(state, tuple) else state


class FromImage(nn.Module):
    """A step from a state that the image gives."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 3, bias=False)

    def forward(self, x: Tensor) -> Any:
        return self.cell(x[..., 0, 0], x[:, :3, 1, 1])


CASES: dict[str, Callable[..., Any]] = {
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "causal attention": causal,
    "masked attention": masked,
    "scores without some": unlikely,
    "autocast": in_autocast,
    "no gradients": without_gradients,
    "affine grid": grid,
    "samples of a grid": sampled,
    "einsum": lambda x: torch.einsum("bchw,bcwk->bchk", x, x),
    "tensordot": lambda x: torch.tensordot(x, torch.ones(4, 5), ([1], [0])),
    "product and sum": lambda x: torch.addmm(x[:, 0, :, 0], x[:, 1, :, 0], torch.ones(8, 8)),
    "products and sums": lambda x: torch.baddbmm(x[:, 0], x[:, 1], x[:, 2], beta=0.5, alpha=2),
    "variance and mean": lambda x: torch.cat(torch.var_mean(x, (2, 3)), 1),
    "deviation and mean": lambda x: torch.cat(torch.std_mean(x, 1, correction=0, keepdim=True), 1),
    "maximum and where": lambda x: torch.cat(tuple(x.max(1, keepdim=True)), 1),
    "minimum and where": lambda x: torch.cat(tuple(x.min(1, keepdim=True)), 1),
    "largest two": lambda x: torch.cat(tuple(x.topk(2, 1)), 1),
    "sorted": lambda x: x.sort(1, descending=True)[0],
    "order": lambda x: x.argsort(1),
    "gathered": lambda x: x.gather(1, x.argmax(1, keepdim=True)),
    "one hot": lambda x: F.one_hot(x.argmax(1), 4),
    "all": lambda x: (x > 0).all(1),
    "any": lambda x: (x > 1).any(1, keepdim=True),
    "bits": lambda x: ((x > 0) & ~(x < 1)) | (x < -1) ^ (x > 2),
    "whole numbers": lambda x: (x * 3).to(torch.int64),
    "booleans": lambda x: x.relu().bool(),
    "quotients": lambda x: torch.div(x, 0.3, rounding_mode="floor") + torch.div(x, 0.7, rounding_mode="trunc") + x // 2,
    "remainder": lambda x: x.remainder(0.7) + torch.remainder(x, -0.7) + torch.fmod(x, 0.7),
    "angle": lambda x: torch.atan2(x[:, :2], x[:, 2:]),
    "hypotenuse": lambda x: torch.hypot(x[:, :2], x[:, 2:]),
    "log of a sum": lambda x: torch.logaddexp(x[:, :2], x[:, 2:]),
    "logit": lambda x: x.logit(0.1),
    "no numbers": lambda x: x.log().nan_to_num(nan=2.0),
    "sinc and fraction": lambda x: x.sinc() + x.frac(),
    "distances": lambda x: torch.cdist(x[:, 0], x[:, 1]),
    "similarity": lambda x: F.cosine_similarity(x, x.relu() + 1, 1),
    "pairs": lambda x: F.pairwise_distance(x, x.relu() + 1),
    "bounds": lambda x: torch.clamp(x, x[:, :1] - 0.5, x[:, 1:2].relu() + 0.5),
    "fold": lambda x: F.fold(F.unfold(x, 3, padding=1, stride=2), (8, 8), 3, padding=1, stride=2),
    "unfold": lambda x: x.unfold(2, 3, 2),
    "triangle": lambda x: x.tril(),
    "diagonal": lambda x: torch.diagonal(x, 1, 2, 3),
    "cumulated": lambda x: x.cumsum(1),
    "product": lambda x: x.prod(1),
    "lerp": lambda x: torch.lerp(x, x.relu(), 0.3),
    "embedding": lambda x: F.embedding(x[:, 0, 0].argmax(1, keepdim=True), torch.eye(8) + 1),
    "einsum of one": lambda x: torch.einsum("nchw->nwc", x),
    "a vector": lambda x: x @ torch.arange(8.0),
    "a vector of a row": lambda x: x[:, :, 0, 0] @ torch.arange(4.0),
    "a vector from the left": lambda x: torch.arange(4.0) @ x.flatten(2),
    "a matrix and a vector": lambda x: torch.mv(x[:, :, 0, 0], torch.arange(4.0)),
    "GRU cell": InSteps(nn.GRUCell(4, 3)),
    "GRU cell from the image": FromImage(),
    "LSTM cell": InSteps(nn.LSTMCell(4, 3)),
    "one number": lambda x: x.mean((1, 2, 3))[:, None],
    "one number seen again": lambda x: (x[:, 0, 0, 0] * x[:, 1, 1, 1]).view(-1, 1),
    "numbers side by side": lambda x: torch.stack([x[:, 0, 0, 0].sin(), x[:, 1, 0, 0].cos() - x[:, 2, 0, 0]], 1),
    "one hot of one number": lambda x: F.one_hot(x[..., 0, 0].argmax(1), 4),
    "rows": lambda x: F.interpolate(x.flatten(2), scale_factor=1.5, mode="linear"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_network_computes_what_the_module_does(case: str) -> None:
    traced(CASES[case])


def test_what_is_known_stays_as_it_is() -> None:
    network = traced(lambda x: F.scaled_dot_product_attention(F.hardswish(F.conv2d(x, torch.ones(4, 4, 1, 1))), x, x))
    operators = [node.attrs.get("operator", node.op) for node in network.graph.nodes]
    assert operators[:3] == ["conv2d", "conv2d", "hardswish"]
    assert operators[-4:] == ["matmul.default", "mul.Tensor", "softmax.int", "matmul.default"]


def test_what_is_taken_apart_is_named_after_its_module() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), Attending())
    assert "2.attention.softmax" in [node.name for node in trace(module.eval(), SHAPE).graph.nodes]


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.attention(x, x, x, need_weights=False)[0]


def test_an_expected_value_is_no_layer_with_8_bit_weights() -> None:
    """As an age or a place is: a softmax and a product with a vector."""
    for function in (
        lambda x: x[..., 0, 0].softmax(1) @ torch.arange(4.0),
        lambda x: F.linear(x[..., 0].softmax(-1), torch.arange(8.0)[None], torch.ones(1)),
    ):
        assert [node.name for node in traced(function).graph.layers] == ["part"]  # before the softmax


def test_a_call_that_asks_for_the_number_of_images_is_named_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    function = torch.ops.aten.gru_cell.default
    monkeypatch.setattr(decompose_module, "DECOMPOSITIONS", {"aten.gru_cell.default": function.decompose})
    module = Calls(InSteps(nn.GRUCell(4, 3))).eval()
    with pytest.raises(UnsupportedError, match=r"^layer function\.cell: edgeq does not know aten\.gru_cell\.default"):
        trace(module, SHAPE)


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "unknown": (lambda x: x.cumprod(1), "edgeq does not know aten.cumprod.default"),
    "bits of numbers": (lambda x: x.argmax(1) & 1, "edgeq does not know aten.__and__.Scalar|aten.bitwise_and"),
    "three dimensions": (
        lambda x: F.conv3d(x.unsqueeze(1), torch.ones(1, 1, 2, 2, 2)), "edgeq does not know aten.conv3d.default",
    ),
    "waves": (lambda x: torch.fft.rfft(x).abs(), "fft_rfft: edgeq does not know aten.fft_rfft.default"),
    "complex waves": (lambda x: torch.fft.fft2(x).abs(), "aten.fft_fft2.default makes complex numbers"),
    "complex numbers": (lambda x: x.cfloat().abs(), "aten.to.dtype makes complex numbers; expected real ones"),
    "as many as are positive": (
        lambda x: x[x > 0], "index: aten.index.Tensor makes a tensor whose size depends on the values in an image",
    ),
    "where they are": (lambda x: x.nonzero(), "nonzero: aten.nonzero.default makes a tensor whose size depends"),
    "a constant mask": (lambda x: x[:, torch.arange(4) % 2 == 0], "aten.index.Tensor with a constant mask; expected"),
    "a first state": (
        lambda x: nn.GRU(8, 3, batch_first=True)(x[:, 0], x[:, 1, :3, 0][None])[0],
        "aten.gru.input whose first state is computed from the image",
    ),
    "over the batch": (lambda x: x.cumsum(0), "aten.cumsum.default over the batch"),
    "any of all images": (lambda x: x.any(0), "over the batch; expected dimensions of one image"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_apart_is_refused_in_one_line(case: str) -> None:
    function, message = REFUSED[case]
    with pytest.raises(UnsupportedError, match=rf"^layer .*({message}).*$") as error:
        trace(Calls(function).eval(), SHAPE)
    assert "\n" not in str(error.value)
