"""Where a network was in the ONNX file that it was read from: what an export needs to take the file's place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeq.errors import ArtifactError, UnsupportedError
from edgeq.frontends.onnx.ends import Ends
from edgeq.frontends.sources import Source
from edgeq.ir.network import Network


@dataclass(frozen=True)
class Place:
    """Where a network was in an ONNX file.

    Attributes:
        ends: what stood around it.
        others: the same network for other sizes, packed like the one that is exported, each with its ends; the first
            that is the same but for sizes makes a file for any size. Empty if the file has fixed sizes.
        names: of the dimensions that the file leaves open, see `edgeq.frontends.onnx.sizes.names_of_sizes`.
    """

    ends: Ends
    others: Iterable[tuple[Network, Ends]]
    names: Mapping[tuple[str, int], str]


def place_of(source: Source, packed: Callable[[Network], Network]) -> Place | None:
    """Return where a network was in the ONNX file that it came from, for `edgeq.export`.

    Args:
        source: from `edgeq.load`.
        packed: packs the network as the one that is exported was packed; it is called with the network for other sizes.

    Returns:
        None if the network did not come from an ONNX file.

    Raises:
        EdgeqError: the file cannot be read any more.

    Example:
        >>> edgeq.place_of(edgeq.load(), lambda other: edgeq.pack(other, layers, record, plan)) is None
        True
    """
    if source.ends is None or source.reference is None:
        return None
    from edgeq.frontends.onnx.sizes import names_of_sizes

    names = names_of_sizes(source.reference)
    return Place(source.ends, _others(source, source.reference, names, packed), names)


def _others(
    source: Source, path: Path, names: Mapping[tuple[str, int], str], packed: Callable[[Network], Network]
) -> Iterator[tuple[Network, Ends]]:
    """The network for other sizes that its file takes, where it is the same network then."""
    from edgeq.frontends.onnx.load import load
    from edgeq.frontends.onnx.sizes import other_shapes

    for shapes in other_shapes(names, source.network.graph.input_shapes):
        with suppress(UnsupportedError, ArtifactError):
            other = load(path, shapes, source.tasks)
            yield packed(other.network), other.ends
