"""What a way in finds: a module of PyTorch with its weights, and what is known of its images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeq.data.preprocess import Preprocess


@dataclass(frozen=True)
class Loaded:
    """A float module before it is traced.

    Attributes:
        module: in evaluation mode, with its weights.
        name: the model, or the file of its weights, in messages about its images.
        weights: where they are from: `embedded`, `imagenet`, `own`, or the absolute or relative path of a file.
        sha256: digest of the weights, see `digest`.
        preprocess: the preprocessing of its images as far as the weights or the architecture suggest one.
        assumed: what the preprocessing was taken from, in words, where the weights do not say that it is theirs; None
            where they do.
        sure: the fields of the preprocessing that are theirs nevertheless.
        shapes: shapes of the inputs where the model fixes them, by name; None where the preprocessing or the caller
            says them.
        weights_key: key of the weights in a file, see `edgeq.frontends.state_dicts.Weights`.
        transform_input: whether the network normalizes its input once more; None for architectures without this switch.
        notes: lines that the user should read, such as which weights of a file were taken.
    """

    module: nn.Module
    name: str
    weights: str
    sha256: str
    preprocess: Preprocess | None = None
    assumed: str | None = "pixels in 0..1"
    sure: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] | None = None
    weights_key: str | None = None
    transform_input: bool | None = None
    notes: tuple[str, ...] = ()


def digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of a state dict, as 64 hexadecimal digits."""
    found = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
