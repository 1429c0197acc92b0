"""Networks that take several tensors and return several, or tuples and dicts of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from nets import SHAPE, images, randomized
from torch import Tensor, nn

from edgeq.errors import UnsupportedError
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.graph import INPUT, Input
from edgeq.ir.network import Network

META = (5,)


class Two(nn.Module):
    """A map of the image, moved by what a vector says."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.meta = nn.Conv2d(3, 8, 3), nn.Linear(5, 8)

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        y: Tensor = self.image(image) + self.meta(meta)[:, :, None, None]
        return y


def inputs(network: Network) -> list[Tensor]:
    """Random inputs by the shapes of the network."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(3, *one.shape, generator=generator) for one in network.graph.inputs]


# --- inputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ((SHAPE, META), ("image", "meta")),
        ([list(SHAPE), META], ("image", "meta")),
        ({"image": SHAPE, "meta": META}, ("image", "meta")),
        ({"meta": META, "image": SHAPE}, ("meta", "image")),
    ],
    ids=["in their order", "a list", "by their names", "by their names, in another order"],
)
def test_several_inputs(shapes: Any, expected: tuple[str, ...]) -> None:
    module = randomized(Two())
    network = trace(module, shapes)
    assert tuple(one.name for one in network.graph.inputs) == expected
    given = inputs(network)
    with torch.no_grad():
        wanted = module(**dict(zip(expected, given, strict=True)))
        torch.testing.assert_close(network(*given), wanted, rtol=1e-5, atol=1e-5)


def test_arguments_without_names_are_counted() -> None:
    class Counted(Two):
        def forward(self, *x: Tensor) -> Tensor:
            return super().forward(*x)

    network = trace(randomized(Counted()), (SHAPE, META))
    assert network.graph.inputs == (Input("input0", "input0", SHAPE), Input("input1", "input1", META))


def test_one_image_is_called_so_whatever_the_argument_is() -> None:
    network = trace(randomized(nn.Conv2d(3, 4, 3)), SHAPE)
    assert network.graph.inputs == (Input("image", INPUT, SHAPE),)
    named = trace(randomized(nn.Conv2d(3, 4, 3)), {"input": SHAPE})
    assert named.graph.inputs == (Input("input", "input", SHAPE),)


def test_a_layer_named_like_an_input_has_another_name() -> None:
    """`image` is an argument and a module of `Two`."""
    network = trace(randomized(Two()), (SHAPE, META))
    names = [node.name for node in network.graph.nodes]
    assert not {"image", "meta"} & {*names}
    assert len(network.graph.layers) == 2


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ((), r"expected an input shape such as \(channels, height, width\), or several of them, found \(\)"),
        ({}, r"expected an input shape such as \(channels, height, width\), or several of them, found {}"),
        ((SHAPE, 5), r"expected an input shape such as \(channels, height, width\), or several of them, found 5"),
        ((3, None, None), r"expected an input shape such as .*, found \(3, None, None\)"),
        ((SHAPE, (0,)), r"expected an input shape such as .*, found \(0,\)"),
        ((SHAPE,), r"Two.*: fails when called with one float32 tensor \[2, 3, 16, 16\]: TypeError: .*'meta'"),
        ((SHAPE, META, META), r"Two.*: fails when called with 3 float32 tensors \[2, 3, 16, 16\] and \[2, 5\] and \[2"),
        ({"image": SHAPE, "size": META}, r"Two.*: fails when called with 2 float32 tensors .*: TypeError: .*'size'"),
    ],
    ids=["none", "none by name", "a number", "open", "of nothing", "too few", "too many", "another name"],
)
def test_inputs_that_do_not_fit(shapes: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{message}") as caught:
        trace(randomized(Two()), shapes)
    assert "\n" not in str(caught.value)


# --- outputs --------------------------------------------------------------------------------------------------------


class Returns(nn.Module):
    """What a function makes of the image and of two maps of it."""

    def __init__(self, made: Callable[[Tensor, Tensor, Tensor], object]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 6, 3)
        self.made = made

    def forward(self, x: Tensor) -> object:
        return self.made(x, self.a(x), self.b(x))


class Found(NamedTuple):
    boxes: Tensor
    scores: Tensor


@dataclass
class Record:
    boxes: Tensor


def flat(found: object) -> list[Tensor]:
    """All tensors of a result in order."""
    if isinstance(found, Tensor):
        return [found]
    parts: Sequence[object] = list(found.values()) if isinstance(found, Mapping) else list(found or ())  # type: ignore[call-overload]
    return [tensor for part in parts for tensor in flat(part)]


RETURNED: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], object], tuple[str, ...], tuple[str, ...]]] = {
    "one": (lambda x, a, b: a, ("output",), ("a",)),
    "a tuple of one": (lambda x, a, b: (a,), ("output",), ("a",)),
    "a tuple": (lambda x, a, b: (a, b), ("output0", "output1"), ("a", "b")),
    "a list": (lambda x, a, b: [b, a], ("output0", "output1"), ("b", "a")),
    "a named tuple": (lambda x, a, b: Found(a, b), ("boxes", "scores"), ("a", "b")),
    "a dict": (lambda x, a, b: {"boxes": a, "scores": b}, ("boxes", "scores"), ("a", "b")),
    "nested": (
        lambda x, a, b: {"maps": [a, b], "more": {"left": (a,)}}, ("maps.0", "maps.1", "more.left.0"), ("a", "b", "a")
    ),
    "a tuple of tuples": (lambda x, a, b: ((a, b), b), ("output0.0", "output0.1", "output1"), ("a", "b", "b")),
    "None beside it": (lambda x, a, b: {"boxes": a, "masks": None, "scores": b}, ("boxes", "scores"), ("a", "b")),
    "None first": (lambda x, a, b: (None, b), ("output",), ("b",)),
    "one twice": (lambda x, a, b: (a, a), ("output0", "output1"), ("a", "a")),
    "the image": (lambda x, a, b: {"map": a, "seen": x}, ("map", "seen"), ("a", INPUT)),
    "the image by its name": (lambda x, a, b: {"map": a, "image": x}, ("map", "image_output"), ("a", INPUT)),
}  # fmt: skip


@pytest.mark.parametrize("case", RETURNED)
def test_what_is_returned(case: str) -> None:
    made, names, values = RETURNED[case]
    module = randomized(Returns(made))
    network = trace(module, SHAPE)
    assert tuple(one.name for one in network.graph.outputs) == names
    assert tuple(one.value for one in network.graph.outputs) == values
    x = torch.from_numpy(images(3))
    with torch.no_grad():
        found = network(x)
        assert isinstance(found, Tensor) == (len(names) == 1)
        for ours, wanted in zip(flat(found), flat(module(x)), strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


def test_a_layer_that_no_output_needs_is_left_out() -> None:
    network = trace(randomized(Returns(lambda x, a, b: {"boxes": a})), SHAPE)
    assert [node.name for node in network.graph.nodes] == ["a"]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda x, a, b: {"map": a, "anchors": torch.ones(4)},
            "output anchors: it is the same for all images; expected a network without it",
        ),
        (lambda x, a, b: (x,), "expected a network that computes something, found one that returns its image"),
        (lambda x, a, b: None, "Returns: it returns NoneType; expected one tensor, or a tuple, list or dict of"),
        (lambda x, a, b: {}, "Returns: it returns a dict of nothing; expected one tensor, or a tuple, list or dict of"),
        (lambda x, a, b: {"map": a, "count": 3}, "Returns: it returns a dict of map, count, where count is a int; exp"),
        (lambda x, a, b: (a, "map"), "Returns: it returns a tuple of 2, where output1 is a str; expected one tensor,"),
        (lambda x, a, b: Record(a), "Returns: it returns Record; expected one tensor, or a tuple, list or dict of"),
    ],
    ids=["a constant", "the image alone", "None", "an empty dict", "a number", "text", "a class of its own"],
)
def test_returns_that_are_refused(made: Callable[[Tensor, Tensor, Tensor], object], message: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{message}") as caught:
        trace(randomized(Returns(made)), SHAPE)
    assert "\n" not in str(caught.value)


# --- tasks ----------------------------------------------------------------------------------------------------------


def pooled(x: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    return {"box": a.mean((2, 3)), "classes": b.mean((2, 3)).softmax(1)}


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (None, ["regression", "classification"]),
        ("regression", ["regression", "regression"]),
        ({"box": "classification"}, ["classification", "classification"]),
        ({"classes": "regression", "box": "classification"}, ["classification", "regression"]),
    ],
)
def test_tasks(tasks: Any, expected: list[str]) -> None:
    network = trace(randomized(Returns(pooled)), SHAPE, tasks=tasks)
    assert [one.task for one in network.graph.outputs] == expected


def test_an_only_output_is_called_what_it_is() -> None:
    made = [
        trace(randomized(Returns(lambda x, a, b: a.mean((2, 3)))), SHAPE, tasks=task) for task in (None, "regression")
    ]
    assert [network.graph.outputs[0].name for network in made] == ["logits", "output"]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("detection", "unknown task 'detection'; expected one of classification, regression"),
        ({"box": "detection"}, "unknown task 'detection'; expected one of classification, regression"),
        ({"boxes": "regression"}, "tasks: no output boxes; expected one of box, classes"),
    ],
)
def test_tasks_that_are_none(tasks: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{message}$"):
        trace(randomized(Returns(pooled)), SHAPE, tasks=tasks)
