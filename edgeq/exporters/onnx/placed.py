"""The model that takes the place of an ONNX file: with what stood around the network there, for the sizes it took."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx

from edgeq.errors import ParityError, UnsupportedError
from edgeq.exporters.import_parity import random_feed
from edgeq.exporters.onnx.drop_in import with_ends
from edgeq.exporters.onnx.model import Translation, translate
from edgeq.exporters.onnx.open_sizes import opened
from edgeq.exporters.onnx.place import Place
from edgeq.ir.network import Network
from edgeq.runtimes.onnxruntime import session_of


class Placed(NamedTuple):
    """A model in the place of a file.

    Attributes:
        made: the translation of the network by itself.
        model: the model with what stands around it.
        fixed: why it takes one size only, though the file takes others; None if it takes what the file takes.
    """

    made: Translation
    model: onnx.ModelProto
    fixed: str | None


def placed(network: Network, place: Place) -> Placed:
    """Translate a network to take the place of the file that it was read from.

    Raises:
        UnsupportedError: an op or the end of the file has no ONNX form.
        ParityError: the model for any size computes something else than those for one size.
    """
    fixed, plain = None, None
    for other, ends in place.others:
        plain = plain or translate(network, any_size=True, around=place.ends.opset)
        try:
            of_other = translate(other, any_size=True, around=ends.opset)
            pair = with_ends(plain.model, place.ends), with_ends(of_other.model, ends)
            model = opened(*pair, place.names)
        except UnsupportedError as error:
            fixed = str(error)
            continue
        for one in pair:
            _check(model, one)
        return Placed(plain, model, None)
    made = translate(network, around=place.ends.opset)
    return Placed(made, with_ends(made.model, place.ends), fixed)


def _check(model: onnx.ModelProto, one: onnx.ModelProto) -> None:
    """Compare the model for any size with that for one, node by node as they stand, on random images."""
    feed = random_feed(one.graph.input, np.random.default_rng(0))
    pair = (session_of(each.SerializeToString(), optimize=False).run(None, feed) for each in (model, one))
    for output, found, expected in zip(one.graph.output, *pair, strict=True):
        if not np.array_equal(found, expected, equal_nan=found.dtype.kind == "f"):
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
            raise ParityError(
                f"the file for any size and that for {shapes} disagree at output {output.name}; no file was written, "
                "please report this network"
            )
