"""From an `nn.Module` to a program of ATen calls, exported by torch, and whether it was understood.

The module is run before anything looks into it, so that what fails in it says so in its own words.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from traceback import extract_tb
from typing import Final

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from edgeq.errors import UnsupportedError

_IMAGES: Final = 2  # torch.export takes dimensions of 0 and 1 for constants
_TOLERANCE: Final = 1e-2  # of the largest output; folding changes less than a thousandth
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_TORCH: Final = Path(torch.__file__).parent


class Program:
    """A module, an example of what it computes, and the calls by which it does.

    Args:
        module: takes one float32 tensor `[batch, *input_shape]` and returns one; lent
            (`edgeq.frontends.torch_export.lending`).
        input_shape: of an image.

    Attributes:
        exported: the calls.

    Raises:
        UnsupportedError: the module fails, returns something else, or cannot be exported.
    """

    def __init__(self, module: nn.Module, input_shape: tuple[int, ...]) -> None:
        if not (isinstance(input_shape, tuple | list) and all(isinstance(d, int) and d > 0 for d in input_shape)):
            raise UnsupportedError(f"expected an input shape (channels, height, width), found {input_shape!r}")
        self._module, self._name = module, type(module).__name__
        generator = torch.Generator().manual_seed(0)
        self._images = torch.randn(_IMAGES, *input_shape, generator=generator, dtype=torch.float32, device="cpu")
        self._outputs = self._run()
        self.exported = self._export()

    def check(self, network: nn.Module) -> None:
        """Compare what a network makes of random images with what the module does.

        Raises:
            UnsupportedError: something else.
        """
        if not torch.isfinite(self._outputs).all():
            return  # calibration names the layer, on images that matter
        with torch.no_grad():
            if _same(network(self._images), self._outputs):
                return
        if not _same(self._run(), self._outputs):
            raise UnsupportedError(
                f"{self._name}: it answers the same images differently when run again; expected a network without "
                "random numbers or memory in evaluation mode"
            )
        raise UnsupportedError(
            f"{self._name}: what edgeq understands of it computes other outputs than the module itself; if it writes "
            "into a part of a tensor, as in x[:, 0] = 0, let it make a new tensor, else report this"
        )

    def _run(self) -> Tensor:
        with self._told(f"fails when called with one float32 tensor {list(self._images.shape)}"):
            result = self._module(self._images.clone())
        output = result
        while isinstance(output, tuple | list | Mapping) and len(output) == 1:
            output = next(iter(output.values())) if isinstance(output, Mapping) else output[0]
        if not isinstance(output, Tensor):
            raise UnsupportedError(
                f"{self._name}: it returns {_described(result)}; expected a network with one output: wrap it in a "
                "module that returns one tensor"
            )
        return output.detach().clone()

    def _export(self) -> torch.export.ExportedProgram:
        images = self._images.clone()
        # By tensor, whatever the argument is called.
        shapes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
        shapes[images] = {0: torch.export.Dim("batch")}
        with self._told("torch.export cannot follow it"), _in_silence():
            return torch.export.export(self._module, (images,), dynamic_shapes=shapes)

    @contextmanager
    def _told(self, problem: str) -> Iterator[None]:
        """Run the module without gradients, moving no random numbers of the caller, and tell where it has failed."""
        inside: list[str] = []  # the names of the modules that are running
        parts = list(self._module.named_modules())
        hooks = [part.register_forward_pre_hook(_entering(inside, name)) for name, part in parts]
        hooks += [part.register_forward_hook(_leaving(inside)) for _, part in parts]
        try:
            with torch.random.fork_rng(devices=()), torch.no_grad():
                yield
        except Exception as error:  # whatever the module raises
            layer = next((name for name in reversed(inside) if name), None)
            where = f"layer {layer}" if layer else self._name
            raise UnsupportedError(f"{where}{_line_of(error)}: {_explained(error, problem)}") from error
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def _in_silence() -> Iterator[None]:
    """A module has said already what it says, and torch.export tells of its own troubles in many lines."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _same(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= _TOLERANCE * wanted.abs().max())


def _described(result: object) -> str:
    kind = type(result).__name__
    if isinstance(result, Mapping):
        return f"a {kind} of {', '.join(map(str, result)) or 'nothing'}"
    return f"a {kind} of {len(result)}" if isinstance(result, tuple | list) else kind


def _entering(inside: list[str], name: str) -> Callable[..., None]:
    return lambda *_: inside.append(name)


def _leaving(inside: list[str]) -> Callable[..., None]:
    def leave(*_: object) -> None:  # what a hook returns would take the place of the output
        inside.pop()

    return leave


def _line_of(error: Exception) -> str:
    """The last line of code that is not torch's own, as ` (net.py, line 12)`."""
    for frame in reversed(extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if frame.filename == __file__:
            break
        if file.suffix == ".py" and not file.is_relative_to(_TORCH):
            return f" ({file.name}, line {frame.lineno})"
    return ""


def _explained(error: Exception, problem: str) -> str:
    """The cause, without what torch.export advises those who call it."""
    if isinstance(error, GuardOnDataDependentSymNode):
        return "what it computes depends on the values in an image; expected the same operations for every image"
    if str(error).startswith("Constraints violated (batch)"):
        return (
            "what it computes depends on the number of images; expected the same for any number, as x.flatten(1) "
            "does instead of x.view(2, -1)"
        )
    text = " ".join(_COLOUR.sub("", str(error)).split("\n\n")[0].split())
    text = text.partition("For more information")[0].partition("Please file an issue")[0].strip()
    return f"{problem}: {': '.join(filter(None, (type(error).__name__, text)))}"
