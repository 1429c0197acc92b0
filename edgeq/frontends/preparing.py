"""The preprocessing of a network's images: what belongs to its weights, what the caller says, and what is assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

from edgeq.data.preprocess import ChannelOrder, Layout, Preprocess
from edgeq.errors import UnsupportedError
from edgeq.frontends.loaded import Loaded
from edgeq.numerics.activations import LEVELS

_CHANNELS: Final = (1, 3)
_FIELDS: Final = frozenset(part.name for part in fields(Preprocess))


def prepared(
    loaded: Loaded,
    asked: Preprocess | Mapping[str, Any] | None,
    shape: tuple[int, ...] | None,
    takes_bytes: bool = False,
) -> tuple[Preprocess | None, tuple[str, ...]]:
    """Put the preprocessing of a network together.

    Args:
        loaded: what is known of the network.
        asked: what the caller says: all, or some fields by name.
        shape: of the only input, without the batch; None if there are several, or if the preprocessing says it.
        takes_bytes: whether the network takes pixels in 0..255.

    Returns:
        The preprocessing, None if the network does not take one image, and notes about what was assumed.

    Raises:
        UnsupportedError: a preprocessing that does not make what the network takes.
    """
    usual, sure = loaded.preprocess, {*loaded.sure} if loaded.assumed else _FIELDS
    if usual is None:
        usual = _plain(shape, takes_bytes)
        sure |= {"crop", "layout", *(("mean", "std") if takes_bytes else ())}
    elif shape is not None and not isinstance(asked, Preprocess):
        usual = replace(usual, resize=_size(shape), crop=_size(shape))
        sure = sure - {"resize"} | {"crop"}
    given = asked if isinstance(asked, Mapping) else {}
    if isinstance(asked, Preprocess):
        made: Preprocess | None = asked
    else:
        made = replace(usual, **given) if usual else None
    wrong = made is not None and shape is not None and made.shape != tuple(shape)
    if wrong or (usual is None and asked):
        takes = "several inputs" if shape is None else " x ".join(map(str, shape))
        raise UnsupportedError(
            f"{loaded.name}: expected a preprocessing that makes what it takes, {takes}, found {made or dict(given)}"
        )
    if usual is None or isinstance(asked, Preprocess):
        return made, ()
    assumed = {name: text for name, text in usual.texts().items() if name not in sure and name not in given}
    flags = " ".join(f"--{name.replace('_', '-')} {text}" for name, text in assumed.items())
    guessed = loaded.assumed and (loaded.preprocess is not None or "mean" in assumed)
    what = f" {loaded.assumed}" if guessed else ""
    says = f"{loaded.name} does not say how its images were prepared; assumed{what}: {flags}"
    return made, (says,) if assumed else ()


def _plain(shape: tuple[int, ...] | None, takes_bytes: bool) -> Preprocess | None:
    """Pixels in 0..1, or in 0..255, resized to what a network takes; None if it does not take an image."""
    if shape is None or len(shape) != 3:
        return None
    first, last = shape[0] in _CHANNELS, shape[2] in _CHANNELS
    if not first and not last:
        return None
    channels, size = (shape[0], shape[1:]) if first else (shape[2], shape[:2])
    std = (1 / LEVELS if takes_bytes else 1.0,) * channels
    order: ChannelOrder = "gray" if channels == 1 else "rgb"
    layout: Layout = "channels_first" if first else "channels_last"
    size = size[0], size[1]
    return Preprocess(size, size, (0.0,) * channels, std, channel_order=order, layout=layout)


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 3:
        raise UnsupportedError(f"expected an input shape (channels, height, width), found {shape}")
    return shape[1], shape[2]
