"""Networks that the engine does not run, for onnxruntime-web: a package of npm that its users have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import onnx

from edgeq.errors import ArtifactError
from edgeq.exporters.answers import CODES_DIFFER, FLOATS_DIFFER
from edgeq.exporters.onnx.model import translate
from edgeq.exporters.parity import overflows, runner
from edgeq.exporters.web.runnable import Runnable
from edgeq.ir.batches import Images
from edgeq.ir.network import Network
from edgeq.native.program import End

ENGINE: Final = "onnxruntime-web"
FILES: Final = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


def read_package(package: Path) -> dict[str, bytes]:
    """The code of onnxruntime-web, by the names of its files.

    Args:
        package: its folder, `node_modules/onnxruntime-web`.

    Raises:
        ArtifactError: the code is not there, or cannot be read.
    """
    try:
        return {name: (package / "dist" / name).read_bytes() for name in FILES}
    except OSError as error:
        raise ArtifactError(
            f"{package}: expected the folder of onnxruntime-web with dist/{FILES[0]} and dist/{FILES[1]}, found "
            f"{error.strerror or error}; npm install onnxruntime-web makes it, node_modules/onnxruntime-web"
        ) from error


def for_onnxruntime(network: Network, pixels: bool, asked: Images) -> Runnable:
    """The ONNX file of a network, packed or float, and what ONNX Runtime makes of some images.

    Args:
        network: any that `edgeq export` takes.
        pixels: whether it takes the image in uint8.
        asked: `n` images.
    """
    made = translate(network, pixels)
    content = made.model.SerializeToString()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(content)
        answers = [np.asarray(array, np.float32) for array in runner(made, path, exact=overflows(network))(asked)]
    in_codes = any(node.op == "quantize" for node in network.graph.nodes)
    inputs, outputs = map(_ends, (made.model.graph.input, made.model.graph.output))
    differ = CODES_DIFFER if in_codes else FLOATS_DIFFER
    return Runnable(ENGINE, ".onnx", content, None, inputs, outputs, answers, differ, None)


def _ends(values: Iterable[onnx.ValueInfoProto]) -> list[End]:
    kinds = {value.name: value.type.tensor_type for value in values}
    return [
        End(name, tuple(dim.dim_value for dim in kind.shape.dim[1:]), kind.elem_type == onnx.TensorProto.FLOAT)
        for name, kind in kinds.items()
    ]
