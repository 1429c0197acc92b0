"""Weights in a file: the state dicts that it holds, read without running anything in it.

`torch.load(weights_only=True)` refuses a checkpoint for any class beside its tensors, such as the `argparse.Namespace`
of torchvision's training scripts. Here every class that a file names becomes an empty `_StandIn` instead: nothing of it
is imported, and what was beside the weights is dropped.
"""

from __future__ import annotations

import io
import mmap
import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from edgeq.errors import WeightsError, one_line

Tensors = dict[str, Tensor]

_ZIP: Final = b"PK\x03\x04"
_OLD: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled number, as torch before 1.6 wrote first
_OLD_PICKLES: Final = 4  # that number, a version, facts on the machine, the object
_PROTOCOL: Final = 2  # of all that torch.save writes
_REFUSED: Final = {"builtins.bytearray", "torch._utils._rebuild_sparse_tensor"}
"""What torch would call: the first sets aside as many bytes as a file says, the other warns that it takes time."""
_MOST_CLASSES: Final = 100
_DEEPEST: Final = 8
_SAVE: Final = "save its weights with torch.save(model.state_dict(), FILE)"


def read_state_dicts(path: Path) -> dict[str, Tensors]:
    """Read every state dict of a safetensors file or of one of `torch.save`.

    Args:
        path: the format is told from the content, whatever the name ends in.

    Returns:
        Tensors by name, for each dict that holds any of two or more dimensions, by the keys that lead to it: "" is the
        file itself, `model_ema` is `torch.load(path)["model_ema"]`.

    Raises:
        WeightsError: no such file, one of something else, or one without plain tensors.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path}: {'found a folder' if path.is_dir() else 'no such file'}; expected embedded, imagenet, or a "
            "safetensors or PyTorch state dict file"
        )
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            safetensors = content[8:9] == b"{"  # behind the length of its header
            found = load_file(path) if safetensors else _loaded(path, content)
    except Exception as error:  # what is raised on a file of something else depends on its first bytes
        raise WeightsError(
            f"{path}: expected a safetensors file or a state dict saved by torch.save, found something else "
            f"({_reason(error)}); {_SAVE}"
        ) from error
    parts = list(_dicts(found))
    states = {key: tensors for key, part in parts if (tensors := _tensors(path, part))}
    if not states:
        raise WeightsError(f"{path}: expected a state dict of tensors, found {_called(found, parts)}; {_SAVE}")
    return states


def _reason(error: Exception) -> str:
    """What was wrong, without the advice of torch to run the file's code."""
    if code := re.search(r"GLOBAL (\S+)", str(error)):
        return f"a pickle that refers to {code[1]}"
    if str(error).startswith("Weights only load failed"):
        return "a pickle of more than tensors"
    return one_line(error)


class _Anything(type):
    """Makes a class pass for a dict where torch looks whether items may be set."""

    def __eq__(cls, other: object) -> bool:
        return cls is other or other is dict

    def __hash__(cls) -> int:
        return id(cls)


class _StandIn(list[Any], metaclass=_Anything):
    """Takes whatever would build an object of another class, and keeps nothing."""

    name = ""

    def __new__(cls, *arguments: object) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        pass

    def extend(self, items: object) -> None:
        pass


def _loaded(path: Path, content: mmap.mmap) -> object:
    """Load a file of torch.save, with a stand-in for each class that it names.

    Raises:
        ValueError: it is no such file. What torch raises comes on top.
    """
    file = cast(IO[bytes], content)
    if content[: len(_ZIP)] == _ZIP:
        names = _classes(io.BytesIO(_pickle_in(path)), 1)
    elif content[: len(_OLD)] == _OLD:
        names = _classes(file, _OLD_PICKLES)
    else:
        raise ValueError("neither, by its first bytes")
    content.seek(0)
    # Those of torch and of plain containers are known to it, and come before any stand-in.
    stand_ins: list[Any] = [(_Anything("StandIn", (_StandIn,), {"name": name}), name) for name in names]
    with torch.serialization.safe_globals(stand_ins):
        # Of a plain file, as many bytes would be set aside as any length in it says; this one is mapped.
        return torch.load(file, map_location="cpu", weights_only=True)


def _pickle_in(path: Path) -> bytes:
    """The pickle in an archive of torch.save, which compresses nothing.

    Raises:
        ValueError: the archive unpacks to more than it is, or is none of torch.save.
    """
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename.partition("/")[2], entry) for entry in archive.infolist()]
        if any(name == "constants.pkl" for name, _ in entries):
            raise ValueError("a TorchScript archive, whose model is torch.jit.load(FILE)")
        if sum(entry.file_size for _, entry in entries) > path.stat().st_size:
            raise ValueError("an archive that is compressed")
        pickles = [entry for name, entry in entries if name == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError(f"an archive with {len(pickles)} entries data.pkl, expected one")
        return archive.read(pickles[0])


def _classes(pickles: IO[bytes], count: int) -> set[str]:
    """Dotted names of all classes and functions that the next pickles refer to, found without loading them.

    Raises:
        ValueError: broken pickles, or ones that torch.save does not write.
    """
    names = set()
    for _ in range(count):
        for operation, argument, _ in pickletools.genops(pickles):
            if operation.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")  # as Python 2 called it
                module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
                names.add(f"{module}.{name}")
            elif operation.name == "PROTO" and argument != _PROTOCOL:
                raise ValueError(f"pickled by protocol {argument}, expected {_PROTOCOL}, which torch.save takes itself")
    if refused := names & _REFUSED:
        raise ValueError(f"a pickle that refers to {min(refused)}")
    if len(names) > _MOST_CLASSES:
        raise ValueError(f"a pickle that refers to {len(names)} classes")
    return names


def _dicts(root: object) -> Iterator[tuple[str, Any]]:
    """Every dict below a value, and every object that was not read, each once, with the keys that lead there."""
    seen, ahead = set(), [("", root)]
    for depth in range(_DEEPEST):
        parts, ahead = ahead, []
        for path, part in parts:
            if isinstance(part, dict | _StandIn) and id(part) not in seen:
                seen.add(id(part))
                yield path, part
                items = part.items() if isinstance(part, dict) else ()
                ahead += [(f"{path}.{key}" if depth else key, item) for key, item in items if isinstance(key, str)]


def _tensors(path: Path, part: Any) -> Tensors:
    """The tensors of a dict by name, if any has two or more dimensions, as every network's do.

    Raises:
        WeightsError: one is not on the CPU with a place in memory for each of its values.
    """
    items = part.items() if isinstance(part, dict) else ()
    found = {name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    for name, value in found.items():
        if not _is_plain(value):
            raise WeightsError(
                f"{path}: expected plain tensors, found that {name} is quantized, or has no place for each value; "
                f"{_SAVE}"
            )
    return found if any(value.dim() >= 2 for value in found.values()) else {}


def _is_plain(value: Tensor) -> bool:
    return (
        value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_nested
        and value.nbytes <= value.untyped_storage().nbytes()
    )


def _called(root: object, parts: list[tuple[str, Any]]) -> str:
    """What a file without state dicts holds, in words."""
    for _, part in parts:
        if isinstance(part, _StandIn):
            return f"an object of {type(part).name}, which edgeq does not build, for that runs code"
    return "an empty dict" if root == {} else type(root).__name__
