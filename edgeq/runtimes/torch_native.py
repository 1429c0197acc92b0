"""The native engine in PyTorch: a packed network as a module that runs its program.

The custom operator `edgeq::run_program` takes the bytes of a program and the network's inputs. It is registered with
`torch.library`, with a fake kernel, so that `torch.compile` and `torch.export` see one opaque call. It keeps nothing
from one call to the next, so threads may call it at the same time, and whatever copies tensors copies a network.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from edgeq.errors import DataError, UnsupportedError
from edgeq.ir.network import Network, as_tensor, in_order
from edgeq.lowering.lower import lower
from edgeq.native.library import Engine, library
from edgeq.native.program import ALIGNED, Program


def _run(program: Tensor, inputs: list[Tensor], elements: list[int]) -> list[Tensor]:
    program = program.contiguous()
    if program.data_ptr() % ALIGNED:
        program = program.clone()  # torch allocates at multiples of 64, but a view may start anywhere
    engine = Engine(program.numpy(force=True), "the network")
    if (made := [count for _, count in engine.outputs]) != elements:
        raise DataError(f"the network: expected outputs of {elements} numbers, found {made}")
    return [torch.from_numpy(values) for values in engine([one.numpy(force=True) for one in inputs])]


def _fake(program: Tensor, inputs: list[Tensor], elements: list[int]) -> list[Tensor]:
    return [inputs[0].new_empty((inputs[0].shape[0], count), dtype=torch.float32) for count in elements]


def _no_gradients(*_: object) -> NoReturn:
    raise UnsupportedError("the native engine computes no gradients; call it under torch.inference_mode()")


# `torch.library.custom_op` does the same in fewer lines, but its first call imports the compiler of PyTorch: more than
# a second, and 130 MB.
torch.library.define("edgeq::run_program", "(Tensor program, Tensor[] inputs, SymInt[] elements) -> Tensor[]")
torch.library.impl("edgeq::run_program", "cpu", _run)
torch.library.register_fake("edgeq::run_program", _fake)
torch.library.register_autograd("edgeq::run_program", _no_gradients)
run_program = torch.ops.edgeq.run_program.default
"""Runs a program on images, one after the other, on one thread.

Args:
    program: its file, uint8 `[bytes]`.
    inputs: one `[n, ...]` for each input of the program, of its type.
    elements: how many numbers an image has of each output.

Returns:
    Float32 `[n, elements]` for each output.

Raises:
    UnsupportedError: the engine was not compiled; or gradients are asked for.
    ArtifactError: no program, or a damaged one.
    DataError: inputs or outputs of other types or sizes.
"""


class NativeNetwork(nn.Module):
    """A packed network that the native engine runs on the CPU, as `to_native` makes it.

    Args:
        program: the network's, with float inputs.

    Attributes:
        program: its file, uint8 `[bytes]`: all that the module holds.
        inputs, outputs: their names and shapes.
    """

    program: Tensor

    def __init__(self, program: Program) -> None:
        super().__init__()
        file = as_tensor(np.frombuffer(program.to_bytes(), np.uint8))
        self.register_buffer("program", file.clone())  # to where torch allocates, see `run_program`
        self.inputs, self.outputs = tuple(program.inputs), tuple(program.outputs)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run `n` images; one output is returned as it is, several as a tuple.

        Args:
            inputs: in the order of the network, float32 `[n, *shape]` on the CPU each.
            named: instead, by their names.

        Raises:
            DataError: other inputs, or the module was moved to another device.
        """
        taken = in_order([end.name for end in self.inputs], inputs, named)
        if self.program.device.type != "cpu":
            where = self.program.device
            raise DataError(f"the native engine runs on the CPU, found its network on {where}; use .cpu()")
        for end, one in zip(self.inputs, taken, strict=True):
            if one.dtype != torch.float32 or one.shape != (*taken[0].shape[:1], *end.shape) or one.device.type != "cpu":
                wanted, given = ", ".join(map(str, ("n", *end.shape))), f"{one.dtype} {list(one.shape)} on {one.device}"
                raise DataError(f"input {end.name}: expected torch.float32 [{wanted}] on cpu, found {given}")
        found: list[Tensor] = run_program(self.program, list(taken), [end.elements for end in self.outputs])
        made = tuple(values.view(values.shape[0], *end.shape) for values, end in zip(found, self.outputs, strict=True))
        return made if len(made) > 1 else made[0]


def to_native(network: Network) -> NativeNetwork:
    """Compile a packed network for the native engine: the same module, several times faster, on the CPU.

    It computes what the exported file computes in ONNX Runtime: sums of integers, where the packed network in PyTorch
    computes in float on the same quantized values. So logits of both differ by a few steps.

    Args:
        network: from `edgeq.pack` or `edgeq.load_packed`, with 8-bit activations.

    Returns:
        A module that holds a copy of the packed weights.

    Raises:
        UnsupportedError: a layer that the engine does not compute, such as every layer of a network with float
            activations; a network on another device; or the engine was not compiled.

    Example:
        >>> fast = edgeq.to_native(edgeq.load_packed(Path("net.safetensors")))
        >>> fast(torch.from_numpy(batches[0])).shape
        torch.Size([8, 4])
    """
    library()  # raises before any work
    if elsewhere := {str(one.device) for one in network.buffers()} - {"cpu"}:
        raise UnsupportedError(
            f"the native engine takes networks on the CPU, found one on {elsewhere.pop()}; use .cpu()"
        )
    return NativeNetwork(lower(network))
