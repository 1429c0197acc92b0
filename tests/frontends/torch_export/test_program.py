from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from nets import SHAPE, images
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from edgeq.errors import EdgeqError, UnsupportedError, WeightsError
from edgeq.frontends.torch_export.trace import trace


class Conv(nn.Module):
    """One layer, and a function of it and the image."""

    def __init__(self, function: Callable[..., Any] = lambda m, x: m.conv(x)) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 8, 3), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class AnyArguments(Conv):
    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        y: Tensor = self.conv(args[0])
        return y


class Compiled(Conv):
    @torch.compile
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class Remembering(Conv):
    """Keeps what cannot be copied, and the last image."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.seen = threading.Lock(), dict[str, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.last = x
        self.seen["last"] = x
        y: Tensor = self.conv(x)
        return y


def compiled(module: nn.Module) -> nn.Module:
    return cast(nn.Module, torch.compile(module))


def patched() -> nn.Module:
    """A module whose forward is a function that knows the module itself."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    inner = module[1].forward
    module[1].forward = lambda x: 2 * inner(x)
    return module


def hooked() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(3, 8, 3))
    module.register_forward_hook(lambda *call: 2 * call[2])
    return module


def of_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "data parallel": lambda: nn.DataParallel(Conv()),
    "averaged": lambda: AveragedModel(nn.DataParallel(Conv())),
    "compiled": lambda: compiled(Conv()),
    "compiled part": lambda: nn.Sequential(compiled(nn.Conv2d(3, 8, 3)), nn.ReLU()),
    "compiled forward": Compiled,
    "any arguments": AnyArguments,
    "half": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).half(),
    "bfloat16": lambda: Conv().bfloat16(),
    "double": lambda: Conv().double(),
    "inference mode": of_inference_mode,
    "inference mode inside": lambda: Conv(torch.inference_mode()(lambda m, x: m.conv(x))),
    "not to be copied": Remembering,
    "patched": patched,
    "hooked": hooked,
    "one in a dict": lambda: Conv(lambda m, x: {"logits": m.conv(x)}),
    "one in a tuple": lambda: Conv(lambda m, x: (m.conv(x),)),
    "exported": lambda: torch.export.export(
        Conv(), (torch.zeros(2, *SHAPE),), dynamic_shapes=({0: torch.export.Dim("n")},)
    ).module(),
}


def state(module: nn.Module) -> list[object]:
    """All that a caller could find changed."""
    found: list[object] = [torch.random.get_rng_state().tolist()]
    for name, part in module.named_modules():
        found += [name, part.training, *vars(part), *vars(part)["_modules"].items(), len(part._forward_hooks)]
        found += [(key, id(value), str(value.dtype), value.tolist()) for key, value in part.named_parameters()]
        found += [(key, id(value), str(value.dtype), value.tolist()) for key, value in part.named_buffers()]
    return found


@pytest.mark.parametrize("case", MODULES)
def test_a_module_is_unwrapped_or_cast_for_a_while(case: str) -> None:
    torch.manual_seed(0)
    module = MODULES[case]()
    before = state(module)
    network = trace(module, SHAPE)
    assert state(module) == before
    assert not any("module" in node.name or "_orig_mod" in node.name for node in network.graph.nodes)
    x = torch.from_numpy(images(2, 1))
    dtype = next(module.parameters()).dtype
    if case not in ("compiled", "compiled part", "compiled forward"):  # which would compile here
        if case != "exported":
            module.eval()
        with torch.inference_mode():
            wanted = module(x.to(dtype))
        wanted = wanted["logits"] if isinstance(wanted, dict) else wanted[0] if isinstance(wanted, tuple) else wanted
        rtol = 1e-5 if dtype in (torch.float32, torch.float64) else 0.05
        torch.testing.assert_close(network(x), wanted.float(), rtol=rtol, atol=rtol)


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def raising(m: Any, x: Tensor) -> Tensor:
    raise ValueError("\x1b[31mnot\x1b[0m\nthese images")


def asserting(m: Any, x: Tensor) -> Tensor:
    assert x.shape[1:] == (3, 32, 32), "expected 32 pixels"
    return x


CALLED = r"fails when called with one float32 tensor \[2, 3, 16, 16\]"
LINE = r"\(test_program.py, line \d+\)"
REFUSED: dict[str, tuple[Callable[[], object], type[EdgeqError], str]] = {
    "two inputs": (
        TwoInputs, UnsupportedError, rf"TwoInputs: {CALLED}: TypeError: .* missing 1 required positional argument: 'y'",
    ),
    "its own error": (
        lambda: Conv(raising), UnsupportedError, rf"Conv {LINE}: {CALLED}: ValueError: not these images",
    ),
    "its assertion": (
        lambda: Conv(asserting), UnsupportedError, rf"Conv {LINE}: {CALLED}: AssertionError: expected 32 pixels",
    ),
    "too small": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(8), nn.Conv2d(8, 8, 5)), UnsupportedError,
        rf"layer 2: {CALLED}: RuntimeError: Calculated padded input size .* greater than actual input size",
    ),
    "control flow": (
        lambda: Conv(lambda m, x: x if x.sum() > 0 else -x), UnsupportedError,
        rf"Conv {LINE}: what it computes depends on the values in an image; expected the same operations for every ima",
    ),
    "control flow of a layer": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(Conv(lambda m, x: x if x.sum() > 0 else -x))),
        UnsupportedError, rf"layer 1.0 {LINE}: what it computes depends on the values in an image",
    ),
    "two images": (
        lambda: Conv(lambda m, x: m.conv(x).view(2, -1)), UnsupportedError,
        "Conv: what it computes depends on the number of images, as a loop over them, len",
    ),
    "a loop over images": (
        lambda: Conv(lambda m, x: torch.stack([m.conv(image) for image in x])), UnsupportedError,
        "Conv: what it computes depends on the number of images, as a loop over them, len",
    ),
    "rows of another length": (
        lambda: Conv(lambda m, x: m.conv(x).view(-1, 784)), UnsupportedError,
        r"layer view: output of values \[2 \* n, 784\]; expected the batch first and alone",
    ),
    "NumPy": (
        lambda: Conv(lambda m, x: torch.from_numpy(m.conv(x).numpy())), UnsupportedError,
        rf"Conv {LINE}: torch.export cannot follow it: RuntimeError: .numpy\(\) is not supported",
    ),
    "nothing": (lambda: Conv(lambda m, x: None), UnsupportedError, "Conv: it returns NoneType; expect"),
    "a function": (lambda: torch.relu, UnsupportedError, "expected an nn.Module, found builtin.*; wrap it in one"),
    "weights alone": (lambda: Conv().state_dict(), UnsupportedError, "expected an nn.Module, found OrderedDict"),
    "meta device": (
        lambda: nn.Conv2d(3, 8, 3, device="meta"), WeightsError,
        "weights weight: a tensor without values, lazy or on the meta device; load them first",
    ),
    "lazy": (lambda: nn.LazyConv2d(8, 3), WeightsError, "weights weight: a tensor without values, lazy or on the"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_the_cause_in_one_line(case: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, kind, message = REFUSED[case]
    module = make()
    before = state(module) if isinstance(module, nn.Module) and "weight" not in message else []
    with pytest.raises(kind, match=f"^{message}") as caught:
        trace(module, SHAPE)  # type: ignore[arg-type]
    line = str(caught.value)
    assert not any(word in line for word in ("\n", "\x1b", "[31m", "TORCH_LOGS", "draft_export", "github", "http"))
    assert capfd.readouterr() == ("", "")  # torch.export would print the calls that it has got to
    assert not before or state(module) == before  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated", "ignore:.*not supported in Python 3.14")
def test_torchscript_is_refused() -> None:
    with pytest.raises(
        UnsupportedError, match=r"^RecursiveScriptModule is TorchScript; expected the Python module that"
    ):
        trace(nn.Sequential(torch.jit.script(nn.ReLU())), SHAPE)


def test_a_module_prints_once(capsys: pytest.CaptureFixture[str]) -> None:
    trace(Conv(lambda m, x: print(x.shape) or m.conv(x)), SHAPE)
    assert capsys.readouterr().out == "torch.Size([2, 3, 16, 16])\n"
