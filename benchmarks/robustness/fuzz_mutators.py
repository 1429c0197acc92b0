"""How the inputs of `fuzz.py` are made: real files, changed where their formats have their parts."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from typing import Any, Final

import numpy as np
import onnx

NUMBERS: Final = (0, 1, -1, 2, 3, 127, 255, 256, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, -(2**63))
VALUES: Final[tuple[Any, ...]] = (
    None, True, False, "", "x", "../../x", "/etc/passwd", "a\nb", "\ud800", "1" * 5000, [], {}, [[]], [None], 0.5, 1e30,
    1e308, float("nan"), float("inf"), -float("inf"), 2**64, 10**400, *NUMBERS,
)  # fmt: skip
NAMES: Final = (
    "", "x", "input", "../../x", "Identity", "Loop", "ConstantOfShape", "Expand", "Resize", "a\nb",
)  # fmt: skip
DEEP: Final = "[" * 100_000 + "]" * 100_000


def in_bytes(chance: random.Random, seed: bytes) -> bytes:
    """Flip, cut, repeat, overwrite by a number."""
    found = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 4))):
        start = chance.randrange(len(found) + 1)
        end = min(len(found), start + chance.choice((1, 2, 4, 8, 64)))
        number = struct.pack(chance.choice("<>") + "q", chance.choice(NUMBERS))[: chance.choice((1, 2, 4, 8))]
        part = chance.choice((b"", number, number, chance.randbytes(end - start), bytes(found[start:end]) * 2))
        found[start:end] = part
    return bytes(found[: chance.randrange(len(found) + 1)]) if chance.random() < 0.1 else bytes(found)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container below a value, with every key or index in it."""
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])


def in_tree(chance: random.Random, seed: bytes) -> bytes:
    """Replace, remove, exchange or double values of a JSON tree; at times nest it deep."""
    tree = [json.loads(seed)]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        (holder, key), (other, place) = chance.choices(list(_places(tree)), k=2)
        match chance.randrange(5):
            case 0:
                del holder[key]
            case 1:
                holder[key] = deepcopy(other[place])
            case 2 if isinstance(holder, list):
                holder.append(deepcopy(holder[key]))
            case _:
                holder[key] = deepcopy(chance.choice(VALUES))
        if not tree or not list(_places(tree)):
            break
    text = json.dumps(tree[0] if tree else None)
    if chance.random() < 0.001:
        text = text.replace("null", DEEP, 1) if "null" in text else DEEP
    if text.startswith("{") and chance.random() < 0.02:
        text = text[:-1] + "," + text[1:]  # every key twice
    return text.encode()


def in_json(chance: random.Random, seed: bytes) -> bytes:
    return (in_bytes if chance.random() < 0.2 else in_tree)(chance, seed)


def in_safetensors(chance: random.Random, seed: bytes) -> bytes:
    """Change the header, the JSON in its metadata, its length, or the data, at times to NaN."""
    size = int.from_bytes(seed[:8], "little")
    header, data = seed[8 : 8 + size], seed[8 + size :]
    match chance.randrange(8):
        case 0:
            return in_bytes(chance, seed)
        case 1:
            return struct.pack("<q", chance.choice((*NUMBERS, size + 1, size - 1))) + seed[8:]
        case 2:
            data = data[: len(data) // 4 * 4 - 4] + struct.pack("<f", chance.choice((np.nan, np.inf, -1.0, 0.0, 1e38)))
        case 3:
            data = in_bytes(chance, data)
        case 4 | 5:
            header = in_json(chance, header)
        case _:
            tree = json.loads(header)
            inner = next(iter(tree["__metadata__"]), None) if "__metadata__" in tree else None
            if inner and tree["__metadata__"][inner].startswith("{"):
                text = in_json(chance, tree["__metadata__"][inner].encode())
                tree["__metadata__"][inner] = text.decode(errors="replace")
            else:
                tree[chance.choice(list(tree))] = chance.choice(list(tree.values()))
            header = json.dumps(tree).encode()
    return struct.pack("<Q", len(header)) + header + data


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in value if field.is_repeated else (value,):
                yield from _messages(part)


def in_onnx(chance: random.Random, seed: bytes) -> bytes:
    """Change fields of messages: numbers, names, bytes, whole messages removed, doubled or exchanged."""
    if chance.random() < 0.2:
        return in_bytes(chance, seed)
    model = onnx.ModelProto.FromString(seed)
    for _ in range(chance.choice((1, 1, 2, 3))):
        message = chance.choice([part for part in _messages(model) if part.ListFields()] or [model])
        if isinstance(message, onnx.TensorProto) and chance.random() < 0.1:
            message.data_location = onnx.TensorProto.EXTERNAL
            for key, value in zip(("location", "offset", "length"), chance.choices(VALUES, k=3), strict=True):
                with suppress(UnicodeEncodeError):
                    message.external_data.add(key=key, value=str(value))
        if not message.ListFields():  # nothing is left of the model
            break
        field, value = chance.choice(message.ListFields())
        if chance.random() < 0.1 or (not field.is_repeated and field.type == field.TYPE_MESSAGE):
            message.ClearField(field.name)
        elif not field.is_repeated:
            with suppress(ValueError):  # no value of an enumeration
                setattr(message, field.name, _scalar(chance, field, value))
        elif field.type != field.TYPE_MESSAGE:
            value[chance.randrange(len(value))] = _scalar(chance, field, value[0])
        elif chance.random() < 0.5:
            value.add().CopyFrom(chance.choice(value))
        else:
            del value[chance.randrange(len(value))]
    return bytes(model.SerializeToString())


def _scalar(chance: random.Random, field: Any, value: Any) -> Any:
    if isinstance(value, str):
        return chance.choice((*NAMES, value * 2))
    if isinstance(value, bytes):
        return in_bytes(chance, value)
    if isinstance(value, float):
        return chance.choice((0.0, -1.0, float("nan"), float("inf"), 1e38))
    narrow = field.type in (field.TYPE_INT32, field.TYPE_ENUM)
    number = chance.choice((value + 1, value - 1, *NUMBERS))
    return max(-(2**31), min(number, 2**31 - 1)) if narrow else max(-(2**63), min(number, 2**63 - 1))


def in_zip(chance: random.Random, seed: bytes) -> bytes:
    """Change an entry of an archive, its name, or its compression; files of the older format are bytes."""
    if not seed.startswith(b"PK") or chance.random() < 0.2:
        return in_bytes(chance, seed)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(seed)) as old, zipfile.ZipFile(made, "w") as new:
        entries = {name: old.read(name) for name in old.namelist()}
        chosen = chance.choice([next(name for name in entries if name.endswith(("data.pkl", "model.json"))), *entries])
        for name, content in entries.items():
            called, written = name, content
            if name == chosen:
                match chance.randrange(8):
                    case 0:
                        called = chance.choice(("../../x", "/x", name * 2, f"{name}\0", chance.choice(list(entries))))
                    case 1:
                        continue
                    case 2:
                        written = content * chance.choice((0, 2, 1000))
                    case _:
                        written = (in_json if name.endswith(".json") else in_bytes)(chance, content)
            method = zipfile.ZIP_DEFLATED if chance.random() < 0.1 else zipfile.ZIP_STORED
            new.writestr(zipfile.ZipInfo(called), written, method)
    return made.getvalue()


def in_image(chance: random.Random, seed: bytes) -> bytes:
    """Change bytes, of a PNG within a chunk whose checksum is then right again."""
    if not seed.startswith(b"\x89PNG") or chance.random() < 0.3:
        return in_bytes(chance, seed)
    found, chunks = seed[:8], []
    position = 8
    while position < len(seed):
        size = int.from_bytes(seed[position : position + 4], "big")
        chunks.append((seed[position + 4 : position + 8], seed[position + 8 : position + 8 + size]))
        position += size + 12
    chosen = chance.randrange(len(chunks))
    for i, (kind, content) in enumerate(chunks):
        body = kind + (in_bytes(chance, content) if i == chosen else content)
        found += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return found
