"""What exported files are worth: what `edgeq evaluate`, `bench` and `plot` do, as plain functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import edgeq
from edgeq.artifacts.files import check_output, kind_of, read_json, write_json
from edgeq.artifacts.manifest import MANIFEST, MANIFEST_VERSION, is_described, read_manifest
from edgeq.artifacts.record import CalibrationRecord
from edgeq.artifacts.schema import COUNT, NUMBER, PATH, POSITIVE, TEXT, Form
from edgeq.commands.workflow import (
    BATCH,
    DEFAULT_RECORD,
    EMBEDDED,
    EXPORTS,
    RECORDS,
    choose_data,
    export,
    load_record,
    report_notices,
    report_unreadable,
)
from edgeq.data.label_check import doubts
from edgeq.errors import ArtifactError, UnsupportedError
from edgeq.evaluation.latency import FORM, KIND, VERSION, BenchModel, from_path
from edgeq.runtimes.onnx_files import model_files, size
from edgeq.system.distributed import ALONE, Workers
from edgeq.system.environment import OVERFLOW, environment, exact_everywhere, int8_overflows
from edgeq.system.progress import SILENT, Listener

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeq.data.class_folders import ClassOrder
    from edgeq.data.images import ImageSet
    from edgeq.evaluation.accuracy import EvaluationReport
    from edgeq.frontends.torchvision import Source
    from edgeq.ir.network import Network
    from edgeq.runtimes.jobs import Runtime

EVALUATION_VERSION: Final = 1
EVALUATION: Final[Form] = {
    "data": PATH,
    "images": COUNT,
    "reference": {"top1": (NUMBER, None)},
    "models": [{"name": PATH, "top1": (NUMBER, None), "scheme": (TEXT, None), "bytes": POSITIVE}],
}
"""What those who read an evaluation rely on."""

TEST_SAMPLES: Final = 1290  # of the embedded images, 30 of each of the 43 classes


def evaluate(
    files: Sequence[Path] = (),
    data: str | None = None,
    output: Path = EXPORTS / "evaluation.json",
    force: bool = False,
    listener: Listener = SILENT,
    workers: Workers = ALONE,
    record: Path | None = None,
    order: ClassOrder | None = None,
) -> dict[str, Any]:
    """Score ONNX files, and the float network they were made of as the reference, and write the report.

    Args:
        files: exported files with their manifests beside them, all of one network, and ONNX files of other tools
            without; empty means all in `exports/`.
        data: `embedded` (its test split), or a folder of class folders; None as in `calibrate`.
        output: where the report goes.
        force: replace a file that edgeq did not write.
        listener: is told about progress, how class folders are read, unreadable images and doubtful labels.
        workers: the processes that share the images; the first one writes.
        record: of the float network and its preprocessing; None takes them from the first manifest, and without one
            the record that `edgeq.commands.workflow.load_record` does.
        order: what numbers class folders, see `edgeq.ImageSet.labelled`.

    Returns:
        The report: `EvaluationReport.to_dict()`, each model with its `bytes` and its `scheme` (None without a
        manifest), and the environment.

    Raises:
        EdgeqError: bad input; nothing is written.
    """
    files = _exported(files)
    manifests = [_manifest(path) for path in files]
    source = edgeq.Source.from_dict(_network(files, manifests, record, listener))
    images = labelled_images(source, data, order)
    check_output(output, force)
    opened = [edgeq.onnx_runner(path, preprocess=source.preprocess) for path in files]
    report_notices(images, listener)
    report = edgeq.evaluate(
        dict(zip(_names(files), opened, strict=True)),
        float_runner(source.network),
        images,
        source.preprocess,
        BATCH,
        progress=lambda done, total: listener.progress("evaluating", done, total),
        workers=workers,
    )
    report_unreadable(images, listener)
    body = {**report.to_dict(), "network": source.to_dict(), "environment": environment()}
    for row, path, manifest in zip(body["models"], files, manifests, strict=True):
        row |= {"scheme": manifest["scheme"] if manifest else None, "bytes": size(model_files(path))}
    if workers.first:
        write_json(output, "evaluation", EVALUATION_VERSION, body)
    report_doubts(images, report, source, listener)
    wrong = [path.name for path, manifest in zip(files, manifests, strict=True) if not _exact_here(manifest)]
    if wrong:
        listener.notice(f"warning: {OVERFLOW}, as this one; better on others, see --portable: {', '.join(wrong)}")
    return body


def _exact_here(manifest: Mapping[str, Any] | None) -> bool:
    """Whether int8 kernels of this CPU compute an exported file without overflow; of others nobody knows."""
    return manifest is None or exact_everywhere(manifest) or not int8_overflows()


def _manifest(path: Path) -> dict[str, Any] | None:
    """The manifest beside an exported file; None of another tool's file, which has none."""
    return None if path.is_file() and not is_described(path) else read_manifest(path)


def _network(
    files: Sequence[Path], manifests: Sequence[Mapping[str, Any] | None], record: Path | None, listener: Listener
) -> Mapping[str, Any]:
    """The network that all files are compared with; the drop in accuracy has a meaning only for those made of it.

    Raises:
        ArtifactError: an exported file is of another network.
    """
    exported: list[tuple[Path, Mapping[str, Any]]] = [
        (path, manifest["network"]) for path, manifest in zip(files, manifests, strict=True) if manifest
    ]
    if record is None and exported:
        first, network = exported[0]
    elif record is None and not DEFAULT_RECORD.exists():
        raise ArtifactError(
            f"{files[0]}: expected a manifest beside it or the record of the float network to compare it with, found "
            "neither; name the record with --record FILE"
        )
    else:
        loaded = load_record(record, listener)
        first, network = record or files[0], loaded.network
    for path, found in exported:
        for key, differs in (("sha256", "weights"), ("preprocess", "preprocessing")):
            if found.get(key) != network.get(key):
                raise ArtifactError(
                    f"{path}: expected a model of the same network as {first}, found one of other {differs}; "
                    "evaluate them one after the other"
                )
    return network


def labelled_images(source: Source, data: str | None, order: ClassOrder | None = None) -> ImageSet:
    """The images to score a network on.

    Args:
        source: has the weights and the number of classes.
        data: `embedded` (its test split), or a folder of class folders; None as in `edgeq.commands.workflow.calibrate`.
        order: what numbers class folders, see `edgeq.ImageSet.labelled`.

    Raises:
        DataError: the images are not named, or the folder cannot be used.
        UnsupportedError: an order of class folders for embedded images.
    """
    where = choose_data(data, source.weights)
    if where != EMBEDDED:
        return edgeq.ImageSet.labelled(Path(where), source.classes, order)
    if order is not None:
        raise UnsupportedError(f"class order {order}: expected a folder of class folders, found {EMBEDDED} images")
    return edgeq.ImageSet.embedded("test", TEST_SAMPLES)


def report_doubts(images: ImageSet, report: EvaluationReport, source: Source, listener: Listener) -> None:
    """Say what makes the accuracy of the float network on labelled images doubtful."""
    if report.labels is not None:
        for doubt in doubts(images, report.labels, report.reference.predictions, source.classes):
            listener.notice(f"warning: {doubt}")


def bench(
    files: Sequence[Path] = (),
    *,
    device: str = "cpu",
    runtime: Runtime = "onnxruntime",
    threads: int = 1,
    batch: int = 1,
    runs: int = 50,
    output: Path = EXPORTS / "bench.json",
    force: bool = False,
    listener: Listener = SILENT,
) -> dict[str, Any]:
    """Measure latency and memory of models next to the float baseline, and write the report.

    Args:
        files: ONNX files; empty means all in `exports/`.
        device: `cpu`.
        runtime: see `edgeq.evaluation.latency.bench`, as are `threads`, `batch` and `runs`.
        threads: of the runtime.
        batch: images in one run.
        runs: timed runs of each model.
        output: where the report goes.
        force: replace a file that edgeq did not write.
        listener: is told about progress, about a missing baseline and about unstable results.

    Raises:
        EdgeqError: bad input; nothing is written.
    """
    if device != "cpu":
        raise UnsupportedError(
            f"device {device}: expected cpu, the only device that edgeq measures on; use --device cpu"
        )
    models = [from_path(path) for path in _exported(files)]
    check_output(output, force)
    models += _baseline(models, listener)
    report = edgeq.bench(
        models, runtime, threads=threads, batch=batch, runs=runs,
        progress=lambda done, total: listener.progress("measuring", done, total),
    )  # fmt: skip
    for warning in report.warnings:
        listener.notice(f"warning: {warning}")
    body = report.to_dict()
    write_json(output, KIND, VERSION, body)
    return body


def _baseline(models: Sequence[BenchModel], listener: Listener) -> list[BenchModel]:
    """The float network that the first model with a manifest was made of, exported if it is not there yet."""
    described = [model.path for model in models if model.scheme is not None]
    if any(model.scheme == "fp32" for model in models) or not described:
        return []
    network = read_manifest(described[0])["network"]
    path = EXPORTS / f"{network.get('model')}-fp32.onnx"
    if path.exists() and path.with_suffix(".json").exists() and read_manifest(path)["network"] == network:
        return [from_path(path)]
    record = RECORDS / f"{network.get('model')}.calib"
    if not record.exists() or CalibrationRecord.load(record).network != network:
        listener.notice(
            f"warning: no fp32 baseline, so no ratios to it: {record} is not of this network; "
            f"make one with `edgeq export --scheme fp32 --record FILE --output {path}`"
        )
        return []
    listener.notice(f"no fp32 baseline yet, so exporting {path} first, as `edgeq export --scheme fp32` does")
    export("fp32", record, output=path, listener=listener)
    return [from_path(path)]


def plot(
    exports: Path = EXPORTS, output: Path | None = None, force: bool = False, listener: Listener = SILENT
) -> list[Path]:
    """Draw what is stored in a folder of exports.

    Args:
        exports: holds manifests and, if they were made, `bench.json` and `evaluation.json`.
        output: folder of the figures; None is `exports`.
        force: replace files that edgeq did not write.
        listener: is told which figures are left out, and which command makes what they need.

    Returns:
        The PNG files.

    Raises:
        ArtifactError: no manifest, a damaged one, or manifests of several networks.
        OutputError: a figure cannot be written.
    """
    paths = [path for path in sorted(exports.glob("*.json")) if kind_of(path) == "manifest"]
    if not paths:
        raise ArtifactError(f"{exports}: expected manifests of exported models, found none; run `edgeq export` first")
    manifests = [read_json(path, "manifest", MANIFEST_VERSION, MANIFEST, "export again") for path in paths]
    drawings = _drawings(manifests, exports, listener)
    figures = [(output or exports) / f"{name}.png" for name in drawings]
    for path in figures:
        check_output(path, force)
    for path, draw in zip(figures, drawings.values(), strict=True):
        draw(path)
    return figures


def _drawings(
    manifests: Sequence[Mapping[str, Any]], exports: Path, listener: Listener
) -> dict[str, Callable[[Path], None]]:
    """The figures that can be drawn, by name."""
    plots = import_module("edgeq.reports.figures")
    drawings: dict[str, Callable[[Path], None]] = {"bitops": partial(plots.plot_bitops, manifests)}
    if all(manifest.get("scheme") == "fp32" for manifest in manifests):
        listener.notice("bits_by_position.png left out: only fp32 here; `edgeq export --scheme adaptive` makes more")
    else:
        drawings["bits_by_position"] = partial(plots.plot_bits_by_position, manifests)
    timed, scored = exports / "bench.json", exports / "evaluation.json"
    if timed.exists():
        drawings["size_latency"] = partial(plots.plot_size_latency, manifests, read_json(timed, KIND, VERSION, FORM))
    else:
        listener.notice(f"size_latency.png left out: no {timed}; `edgeq bench --device cpu` makes it")
    if scored.exists():
        report = read_json(scored, "evaluation", EVALUATION_VERSION, EVALUATION)
        drawings["accuracy_size"] = partial(plots.plot_accuracy_size, manifests, report)
    else:
        listener.notice(f"accuracy_size.png left out: no {scored}; `edgeq evaluate` makes it")
    return drawings


def _exported(files: Sequence[Path]) -> list[Path]:
    """The files, each once; all in `exports/` if none is named."""
    found = list(dict.fromkeys(files)) or sorted(EXPORTS.glob("*.onnx"))
    if not found:
        raise ArtifactError(f"{EXPORTS}: expected .onnx files, found none; run `edgeq export --scheme adaptive` first")
    return found


def _names(files: Sequence[Path]) -> list[str]:
    """The stems, or the paths where two stems are equal."""
    stems = [path.stem for path in files]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in files]


def float_runner(network: Network) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A float network as a `Runner` of `edgeq.evaluate`."""
    torch, threads = import_module("torch"), import_module("edgeq.system.threads")
    as_tensor = import_module("edgeq.ir.network").as_tensor

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), threads.torch_threads(threads.stage_threads()):
            halves = torch.split(as_tensor(images), BATCH // 2)
            logits: NDArray[np.float32] = torch.cat(list(threads.side_by_side(network, halves, at_once=2))).numpy()
        return logits

    return run
