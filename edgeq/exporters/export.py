"""Write a quantized network where a user can take it away: the ONNX file, its manifest, the PyTorch state.

Nothing is put in place before the ONNX file has been run against the PyTorch module on real images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import onnx

from edgeq.artifacts import manifest as manifests
from edgeq.artifacts.files import check_output, dumps, replacing_all, sha256
from edgeq.artifacts.manifest import Manifest
from edgeq.artifacts.record import CalibrationRecord
from edgeq.errors import ArtifactError, OutputError
from edgeq.exporters.layer_errors import layer_sqnr
from edgeq.exporters.onnx.model import translate
from edgeq.exporters.onnx.place import Place
from edgeq.exporters.onnx.placed import Placed, placed
from edgeq.exporters.parity import Parity, compare
from edgeq.ir.analysis import float_outputs
from edgeq.ir.batches import Batch, Images
from edgeq.ir.graph import Graph
from edgeq.ir.network import Network
from edgeq.ir.ops.registry import OPS
from edgeq.ir.passes.hard_sigmoid import clipping
from edgeq.packed.file import save_packed
from edgeq.planning.cost import FLOAT_BITS
from edgeq.planning.plan import PrecisionPlan
from edgeq.system.environment import environment
from edgeq.system.threads import torch_threads

_SMALL_GROUPS: Final = 16  # channels; measured with groups of 2 to 32, also merged, on x86 CPUs with and without VNNI


def export(
    network: Network,
    path: Path | str,
    record: CalibrationRecord,
    plan: PrecisionPlan,
    batches: Iterable[Batch],
    force: bool = False,
    *,
    place: Place | None = None,
) -> Manifest:
    """Write `path` (ONNX), and beside it the manifest (.json) and the packed PyTorch network (.safetensors).

    Args:
        network: from `edgeq.packed.pack.pack`, or the float network for the scheme `fp32`.
        path: ends in `.onnx`.
        record: what the network was calibrated with.
        plan: what it was quantized by. Where its recipe says that the file takes uint8 images `[n, rows, columns, 3]`,
            network, record and batches are those that `edgeq.commands.export.reading_pixels` makes.
        batches: images for the comparison with PyTorch, float32 `[n, *shape]` each, of several inputs by their names;
            some dozens will do. The outputs of layers are compared with the float network's on the first batch.
        force: replace files that edgeq did not write.
        place: where the network was in the ONNX file that it was read from (`edgeq.place_of`), so that the new file
            takes its place; the comparison with PyTorch is that of the network by itself.

    Returns:
        The manifest.

    Raises:
        ParityError: ONNX Runtime and PyTorch disagree; no file is left.
        OutputError: a file cannot be written, or `path` does not end in `.onnx`.
        DataError: no images.

    Example:
        >>> manifest = edgeq.export(packed, Path("net.onnx"), record, plan, batches)
        >>> [(layer["name"], layer["bits"], layer["bytes"]) for layer in manifest["layers"]]
        [('0', 4, 140), ('4', 4, 32)]
    """
    path = Path(path)
    _check_plan(network, plan)
    for output in outputs(path):
        check_output(output, force)
    made, model, fixed = _translated(network, plan, place)
    checked = list(Images.each(network.graph, batches))
    names = [one.name for one in network.graph.inputs]
    with replacing_all(*outputs(path)) as (onnx_file, state_file, manifest_file):
        onnx_file.write_bytes(made.model.SerializeToString())
        with torch_threads(1):
            ranges = record.activations if plan.act_bits == 8 else {}
            named = (dict(zip(names, images.arrays, strict=True)) for images in checked)
            parity = compare(made, onnx_file, ranges, named)
            errors = layer_sqnr(network, {layer.name: layer.output for layer in record.layers}, checked[0])
        if model is not made.model:
            onnx_file.write_bytes(model.SerializeToString())
        save_packed(network, state_file)
        manifest = _manifest(path.name, onnx_file, model, network.graph, record, plan, parity)
        manifest["layer_sqnr_db"] = errors
        if place is not None:
            manifest["drop_in"] = _described(model, fixed)
        manifest_file.write_text(dumps(manifests.KIND, manifests.VERSION, manifest), encoding="utf-8")
    return manifest


def _check_plan(network: Network, plan: PrecisionPlan) -> None:
    """Refuse a network of other widths than the plan's, of which the manifest would tell lies."""
    found = {node.name: getattr(network.layer(node.name), "bits", FLOAT_BITS) for node in network.graph.layers}
    for name in found.keys() | plan.bits.keys():
        if found.get(name) != plan.bits.get(name):
            raise ArtifactError(
                f"layer {name}: expected {plan.bits.get(name, 'no')} bits, as the plan says, found "
                f"{found.get(name, 'none')}; export the network that was packed by this plan"
            )


def outputs(path: Path) -> tuple[Path, Path, Path]:
    """The files that `export` writes: ONNX, packed PyTorch network, manifest.

    Raises:
        OutputError: the name does not end in `.onnx`.
    """
    if path.suffix != ".onnx":
        raise OutputError(f"{path}: expected a name that ends in .onnx; its manifest takes the same name with .json")
    return path, path.with_suffix(".safetensors"), path.with_suffix(".json")


def promised(record: CalibrationRecord, plan: PrecisionPlan) -> dict[str, Any]:
    """What a manifest will say of a file that is not written yet.

    The sensitivity of its layers is as good as a digest of the record.
    """
    planned, recipe = plan.to_dict(), plan.recipe
    return {
        **{key: planned[key] for key in ("scheme", "policy", "budget", "act_bits", "drop", "layers")},
        "effort": recipe.effort,
        "seed": recipe.seed,
        "input": recipe.input,
        "network": dict(record.network),
        "preprocess": dict(record.preprocess),
        "data": {key: value for key, value in record.data.items() if key != "files"},
        "observer": record.observer,
    }


def _manifest(
    name: str,
    written: Path,
    model: onnx.ModelProto,
    graph: Graph,
    record: CalibrationRecord,
    plan: PrecisionPlan,
    parity: Parity,
) -> Manifest:
    planned, known = plan.to_dict(), promised(record, plan)
    return {
        "file": name,
        "inputs": [{"name": one.name, "shape": list(one.shape)} for one in graph.inputs],
        "outputs": [
            {"name": one.name, "shape": list(one.shape), "task": one.task, "range": [one.low, one.high]}
            for one in record.outputs
        ],
        "bytes": written.stat().st_size,
        "sha256": sha256(written),
        "opset": model.opset_import[0].version,
        "scheme": known["scheme"],
        "policy": known["policy"],
        "budget": known["budget"],
        "missed": planned["missed"],
        "act_bits": known["act_bits"],
        "portable": planned["portable"],
        "damage": planned["damage"],
        "drop": known["drop"],
        "effort": known["effort"],
        "seed": known["seed"],
        "input": known["input"],
        "network": known["network"],
        "preprocess": known["preprocess"],
        "data": known["data"],
        "observer": known["observer"],
        "macs": planned["macs"],
        "bitops": planned["bitops"],
        "bitops_with_accumulator": planned["bitops_with_accumulator"],
        "parity": asdict(parity),
        "versions": environment()["versions"],
        "layers": known["layers"],
        "in_float": _in_float(graph) | (dict(record.in_float) if plan.act_bits == 8 else {}),
        "slow_kernels": _slow_kernels(graph, record) if plan.act_bits == 8 else {},
        "layer_sqnr_db": {},
        "drop_in": None,
    }


def _translated(network: Network, plan: PrecisionPlan, place: Place | None) -> Placed:
    if place is not None:
        return placed(network, place)
    made = translate(network, plan.recipe.input == "uint8")
    return Placed(made, made.model, None)


def _described(model: onnx.ModelProto, fixed: str | None) -> dict[str, Any]:
    """The inputs and outputs of a file that takes the place of another one, and why it takes one size only."""

    def one(value: onnx.ValueInfoProto) -> dict[str, Any]:
        tensor = value.type.tensor_type
        dims = [dim.dim_param or dim.dim_value or None for dim in tensor.shape.dim]
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        return {"name": value.name, "type": kind, "dims": dims}

    graph = model.graph
    return {"inputs": [*map(one, graph.input)], "outputs": [*map(one, graph.output)], "fixed": fixed}


def _slow_kernels(graph: Graph, record: CalibrationRecord) -> dict[str, str]:
    """The layers that ONNX Runtime computes slower in integers than in float, and why."""
    depths = {layer.name: layer.shape[1] for layer in record.layers if layer.kind == "conv"}
    grouped = [node.name for node in graph.layers if node.attrs["groups"] > 1 and node.name in depths]
    return {
        name: f"groups of {depths[name]} channels, for which ONNX Runtime's integer kernel is slower than its float one"
        for name in grouped
        if depths[name] <= _SMALL_GROUPS
    }


def _in_float(graph: Graph) -> dict[str, str]:
    """Which nodes of a quantized network are computed in float, and why."""
    on_bytes = clipping(graph)
    reasons = {n.name: OPS[n.op].in_float for n in graph.nodes if n.name not in on_bytes}
    found = {name: reason for name, reason in reasons.items() if reason}
    operators = {n.name: n.attrs["operator"].partition(".")[0] for n in graph.nodes if n.op == "float"}
    found |= {name: f"aten.{called}, for which runtimes have no integer kernel" for name, called in operators.items()}
    behind = "computes an output from those of the last layers"
    ends = [n for n in graph.nodes if n.name in float_outputs(graph) and n.op != "quantize"]
    return found | {n.name: behind for n in ends if not OPS[n.op].same_scale}
