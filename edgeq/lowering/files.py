"""From the file of a packed network to that of a program."""

from __future__ import annotations

from pathlib import Path

from edgeq.errors import UnsupportedError
from edgeq.lowering.lower import lower
from edgeq.native.program import Program
from edgeq.packed.file import load_packed


def program_of(packed: Path, pixels: bool, threads: int = 1) -> Program:
    """Lower the network of a .safetensors file.

    Args:
        packed: the file.
        pixels: whether the program takes the image in uint8, its channels last.
        threads: how many can run it together.

    Raises:
        ArtifactError: as for `load_packed`.
        UnsupportedError: a layer that the engine does not compute, such as every layer of a float network.
    """
    network = load_packed(packed)
    try:
        return lower(network, pixels, threads)
    except UnsupportedError as error:
        raise UnsupportedError(f"{packed}: {error}", error.layer) from error
