"""Read the state dicts in a file of weights, without running code from it.

`torch.load(weights_only=True)` refuses a checkpoint with any other class beside its tensors, such as the
`argparse.Namespace` of torchvision's training scripts. Here an empty `_StandIn` replaces every such class: nothing is
imported, and the objects beside the weights are dropped.
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
_OLD: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # pickled magic number at the start of files of torch < 1.6
_OLD_PICKLES: Final = 4  # the magic number, a version, facts about the machine, the object
_PROTOCOL: Final = 2  # pickle protocol of torch.save
_REFUSED: Final = {"builtins.bytearray", "torch._utils._rebuild_sparse_tensor"}
"""Callables that torch allows: the first allocates as many bytes as the file asks for, the second warns of slowness."""
_MOST_CLASSES: Final = 100
_DEEPEST: Final = 8
_SAVE: Final = "save its weights with torch.save(model.state_dict(), FILE)"


def read_state_dicts(path: Path) -> dict[str, Tensors]:
    """Read all state dicts in a file of safetensors or `torch.save`.

    Args:
        path: path of the file; its format is recognized by the content, not by the name.

    Returns:
        Each dict that contains a tensor of two or more dimensions, as its tensors by name. The dicts are keyed by where
        they are in the file: "" is the whole file, `model_ema` is `torch.load(path)["model_ema"]`.

    Raises:
        WeightsError: no such file, a file of another kind, or one without plain tensors.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path}: {'found a folder' if path.is_dir() else 'no such file'}; expected embedded, imagenet, or a "
            "safetensors or PyTorch state dict file"
        )
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            safetensors = content[8:9] == b"{"  # after the length of the header
            found = load_file(path) if safetensors else _loaded(path, content)
    except Exception as error:  # the type depends on the first bytes of the file
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
    """Return what was wrong, without torch's advice to run the file's code."""
    if code := re.search(r"GLOBAL (\S+)", str(error)):
        return f"a pickle that refers to {code[1]}"
    if str(error).startswith("Weights only load failed"):
        return "a pickle of more than tensors"
    return one_line(error)


class _Anything(type):
    """Metaclass of a class that equals `dict`, so that torch's unpickler lets items be set."""

    def __eq__(cls, other: object) -> bool:
        return cls is other or other is dict

    def __hash__(cls) -> int:
        return id(cls)


class _StandIn(list[Any], metaclass=_Anything):
    """Replaces an object of any class: accepts whatever the pickle passes to it, and keeps nothing."""

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
    """Load a file of torch.save, with a stand-in for each class that it refers to.

    Raises:
        ValueError: not such a file. torch raises other types for some broken files.
    """
    file = cast(IO[bytes], content)
    if content[: len(_ZIP)] == _ZIP:
        names = _classes(io.BytesIO(_pickle_in(path)), 1)
    elif content[: len(_OLD)] == _OLD:
        names = _classes(file, _OLD_PICKLES)
    else:
        raise ValueError("neither, by its first bytes")
    content.seek(0)
    # Classes that torch allows by itself take precedence over stand-ins.
    stand_ins: list[Any] = [(_Anything("StandIn", (_StandIn,), {"name": name}), name) for name in names]
    with torch.serialization.safe_globals(stand_ins):
        # The file is memory-mapped: for a plain file, torch would allocate as many bytes as any length in it says.
        return torch.load(file, map_location="cpu", weights_only=True)


def _pickle_in(path: Path) -> bytes:
    """Return the pickle in an archive of torch.save, which never compresses.

    Raises:
        ValueError: a compressed archive, or one that torch.save did not write.
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
    """Return the dotted names of all classes and functions that the next pickles refer to, without loading them.

    Raises:
        ValueError: broken pickles, or pickles that torch.save does not write.
    """
    names = set()
    for _ in range(count):
        for operation, argument, _ in pickletools.genops(pickles):
            if operation.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")  # with Python 2 names
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
    """Yield every dict and stand-in within a value, each once, with the keys that lead to it, joined by dots."""
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
    """Return the tensors of a dict by name; none if all have fewer than two dimensions, unlike those of a network.

    Raises:
        WeightsError: a tensor is not a plain dense tensor on the CPU.
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
    """Describe the content of a file without state dicts."""
    for _, part in parts:
        if isinstance(part, _StandIn):
            return f"an object of {type(part).name}, which edgeq does not build, for that runs code"
    return "an empty dict" if root == {} else type(root).__name__
