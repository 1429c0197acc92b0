"""The batch anywhere in a program, and merged with other dimensions; in a graph it is first and alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeq.errors import UnsupportedError
from edgeq.frontends.torch_export.layouts import Layout, Sizes
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.network import Network

WINDOWS = Layout(((0, 1, 2), (3,), (4,)), (2, 4, 9, 5))  # [n * 8, 9, 5]


def test_a_plain_layout_has_the_dimensions_of_the_program() -> None:
    layout = Layout.plain((3, 8, 6))
    assert layout.dims == ((0,), (1,), (2,), (3,))
    assert (layout.sizes, layout.axis, layout.is_plain) == ((1, 3, 8, 6), 0, True)


@pytest.mark.parametrize(
    ("before", "sizes", "after"),
    [
        pytest.param(Layout.plain((8, 6)), Sizes((48,), 0), Layout(((0, 1),), (48,)), id="all merged"),
        pytest.param(WINDOWS, Sizes((1, 2, 4, 45), 0), Layout.plain((2, 4, 45)), id="windows taken apart"),
        pytest.param(WINDOWS, Sizes((4, 18, 5), 0), Layout(((0, 1), (2,), (3,)), (4, 18, 5)), id="half of a window"),
        pytest.param(
            Layout(((1,), (0,), (2,)), (6, 4)), Sizes((2, 3, 4), 1), Layout(((1,), (2, 0), (3,)), (2, 3, 4)),
            id="time beside the batch",
        ),
    ],
)  # fmt: skip
def test_a_view_leaves_the_batch_where_it_is(before: Layout, sizes: Sizes, after: Layout) -> None:
    assert before.reshaped(sizes) == after


def test_a_view_that_tears_the_batch_apart_is_none() -> None:
    assert Layout(((1,), (0,)), (6,)).reshaped(Sizes((4, 3), 0)) is None  # [6, n] as [4 n', 3]


def test_merging_with_the_batch_moves_nothing() -> None:
    channels_first = Layout(((0,), (2,), (1,)), (5, 7))  # [n, 7, 5]
    merged = channels_first.regrouped(Sizes((7, 5), 0))
    assert merged == Layout(((0, 2), (1,)), (5, 7))
    assert merged.regrouped(Sizes((1, 7, 5), 0)) == channels_first
    assert channels_first.regrouped(Sizes((1, 35), 0)) is None


def test_values_that_merge_the_batch_differently_do_not_match() -> None:
    inside, outside = Layout(((0, 1), (2,)), (4, 3)), Layout(((1, 0), (2,)), (4, 3))
    assert inside.matched(outside) is None
    assert inside.matched(Layout(((0, 2), (1,)), (3, 4))) == [2, 1]


def test_a_constant_is_seen_as_the_node_is() -> None:
    mask = torch.arange(24.0).reshape(8, 1, 3)  # for [n * 8, 5, 3]
    seen = Layout(((0, 2, 3), (4,), (1,)), (3, 2, 4, 5)).constant(mask)
    assert seen.shape == (1, 3, 2, 4, 1)
    assert torch.equal(seen[0, 1, :, :, 0].flatten(), mask[:, 0, 1])


class Function(nn.Module):
    """A function of layers and an image."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def checked(module: nn.Module, shape: tuple[int, ...]) -> Network:
    """Trace a module and compare on other numbers of images than tracing does itself."""
    network = trace(module.eval(), shape)
    for count in (1, 3):
        x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))
        with torch.inference_mode():
            torch.testing.assert_close(network(x), module(x), rtol=1e-4, atol=1e-5)
    return network


def _windows(x: Tensor, size: int = 2) -> Tensor:
    n, h, w, c = x.shape
    return x.view(n, h // size, size, w // size, size, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)


def _attention(m: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    n, t, c = x.shape
    q, k, v = m.qkv(x).reshape(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-2, -1) + torch.arange(2 * t * t).reshape(1, 2, t, t) / 9
    if mask is not None:
        scores = (scores.view(n // len(mask), len(mask), 2, t, t) + mask[:, None]).view(n, 2, t, t)
    return cast(Tensor, m.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, c)))


def _shifted_windows(m: Any, x: Tensor) -> Tensor:
    seen = m.stem(x).permute(0, 2, 3, 1)
    mask = torch.arange(6.0)[:, None, None] * torch.eye(4)
    attended = _attention(m, _windows(m.norm(seen.roll((-1, -1), (1, 2)))), mask)
    back = attended.view(-1, 2, 3, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 6, 4).roll((1, 1), (1, 2))
    return cast(Tensor, m.head((seen + back).mean((1, 2))))


def _tokens(m: Any, x: Tensor) -> Tensor:
    rows = torch.cat([m.norm.weight.expand(x.shape[0], 1, -1), m.stem(x).flatten(2).transpose(1, 2)], 1)
    return cast(Tensor, m.head((rows + _attention(m, m.norm(rows)))[:, 0]))


def _norm_over_tokens(m: Any, x: Tensor) -> Tensor:
    rows = m.out(m.stem(x).flatten(2).transpose(1, 2))
    return cast(Tensor, m.head(m.batch(rows.flatten(0, 1)).reshape_as(rows).mean(1)))


NETWORKS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "shifted windows": _shifted_windows,
    "a class token": _tokens,
    "a batch norm over all tokens": _norm_over_tokens,
    "time first": lambda m, x: m.head(F.relu(m.out(m.stem(x).flatten(2).permute(2, 0, 1))).amax(0)),
    "tokens mixed": lambda m, x: m.head(m.mix(m.stem(x).flatten(2)).transpose(1, 2)[:, 0]),
    "a stack beside the batch": lambda m, x: m.head(torch.stack([m.stem(x).mean(3), m.stem(x).amax(3)]).sum((0, -1))),
    "constants at both ends": lambda m, x: m.head(
        torch.cat([m.stem.bias.expand(x.shape[0], 2, 4), m.stem(x).mean(3).mT, torch.ones(x.shape[0], 1, 4)], 1).mean(1)
    ),
    "images repeated": lambda m, x: m.head(
        (m.stem(x).mean((2, 3)).repeat_interleave(3, 0) * torch.arange(3.0).repeat(x.shape[0])[:, None])
        .view(-1, 3, 4)
        .sum(1)
    ),
    "a constant query": lambda m, x: m.head(
        (m.norm.weight.expand(x.shape[0], 1, 4) @ m.stem(x).flatten(2)).softmax(-1).mean(1)[:, :4]
    ),
    "an einsum of windows": lambda m, x: m.head(
        torch.einsum("bhw,b...w->bh...", *[_windows(m.stem(x).mT.permute(0, 2, 3, 1))] * 2).view(-1, 6, 4, 4)[:, 2, 1]
    ),
    "an einsum with a constant": lambda m, x: m.head(
        torch.einsum("bchw,hcw->bwc", m.stem(x), torch.arange(96.0).view(4, 4, 6)).mean(1)
    ),
    "a gate of another layout": lambda m, x: m.head(
        (m.stem(x).permute(0, 2, 3, 1) * m.stem(x).mean((2, 3)).sigmoid().view(-1, 1, 1, 4)).mean((1, 2))
    ),
    "padded rows, channels last": lambda m, x: m.head(
        F.pad(m.stem(x).permute(0, 2, 3, 1), (0, 0, 1, 2, 0, 1)).flip(1)[:, 2:].mean((1, 2))
    ),
    "split tokens": lambda m, x: m.head(torch.cat(m.stem(x).flatten(2).permute(2, 0, 1).split([7, 17])[::-1])[3]),
}  # fmt: skip


@pytest.mark.parametrize("case", NETWORKS)
def test_networks(case: str) -> None:
    torch.manual_seed(0)
    layers = {
        "stem": nn.Conv2d(3, 4, 2, 2), "norm": nn.LayerNorm(4), "qkv": nn.Linear(4, 12), "out": nn.Linear(4, 4),
        "head": nn.Linear(4, 5), "batch": nn.BatchNorm1d(4), "mix": nn.Linear(24, 24),
    }  # fmt: skip
    checked(Function(NETWORKS[case], **layers), (3, 8, 12))


@pytest.mark.parametrize(
    ("shape", "ops"),
    [
        ((4,), "reshape conv2d flatten"),
        ((6, 4), "permute reshape conv2d reshape permute"),
        ((5, 6, 4), "permute conv2d permute"),
    ],
)
def test_a_linear_layer_over_any_rank(shape: tuple[int, ...], ops: str) -> None:
    network = checked(nn.Linear(4, 7), shape)
    assert " ".join(node.op for node in network.graph.nodes) == ops


def test_a_perceptron_over_rows_turns_them_once() -> None:
    network = checked(nn.Sequential(nn.Linear(4, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 4)), (6, 4))
    ops = [node.op for node in network.graph.nodes]
    assert ops == ["permute", "reshape", "conv2d", "gelu", "layer_norm", "conv2d", "reshape", "permute"]


def test_a_scale_that_only_a_product_in_float_reads_is_float() -> None:
    layers = {"fc": nn.Linear(4, 8), "head": nn.Linear(6, 2)}

    def scores(m: Any, x: Tensor) -> Tensor:
        first, second = m.fc(x).chunk(2, -1)
        return cast(Tensor, m.head((first * 0.5) @ second.mT))

    network = checked(Function(scores, **layers), (6, 4))
    operators = [node.attrs["operator"] for node in network.graph.nodes if node.op == "float"]
    assert operators == ["mul.Tensor", "matmul.default"]
    assert len(network.graph.layers) == 2


def test_rows_are_added_in_integers() -> None:
    network = checked(Function(lambda m, x: m.fc(x) + x, fc=nn.Linear(4, 4)), (6, 4))
    assert "add" in [node.op for node in network.graph.nodes]


def test_a_batch_norm_over_tokens_goes_into_the_layer_before() -> None:
    layers = {"fc": nn.Linear(4, 7), "norm": nn.BatchNorm1d(7)}
    network = checked(Function(lambda m, x: m.norm(m.fc(x).flatten(0, 1)).view(-1, 6, 7), **layers), (6, 4))
    assert [node.op for node in network.graph.nodes].count("conv2d") == 1


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "summed over the images": (lambda x: x - x.sum(0, keepdim=True), "aten.sum.dim_IntList over the batch"),
    "windows summed over the images": (lambda x: x.flatten(0, 1).sum(0), "aten.sum.dim_IntList over the batch"),
    "softmax over the images": (lambda x: x.permute(1, 0, 2).softmax(1), "aten.softmax.int over the batch"),
    "images multiplied": (lambda x: x.flatten(1) @ x.flatten(1).T, r"aten.matmul.default is not done to each image"),
    "merged on two sides": (
        lambda x: x.flatten(0, 1) + x.transpose(0, 1).flatten(0, 1),
        r"aten.add.Tensor of values \[6 \* n, 4\] and \[6 \* n, 4\], which put different images together",
    ),
    "torn apart": (lambda x: x.transpose(0, 1).flatten().view(-1, 24), "aten.view.default tears images apart"),
    "returned with time first": (lambda x: x.transpose(0, 1), r"output of values \[6, n, 4\]; expected the batch"),
    "a convolution over windows": (
        lambda x: F.conv1d(x.flatten(0, 1)[:, None], torch.ones(1, 1, 1)),
        r"aten.flatten.using_ints moves the batch or merges it with other .*, as aten.conv1d.default needs it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_mixes_images_is_refused_in_one_line(case: str) -> None:
    function, message = REFUSED[case]
    module = Function(lambda m, x: function(m.fc(x)), fc=nn.Linear(4, 4))
    with pytest.raises(UnsupportedError, match=f"^layer [a-z_0-9]+: {message}") as caught:
        trace(module, (6, 4))
    assert "\n" not in str(caught.value)


def _apart(x: Tensor, dim: int, sizes: tuple[int, ...]) -> Tensor:
    return x.reshape([*x.shape[:dim], *sizes, *x.shape[dim + 1 :]])


@dataclass
class Chain:
    """Steps, and what they make of images: sizes, where the batch is, and how many are merged with it on both sides."""

    sizes: list[int]
    axis: int = 0
    outer: int = 1
    inner: int = 1
    steps: list[Callable[[Tensor], Tensor]] = field(default_factory=list)

    def __call__(self, _: object, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        parts = _apart(x, self.axis, (self.outer, -1, self.inner))
        return parts.movedim(self.axis + 1, 0).flatten(1)

    def extend(self, kind: str, dim: int, dims: Sequence[int]) -> None:
        """Append a step at a dimension that is not the batch's, or a permutation."""
        sizes, axis, values = self.sizes, self.axis, torch.Generator().manual_seed(dim)
        if kind == "permute":
            self.sizes, self.axis = [sizes[d] for d in dims], dims.index(axis)
            self.steps.append(lambda x: x.permute(*dims))
        elif kind == "merge" and dim + 1 < len(sizes):
            self.outer *= sizes[dim] if dim + 1 == axis else 1
            merged = 1 if dim + 1 == axis else sizes[dim] * sizes[dim + 1]
            self.sizes, self.axis = [*sizes[:dim], merged, *sizes[dim + 2 :]], axis - (dim < axis)
            self.steps.append(lambda x: x.flatten(dim, dim + 1))
        elif kind == "merge behind" and axis + 1 < len(sizes):
            self.inner *= sizes[axis + 1]
            self.sizes = [*sizes[: axis + 1], *sizes[axis + 2 :]]
            self.steps.append(lambda x: x.flatten(axis, axis + 1))
        elif kind == "take out" and self.inner > 1:
            inner, self.inner = self.inner, 1
            self.sizes = [*sizes[: axis + 1], inner, *sizes[axis + 1 :]]
            self.steps.append(lambda x: _apart(x, axis, (-1, inner)))
        elif kind == "split" and sizes[dim] % 2 == 0:
            self.sizes, self.axis = [*sizes[:dim], 2, sizes[dim] // 2, *sizes[dim + 1 :]], axis + (dim < axis)
            self.steps.append(lambda x: _apart(x, dim, (2, -1)))
        elif kind == "linear" and axis != len(sizes) - 1:
            weight = torch.randn(6, sizes[-1], generator=values)
            self.sizes = [*sizes[:-1], 6]
            self.steps.append(lambda x: F.linear(x, weight))
        elif kind == "add":
            constant = torch.randn(sizes[dim], *[1] * (len(sizes) - dim - 1), generator=values)
            self.steps.append(lambda x: x + constant)
        elif kind == "slice" and sizes[dim] > 2:
            self.sizes = [*sizes[:dim], sizes[dim] - 1, *sizes[dim + 1 :]]
            self.steps.append(lambda x: x.narrow(dim, 1, sizes[dim] - 1))
        elif kind == "mean" and len(sizes) > 2:
            self.sizes, self.axis = [*sizes[:dim], *sizes[dim + 1 :]], axis - (dim < axis)
            self.steps.append(lambda x: x.mean(dim))
        else:
            self.steps.append(lambda x: x.softmax(dim))


KINDS = "permute", "merge", "merge behind", "take out", "split", "linear", "add", "slice", "mean", "softmax"


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_chains(data: st.DataObject) -> None:
    """Random views, permutations and sums of images, the batch wherever they put it, on 1 to 3 images."""
    chain = Chain([1, 4, 6, 2])
    for _ in range(data.draw(st.integers(2, 8))):
        others = [dim for dim in range(len(chain.sizes)) if dim != chain.axis]
        if not others:
            break
        kind, dim = data.draw(st.sampled_from(KINDS)), data.draw(st.sampled_from(others))
        dims = data.draw(st.permutations(range(len(chain.sizes))))
        note(f"{chain.sizes} {chain.axis}: {kind} {dim} {dims}")
        chain.extend(kind, dim, dims)
    checked(Function(lambda m, x: chain(m, x + 1).exp()), (4, 6, 2))
