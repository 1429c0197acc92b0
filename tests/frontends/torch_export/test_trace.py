from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import MODULES, SHAPE, Function, images, randomized
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from edgeq.errors import UnsupportedError, WeightsError
from edgeq.frontends.torch_export import program as program_module
from edgeq.frontends.torch_export.trace import trace
from edgeq.ir.network import Network


def conv(out: int = 8, **options: object) -> nn.Conv2d:
    return nn.Conv2d(3, out, 3, **options)  # type: ignore[arg-type]


def assert_same(module: nn.Module, network: Network, shape: tuple[int, ...] = SHAPE) -> None:
    x = torch.from_numpy(images(3, 5, shape))
    with torch.inference_mode():
        torch.testing.assert_close(network(x), module(x), rtol=1e-5, atol=1e-5)


def ops(network: Network) -> str:
    return " ".join(node.op for node in network.graph.nodes)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "clip: nn.ReLU6": nn.ReLU6(),
    "clip: nn.ReLU6 in place": nn.ReLU6(inplace=True),
    "clip: F.relu6": F.relu6,
    "clip: clamp": lambda x: x.clamp(0, 6),
    "clip: clamp_": lambda x: x.clamp_(0.0, 6.0),
    "clip: nn.Hardtanh": nn.Hardtanh(0, 6),
    "clip: F.hardtanh": lambda x: F.hardtanh(x, 0, 6),
    "relu: nn.ReLU": nn.ReLU(),
    "relu: relu_": torch.relu_,
    "clip: two clamps": lambda x: x.clamp(min=0).clamp(max=6),
    "clip: relu, dropout, relu6": lambda x: F.relu6(F.dropout(x.relu(), training=False)),
    "clip: relu6, relu": lambda x: F.relu6(x).relu(),
    "clip: clamp(0, 9), relu6": lambda x: F.relu6(x.clamp(0, 9)),
    "relu: clamp": lambda x: x.clamp(min=0),
    "relu: to infinity": lambda x: x.clamp(0, torch.inf),
    "sigmoid: method": lambda x: x.sigmoid(),
    "hardsigmoid: nn": nn.Hardsigmoid(),
    "hardswish: in place": nn.Hardswish(inplace=True),
    "sigmoid mul: nn.SiLU": nn.SiLU(),
    "gelu: F": F.gelu,
    "leaky_relu: nn": nn.LeakyReLU(0.1),
    "tanh: method": lambda x: x.tanh(),
}


@pytest.mark.parametrize("style", ACTIVATIONS)
def test_activations_in_all_styles(style: str) -> None:
    function = ACTIVATIONS[style]
    module = randomized(Function(lambda m, x: function(m.conv(x)), conv=conv()))
    network = trace(module, SHAPE)
    assert ops(network) == f"conv2d {style.partition(':')[0]}"
    assert network.graph.nodes[-1].attrs.get("max", 6.0) == 6.0
    assert_same(module, network)


HEADS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean([2, 3]),
    "mean, negative dimensions": lambda x: x.mean((-1, -2)),
    "mean, dimensions kept": lambda x: x.mean([2, 3], keepdim=True).flatten(1),
    "adaptive pooling, flatten": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "adaptive pooling, view": lambda x: F.adaptive_avg_pool2d(x, (1, 1)).view(x.size(0), -1),
    "adaptive pooling, view of -1": lambda x: F.adaptive_avg_pool2d(x, (1, 1)).view(-1, 8),
    "adaptive pooling, reshape": lambda x: F.adaptive_avg_pool2d(x, 1).reshape(x.shape[0], 8),
    "nn.Flatten, dropout, view": lambda x: F.dropout(nn.Flatten()(F.adaptive_avg_pool2d(x, 1)), training=False).view(
        -1, 8
    ),
}


@pytest.mark.parametrize("style", HEADS)
def test_classifier_becomes_a_convolution(style: str) -> None:
    head = HEADS[style]
    module = randomized(Function(lambda m, x: m.fc(head(m.conv(x))), conv=conv(), fc=nn.Linear(8, 5)))
    network = trace(module, SHAPE)
    assert ops(network) == "conv2d global_avg_pool conv2d flatten"
    assert [node.name for node in network.graph.layers] == ["conv", "fc"]
    assert_same(module, network)


@pytest.mark.parametrize(("activation", "between"), [(F.hardswish, "hardswish"), (F.silu, "sigmoid mul")])
def test_all_linear_layers_of_a_classifier_become_convolutions(
    activation: Callable[[Tensor], Tensor], between: str
) -> None:
    layers = {"conv": conv(), "fc1": nn.Linear(8, 7), "fc2": nn.Linear(7, 5)}
    module = randomized(Function(lambda m, x: m.fc2(activation(m.fc1(m.conv(x).mean([2, 3])))), **layers))
    network = trace(module, SHAPE)
    assert ops(network) == f"conv2d global_avg_pool conv2d {between} conv2d flatten"
    assert_same(module, network)


def test_flat_values_read_by_others_are_flattened() -> None:
    layers = {"conv": conv(), "a": nn.Linear(8, 5), "b": nn.Linear(8, 5)}

    def forward(m: Any, x: Tensor) -> Tensor:
        flat = m.conv(x).mean([2, 3])
        y: Tensor = m.a(flat) + m.b(flat).relu()
        return torch.cat([y, flat], 1)

    module = randomized(Function(forward, **layers))
    network = trace(module, SHAPE)
    assert ops(network) == "conv2d global_avg_pool conv2d conv2d relu add flatten flatten cat"
    assert_same(module, network)


def test_linear_behind_larger_maps_sees_them_as_one_pixel() -> None:
    module = randomized(MODULES["flat"]())
    network = trace(module, SHAPE)
    assert ops(network) == "conv2d relu reshape conv2d relu conv2d flatten"
    assert_same(module, network)


def batch_norm_twice(m: Any, x: Tensor) -> Tensor:
    y: Tensor = m.second(F.dropout(m.bn(m.conv(x)), training=False))
    return y


def beside(m: Any, x: Tensor) -> Tensor:
    """The convolution is read by something besides the batch norm, which comes behind a dropout."""
    x = m.conv(x)
    y: Tensor = m.bn(F.dropout(x, training=False)) + x
    return y


BATCH_NORMS: dict[str, tuple[str, nn.Module]] = {
    "behind conv": ("conv2d", Function(lambda m, x: m.bn(m.conv(x)), conv=conv(bias=False), bn=nn.BatchNorm2d(8))),
    "behind conv with bias": ("conv2d", Function(lambda m, x: m.bn(m.conv(x)), conv=conv(), bn=nn.BatchNorm2d(8))),
    "behind grouped conv": (
        "conv2d", Function(lambda m, x: m.bn(m.conv(x)), conv=conv(9, groups=3), bn=nn.BatchNorm2d(9)),
    ),
    "two, dropout between": (
        "conv2d", Function(batch_norm_twice, conv=conv(), bn=nn.BatchNorm2d(8), second=nn.BatchNorm2d(8, eps=0.1)),
    ),
    "behind linear": (
        "global_avg_pool conv2d flatten",
        Function(lambda m, x: m.bn(m.fc(x.mean([2, 3]))), fc=nn.Linear(3, 5), bn=nn.BatchNorm1d(5)),
    ),
    "before conv": ("conv2d", Function(lambda m, x: m.conv(m.bn(x)), conv=conv(), bn=nn.BatchNorm2d(3))),
    "before grouped conv": (
        "conv2d", Function(lambda m, x: m.conv(m.bn(x)), conv=conv(6, groups=3), bn=nn.BatchNorm2d(3)),
    ),
    "before padded conv": (
        "conv2d conv2d", Function(lambda m, x: m.conv(m.bn(x)), conv=conv(padding=1), bn=nn.BatchNorm2d(3)),
    ),
    "before linear": (
        "relu global_avg_pool conv2d flatten",
        Function(lambda m, x: m.fc(m.bn(x.relu().mean([2, 3]))), fc=nn.Linear(3, 5), bn=nn.BatchNorm1d(3)),
    ),
    "of maps before linear": (
        "conv2d relu avg_pool2d reshape conv2d flatten",
        Function(
            lambda m, x: m.fc(F.avg_pool2d(m.bn(m.conv(x).relu()), 7).flatten(1)),
            conv=conv(), bn=nn.BatchNorm2d(8), fc=nn.Linear(32, 5),
        ),
    ),
    "between linear layers": (
        "global_avg_pool conv2d relu conv2d flatten",
        Function(
            lambda m, x: m.b(m.bn(m.a(x.mean([2, 3])).relu())),
            a=nn.Linear(3, 8), bn=nn.BatchNorm1d(8), b=nn.Linear(8, 5),
        ),
    ),
    "flat, alone": ("flatten relu float float", nn.Sequential(nn.Flatten(), nn.ReLU(), nn.BatchNorm1d(768))),
    "behind relu": (
        "conv2d relu float float", Function(lambda m, x: m.bn(m.conv(x).relu()), conv=conv(), bn=nn.BatchNorm2d(8)),
    ),
    "conv read twice": ("conv2d float float add", Function(beside, conv=conv(), bn=nn.BatchNorm2d(8))),
}  # fmt: skip


@pytest.mark.parametrize("case", BATCH_NORMS)
def test_batch_norm(case: str) -> None:
    expected, module = BATCH_NORMS[case]
    network = trace(randomized(module), SHAPE)
    assert ops(network) == expected
    assert_same(module, network)


def test_batch_norm_without_affine_parameters() -> None:
    norm = nn.BatchNorm2d(8, affine=False)
    norm.running_var = torch.linspace(0.5, 2, 8)
    module = Function(lambda m, x: m.bn(m.conv(x)), conv=conv(), bn=norm).eval()
    assert_same(module, trace(module, SHAPE))


def test_stand_alone_batch_norm_is_a_depthwise_layer_named_like_it() -> None:
    module = Function(lambda m, x: m.conv(m.norm(x).relu()), conv=conv(), norm=nn.BatchNorm2d(3))
    network = trace(randomized(module), SHAPE)
    node = network.graph.nodes[0]
    assert (node.name, node.attrs["groups"], node.shape) == ("norm", 3, SHAPE)
    assert network.weight_and_bias("norm")[0].shape == (3, 1, 1, 1)


class Constants(nn.Module):
    """A layer with tensors beside it, and what is done with them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = conv()
        self.gamma = nn.Parameter(torch.linspace(0.5, 2, 8)[:, None, None])
        self.register_buffer("columns", torch.arange(14.0))
        self.register_buffer("mean", torch.linspace(-1, 1, 3).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.linspace(0.5, 2, 3).reshape(1, 3, 1, 1))
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def by_hand(m: Any, x: Tensor) -> Tensor:
    y: Tensor = m.conv(x)
    return y * F.relu6(y + 3) / 6


CONSTANTS: dict[str, tuple[str, Callable[[Any, Tensor], Tensor]]] = {
    "scaled layer": ("conv2d", lambda m, x: m.gamma * m.conv(x)),
    "layer times a number": ("conv2d", lambda m, x: m.conv(x) * 0.5),
    "layer plus a tensor": ("conv2d", lambda m, x: m.conv(x) + m.gamma),
    "number minus layer": ("conv2d", lambda m, x: 1 - m.conv(x)),
    "normalized image": ("conv2d", lambda m, x: m.conv((x - m.mean) / m.std)),
    "added twice": ("conv2d", lambda m, x: torch.add(m.conv(x), 3, alpha=-2)),
    "literal": ("conv2d", lambda m, x: m.conv(x * torch.tensor(2.0))),
    "hard swish by hand": (
        "conv2d hardswish", by_hand,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONSTANTS)
def test_arithmetic_with_constants(case: str) -> None:
    expected, forward = CONSTANTS[case]
    module = randomized(Constants(forward))
    network = trace(module, SHAPE)
    assert ops(network) == expected
    assert_same(module, network)


def shuffled(x: Tensor) -> Tensor:
    y = x.view(x.size(0), 4, 2, *x.shape[2:]).transpose(1, 2).contiguous()
    return y.view(x.size(0), -1, *x.shape[2:])


MOVES: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "chunk": ("slice slice cat", lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)),
    "split": ("slice slice cat", lambda x: torch.cat(torch.split(x, [5, 3], dim=1)[::-1], 1)),
    "uneven split": ("slice slice cat", lambda x: torch.cat(torch.split(x, 5, dim=1)[::-1], 1)),
    "slices": ("slice slice cat", lambda x: torch.cat([x[:, 2:], x[:, :-6]], 1)),
    "rows and columns": ("slice slice", lambda x: x[:, :, 1:-1, 2:9]),
    "narrow": ("slice", lambda x: x.narrow(1, 2, 3)),
    "select": (
        "slice slice cat",
        lambda x: torch.cat([x[:, 3].unsqueeze(1), x[:, -1][:, None]], 1),
    ),
    "squeeze": ("slice reshape", lambda x: x[:, :1].squeeze(1)),
    "shuffle": ("reshape permute reshape", shuffled),
    "rows for columns": ("permute", lambda x: x.permute(0, 1, 3, 2)),
    "pad": ("pad", lambda x: F.pad(x, (0, 1, 2, 3))),
    "pad columns": ("pad", lambda x: F.pad(x, (1, 0))),
    "nn.ZeroPad2d": ("pad", nn.ZeroPad2d((1, 2, 0, 0))),
    "flatten to rows": ("reshape", lambda x: x.flatten(2)),
    "whole slice": ("", lambda x: x[:, :]),
}


@pytest.mark.parametrize("case", MOVES)
def test_moving_values(case: str) -> None:
    expected, function = MOVES[case]
    module = randomized(Function(lambda m, x: function(m.conv(x)), conv=conv()))
    network = trace(module, SHAPE)
    assert ops(network) == f"conv2d {expected}".strip()
    assert_same(module, network)


def test_asymmetric_padding_before_a_strided_convolution() -> None:
    module = randomized(Function(lambda m, x: m.conv(F.pad(x, (0, 1, 0, 1))), conv=conv(stride=2)))
    network = trace(module, SHAPE)
    assert ops(network) == "conv2d slice slice"
    assert network.graph.nodes[0].attrs["padding"] == [2, 2]
    assert_same(module, network)


class Next(nn.Module):
    """A block as in ConvNeXt: channels are put last to be normalized and mixed, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.norm = nn.LayerNorm(3, eps=1e-3)
        self.wide, self.narrow = nn.Linear(3, 12), nn.Linear(12, 3, bias=False)
        self.gamma = nn.Parameter(torch.tensor([0.5, 2.0, -1.0])[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)
        added: Tensor = x + self.gamma * y
        return added


def test_channels_last_in_between() -> None:
    module = randomized(Next())
    nn.init.uniform_(module.get_parameter("norm.weight"), 0.5, 2)
    nn.init.normal_(module.get_parameter("norm.bias"))
    network = trace(module, SHAPE)
    assert ops(network) == "conv2d layer_norm conv2d gelu conv2d add"
    assert [node.name for node in network.graph.layers] == ["depthwise", "wide", "narrow"]
    assert_same(module, network)


def test_a_module_called_twice_is_two_layers() -> None:
    module = randomized(Function(lambda m, x: m.conv(m.conv(x).relu()), conv=nn.Conv2d(3, 3, 3, padding=1)))
    network = trace(module, SHAPE)
    assert [node.name for node in network.graph.layers] == ["conv", "conv:2"]
    assert_same(module, network)


CONVS: dict[str, nn.Module] = {
    "without bias": conv(bias=False),
    "strided and padded by side": conv(stride=(2, 1), padding=(0, 2)),
    "grouped": conv(9, groups=3),
    "dilated": conv(dilation=2),
    "same": conv(padding="same", dilation=2),
    "valid": conv(padding="valid"),
}


@pytest.mark.parametrize("case", CONVS)
def test_convolution(case: str) -> None:
    module = randomized(nn.Sequential(CONVS[case]))
    network = trace(module, SHAPE)
    assert ops(network) == "conv2d"
    assert_same(module, network)


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "max_pool2d, all options": nn.MaxPool2d(3, (2, 1), 1, 2, ceil_mode=True),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "avg_pool2d, all options": nn.AvgPool2d((3, 2), 2, 1, ceil_mode=True, count_include_pad=False),
    "avg_pool2d, adaptive": nn.AdaptiveAvgPool2d((7, 2)),
}


@pytest.mark.parametrize("case", POOLS)
def test_pooling(case: str) -> None:
    module = randomized(Function(lambda m, x: POOLS[case](m.conv(x)), conv=conv()))
    network = trace(module, SHAPE)
    assert ops(network) == f"conv2d {case.partition(',')[0]}"
    assert_same(module, network)


def test_adaptive_pooling_to_the_same_size_vanishes() -> None:
    module = randomized(Function(lambda m, x: F.adaptive_avg_pool2d(m.conv(x), (14, 14)), conv=conv()))
    assert ops(trace(module, SHAPE)) == "conv2d"


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, stride=2) * torch.sigmoid(F.conv2d(x, self.kernel, None, 2))


def test_functional_convolution_and_a_parameter_used_twice() -> None:
    module = Functional()
    network = trace(module, SHAPE)
    assert [node.name for node in network.graph.nodes] == ["kernel", "kernel:2", "sigmoid", "mul"]
    assert_same(module, network)


def test_module_named_input() -> None:
    module = Function(lambda m, x: m.get_submodule("input")(x), input=conv())
    assert [node.name for node in trace(module, SHAPE).graph.nodes] == ["input:2"]


@pytest.mark.parametrize("name", MODULES)
def test_small_networks(name: str) -> None:
    module = randomized(MODULES[name]())
    assert_same(module, trace(module, SHAPE))


def test_module_is_left_as_it_was() -> None:
    module = MODULES["residual"]().train()
    part = module.get_submodule("block.1").eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    network = trace(module, SHAPE)
    for parameter in network.parameters():
        parameter.zero_()
    assert module.training
    assert not part.training
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def named(forward: Callable[[Tensor], Tensor]) -> nn.Module:
    """A module whose second layer, `body.1`, does this."""
    inner = Function(lambda m, x: forward(x))
    return Function(lambda m, x: m.body(x), body=nn.Sequential(conv(), inner))


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "wrong channels": (
        nn.Conv2d(4, 8, 3),
        r"Conv2d: fails when called with one float32 tensor \[2, 3, 16, 16\]: .*expected input\[.*to have 4 channels",
    ),
    "unknown operation": (
        named(lambda x: x.cumprod(1)),
        "layer body.1: edgeq does not know aten.cumprod.default; replace it by a supported operation, or split",
    ),
    "part of the batch": (named(lambda x: x[:1]), "layer body.1: aten.slice.Tensor is not done to each image"),
    "flipped batch": (named(lambda x: x.flip(0)), "layer body.1: aten.flip.default over the batch; expected all"),
    "flat roll": (named(lambda x: x.roll(3)), "layer body.1: aten.roll.default that does not move whole"),
    "batch moved": (named(lambda x: x.transpose(0, 1)), r"layer body.1: output of values \[8, n, 14, 14\]"),
    "batch mixed": (named(lambda x: x.reshape(-1, 4)), r"layer body.1: output of values \[392 \* n, 4\]"),
    "batch reduced": (named(lambda x: x.mean((0, 2, 3))), "layer body.1: aten.mean.dim over the batch; expected dime"),
    "padded with infinity": (
        named(lambda x: F.pad(x, (1, 1), value=-torch.inf)),
        "layer body.1: padding with -inf; expected a number, or a max pooling that pads by itself",
    ),
    "divided by zero": (named(lambda x: x / 0), "layer body.1: a division by zero"),
    "computed weights": (
        named(lambda x: F.conv2d(x, x.mean((2, 3))[:1, :, None, None])),
        "layer body.1: aten.slice.Tensor is not done to each image",
    ),
    "batch": (named(lambda x: torch.cat([x, x], 0)), "layer body.1: aten.cat.default over the batch; expected dim"),
    "active dropout": (named(F.dropout), "layer body.1: a dropout that stays active in evaluation; pass it training="),
    "batch statistics": (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), "layer 0: normalizes with the"),
    "nothing": (nn.Identity(), "expected a network that computes something, found one that returns its image"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str) -> None:
    module, message = REFUSED[case]
    with pytest.raises(UnsupportedError, match=message) as caught:
        trace(module, SHAPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [3, (3, -1, 16), (3.0, 16, 16), "3x16x16"], ids=str)
def test_shapes_that_are_none(shape: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"^expected an input shape such as \(channels, height, width\), or "):
        trace(conv(), shape)


@pytest.mark.parametrize("name", ["stem.0.weight", "stem.1.running_var", "classifier.1.bias"])
def test_weights_that_are_not_finite_are_named(name: str) -> None:
    module = MODULES["residual"]()
    module.state_dict()[name].view(-1)[0] = float("nan")
    with pytest.raises(WeightsError, match=f"^weights {name}: found NaN or infinite values; use weights that are fi"):
        trace(module, SHAPE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"eps": 0.0, "running_var": 0.0},
            "its running variance at channel 3 is 0 and eps is 0; expected a sum above 0",
        ),
        (
            {"running_var": -1e-3},
            "its running variance at channel 3 is -0.001 and eps is 1e-05; expected a sum above 0",
        ),
        (
            {"weight": 3e38, "running_var": 1e-20},
            "its scale and shift make the weights of 0 infinite at channel 3; expected results within float32",
        ),
    ],
    ids=["variance 0", "negative variance", "gamma"],
)
def test_a_batch_norm_that_folds_to_infinite_weights_is_named(change: dict[str, float], message: str) -> None:
    norm = nn.BatchNorm2d(8)
    for key, value in change.items():
        if key == "eps":
            norm.eps = value
        else:
            norm.state_dict()[key][3] = value
    with pytest.raises(WeightsError, match=f"^layer 1: {message}"):
        trace(nn.Sequential(conv(), norm), SHAPE)


def test_what_nothing_reads_is_left_out() -> None:
    """Above all no layer of it is calibrated."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y: Tensor = m.conv(x)
        m.aside(x).relu()
        return y

    assert ops(trace(Function(forward, conv=conv(), aside=conv()), SHAPE)) == "conv2d"


# --- whatever does not depend on the image -------------------------------------------------------------------------


class Scaled(nn.Module):
    """A layer, parameters, and what is computed from them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.fc = conv(), nn.Linear(8, 8)
        self.g = nn.Parameter(torch.linspace(0.5, 2, 8))
        self.register_buffer("third", torch.tensor(1 / 3))
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def pooled(m: Any, x: Tensor) -> Tensor:
    y: Tensor = m.conv(x).relu().mean((2, 3))
    return y


FOLDED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "viewed": lambda m, x: m.conv(x) * m.g.view(1, -1, 1, 1),
    "indexed": lambda m, x: m.conv(x) * m.g[None, :, None, None],
    "without the batch": lambda m, x: m.conv(x) * m.g[:, None, None],
    "unsqueezed": lambda m, x: m.conv(x) * m.g.unsqueeze(-1).unsqueeze(-1),
    "expanded": lambda m, x: m.conv(x) * m.g.view(1, 8, 1, 1).expand(1, 8, 14, 14),
    "one plus": lambda m, x: (1 + m.g.view(8, 1, 1)) * m.conv(x),
    "exponential": lambda m, x: m.conv(x) * m.g.view(8, 1, 1).exp(),
    "number of a buffer": lambda m, x: m.conv(x) * m.third.item(),
    "slope of a buffer": lambda m, x: F.leaky_relu(m.conv(x), m.third.item()),
    "range": lambda m, x: m.conv(x) + torch.arange(8)[:, None, None],
    "as many as the image has": lambda m, x: m.conv(x) + x.new_full((8, 1, 1), 0.3),
    "features": lambda m, x: m.fc(pooled(m, x)) * m.g[None] + torch.linspace(0, 1, 8),
    "flag": lambda m, x: m.conv(x) * (m.g > 1).view(1, -1, 1, 1),
    "normalized image": lambda m, x: m.conv((x - torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)) / 0.2),
    "standardized weights": lambda m, x: F.conv2d(
        x, (m.conv.weight - m.conv.weight.mean((1, 2, 3), keepdim=True)) / m.conv.weight.std(), m.conv.bias * 2
    ),
    "pieces of weights": lambda m, x: F.conv2d(x, torch.cat(m.conv.weight.chunk(2)[::-1])),
    "fixed filter": lambda m, x: F.conv2d(x, torch.ones(3, 1, 3, 3) / 9, groups=3),
    "statistics": lambda m, x: F.batch_norm(m.conv(x), torch.zeros(8), m.g.square(), m.g - 1, 2 * m.g),
    "cosines": lambda m, x: 10 * F.linear(pooled(m, x), F.normalize(m.fc.weight)),
    "matmul": lambda m, x: pooled(m, x) @ m.fc.weight.t() + m.fc.bias,
    "mm": lambda m, x: torch.mm(pooled(m, x), m.fc.weight.T),
    "addmm": lambda m, x: torch.addmm(m.fc.bias, pooled(m, x), m.fc.weight.T),
    "matmul over channels last": lambda m, x: (m.conv(x).permute(0, 2, 3, 1) @ m.fc.weight).permute(0, 3, 1, 2),
    "einsum": lambda m, x: torch.einsum("nc,kc->nk", pooled(m, x), m.fc.weight),
    "einsum, any": lambda m, x: torch.einsum("...c, kc -> ...k", pooled(m, x), m.fc.weight),
    "einsum over maps": lambda m, x: torch.einsum("cd,nchw->ndhw", m.fc.weight, m.conv(x)),
    "written in place": lambda m, x: m.conv(x) * torch.zeros(8, 1, 1).add_(m.g[:, None, None]),
    "without gradients": torch.no_grad()(lambda m, x: m.conv(x) * (1 + m.g[:, None, None])),
}


@pytest.mark.parametrize("case", FOLDED)
def test_arithmetic_on_parameters_is_done_once(case: str) -> None:
    module = randomized(Scaled(FOLDED[case]))
    network = trace(module, SHAPE)
    assert {node.op for node in network.graph.nodes} <= {
        "conv2d", "relu", "leaky_relu", "global_avg_pool", "flatten",
    }  # fmt: skip
    assert_same(module, network)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    "change",
    [
        parametrizations.weight_norm, parametrizations.spectral_norm, nn.utils.weight_norm, nn.utils.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),  # type: ignore[no-untyped-call]
    ],
    ids=["weight_norm", "spectral_norm", "old weight_norm", "old spectral_norm", "pruned"],
)  # fmt: skip
def test_a_layer_with_computed_weights_keeps_its_name(change: Callable[[nn.Module], object]) -> None:
    module = randomized(nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(8, 8, 1)))
    for name in ("0", "2"):
        change(module.get_submodule(name))
    before = {key: (value, value.clone()) for key, value in module.state_dict(keep_vars=True).items()}
    network = trace(module, SHAPE)
    assert [node.name for node in network.graph.layers] == ["0", "2"]
    x = torch.from_numpy(images(3, 5))
    with torch.inference_mode():
        torch.testing.assert_close(network(x), module.eval()(x), rtol=1e-4, atol=1e-4)
    after = module.state_dict(keep_vars=True)
    assert all(after[key] is value and torch.equal(value, copy) for key, (value, copy) in before.items())


def test_computed_weights_used_twice_are_two_layers() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        weight = 2 * m.conv.weight
        return F.conv2d(F.conv2d(x, weight, padding=1), weight, padding=1)

    module = randomized(Function(forward, conv=nn.Conv2d(3, 3, 3)))
    network = trace(module, SHAPE)
    assert [node.name for node in network.graph.nodes] == ["conv", "conv:2"]
    assert_same(module, network)


MISTAKEN: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "random": (
        lambda m, x: m.conv(x) * torch.rand(8, 1, 1),
        "layer rand: aten.rand.default draws random numbers in evaluation mode; expected a network that always",
    ),
    "memory": (
        lambda m, x: m.conv(x) * m.third.add_(1),
        "Scaled: it answers the same images differently when run again; expected a network without random numbers or",
    ),
    "number of images": (
        lambda m, x: F.leaky_relu(m.conv(x), 1 / x.shape[0]),
        "layer leaky_relu: aten.leaky_relu.default by a number that depends on the images; expected a constant",
    ),
    "divided by the number of images": (
        lambda m, x: m.conv(x) / x.shape[0],
        "layer div: aten.div.Tensor by a number that depends on the images; expected a constant",
    ),
    "two computed values": (
        lambda m, x: pooled(m, x) @ pooled(m, x).relu().reshape(-1, 8)[:, :8].transpose(0, 1),
        "layer .*; expected",
    ),
}


def in_place(x: Tensor) -> Tensor:
    x[:, :1].mul_(3)
    return x.relu()


def test_a_network_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_module, "functional", lambda program: program)
    message = "^Scaled: what edgeq understands of it computes other outputs than the module itself; please report this"
    with pytest.raises(UnsupportedError, match=message):
        trace(randomized(Scaled(lambda m, x: in_place(m.conv(x)))), SHAPE)


@pytest.mark.parametrize("case", MISTAKEN)
def test_what_cannot_be_computed_once_is_refused(case: str) -> None:
    forward, message = MISTAKEN[case]
    with pytest.raises(UnsupportedError, match=f"^{message}"):
        trace(randomized(Scaled(forward)), SHAPE)


def test_a_constant_that_becomes_infinite_is_named() -> None:
    module = Scaled(lambda m, x: m.conv(x) * (-m.g).log().view(8, 1, 1))
    with pytest.raises(WeightsError, match=r"^layer mul: what it computes from g has NaN or infinite values; expected"):
        trace(module, SHAPE)
