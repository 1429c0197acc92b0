"""From images to exported files: what `edgeq calibrate`, `plan` and `export` do, as plain functions.

The stages are taken from the package, which imports them on first use: planning with a record imports no torch.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import astuple, replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import edgeq
from edgeq.artifacts.files import check_output
from edgeq.artifacts.record import CalibrationRecord
from edgeq.errors import DataError, UnsupportedError
from edgeq.planning.budget import Budget
from edgeq.planning.effort import EFFORTS
from edgeq.planning.plan import PrecisionPlan, check_options, missed_text
from edgeq.system.distributed import ALONE, Workers
from edgeq.system.environment import OVERFLOW, environment, exact_everywhere
from edgeq.system.progress import SILENT, Counter, Listener

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeq.calibration.ranges import RangeChoice
    from edgeq.data.images import ImageSet
    from edgeq.data.preprocess import Preprocess
    from edgeq.ir.network import Network

MODEL: Final = "mobilenet_v2"
EMBEDDED: Final = "embedded"
RECORDS: Final = Path("calib")
DEFAULT_RECORD: Final = RECORDS / f"{MODEL}.calib"
EXPORTS: Final = Path("exports")
EMBEDDED_SAMPLES: Final = 516  # 12 of each of the 43 classes
FOLDER_SAMPLES: Final = 1024
BATCH: Final = 8  # the fastest on CPUs
PARITY_BATCHES: Final = 4


def calibrate(
    *,
    model: str = MODEL,
    weights: str = EMBEDDED,
    data: str | None = None,
    samples: int | None = None,
    observer: RangeChoice = "damage",
    device: str = "cpu",
    seed: int = 0,
    keep_float: bool = False,
    preprocess: Mapping[str, Any] | None = None,
    weights_key: str | None = None,
    transform_input: bool | None = None,
    output: Path | None = None,
    force: bool = False,
    listener: Listener = SILENT,
    workers: Workers = ALONE,
) -> tuple[Path, CalibrationRecord]:
    """Load a network, measure it on images, and write the record.

    Args:
        model: see `edgeq.frontends.torchvision.load`, as are `weights`, `keep_float`, `weights_key` and
            `transform_input`.
        weights: `embedded`, `imagenet` or a file.
        data: `embedded`, or a folder of images; None takes the embedded ones if the weights are embedded too.
        samples: number of images; None takes `EMBEDDED_SAMPLES` or, of a folder, `FOLDER_SAMPLES`.
        observer: see `edgeq.calibration.ranges.RangeChoice`.
        device: `cpu` or `cuda`.
        seed: of the choice of images and positions.
        keep_float: leave layers that cannot be quantized in float.
        preprocess: parts of an `edgeq.Preprocess`, by name; the others are what belongs to the weights, or is usual.
        weights_key: which weights of a file to take.
        transform_input: whether a GoogLeNet or Inception v3 normalizes images once more.
        output: None is `calib/MODEL.calib`.
        force: replace a file that edgeq did not write.
        listener: is told about progress, about too few images, unreadable ones and files that are none, what of a file
            of weights was taken, and which parts of the preprocessing nobody has said.
        workers: the processes that share the images; the first one writes.

    Returns:
        The path of the record, and the record.

    Raises:
        EdgeqError: bad input; nothing is written.
    """
    _check_device(device)
    images = _calibration_images(choose_data(data, weights), samples, seed, listener)
    # As an absolute path, so that the record can be used from another folder.
    where = weights if weights in (EMBEDDED, "imagenet") else str(Path(weights).absolute())
    presets, preprocess = import_module("edgeq.frontends.presets"), preprocess or {}
    usual, known = presets.usual(model), presets.known(model, where)
    source = edgeq.load(
        model, where, keep_float, replace(known or usual, **preprocess),
        weights_key=weights_key, transform_input=transform_input,
    )  # fmt: skip
    for note in source.notes:
        listener.notice(note)
    if not known:
        _report_assumed(where, model, {n: text for n, text in usual.texts().items() if n not in preprocess}, listener)
    output = output or RECORDS / f"{model}.calib"
    check_output(output, force)
    sources = {"network": source.to_dict(), "preprocess": source.preprocess.to_dict()}
    if workers.first:
        sources["data"] = images.to_dict()
    count = Counter("calibrating", len(images), listener)
    batches = _batches(images, source.preprocess, workers)
    record = edgeq.calibrate(
        source.network, batches, observer, device, seed, count.add, sources,
        measuring=lambda done, total: listener.progress("measuring damage", done, total), workers=workers,
    )  # fmt: skip
    images.put_together(workers)
    report_unreadable(images, listener)
    if workers.first:
        record.save(output)
    return output, record


def _report_assumed(weights: str, model: str, parts: Mapping[str, str], listener: Listener) -> None:
    """Say which parts of a preprocessing are assumed, as the options that change them."""
    if parts:
        options = " ".join(f"--{name.replace('_', '-')} {text}" for name, text in parts.items())
        listener.notice(
            f"{weights} does not say how its images were prepared; assumed as for torchvision's weights of {model}: "
            f"{options}"
        )


def load_record(path: Path | None, listener: Listener = SILENT) -> CalibrationRecord:
    """Load a record; None is the one that `calibrate` writes by default, made first if there is none.

    Raises:
        ArtifactError: the file is no record of this version.
    """
    if path is None and not DEFAULT_RECORD.exists():
        listener.notice(f"no {DEFAULT_RECORD} yet, so calibrating first, as `edgeq calibrate` does")
        return calibrate(listener=listener)[1]
    return CalibrationRecord.load(path or DEFAULT_RECORD)


def plan(
    scheme: str,
    record: Path | None = None,
    act_bits: int = 8,
    *,
    budget: str | None = None,
    policy: str = "mix",
    portable: bool = False,
    listener: Listener = SILENT,
) -> tuple[CalibrationRecord, PrecisionPlan]:
    """Choose the width of every layer of a recorded network; see `load_record` and `edgeq.planning.plan.plan`.

    Raises:
        UnsupportedError: unknown scheme, policy, budget or activation width, or ones that do not go together.
        ArtifactError: the file is no record of this version.
    """
    check_options(scheme, act_bits, budget, policy, portable)
    loaded = load_record(record, listener)
    return loaded, edgeq.plan(loaded, scheme, act_bits, budget, policy, portable)


def draw(record: CalibrationRecord, widths: PrecisionPlan, path: Path, force: bool = False) -> None:
    """Draw the damage of every layer at every width; `force` replaces a file that edgeq did not write.

    Raises:
        OutputError: the figure cannot be written.
    """
    check_output(path, force)
    import_module("edgeq.reports.figures").plot_sensitivity(widths, _name(record), path)


def export(
    scheme: str,
    record: Path | None = None,
    act_bits: int = 8,
    *,
    budget: str | None = None,
    policy: str = "mix",
    portable: bool = False,
    effort: str = "fast",
    seed: int = 0,
    pixels: bool = False,
    output: Path | None = None,
    force: bool = False,
    listener: Listener = SILENT,
) -> tuple[Path, dict[str, Any]]:
    """Plan, quantize, pack and export a recorded network, and compare the file with PyTorch.

    Args:
        scheme: see `edgeq.planning.plan.plan`, as are `act_bits`, `budget`, `policy` and `portable`.
        record: see `load_record`.
        act_bits: 8 or 32.
        budget: what the file may cost.
        policy: of the scheme `adaptive`.
        portable: keep 8-bit weights within -63..63.
        effort: how much work to put in, one of `edgeq.planning.effort.EFFORTS`.
        seed: of the choice of sampled positions, images and crops.
        pixels: whether the file takes uint8 images as cameras have them, or float ones; see `edgeq.commands.pixels`.
        output: None is `exports/MODEL-SCHEME.onnx`, with the policy `position`, the budget, `a32` for float
            activations, `portable` and `uint8` for pixels appended. Where the budget is missed, the stem of the name
            gets the ending `-missed`.
        force: replace files that edgeq did not write.
        listener: is told about progress.

    A killed export leaves a file named like `output`, but ending in `.unfinished`; the same export goes on from it and
    ends with the same bytes. It also removes what the killed one was just writing, see `edgeq.artifacts.files`.

    Returns:
        The path of the ONNX file and its manifest, whose `missed` is a text if no widths met the budget.

    Raises:
        EdgeqError: bad input, or a file that does not compute what PyTorch does; nothing is written.
    """
    _check_effort(effort)
    loaded, widths = plan(scheme, record, act_bits, budget=budget, policy=policy, portable=portable, listener=listener)
    output = output or EXPORTS / _file_name(loaded, widths, pixels)
    return _export(loaded, widths, effort, seed, pixels, output, force, listener)


def _name(record: CalibrationRecord) -> str:
    return str(record.network.get("model", "network"))


def _file_name(record: CalibrationRecord, widths: PrecisionPlan, pixels: bool) -> str:
    parts = [_name(record), widths.scheme]
    if widths.policy == "position":
        parts.append(widths.policy)
    if widths.budget:
        parts.append(widths.budget.replace("=", "-"))
    if widths.act_bits == 32 and widths.scheme != "fp32":
        parts.append("a32")
    if widths.portable:
        parts.append("portable")
    if pixels:
        parts.append("uint8")
    return "-".join(parts) + ".onnx"


def _export(
    record: CalibrationRecord,
    widths: PrecisionPlan,
    effort: str,
    seed: int,
    pixels: bool,
    output: Path,
    force: bool,
    listener: Listener,
) -> tuple[Path, dict[str, Any]]:
    source = edgeq.Source.from_dict(record.network)
    images = edgeq.ImageSet.from_dict(record.data)
    images.verify()
    outputs = import_module("edgeq.exporters.export").outputs(_named(output, widths))
    unfinished = output.with_suffix(".unfinished")
    for path in (*outputs, unfinished):
        check_output(path, force)
    network, preprocess = source.network, source.preprocess
    if pixels:
        network, record = import_module("edgeq.commands.pixels").reading_pixels(network, record)
        preprocess = preprocess.to_pixels()
    work = repr((record.to_json(), widths.to_dict(), effort, seed, environment()["versions"]))
    checkpoint = import_module("edgeq.artifacts.checkpoint").Checkpoint(unfinished, work)
    if widths.scheme != "fp32":
        views, rows, steps = astuple(EFFORTS[effort])
        count = Counter(f"quantizing to {widths.scheme}", len(widths.layers), listener)
        layers = edgeq.quantize(
            network, record, widths, _batches(images, preprocess), seed,
            lambda name: count.add(1), checkpoint, views, rows,
        )  # fmt: skip
        layers = edgeq.tune(
            network, record, layers, _batches(images, preprocess), steps, widths.act_bits, seed,
            lambda done: listener.progress(f"tuning {widths.scheme}", done, steps), checkpoint,
        )  # fmt: skip
        network = edgeq.pack(network, layers, record, widths)
        widths = _weighed(network, widths, pixels)
    path = _named(output, widths)
    with closing(_batches(images, preprocess)) as batches:
        few = islice(batches, PARITY_BATCHES)
        manifest = edgeq.export(network, path, record, widths, few, force, effort=effort, seed=seed, pixels=pixels)
    checkpoint.remove()
    if not exact_everywhere(manifest):
        share = manifest["parity"]["overflowing"]
        here = f", as this one, where {share:.0%} of the logits of {path.name} are off" if share else ""
        listener.notice(f"warning: {OVERFLOW}{here}; with --portable the file is right there, too")
    return path, manifest


def _named(output: Path, widths: PrecisionPlan) -> Path:
    return output.with_stem(f"{output.stem}-missed") if widths.missed else output


def _weighed(network: Network, widths: PrecisionPlan, pixels: bool) -> PrecisionPlan:
    """Hold the real size against the budget: a bias beyond float16 stays in float32, which no plan can foresee."""
    if not widths.budget or (budget := Budget.parse(widths.budget)).kind != "size":
        return widths
    size = import_module("edgeq.exporters.onnx.model").to_onnx(network, pixels).ByteSize()
    return replace(widths, missed=widths.missed or missed_text(budget, size)) if size > budget.limit else widths


def choose_data(data: str | None, weights: str) -> str:
    """Return `data`, or where it is None `embedded` for a network with embedded weights.

    Raises:
        DataError: the images are not named, and those that come with edgeq are not what the network was trained on.
    """
    if data is None and weights != EMBEDDED:
        raise DataError(f"{weights} weights need images of their own, found none; name a folder with --data DIR")
    return data or EMBEDDED


def report_notices(images: ImageSet, listener: Listener) -> None:
    """Say what of a folder was left out, and how its class folders were read."""
    for notice in images.notices:
        listener.notice(notice)


def report_unreadable(images: ImageSet, listener: Listener) -> None:
    """Name and count the images that the latest pass has skipped."""
    for path, reason in images.unreadable:
        listener.notice(f"warning: {path}: skipped, {reason}")
    if images.unreadable:
        listener.notice(f"warning: {len(images.unreadable)} of {len(images)} images could not be read")


def _calibration_images(data: str, samples: int | None, seed: int, listener: Listener) -> ImageSet:
    if data == EMBEDDED:
        return edgeq.ImageSet.embedded("calib", EMBEDDED_SAMPLES if samples is None else samples)
    wanted = FOLDER_SAMPLES if samples is None else samples
    images = edgeq.ImageSet.folder(Path(data), wanted, seed)
    report_notices(images, listener)
    if len(images) < wanted:
        listener.notice(f"{data}: expected {wanted} images, found {len(images)}; all of them are used")
    return images


def _check_device(device: str) -> None:
    if device == "cuda" and not import_module("torch").cuda.is_available():
        raise UnsupportedError("device cuda: expected a CUDA GPU that torch can use, found none; use --device cpu")


def _check_effort(effort: str) -> None:
    if effort not in EFFORTS:
        raise UnsupportedError(f"unknown effort {effort!r}; expected one of {', '.join(EFFORTS)}")


def _batches(
    images: ImageSet, preprocess: Preprocess, workers: Workers = ALONE
) -> Generator[NDArray[np.float32], None, None]:
    return (batch.images for batch in images.batches(preprocess, BATCH, workers))
