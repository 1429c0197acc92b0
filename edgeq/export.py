"""Write a quantized network where a user can take it away: the ONNX file, its manifest, the PyTorch state.

Nothing is put in place before the ONNX file has been run against the PyTorch module on real images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from edgeq.artifact import check_output, dumps, replacing, sha256
from edgeq.environment import environment
from edgeq.errors import DataError, OutputError, ParityError
from edgeq.evaluate import onnx_runner
from edgeq.modules import save_packed
from edgeq.network import Network
from edgeq.onnx_export import to_onnx
from edgeq.plan import PrecisionPlan
from edgeq.record import CalibrationRecord

VERSION: Final = 1
_TOLERANCE: Final = 0.99  # of the logits within one output step of PyTorch's, optimizations off: a value that falls
# between two levels may round either way, and early in a network that moves a few logits by more
_OPTIMIZED_TOLERANCE: Final = 0.99  # within a few steps, optimizations on: integer kernels round once more per layer
_OPTIMIZED_STEPS: Final = 8


@dataclass(frozen=True)
class Parity:
    """How close ONNX Runtime comes to the PyTorch module.

    Attributes:
        images: images compared.
        step: size of one output quantization step.
        within_one_step: share of logits at most one step apart, optimizations off.
        top1: share of images with the same top-1, optimizations off.
        optimized_within_eight_steps: share of logits at most 8 steps apart, all optimizations on.
        optimized_top1: share of images with the same top-1, all optimizations on.
    """

    images: int
    step: float
    within_one_step: float
    top1: float
    optimized_within_eight_steps: float
    optimized_top1: float


def export(
    network: Network,
    path: Path,
    record: CalibrationRecord,
    plan: PrecisionPlan,
    batches: Iterable[NDArray[np.float32]],
    force: bool = False,
) -> dict[str, Any]:
    """Write `path` (ONNX), and beside it the manifest (.json) and the packed PyTorch network (.safetensors).

    Args:
        network: from `edgeq.modules.packed_network`, or the float network for the scheme `fp32`.
        path: ends in `.onnx`.
        record: what the network was calibrated with.
        plan: what it was quantized by.
        batches: images for the comparison with PyTorch, float32 `[n, *input_shape]` each; some dozens will do.
        force: replace files that edgeq did not write.

    Returns:
        The manifest.

    Raises:
        ParityError: ONNX Runtime and PyTorch disagree; no file is left.
        OutputError: a file cannot be written, or `path` does not end in `.onnx`.
    """
    for output in outputs(path):
        check_output(output, force)
    model = to_onnx(network)
    with ExitStack() as files:
        onnx_file, state_file, manifest_file = (files.enter_context(replacing(output)) for output in outputs(path))
        onnx_file.write_bytes(model.SerializeToString())
        parity = compare(network, onnx_file, record.activations[output_point(network)].scale, batches)
        save_packed(network, state_file)
        manifest = _manifest(path.name, onnx_file, model, record, plan, parity)
        manifest_file.write_text(dumps("manifest", VERSION, manifest), encoding="utf-8")
    return manifest


def outputs(path: Path) -> tuple[Path, Path, Path]:
    """The files that `export` writes: ONNX, packed PyTorch network, manifest.

    Raises:
        OutputError: the name does not end in `.onnx`.
    """
    if path.suffix != ".onnx":
        raise OutputError(f"{path}: expected a name that ends in .onnx; its manifest takes the same name with .json")
    return path, path.with_suffix(".safetensors"), path.with_suffix(".json")


def output_point(network: Network) -> str:
    """The value whose range is the range of the output: the output itself, or what is flattened into it."""
    last = network.graph.nodes[-1]
    source = last.inputs[0] if last.op == "flatten" else last.name
    return source.removesuffix(".q")


def compare(network: Network, path: Path, step: float, batches: Iterable[NDArray[np.float32]]) -> Parity:
    """Run an ONNX file and the PyTorch module on the same images.

    Args:
        network: the PyTorch module.
        path: the ONNX file made of it.
        step: the unit differences are counted in.
        batches: float32 `[n, *input_shape]` each.

    Raises:
        ParityError: more than a tolerated share of the outputs differs.
        DataError: no images.
    """
    plain, optimized = onnx_runner(path, optimize=False), onnx_runner(path)
    with torch.inference_mode():
        results = [(network(torch.from_numpy(batch)).numpy(), plain(batch), optimized(batch)) for batch in batches]
    if not results:
        raise DataError("no images to compare the exported file on; expected at least one")
    ours, theirs, fused = (np.concatenate(column) for column in zip(*results, strict=True))
    parity = Parity(
        images=len(ours),
        step=step,
        within_one_step=float((np.abs(ours - theirs) <= 1.01 * step).mean()),
        top1=float((ours.argmax(1) == theirs.argmax(1)).mean()),
        optimized_within_eight_steps=float((np.abs(ours - fused) <= (_OPTIMIZED_STEPS + 0.01) * step).mean()),
        optimized_top1=float((ours.argmax(1) == fused.argmax(1)).mean()),
    )
    if parity.within_one_step < _TOLERANCE or parity.optimized_within_eight_steps < _OPTIMIZED_TOLERANCE:
        raise ParityError(
            f"ONNX Runtime and PyTorch disagree: expected {_TOLERANCE:.1%} of the outputs within 1 step "
            f"(optimized: {_OPTIMIZED_TOLERANCE:.1%} within {_OPTIMIZED_STEPS}), found {parity.within_one_step:.2%} "
            f"({parity.optimized_within_eight_steps:.2%}); no file was written, please report this network"
        )
    return parity


def _manifest(
    name: str,
    written: Path,
    model: onnx.ModelProto,
    record: CalibrationRecord,
    plan: PrecisionPlan,
    parity: Parity,
) -> dict[str, Any]:
    body: Mapping[str, Any] = plan.to_dict()
    return {
        "file": name,
        "bytes": written.stat().st_size,
        "sha256": sha256(written),
        "opset": model.opset_import[0].version,
        "scheme": plan.scheme,
        "act_bits": plan.act_bits,
        "network": dict(record.network),
        "preprocess": dict(record.preprocess),
        "data": {k: v for k, v in record.data.items() if k != "files"},
        "observer": record.observer,
        **{key: body[key] for key in ("macs", "bitops", "bitops_with_accumulator")},
        "parity": asdict(parity),
        "versions": environment()["versions"],
        "layers": body["layers"],
    }
