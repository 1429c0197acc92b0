"""From an `nn.Module` to a program of ATen calls, exported by torch, and whether it was understood.

The module is run before anything looks into it, so that what fails in it says so in its own words.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from inspect import signature
from io import StringIO
from pathlib import Path
from traceback import extract_tb
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._pytree import KeyPath, tree_flatten_with_path

from edgeq.errors import UnsupportedError
from edgeq.frontends.torch_export.calls import POST_PROCESSING
from edgeq.frontends.torch_export.functional import functional
from edgeq.frontends.torch_export.layouts import sizes_of
from edgeq.frontends.torch_export.ties import InOrder
from edgeq.ir.graph import INPUT, Input

_IMAGES: Final = 2  # torch.export takes dimensions of 0 and 1 for constants
_FIXED: Final = "Constraints violated (batch)"  # begins torch.export's message if something depends on the batch size
_TOLERANCE: Final = 1e-2  # of the largest output; folding changes less than a thousandth
_LAST_BITS: Final = 2.0**-20  # of a value: eight units in the last place of float32
_BLURRED: Final = 4  # how much more than such changes of the images may change what the module computes
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_TORCH: Final = Path(torch.__file__).parent


Shapes = tuple[int, ...] | Sequence[tuple[int, ...]] | Mapping[str, tuple[int, ...]]
"""Shapes of inputs without the batch: of the one there is, of several in their order, or by the names of arguments."""


class Program:
    """A module, an example of what it computes, and the calls by which it does.

    Args:
        module: takes float32 tensors `[batch, *shape]` and returns tensors `[batch, ...]`, or tuples, lists or dicts of
            them; lent (`edgeq.frontends.torch_export.lending`).
        shapes: of the inputs.

    Attributes:
        inputs: of the network.
        names: of the outputs, in the order in which the program returns them; None for a result that is None.
        exported: the calls.

    Raises:
        UnsupportedError: the module fails, returns something else, or cannot be exported.
    """

    def __init__(self, module: nn.Module, shapes: Shapes) -> None:
        self._module, self._name = module, type(module).__name__
        self._by_name = isinstance(shapes, Mapping)
        self.inputs = _inputs(module, shapes)
        generator = torch.Generator().manual_seed(0)
        self._images = [
            torch.randn(_IMAGES, *one.shape, generator=generator, dtype=torch.float32, device="cpu")
            for one in self.inputs
        ]
        found = self._run()
        self.names = [name for name, _ in found]
        self._outputs = [value for _, value in found if value is not None]
        self.exported = self._export()

    def check(self, network: nn.Module) -> None:
        """Compare what a network makes of random images with what the module does.

        Raises:
            UnsupportedError: something else.
        """
        if not all(bool(torch.isfinite(output).all()) for output in self._outputs):
            return  # calibration names the layer, on images that matter
        with torch.no_grad():
            made = network(*self._images)
        found = [made] if isinstance(made, Tensor) else made
        if _same(found, self._outputs):
            return
        if not _same(self._values(), self._outputs):
            raise UnsupportedError(
                f"{self._name}: it answers the same images differently when run again; expected a network without "
                "random numbers or memory in evaluation mode"
            )
        with InOrder():  # type: ignore[no-untyped-call]
            if _same(found, self._values()):
                return
        # Attention with random weights may amplify the rounding of float32 beyond the tolerance.
        if _same(found, self._outputs, by=self._values(blurred=True)):
            return
        raise UnsupportedError(
            f"{self._name}: what edgeq understands of it computes other outputs than the module itself; please report "
            "this network"
        )

    def _run(self, images: int = _IMAGES) -> list[tuple[str, Tensor | None]]:
        """The outputs by name; None for what is None."""
        shapes = " and ".join(str(list(x.shape)) for x in self._images)
        several = f"{len(self._images)} float32 tensors" if len(self._images) > 1 else "one float32 tensor"
        args, kwargs = self._arguments(images)
        with self._told(f"fails when called with {several} {shapes}"):
            result = self._module(*args, **kwargs)
        leaves = [(_joined(path), value) for path, value in tree_flatten_with_path(result)[0]]
        others = [(name, value) for name, value in leaves if not isinstance(value, Tensor) and value is not None]
        if others or all(value is None for _, value in leaves):
            which = f", where {others[0][0]} is a {type(others[0][1]).__name__}" if len(leaves) > 1 and others else ""
            raise UnsupportedError(
                f"{self._name}: it returns {_described(result)}{which}; expected one tensor, or a tuple, list or dict "
                "of tensors: wrap it in a module that returns such"
            )
        return [(name, value.detach().float().clone() if isinstance(value, Tensor) else None) for name, value in leaves]

    def _values(self, blurred: bool = False) -> list[Tensor]:
        """The outputs once more, or those of images that differ in the last bits."""
        images = self._images
        if blurred:
            generator = torch.Generator().manual_seed(1)
            noise = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in images]
            self._images = [x * (1 + _LAST_BITS * n) for x, n in zip(images, noise, strict=True)]
        try:
            return [value for _, value in self._run() if value is not None]
        finally:
            self._images = images

    def _arguments(self, images: int = _IMAGES) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        tensors = [torch.cat([x, x])[:images].clone() for x in self._images]
        if self._by_name:
            return (), {one.name: x for one, x in zip(self.inputs, tensors, strict=True)}
        return tuple(tensors), {}

    def _export(self) -> torch.export.ExportedProgram:
        """Export for any number of images."""
        try:
            found = self._exported(torch.export.Dim("batch"))
        except UnsupportedError as error:
            if not str(error.__cause__).startswith(_FIXED):
                raise
            # A module may keep what it has made for the images before, such as anchors, and look whether it still fits.
            # For another number of images it does not, so it is made again.
            self._run(_IMAGES + 1)
            found = self._exported(torch.export.Dim.AUTO)
            taken = found.graph_signature.user_inputs
            values = [node.meta["val"] for node in found.graph.find_nodes(op="placeholder") if node.name in taken]
            if any(sizes_of(value) is None for value in values):
                raise
        found.graph.eliminate_dead_code()
        return found

    def _exported(self, batch: object) -> torch.export.ExportedProgram:
        args, kwargs = self._arguments()
        # By tensor, whatever the argument is called.
        shapes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
        for images in (*args, *kwargs.values()):
            shapes[images] = {0: batch}
        with self._told("torch.export cannot follow it"), in_silence():
            return functional(torch.export.export(self._module, args, kwargs, dynamic_shapes=shapes))

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
            raise UnsupportedError(f"{where}{_line_of(error)}: {_explained(error, problem)}", layer or "") from error
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def in_silence() -> Iterator[None]:
    """A module has said already what it says, and torch.export tells of its own troubles in many lines."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _inputs(module: nn.Module, shapes: Shapes) -> tuple[Input, ...]:
    """The inputs by the names of arguments; the only one is the image."""
    if isinstance(shapes, tuple | list) and not any(isinstance(d, tuple | list) for d in shapes):
        _check_shape(shapes)
        return (Input("image", INPUT, tuple(cast(Sequence[int], shapes))),)
    if not isinstance(shapes, tuple | list | Mapping) or not shapes:
        _check_shape(shapes)
    for shape in shapes.values() if isinstance(shapes, Mapping) else shapes:
        _check_shape(shape)
    if isinstance(shapes, Mapping):
        return tuple(Input(str(name), str(name), tuple(shape)) for name, shape in shapes.items())
    given = cast(Sequence[tuple[int, ...]], shapes)
    known = [p.name for p in signature(module.forward).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    names = known if len(known) >= len(given) else [f"input{i}" for i in range(len(given))]
    return tuple(Input(name, name, tuple(shape)) for name, shape in zip(names, given, strict=False))


def _check_shape(shape: object) -> None:
    if not (isinstance(shape, tuple | list) and shape and all(isinstance(d, int) and d > 0 for d in shape)):
        raise UnsupportedError(
            f"expected an input shape such as (channels, height, width), or several of them, found {shape!r}"
        )


def _joined(path: KeyPath) -> str:
    """The name of a result: `boxes` of a dict, `output1` of a tuple, `features.0` of a tuple in a dict."""
    parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", "")))) for key in path]
    name = ".".join(parts)
    return f"output{name}" if not name or parts[0].isdigit() else name


def _same(found: Sequence[Tensor], wanted: Sequence[Tensor], by: Sequence[Tensor] | None = None) -> bool:
    """Whether all outputs are alike: each compared with its own largest value, or by how far others are from it."""
    if [x.shape for x in found] != [x.shape for x in wanted]:
        return False
    for i, (one, other) in enumerate(zip(found, wanted, strict=True)):
        allowed = _TOLERANCE * _reach(other) if by is None else _BLURRED * _reach(by[i] - other)
        if not _reach(one - other) <= allowed:
            return False
    return True


def _reach(x: Tensor) -> float:
    return float(x.abs().amax()) if x.numel() else 0.0


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
        return (
            "what it computes depends on the values in an image; expected the same operations for every image. "
            f"{POST_PROCESSING}"
        )
    if str(error).startswith(_FIXED):
        return (
            "what it computes depends on the number of images, as a loop over them, len(x) or x.view(2, -1) does; "
            "expected the same for any number, as x.shape[0] or x.flatten(1)"
        )
    text = " ".join(_COLOUR.sub("", str(error)).split("\n\n")[0].split())
    text = text.partition("For more information")[0].partition("Please file an issue")[0].strip()
    return f"{problem}: {': '.join(filter(None, (type(error).__name__, text)))}"
