"""`edgeq export`: quantize a calibrated network and write it as an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import numpy as np

from edgeq.artifacts.checkpoint import Checkpoint
from edgeq.artifacts.files import check_output
from edgeq.artifacts.manifest import Manifest, exact_everywhere
from edgeq.artifacts.record import CalibrationRecord
from edgeq.commands import defaults, options
from edgeq.commands.console import listening, print_json
from edgeq.commands.image_sets import batches
from edgeq.commands.records import load_record, model_name
from edgeq.data.images import ImageSet
from edgeq.data.preprocess import Preprocess
from edgeq.errors import BudgetError, OutputError, UnsupportedError
from edgeq.exporters import export as exporting
from edgeq.exporters.c.export import CForm, export_c, program_of
from edgeq.exporters.c.folder import ABOUT, check_folder, read_about
from edgeq.exporters.onnx.model import to_onnx
from edgeq.exporters.onnx.place import place_of
from edgeq.frontends.sources import Source
from edgeq.ir.graph import INPUT
from edgeq.ir.network import Network
from edgeq.ir.passes.fold_normalization import fold_normalization
from edgeq.native.program import THREADS
from edgeq.numerics.activations import ActivationRange
from edgeq.numerics.weights import BitWidth, QuantLayer, QuantTensor, packed_shape
from edgeq.packed.pack import pack
from edgeq.planning.budget import Budget
from edgeq.planning.plan import PrecisionPlan, missed_text, plan
from edgeq.planning.recipe import Recipe
from edgeq.quantization.quantize import quantize
from edgeq.quantization.tune import tune
from edgeq.reports import tables
from edgeq.system.environment import OVERFLOW, environment
from edgeq.system.progress import SILENT, Progress

PARITY_BATCHES: Final = 4


@dataclass(frozen=True)
class Forms:
    """What an export writes.

    Attributes:
        onnx: an ONNX file, its manifest and the packed PyTorch network.
        c: a folder of C, and how; None for none.
    """

    onnx: bool = True
    c: CForm | None = None


def export(
    recipe: Recipe,
    record: Path | None = None,
    output: Path | None = None,
    force: bool = False,
    progress: Progress = SILENT,
    forms: Forms = Forms(),
) -> tuple[Path, Manifest]:
    """Plan, quantize, pack and export a recorded network, and compare the file with PyTorch.

    Args:
        recipe: how to quantize and export.
        record: path of the calibration record, see `load_record`.
        output: path of the ONNX file, or of the folder of C where that is all that is written; None is
            `exports/MODEL-NAME.onnx`, with the name of the recipe. If the budget is missed, `-missed` is appended to
            the stem.
        force: replace files that edgeq did not write.
        progress: receives progress, and a notice if some CPUs overflow on the file.
        forms: what is written. The folder of C is named as the ONNX file is, without its ending.

    A killed export leaves a checkpoint, named like `output` but ending in `.unfinished`. The same export resumes from
    it, ends with the same bytes, and removes temporary files of the killed one, see `edgeq.artifacts.files`.

    Returns:
        The path of the ONNX file and its manifest, whose `missed` is a text if no widths met the budget.

    Raises:
        EdgeqError: bad input, or a file that does not compute what PyTorch does; nothing is written.
    """
    if forms.c and (recipe.scheme == "fp32" or recipe.act_bits != 8):
        raise UnsupportedError("--format c: expected weights and activations in integers, found float ones")
    loaded = load_record(record, progress)
    widths = plan(loaded, recipe)
    output = output or defaults.EXPORTS / f"{model_name(loaded)}-{recipe.name}.onnx"
    source, images = Source.from_dict(loaded.network), ImageSet.from_dict(loaded.data)
    images.verify()
    if forms.c and not forms.onnx and output.suffix != ".onnx":
        if not output.name:
            raise OutputError(f"{output}: expected the name of a folder to make")
        output = output.with_name(f"{output.name}.onnx")
    written = exporting.outputs(_named(output, widths))
    unfinished = output.with_suffix(".unfinished")
    for path in (*(written if forms.onnx else ()), unfinished):
        check_output(path, force)
    pixels = recipe.input == "uint8"
    network, preprocess = source.network, source.preprocess
    if pixels:
        if source.ends is not None or preprocess is None:
            raise UnsupportedError(
                f"{source.model}: its export takes what it takes itself, found --input uint8; leave that out"
            )
        network, loaded = reading_pixels(network, loaded)
        preprocess = preprocess.to_pixels()
    if forms.c:
        check_folder(_named(output, widths).with_suffix(""), force)
        program_of(pack(network, _unrounded(network, widths), loaded, widths), forms.c, pixels)
    # All that the result depends on.
    work = repr((loaded.to_json(), widths.to_dict(), recipe.effort, recipe.seed, environment()["versions"]))
    checkpoint = Checkpoint(unfinished, work)
    layers: dict[str, QuantLayer] = {}
    if recipe.scheme != "fp32":
        passed = batches(images, network.graph, preprocess)
        layers = quantize(network, loaded, widths, passed, progress=progress, checkpoint=checkpoint)
        passed = batches(images, network.graph, preprocess)
        layers = tune(network, loaded, widths, layers, passed, progress=progress, checkpoint=checkpoint)
        network = pack(network, layers, loaded, widths)
        widths = _weighed(network, widths)
    path = _named(output, widths)
    with closing(batches(images, network.graph, preprocess)) as passed:
        parity = islice(passed, PARITY_BATCHES)
        place = place_of(source, lambda other: pack(other, layers, loaded, widths) if layers else other)
        with nullcontext(path.parent) if forms.onnx else TemporaryDirectory() as folder:
            manifest = exporting.export(network, Path(folder) / path.name, loaded, widths, parity, force, place=place)
    if forms.c:
        with closing(batches(images, network.graph, preprocess)) as passed:
            export_c(network, path.with_suffix(""), islice(passed, PARITY_BATCHES), forms.c, pixels=pixels, force=force)
    checkpoint.remove()
    if forms.onnx:
        _notice(progress, path.name, source.model, manifest)
    return path, manifest


def _notice(progress: Progress, file: str, model: str, manifest: Manifest) -> None:
    """Tell what a user of the file has to know."""
    if (taken := manifest["drop_in"]) and taken["fixed"]:
        progress.notice(f"{file} takes images of one size, not of any as {model} does: {taken['fixed']}")
    if not exact_everywhere(manifest):
        overflowing = {name: found["overflowing"] for name, found in manifest["parity"]["outputs"].items()}
        worst = max(overflowing, key=overflowing.__getitem__)
        here = f", as this one, where {overflowing[worst]:.0%} of the {worst} of {file} are off"
        here *= overflowing[worst] > 0
        progress.notice(f"warning: {OVERFLOW}{here}; with --reduce-range the file is right there, too")


def reading_pixels(network: Network, record: CalibrationRecord) -> tuple[Network, CalibrationRecord]:
    """Fold the normalization of a record's preprocessing into the float network that it was calibrated with.

    Returns:
        The network of pixels (`edgeq.ir.passes.fold_normalization`), and its record.

    Raises:
        UnsupportedError: the network reads the image in a way that the normalization cannot be folded into, or the
            record is of arrays, whose preprocessing is unknown.
    """
    if not record.preprocess:
        raise UnsupportedError(
            "expected a record of images, found one of arrays, whose normalization is unknown; leave out --input uint8"
        )
    preprocess = Preprocess.from_dict(record.preprocess)
    if preprocess.layout == "channels_last":
        raise UnsupportedError(
            "expected a network that takes its channels first, found one that takes them last; leave out --input uint8"
        )
    network = fold_normalization(network, preprocess.mean, preprocess.std, preprocess.order)
    images = [INPUT, *(node.name for node in network.graph.nodes if node.op == "border")]
    ranges = {**record.activations, **dict.fromkeys(images, ActivationRange.covering(0.0, 1.0))}
    return network, replace(record, preprocess=preprocess.to_pixels().to_dict(), activations=ranges)


def _unrounded(network: Network, widths: PrecisionPlan) -> dict[str, QuantLayer]:
    """Layers of the right sizes, to see what can be made of a network before its weights are rounded."""
    found = {}
    for node in network.graph.layers:
        shape, width = tuple(network.layer(node.name).state_dict()["weight"].shape), BitWidth(widths.bits[node.name])
        zeros = np.zeros(packed_shape(shape, width), np.uint8)
        ones = np.ones(shape[0], np.float32)
        found[node.name] = QuantLayer(QuantTensor(zeros, shape, ones, width), np.zeros(shape[0], np.float32))
    return found


def _named(output: Path, widths: PrecisionPlan) -> Path:
    return output.with_stem(f"{output.stem}-missed") if widths.missed else output


def _weighed(network: Network, widths: PrecisionPlan) -> PrecisionPlan:
    """Check the real size against the budget: it is larger than planned if a bias does not fit float16."""
    recipe = widths.recipe
    if not recipe.budget or (budget := Budget.parse(recipe.budget)).kind != "size":
        return widths
    size = to_onnx(network, recipe.input == "uint8").ByteSize()
    return (
        replace(widths, missed=widths.missed or missed_text(budget, size, widths.tasks))
        if size > budget.limit
        else widths
    )


@click.command("export")
@options.record
@options.recipe("scheme", "budget", "policy", "act_bits", "reduce_range", "effort", "seed", "input")
@options.threads
@click.option(
    "--output",
    type=options.PATH,
    metavar="FILE",
    help="The file, or folder.  [default: exports/MODEL-SCHEME[-BUDGET].onnx]",
)
@click.option(
    "--format", "formats", type=click.Choice(["onnx", "c"]), multiple=True, default=["onnx"], show_default=True,
    help="What is written: an ONNX file, a folder of C, or, given twice, both.",
)  # fmt: skip
@click.option(
    "--weights-as", type=click.Choice(["array", "file"]), default="array", show_default=True,
    help="Where C has its weights: in an array, for flash, or in a file to map into memory.",
)  # fmt: skip
@click.option(
    "--arith", type=click.Choice(["float", "integer"]), default="float", show_default=True,
    help="How C scales sums: as ONNX Runtime does, or in integers, for processors without floats.",
)  # fmt: skip
@click.option("--ram", metavar="300kB", help="Memory that C may take while it runs; the export fails if it takes more.")
@click.option(
    "--run-threads", type=click.IntRange(1, THREADS), default=1, show_default=True, metavar="N",
    help="How many threads may run C together, each with memory of its own.",
)  # fmt: skip
@options.force
@options.json
def command(recipe: Recipe, record: Path | None, output: Path | None, force: bool, as_json: bool, **asked: Any) -> None:
    """Quantize a calibrated network and write an ONNX file, checked against PyTorch.

    Its manifest (.json) and the packed PyTorch network (.safetensors) are written beside it. If no widths meet the
    budget, the closest file is written under a name that ends in -missed. A folder of C has the name of the file,
    without its ending.

    \b
    Example:
      edgeq export --scheme adaptive --budget size=1.3MB
      edgeq export --scheme 4bit --format c
    """
    forms = _forms(**asked)
    with listening() as progress:
        path, manifest = export(recipe, record, output, force, progress, forms)
    folder = path.with_suffix("")
    if as_json:
        print_json((path.with_suffix(".json") if forms.onnx else folder / ABOUT).read_text(encoding="utf-8"))
    else:
        if forms.onnx:
            click.echo(tables.export_text(path, manifest))
        if forms.c:
            click.echo(tables.c_text(folder, read_about(folder)))
    if manifest["missed"]:
        raise BudgetError(f"{manifest['missed']}; {path if forms.onnx else folder} comes closest")


def _forms(formats: Sequence[str], weights_as: str, arith: str, ram: str | None, run_threads: int) -> Forms:
    asked = CForm(weights_as == "file", arith == "integer", None if ram is None else _bytes(ram), run_threads)
    if "c" not in formats and asked != CForm():
        raise UnsupportedError(
            "--weights-as, --arith, --ram and --run-threads: expected --format c, found none; add it, or leave them out"
        )
    return Forms("onnx" in formats, asked if "c" in formats else None)


def _bytes(ram: str) -> int:
    try:
        return int(Budget.parse(f"size={ram}").limit)
    except UnsupportedError as error:
        raise UnsupportedError(f"--ram {ram}: expected bytes, as in 300kB or 1MB, above 0") from error
