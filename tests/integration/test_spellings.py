"""One operation has many spellings, and some have no integer form: whatever it is, the file computes what PyTorch does.

Every entry goes through the whole pipeline. The packed network has to be near the module, ONNX Runtime near the packed
network, as the file stands and optimized: 8-bit weights are portable, since some CPUs overflow otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import SHAPE, images, randomized, worked
from torch import Tensor, nn

import edgeq
from edgeq.exporters.onnx.float_operators import TRANSLATIONS
from edgeq.exporters.onnx.model import to_onnx
from edgeq.ir.network import Network
from edgeq.ir.ops.float_operators import OPERATORS, FloatOperator
from edgeq.runtimes.onnxruntime import onnx_runner

Forward = Callable[[Any, Tensor], Any]


class Net(nn.Module):
    """A convolution, `[n, 8, 7, 7]`, and what a test does with it and with some parameters."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2)
        self.fc, self.flat, self.wide = nn.Linear(8, 5), nn.Linear(392, 5), nn.Linear(16, 5)
        self.bn, self.bn2d = nn.BatchNorm1d(8), nn.BatchNorm2d(8)
        self.slopes, self.matrix = nn.Parameter(torch.linspace(-0.5, 1.5, 8)), nn.Parameter(torch.randn(8, 5))
        self.line, self.rows, self.rows_bn = nn.Conv1d(1, 1, 3, padding=1), nn.Conv1d(8, 4, 5), nn.BatchNorm1d(4)
        self.up, self.lstm = nn.Linear(5, 8), nn.LSTM(8, 8, bidirectional=True, batch_first=True)
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self, self.conv(x))


def traced(forward: Forward) -> tuple[nn.Module, Network]:
    module = randomized(Net(forward))
    return module, edgeq.trace(module, SHAPE)


def ops(network: Network) -> str:
    """Of the float network, those in float by their operator."""
    names = [node.attrs["operator"] if node.op == "float" else node.op for node in network.graph.nodes]
    return " ".join(names)


def head(pooled: Callable[[Tensor], Tensor]) -> Forward:
    return lambda m, x: m.fc(pooled(x.relu()))


def both_pooled(x: Tensor) -> Tensor:
    return torch.cat([F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)], 1).flatten(1)


def attended(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x)


POOLED = "conv2d relu global_avg_pool conv2d flatten"
LARGEST = "conv2d relu max_pool2d conv2d flatten"
KNOWN: dict[str, tuple[str, Forward]] = {
    # global poolings and flattens
    "squeeze": (POOLED, head(lambda x: F.adaptive_avg_pool2d(x, 1).squeeze())),
    "squeeze twice": (POOLED, head(lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1))),
    "mean of means": (POOLED, head(lambda x: x.mean(3).mean(2))),
    "mean of means, kept": (POOLED, head(lambda x: x.mean(2, keepdim=True).mean(3, keepdim=True)[:, :, 0, 0])),
    "mean of a view": (POOLED, head(lambda x: x.view(x.size(0), 8, -1).mean(-1))),
    "mean of a flatten": (POOLED, head(lambda x: x.flatten(2).mean(2))),
    "mean of rows of channels": (POOLED, head(lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 8).mean(1))),
    "pooling of a flatten": (POOLED, head(lambda x: F.adaptive_avg_pool1d(x.flatten(2), 1).flatten(1))),
    "sum by number": (POOLED, head(lambda x: x.sum((2, 3)) / (x.shape[2] * x.shape[3]))),
    "double": (POOLED, head(lambda x: x.double().mean((2, 3)).float())),
    "amax": (LARGEST, head(lambda x: x.amax((2, 3)))),
    "max of max": (LARGEST, head(lambda x: x.max(3)[0].max(2)[0])),
    "max of a flatten": (LARGEST, head(lambda x: x.flatten(2).max(-1).values)),
    "adaptive max": (LARGEST, head(lambda x: F.adaptive_max_pool2d(x, 1).flatten(1))),
    "both poolings": (
        "conv2d relu global_avg_pool max_pool2d cat conv2d flatten",
        lambda m, x: m.wide(both_pooled(x.relu())),
    ),
    "view of a number": ("conv2d relu reshape conv2d flatten", lambda m, x: m.flat(x.relu().view(-1, 392))),
    "view of a size": ("conv2d relu reshape conv2d flatten", lambda m, x: m.flat(x.relu().view(x.size(0), -1))),
    # batch norms without a layer before them
    "batch norm before linear": (POOLED, lambda m, x: m.fc(m.bn(x.relu().mean((2, 3))))),
    "batch norm, flatten, linear": (
        "conv2d relu reshape conv2d flatten", lambda m, x: m.flat(m.bn2d(x.relu()).flatten(1)),
    ),
    # layers
    "product with a matrix": (POOLED, lambda m, x: x.relu().mean((2, 3)) @ m.matrix),
    "addmm": (POOLED, lambda m, x: torch.addmm(m.fc.bias, x.relu().mean((2, 3)), m.matrix)),
    "einsum": (POOLED, lambda m, x: torch.einsum("bc,co->bo", x.relu().mean((2, 3)), m.matrix)),
    "einsum over channels": ("conv2d relu conv2d", lambda m, x: torch.einsum("bchw,co->bohw", x.relu(), m.matrix)),
    "convolution of rows": (
        "conv2d reshape conv2d relu reshape",
        lambda m, x: m.rows_bn(m.rows(x.flatten(2))).relu(),
    ),
    "convolution over channels": (
        "conv2d global_avg_pool reshape conv2d sigmoid reshape mul",
        lambda m, x: x * m.line(x.mean((2, 3)).unsqueeze(1)).sigmoid().view(x.size(0), 8, 1, 1),
    ),
    "gate of linear layers": (
        "conv2d global_avg_pool conv2d relu conv2d sigmoid mul",
        lambda m, x: x * m.up(m.fc(x.mean((2, 3))).relu()).sigmoid().view(x.size(0), 8, 1, 1),
    ),
    "gate expanded": (
        "conv2d global_avg_pool sigmoid mul", lambda m, x: x * x.mean((2, 3), keepdim=True).sigmoid().expand_as(x),
    ),
    # activations
    "relu: clamp_min": ("conv2d relu", lambda m, x: x.clamp_min(0)),
    "relu: threshold": ("conv2d relu", lambda m, x: F.threshold(x, 0, 0)),
    "relu: maximum": ("conv2d relu", lambda m, x: torch.maximum(x, torch.tensor(0.0))),
    "clip: relu, clamp_max": ("conv2d clip", lambda m, x: x.relu().clamp_max(1)),
    "leaky_relu: PReLU": ("conv2d leaky_relu", lambda m, x: F.prelu(x, m.slopes[:1])),
    "prelu": ("conv2d prelu", lambda m, x: F.prelu(x, m.slopes)),
    "prelu, flat": (
        "conv2d global_avg_pool prelu conv2d flatten", lambda m, x: m.fc(F.prelu(x.mean((2, 3)), m.slopes)),
    ),
    "leaky_relu: RReLU": ("conv2d leaky_relu", lambda m, x: F.rrelu(x)),
    "swish": ("conv2d sigmoid mul", lambda m, x: x * x.sigmoid()),
    # arithmetic
    "difference": ("conv2d relu mul.Tensor add", lambda m, x: x - x.relu()),
    "alpha, of another shape": (
        "conv2d global_avg_pool mul.Tensor add", lambda m, x: torch.sub(x, x.mean((2, 3), keepdim=True), alpha=0.3),
    ),
    "alpha": ("conv2d relu mul.Tensor add", lambda m, x: torch.add(x, x.relu(), alpha=0.3)),
    "negative": ("conv2d", lambda m, x: -x),
    "sum from 0": ("conv2d add", lambda m, x: sum([x, x])),
    # moves
    "flip": ("conv2d gather", lambda m, x: x.flip(1)),
    "other order": ("conv2d gather", lambda m, x: x[:, [2, 1, 0, 7, 7]]),
    "steps": ("conv2d gather gather", lambda m, x: x[:, :, ::2, 1::3]),
    "repeated": ("conv2d slice gather", lambda m, x: x[:, :1].repeat(1, 3, 1, 1)),
    "expanded": ("conv2d slice gather", lambda m, x: x[:, :1].expand(-1, 3, -1, -1)),
    "concatenated with itself": ("conv2d gather", lambda m, x: torch.cat([x, x], 1)),
    "reflected": ("conv2d gather gather", lambda m, x: F.pad(x, (1, 2, 3, 0), mode="reflect")),
    "replicated": ("conv2d gather gather", lambda m, x: F.pad(x, (1, 2, 3, 1), mode="replicate")),
    "circular": ("conv2d gather", lambda m, x: F.pad(x, (1, 2, 0, 0), mode="circular")),
    "nearest": ("conv2d gather gather", lambda m, x: F.interpolate(x, scale_factor=2)),
    "nearest, odd size": ("conv2d gather gather", lambda m, x: F.interpolate(x, size=(9, 5), mode="nearest-exact")),
    "channels padded": (
        "conv2d gather gather gather mul.Tensor", lambda m, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)),
    ),
    "flat padded": (
        "conv2d global_avg_pool flatten gather mul.Tensor", lambda m, x: F.pad(x.mean((2, 3)), (1, 2)),
    ),
    "unbind": ("conv2d slice reshape", lambda m, x: x.unbind(1)[2]),
    "stack": (
        "conv2d sigmoid reshape reshape cat reshape", lambda m, x: torch.stack([x, x.sigmoid()], 2).flatten(1, 2),
    ),
    "pixel shuffle": ("conv2d depth_to_space", lambda m, x: F.pixel_shuffle(x, 2)),
    "pixel unshuffle": (
        "conv2d slice slice space_to_depth gather", lambda m, x: F.pixel_unshuffle(x[..., 1:, 1:], 2),
    ),
    "channel shuffle": ("conv2d reshape permute reshape", lambda m, x: F.channel_shuffle(x, 4)),
    "max pooling, channels last": ("conv2d permute max_pool2d", lambda m, x: F.max_pool2d(x.permute(0, 2, 3, 1), 2)),
    "channels left last": ("conv2d permute", lambda m, x: x.movedim(1, -1)),
    "no-ops": ("conv2d", lambda m, x: x.float().to(torch.float32).type_as(x).contiguous().clone()),
    "layout": ("conv2d", lambda m, x: x.contiguous(memory_format=torch.channels_last)),
    "dropouts": ("conv2d", lambda m, x: F.alpha_dropout(F.dropout2d(x, training=False), training=False)),
    # outputs
    "dictionary": ("conv2d relu", lambda m, x: {"logits": x.relu()}),
    "list": ("conv2d relu", lambda m, x: [x.relu()]),
    "no dimension": ("conv2d global_avg_pool conv2d flatten slice reshape", lambda m, x: m.fc(x.mean((2, 3)))[:, 1]),
}  # fmt: skip
FLOAT: dict[str, tuple[str, Forward]] = {
    "mish": ("conv2d mish.default", lambda m, x: F.mish(x)),
    "elu": ("conv2d elu.default", lambda m, x: F.elu(x, 0.7)),
    "selu": ("conv2d selu.default", lambda m, x: F.selu(x)),
    "celu": ("conv2d celu.default", lambda m, x: F.celu(x, 0.5)),
    "softplus": ("conv2d softplus.default", lambda m, x: F.softplus(x, 2)),
    "gelu of tanh": ("conv2d gelu.default", lambda m, x: F.gelu(x, approximate="tanh")),
    "softsign": ("conv2d abs.default add.Tensor div.Tensor", lambda m, x: F.softsign(x)),
    "log sigmoid": ("conv2d log_sigmoid.default", lambda m, x: F.logsigmoid(x)),
    "hard tanh": ("conv2d clamp.default", lambda m, x: F.hardtanh(x)),
    "clamp": ("conv2d clamp.default", lambda m, x: x.clamp(0.5, 1.5)),
    "clamp_max": ("conv2d clamp.default", lambda m, x: x.clamp_max(1)),
    "threshold": ("conv2d threshold.default", lambda m, x: F.threshold(x, 0.1, 0.3)),
    "soft shrink": ("conv2d softshrink.default", lambda m, x: F.softshrink(x, 0.1)),
    "glu": ("conv2d glu.default", lambda m, x: F.glu(x, 1)),
    "where": ("conv2d gt.Scalar mul.Tensor where.self", lambda m, x: torch.where(x > 0, x, 0.1 * x)),
    "mask": ("conv2d gt.Scalar mul", lambda m, x: x * (x > 0)),
    "quotient": ("conv2d sigmoid add.Tensor div.Tensor", lambda m, x: x / (1 + x.sigmoid())),
    "quotient of a number": ("conv2d abs.default add.Tensor reciprocal.default", lambda m, x: 1 / (x.abs() + 1)),
    "root": ("conv2d abs.default add.Tensor sqrt.default", lambda m, x: (x.abs() + 1).sqrt()),  # not as steep as at 0
    "power": ("conv2d pow.Tensor_Scalar", lambda m, x: x**2),
    "exponential": ("conv2d exp.default", lambda m, x: x.exp()),
    "map of constants": ("conv2d mul.Tensor", lambda m, x: x * torch.arange(7.0)),
    "number of each image": (
        "conv2d global_avg_pool conv2d flatten slice reshape mul.Tensor",
        lambda m, x: m.fc(x.mean((2, 3))).select(1, 0) * m.slopes[1],
    ),
    "channels of one": ("conv2d slice mul.Tensor", lambda m, x: x[:, :1] * m.slopes[:, None, None]),
    "larger": ("conv2d relu add.Tensor maximum.default", lambda m, x: torch.maximum(x, x.relu() - 1)),
    "product of maps": (
        "conv2d reshape reshape permute matmul.default",
        lambda m, x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
    ),
    "group norm": ("conv2d group_norm.default", lambda m, x: F.group_norm(x, 4, m.slopes, m.slopes)),
    "instance norm": ("conv2d instance_norm.default", lambda m, x: F.instance_norm(x)),
    "norm of everything": ("conv2d layer_norm.default", lambda m, x: F.layer_norm(x, x.shape[1:])),
    "flat norm": ("conv2d global_avg_pool flatten layer_norm.default", lambda m, x: F.layer_norm(x.mean((2, 3)), (8,))),
    "norm of squares": ("conv2d rms_norm.default", lambda m, x: F.rms_norm(x, (7,))),
    "local response": (
        "conv2d mul reshape pad avg_pool3d.default reshape mul.Tensor add.Tensor pow.Tensor_Scalar div.Tensor",
        lambda m, x: F.local_response_norm(x, 3, alpha=0.1),
    ),
    "generalized mean": (
        "conv2d clamp.default pow.Tensor_Scalar global_avg_pool pow.Tensor_Scalar conv2d flatten",
        lambda m, x: m.fc(F.adaptive_avg_pool2d(x.clamp(min=1e-3).pow(3), 1).pow(1 / 3).flatten(1)),
    ),
    "adaptive average": ("conv2d adaptive_avg_pool2d.default", lambda m, x: F.adaptive_avg_pool2d(x, (5, 3))),
    "adaptive maximum": ("conv2d gather max_pool2d gather max_pool2d", lambda m, x: F.adaptive_max_pool2d(x, (5, 3))),
    "divisor": ("conv2d avg_pool2d mul.Tensor", lambda m, x: F.avg_pool2d(x, 2, divisor_override=3)),
    "mean of channels": ("conv2d mean.dim", lambda m, x: x.mean(1, keepdim=True)),
    "largest channel": ("conv2d amax.default", lambda m, x: x.max(1, keepdim=True)[0]),
    "deviation": ("conv2d std.correction", lambda m, x: x.std((2, 3))),
    "variance": ("conv2d var.correction", lambda m, x: x.var((2, 3), unbiased=False)),
    "padded with ones": ("conv2d pad.default", lambda m, x: F.pad(x, (1, 0, 2, 1), value=1.0)),
    "cropped": ("conv2d slice slice", lambda m, x: F.pad(x, (-1, 0, 0, -2))),
    "bilinear": ("conv2d upsample_bilinear2d.vec", lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "bilinear, corners": (
        "conv2d upsample_bilinear2d.vec",
        lambda m, x: F.interpolate(x, size=(5, 12), mode="bilinear", align_corners=True),
    ),
    "bilinear, by a fraction": (
        "conv2d upsample_bilinear2d.vec", lambda m, x: F.interpolate(x, scale_factor=1.5, mode="bilinear"),
    ),
    "bicubic": ("conv2d upsample_bicubic2d.vec", lambda m, x: F.interpolate(x, size=(9, 9), mode="bicubic")),
    "normalized": (
        "conv2d global_avg_pool conv2d flatten linalg_vector_norm.default clamp.default div.Tensor",
        lambda m, x: F.normalize(m.fc(x.mean((2, 3)))),
    ),
    "attention": (
        "conv2d reshape permute matmul.default reshape mul.Tensor reshape softmax.int matmul.default",
        lambda m, x: attended(x.flatten(2).transpose(1, 2)),
    ),
    "lstm": (
        "conv2d avg_pool2d reshape permute lstm.input slice reshape conv2d flatten",
        lambda m, x: m.wide(m.lstm(x.mean(2).transpose(1, 2))[0][:, -1]),
    ),
    "largest and where": (
        "conv2d relu global_avg_pool conv2d flatten topk.default topk.default cat",
        lambda m, x: torch.cat(tuple(m.fc(x.relu().mean((2, 3))).topk(2)), 1),
    ),
    "variance and mean": (
        "conv2d var.correction global_avg_pool flatten cat reshape conv2d flatten",
        lambda m, x: m.wide(torch.cat(torch.var_mean(x, (2, 3)), 1)),
    ),
    "rounded": ("conv2d trunc.default", lambda m, x: (x * 3).int()),
    "softmax": (
        f"{POOLED} softmax.int", lambda m, x: m.fc(x.relu().mean((2, 3))).softmax(1, dtype=torch.float32),
    ),
    "log softmax": (f"{POOLED} log_softmax.int", lambda m, x: F.log_softmax(m.fc(x.relu().mean((2, 3))), 1)),
    "sigmoid": (
        "conv2d relu global_avg_pool conv2d sigmoid flatten", lambda m, x: m.fc(x.relu().mean((2, 3))).sigmoid(),
    ),
    "probability of a class": (
        f"{POOLED} softmax.int slice reshape", lambda m, x: m.fc(x.relu().mean((2, 3))).softmax(1)[:, 1],
    ),
    "argmax": (f"{POOLED} argmax.default", lambda m, x: m.fc(x.relu().mean((2, 3))).argmax(1)),
}  # fmt: skip
ALL = KNOWN | FLOAT


@pytest.mark.parametrize("case", ALL)
def test_the_file_computes_what_the_module_does(case: str, tmp_path: Path) -> None:
    expected, forward = ALL[case]
    module = randomized(Net(forward))
    network = edgeq.trace(module, SHAPE)
    assert ops(network) == expected
    batches = [images(8, 1), images(8, 2)]
    x = torch.from_numpy(images(5, 3))
    with torch.inference_mode():
        found = module(x)
        wanted = (
            found["logits"] if isinstance(found, dict) else found[0] if isinstance(found, list) else found
        ).float()
        torch.testing.assert_close(network(x), wanted, rtol=1e-4, atol=1e-4)
    record = edgeq.calibrate(network, batches)
    plan = edgeq.plan(record, edgeq.Recipe("8bit", reduce_range=True))
    packed = edgeq.pack(network, edgeq.quantize(network, record, plan, batches), record, plan)
    manifest = edgeq.export(packed, tmp_path / "net.onnx", record, plan, batches)
    with torch.inference_mode():
        ours = packed(x)
        assert torch.equal(edgeq.load_packed(tmp_path / "net.safetensors")(x), ours)
    (step,) = (found["step"] for found in manifest["parity"]["outputs"].values())
    assert sqnr(ours, wanted) > 20
    for optimize, steps in ((False, 1.01), (True, 8.01)):
        run = onnx_runner(tmp_path / "net.onnx", optimize)
        assert np.abs(run(x.numpy()) - ours.numpy()).max() <= steps * step
    assert {node.name for node in network.graph.nodes if node.op == "float"} <= manifest["in_float"].keys()


def sqnr(found: Tensor, wanted: Tensor) -> float:
    noise = float((found - wanted).square().sum())
    return 10 * float(torch.log10(wanted.square().sum() / noise)) if noise else float("inf")


def test_files_export_what_is_computed_and_nothing_else() -> None:
    assert TRANSLATIONS.keys() == OPERATORS


@pytest.mark.parametrize("operator", ["load.default", "copy_.default", "mish.out", "../mish", "mish"])
def test_no_other_operator_is_ever_looked_up(operator: str) -> None:
    with pytest.raises(edgeq.EdgeqError, match="is none of those that edgeq computes in float"):
        FloatOperator(operator, ["self"], {}, {})


GRAY: dict[str, Forward] = {
    "flip": lambda m, x: m.conv(x.flip(1)),
    "order": lambda m, x: m.conv(x[:, [2, 1, 0]]),
    "repeat": lambda m, x: m.conv(x[:, :1].repeat(1, 3, 1, 1)),
    "expand": lambda m, x: m.conv(x[:, :1].expand(-1, 3, -1, -1)),
    "cat": lambda m, x: m.conv(torch.cat([x[:, :1]] * 3, 1)),
}


@pytest.mark.parametrize("case", GRAY)
def test_what_reads_channels_of_the_image_in_another_order_has_weights_in_that_order(case: str) -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Any:
            return GRAY[case](self, x)

    module = randomized(Reading())
    network = edgeq.trace(module, SHAPE)
    assert ops(network) == ("conv2d" if case in ("flip", "order") else "slice conv2d")
    x = torch.from_numpy(images(2))
    with torch.inference_mode():
        torch.testing.assert_close(network(x), module(x), rtol=1e-5, atol=1e-5)


TAILS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(1),
    "log softmax": lambda x: x.log_softmax(1),
    "sigmoid": lambda x: x.sigmoid(),
    "argmax": lambda x: x.argmax(1),
    "one of a softmax": lambda x: x.softmax(1)[:, 2],
}


@pytest.mark.parametrize("case", TAILS)
def test_what_is_made_of_logits_changes_no_measurement(case: str) -> None:
    """Damage, ranges and drops are those of the same network without it; the logits are the last that is quantized."""
    plain = traced(lambda m, x: m.fc(x.relu().mean((2, 3))))[1]
    network = traced(lambda m, x: TAILS[case](m.fc(x.relu().mean((2, 3)))))[1]
    batches = [images(8, 1)]
    expected, found = (edgeq.calibrate(each, batches) for each in (plain, network))
    for layer, same in zip(found.layers, expected.layers, strict=True):
        assert layer.sensitivity == pytest.approx(same.sensitivity)
    assert np.array(found.drops) == pytest.approx(np.array(expected.drops))
    shared = expected.activations.keys() & found.activations.keys()
    assert {"input", "relu", "fc"} <= shared
    assert all(found.activations[name] == expected.activations[name] for name in shared)
    layers = edgeq.quantize(network, found, plan := edgeq.plan(found, "8bit"), batches)
    tuned = edgeq.tune(network, found, worked(plan, steps=1), layers, batches)
    packed = edgeq.pack(network, tuned, found, plan)
    assert [node.name for node in packed.graph.nodes if node.op == "quantize"][-1] == "fc.q"


def test_one_logit_is_one_of_two_classes() -> None:
    """Its damage is that of a sigmoid; a softmax of one class would see none."""
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    one, two = randomized(nn.Linear(3, 1)), nn.Linear(3, 2)
    two.load_state_dict({key: torch.cat([value, torch.zeros_like(value)]) for key, value in one.state_dict().items()})
    single, pair = (edgeq.trace(nn.Sequential(*pooled, layer), SHAPE) for layer in (one, two))
    found = edgeq.calibrate(single, [images(8, 1)]).layers[0].sensitivity
    x = torch.from_numpy(images(4))
    with torch.inference_mode():
        (alone,) = single.answers([x])
        (both,) = pair.answers([x])
        torch.testing.assert_close(alone, both[:, :1] - both[:, 1:])
        torch.testing.assert_close(alone.flatten(), one(x.mean((2, 3))).flatten())
    assert found[2] > found[8] > 0


def test_an_average_is_no_finer_than_kernels_allow(tmp_path: Path) -> None:
    """The mean of a normalized map is 0 but for rounding; with a range as small, ONNX Runtime refuses to run."""
    _, network = traced(lambda m, x: m.fc(F.instance_norm(x).mean((2, 3))))
    record = edgeq.calibrate(network, [images(8, 1)])
    map_scale, scale = (record.activations[name].scale for name in ("instance_norm", "global_avg_pool"))
    assert scale == pytest.approx(map_scale / 49 / 128)
    layers = edgeq.quantize(network, record, plan := edgeq.plan(record, "8bit"), [images(8, 1)])
    model = to_onnx(edgeq.pack(network, layers, record, plan))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    assert np.isfinite(onnx_runner(tmp_path / "net.onnx")(images(2))).all()


def test_a_concatenation_covers_what_is_joined() -> None:
    """Of a mean and a maximum of the same map, the maximum is larger by far, and must not be clipped to the mean."""
    _, network = traced(lambda m, x: m.wide(both_pooled(x.relu())))
    record = edgeq.calibrate(network, [images(8, 1), images(8, 2)])
    assert record.activations["cat"].high > 0.4 * record.activations["max_pool2d"].high
