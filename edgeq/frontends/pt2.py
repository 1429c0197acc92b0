"""Programs of `torch.export.save`, read without running code from the file.

`torch.export.load` unpickles what an archive asks it to, evaluates expressions and guards in it as Python, calls any
function of torch that it names, and makes Python code of its names. So the archive is read here first, and only what a
network needs is handed on: its tensors as raw bytes, ATen calls, and names and expressions of a form that runs nothing.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

import torch

from edgeq.errors import UnsupportedError, one_line
from edgeq.frontends.loaded import Loaded, digest
from edgeq.frontends.torch_export.program import in_silence

_SAVE: Final = "save it with torch.export.save of torch 2.9 or newer"
_PROGRAM: Final = "models/model.json"
_CONFIGS: Final = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_SAMPLES: Final = "data/sample_inputs/model.pt"
_WHOLE: Final = ("archive_version", "archive_format", ".data/version", "byteorder")
_TENSOR: Final = re.compile(r"(weight|tensor)_\d+")

_NAME: Final = re.compile(r"(?!\d)\w*", re.ASCII)
_PATH: Final = re.compile(r"[\w.+-]*", re.ASCII)
_PATHS: Final = frozenset(
    {"parameter_name", "buffer_name", "tensor_constant_name", "fqn", "torch_version", "verifiers", "path_name"}
)
_EXPRESSION: Final = re.compile(
    r"(?:Symbol|Integer|Add|Mul|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|Eq|Ne|Lt|Le|Gt|Ge|True|False"
    r"|positive|nonnegative|integer|'[su]\d{1,9}'|\b[su]\d{1,9}\b|\b\d{1,12}\b|(?<!\*)\*(?!\*)|[-+(),= ])*"
)
_TARGET: Final = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|torch\.sym_\w+|math\.(ceil|floor|trunc)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)",
    re.ASCII,
)
_FILES: Final = re.compile(r"torch\.ops\.aten\.(from_file|save|warn|_print)\.")
_TREES: Final = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")


def load(model: str, input_shapes: Mapping[str, tuple[int, ...]] | tuple[int, ...] | None) -> Loaded:
    """Read a program of `torch.export.save`.

    Args:
        model: path of the file.
        input_shapes: shapes of inputs without the batch, where the program leaves dimensions open.

    Raises:
        UnsupportedError: no such file, no program of a network, one that would run code, or one for a fixed number of
            images; or a shape that the program does not take.
    """
    path = Path(model)
    try:
        with in_silence():
            program = torch.export.load(io.BytesIO(_cleaned(path)))
            module = program.module()
    except FileNotFoundError as error:
        raise UnsupportedError(f"{path}: no such file") from error
    except _RefusedError as error:
        raise UnsupportedError(f"{path}: {error}") from error
    except Exception as error:  # of torch, which checks what it reads in many places
        raise UnsupportedError(
            f"{path}: expected a program of torch.export.save, found something else ({one_line(error)[:200]}); {_SAVE}"
        ) from error
    state = {**program.state_dict, **program.constants}
    return Loaded(module, model, model, digest(state), shapes=_shapes(path, program, input_shapes))


class _RefusedError(Exception):
    """Something in an archive that is not read."""


def _cleaned(path: Path) -> bytes:
    """Return an archive with what is safe of another one.

    Raises:
        _RefusedError: what is needed is missing or not safe.
    """
    copied = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copied, "w") as clean:
        size = path.stat().st_size
        if sum(entry.file_size for entry in archive.infolist()) > size:
            raise _RefusedError("found a compressed archive, or entries that overlap; " + _SAVE)
        entries = {name.partition("/")[2]: name for name in archive.namelist()}
        if missing := [name for name in (_PROGRAM, *_CONFIGS) if name not in entries]:
            raise _RefusedError(f"expected a program of torch.export.save with {missing[0]}, found none; {_SAVE}")
        program = json.loads(archive.read(entries[_PROGRAM]))
        configs = {name: json.loads(archive.read(entries[name])) for name in _CONFIGS}
        for config in configs.values():
            for name, tensor in config["config"].items():
                _check_tensor(name, tensor, size)
        texts = {_PROGRAM: _checked(program | {"guards_code": []})} | {k: _checked(v) for k, v in configs.items()}
        tensors = [name for name in entries if _TENSOR.fullmatch(name.rpartition("/")[2])]
        for name in (*_WHOLE, *tensors):
            if name in entries:
                clean.writestr(f"model/{name}", archive.read(entries[name]))
        for name, text in texts.items():
            clean.writestr(f"model/{name}", json.dumps(text))
        clean.writestr(f"model/{_SAMPLES}", b"")
    return copied.getvalue()


def _check_tensor(name: str, tensor: Mapping[str, Any], most: int) -> None:
    """Refuse a tensor that is pickled, or larger than its bytes."""
    if tensor["use_pickle"] or not _TENSOR.fullmatch(tensor["path_name"]):
        raise _RefusedError(f"{name} is pickled, which edgeq does not read, for that runs code; expected plain tensors")
    if prod(part["as_int"] for part in tensor["tensor_meta"]["sizes"]) > most:
        raise _RefusedError(f"{name} is larger than the file")


def _checked(value: Any, key: str = "") -> Any:
    """Return a part of a program without what only people read; see the rules of `_SAFE`.

    Raises:
        _RefusedError: a text of another form.
    """
    if isinstance(value, dict):
        kept = {name: part for name, part in value.items() if name != "metadata"}
        if any(name.startswith("as_custom") or name in ("as_graph", "as_operator") for name in kept):
            raise _RefusedError("expected calls of ATen functions alone, found a part that is a graph or an object")
        if odd := [name for name in kept if not _path(name)]:
            raise _RefusedError(f"expected names of letters, digits and dots, found {odd[0][:80]!r}")
        return {name: _checked(part, name) for name, part in kept.items()} | (
            {"metadata": {}} if "metadata" in value else {}
        )
    if isinstance(value, list):
        return [_checked(part, key) for part in value]
    if isinstance(value, str) and not _SAFE.get(key, _path if key in _PATHS else _name)(value):
        raise _RefusedError(f"expected {key or 'names'} of a network, found {value[:80]!r}")
    return value


def _name(text: str) -> bool:
    return bool(_NAME.fullmatch(text))


def _path(text: str) -> bool:
    return bool(_PATH.fullmatch(text))


def _target(text: str) -> bool:
    return bool(_TARGET.fullmatch(text)) and not _FILES.match(text)


def _tree(text: str) -> bool:
    """Whether a structure of arguments or results is of tuples, lists and dicts with names."""
    parts = [json.loads(text)[1]]
    for part in parts:  # grows
        keys = json.loads(part["context"] or "null")
        plain = keys is None or (isinstance(keys, list) and all(isinstance(key, str | int) for key in keys))
        if part["type"] not in _TREES or not plain:
            return False
        parts += part["children_spec"]
    return True


_SAFE: Final[dict[str, Callable[[str], bool]]] = {
    "expr_str": lambda text: bool(_EXPRESSION.fullmatch(text)),
    "target": _target,
    "in_spec": _tree,
    "out_spec": _tree,
    "as_string": lambda _: True,  # a constant argument, which torch quotes
    "as_strings": lambda _: True,
}
"""The form of texts by the name of their field; others are names, or paths of names."""


def _shapes(
    path: Path, program: torch.export.ExportedProgram, given: Mapping[str, tuple[int, ...]] | tuple[int, ...] | None
) -> dict[str, tuple[int, ...]]:
    """The shapes of the inputs without the batch, in order."""
    values = {node.name: node.meta["val"] for node in program.graph.find_nodes(op="placeholder")}
    inputs = {name: values[name] for name in program.graph_signature.user_inputs if name in values}
    names = ", ".join(inputs)
    if isinstance(given, tuple):
        if len(inputs) != 1:
            raise UnsupportedError(f"{path}: it has the inputs {names}; give their shapes by name")
        given = dict.fromkeys(inputs, given)
    if unknown := [name for name in given or {} if name not in inputs]:
        raise UnsupportedError(f"{path}: no input {unknown[0]}; expected one of {names}")
    return {name: _shape(path, name, value, (given or {}).get(name)) for name, value in inputs.items()}


def _shape(path: Path, name: str, value: Any, given: tuple[int, ...] | None) -> tuple[int, ...]:
    if not isinstance(value, torch.Tensor) or not value.dtype.is_floating_point or value.dim() < 2:
        raise UnsupportedError(f"{path}: input {name}: expected a tensor of floats [batch, ...]")
    batch, *sizes = value.shape
    if isinstance(batch, int):
        raise UnsupportedError(
            f"{path}: the program is for {batch} image{'s' * (batch != 1)} only; export it for any number, with "
            f"dynamic_shapes={{{name!r}: {{0: torch.export.Dim('batch')}}}} in torch.export.export"
        )
    shown = "x".join(["n", *(str(size) if isinstance(size, int) else "?" for size in sizes)])
    if given is None:
        if not all(isinstance(size, int) for size in sizes):
            raise UnsupportedError(f"{path}: input {name} is {shown}; fix what is open with --input-shape")
        return tuple(map(int, sizes))
    fits = len(given) == len(sizes) and all(
        not isinstance(size, int) or size == wanted for size, wanted in zip(sizes, given, strict=True)
    )
    if not fits:
        raise UnsupportedError(
            f"{path}: input {name} is {shown}, which an input shape of {'x'.join(map(str, (1, *given)))} contradicts"
        )
    return given
