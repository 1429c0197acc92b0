"""How images were prepared for a network, and how else the same pixels may be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, ChannelOrder, Preprocess
from edgeq.ir.batches import Images
from edgeq.ir.graph import Graph

_USUAL: Final[dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "normalized to 0..1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "normalized to -1..1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "normalized to ImageNet's mean and deviation": (IMAGENET_MEAN, IMAGENET_STD),
    "in 0..255": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}
"""Means and deviations of R, G, B in 0..1, by which pixels are usually normalized."""

_ROUNDING: Final = 1e-3  # of pixels in 0..1


@dataclass(frozen=True, eq=False)
class Preparation:
    """Pixels, and what makes a network's images of them: `(pixels - mean) / std`.

    Attributes:
        name: how the images are.
        pixels: in 0..1, float32 `[n, channels, rows, columns]`, the channels in the network's order.
        mean, std: of each channel.
        order: of the channels; None if it is unknown.
        flags: how to ask for it.
    """

    name: str
    pixels: NDArray[np.float32]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: ChannelOrder | None
    flags: str = ""

    def images(self) -> Images:
        """What the network takes."""
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std))
        return Images(((self.pixels - mean) / std,))

    def others(self) -> Iterator[Preparation]:
        """The same pixels, by each of the usual normalizations."""
        for name, mean, std in _usual(len(self.mean), self.order):
            yield replace(self, name=name, mean=mean, std=std, flags=f"--mean {_text(mean)} --std {_text(std)}")

    @property
    def possible(self) -> bool:
        """Whether the pixels are in 0..1, as the normalization says."""
        return bool(self.pixels.min() >= -_ROUNDING and self.pixels.max() <= 1 + _ROUNDING)

    @property
    def swapped(self) -> Preparation | None:
        """With red and blue exchanged, if there are any."""
        if len(self.mean) != 3:
            return None
        other = {
            "rgb": "--channel-order bgr",
            "bgr": "--channel-order rgb",
            None: "exchange the first and last channel",
        }
        name = "with red and blue exchanged"
        return replace(self, name=name, pixels=self.pixels[:, ::-1], flags=other[self.order])


def preparation(graph: Graph, images: Images, preprocess: Preprocess | None) -> Preparation | None:
    """The pixels of images, which are normalized as `preprocess` says, or else as their values look.

    Returns:
        None if the network takes something else than one image of 1 or 3 channels, or it cannot be seen from the
        values how they were normalized.
    """
    array = images.arrays[0]
    if len(graph.inputs) > 1 or array.ndim != 4 or array.shape[1] not in (1, 3):
        return None
    if preprocess is not None and array.shape[1] == 3:
        return _undone(array, "", preprocess.mean, preprocess.std, preprocess.channel_order)
    found = (_undone(array, *usual) for usual in _usual(array.shape[1], None))
    return next((one for one in found if one.possible), None)


def _usual(channels: int, order: ChannelOrder | None) -> Iterator[tuple[str, tuple[float, ...], tuple[float, ...]]]:
    """Name, mean and deviation of the usual normalizations of so many channels."""
    step = -1 if order == "bgr" else 1
    for name, (mean, std) in _USUAL.items():
        if channels == len(mean) or len({*mean}) == 1:
            yield name, mean[::step][:channels], std[::step][:channels]


def _undone(
    array: NDArray[np.float32],
    name: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    order: ChannelOrder | None = None,
) -> Preparation:
    scale, shift = (np.array(v, np.float32)[:, None, None] for v in (std, mean))
    return Preparation(name, array * scale + shift, mean, std, order)


def _text(values: Sequence[float]) -> str:
    return ",".join(f"{value:.6g}" for value in values)
