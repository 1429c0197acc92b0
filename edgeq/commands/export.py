"""`edgeq export`: quantize a calibrated network and write it as an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import click
import numpy as np

from edgeq.artifacts.checkpoint import Checkpoint
from edgeq.artifacts.files import check_output, dumps
from edgeq.artifacts.folders import check_folder
from edgeq.artifacts.manifest import KIND as MANIFEST
from edgeq.artifacts.manifest import VERSION as MANIFEST_VERSION
from edgeq.artifacts.manifest import Manifest, exact_everywhere
from edgeq.artifacts.record import CalibrationRecord
from edgeq.commands import defaults, options
from edgeq.commands.console import listening, print_json
from edgeq.commands.image_sets import batches
from edgeq.commands.records import load_record, model_name
from edgeq.commands.web import Page, check_engine, form_of, on_page
from edgeq.data.images import ImageSet
from edgeq.data.preprocess import Preprocess
from edgeq.errors import BudgetError, OutputError, UnsupportedError
from edgeq.exporters import export as exporting
from edgeq.exporters.c.export import CForm, export_c, program_of
from edgeq.exporters.c.folder import ABOUT, KIND, read_about
from edgeq.exporters.onnx.model import to_onnx
from edgeq.exporters.onnx.place import place_of
from edgeq.exporters.web.export import WebForm, check_web, export_web
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
        web: a page for browsers, and what is on it; None for none.
    """

    onnx: bool = True
    c: CForm | None = None
    web: Page | None = None

    def in_integers(self, recipe: Recipe) -> bool:
        """Whether the native engine has to run what is written, so whether weights and activations have to be integers.

        Raises:
            UnsupportedError: they have to be, and are not.
        """
        native = self.c is not None or (self.web is not None and self.web.onnxruntime_web is None)
        if native and (recipe.scheme == "fp32" or recipe.act_bits != 8):
            form, way_out = ("c", "") if self.c else ("web", "; --onnxruntime-web FOLDER runs such networks")
            raise UnsupportedError(
                f"--format {form}: expected weights and activations in integers, found float ones{way_out}"
            )
        return native

    def page(self, asked: Path | None, path: Path) -> Path:
        """Where the page goes, of an ONNX file's path: it is a folder if that is all that is written, and the output's
        name does not end in .html."""
        alone = not self.onnx and self.c is None
        return path.with_suffix("" if alone and asked and asked.suffix != ".html" else ".html")

    def check_outputs(self, asked: Path | None, path: Path, force: bool) -> None:
        """Refuse to replace what edgeq did not write, and names of other files than those that are written.

        Args:
            asked: the output as it is asked for.
            path: of the ONNX file, whether it is written or not.
            force: replace files, see `export`.

        Raises:
            OutputError: there is something else, or a name has another ending.
        """
        if asked and self.web and asked.suffix == (".html" if self.onnx else ".onnx"):
            what = "the ONNX file, after which the page is named" if self.onnx else "a page, so .html or a folder"
            raise OutputError(f"{asked}: expected the name of {what}; give it another ending")
        written = exporting.outputs(path)
        for file in written if self.onnx else ():
            check_output(file, force)
        if self.c:
            check_folder(path.with_suffix(""), ABOUT, KIND, force)
        if self.web:
            check_web(self.page(asked, path), force)


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
    native = forms.in_integers(recipe)
    loaded = load_record(record, progress)
    widths = plan(loaded, recipe)
    asked, output = output, output or defaults.EXPORTS / f"{model_name(loaded)}-{recipe.name}.onnx"
    output = output if forms.onnx else _onnx_of(output)
    forms.check_outputs(asked, _named(output, widths), force)
    unfinished = output.with_suffix(".unfinished")
    check_output(unfinished, force)
    source, images = Source.from_dict(loaded.network), ImageSet.from_dict(loaded.data)
    images.verify()
    pixels = recipe.input == "uint8"
    network, preprocess = source.network, source.preprocess
    if pixels:
        if source.ends is not None or preprocess is None:
            raise UnsupportedError(
                f"{source.model}: its export takes what it takes itself, found --input uint8; leave that out"
            )
        network, loaded = reading_pixels(network, loaded)
        preprocess = preprocess.to_pixels()
    page = _Page.of(forms.web, recipe, source, loaded, preprocess)
    if native:
        unrounded = pack(network, _unrounded(network, widths), loaded, widths)
        program_of(unrounded, forms.c, pixels) if forms.c else check_engine(unrounded, pixels)
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
    if page:
        export_web(page.with_network(network), forms.page(asked, path), page.form, pixels=pixels, force=force)
    checkpoint.remove()
    if forms.onnx:
        _notice(progress, path.name, source.model, manifest)
    return path, manifest


class _Page(NamedTuple):
    """A page that is to be written: its networks by name, of which the one that is exported is not there yet."""

    networks: dict[str, Network | None]
    form: WebForm

    @staticmethod
    def of(
        asked: Page | None, recipe: Recipe, source: Source, record: CalibrationRecord, preprocess: Preprocess | None
    ) -> _Page | None:
        """What is to be written; None if nothing is asked for."""
        if asked is None:
            return None
        return _Page(on_page(asked, recipe), form_of(asked, source, record, preprocess))

    def with_network(self, network: Network) -> dict[str, Network]:
        return {name: one or network for name, one in self.networks.items()}


def _onnx_of(output: Path) -> Path:
    """The path of the ONNX file of which an output of another format has the name."""
    if not output.name:
        raise OutputError(f"{output}: expected the name of a folder to make")
    if output.suffix in (".onnx", ".html"):
        return output.with_suffix(".onnx")
    return output.with_name(f"{output.name}.onnx")


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
    "--format", "formats", type=click.Choice(["onnx", "c", "web"]), multiple=True, default=["onnx"], show_default=True,
    help="What is written: an ONNX file, a folder of C, a page for browsers, or, given more than once, several.",
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
@click.option(
    "--beside", type=options.PATH, multiple=True, metavar="FILE",
    help="A packed network (.safetensors) of another export that the page runs, too; may be given more than once.",
)  # fmt: skip
@click.option(
    "--labels", type=options.PATH, metavar="FILE",
    help="Names of classes for the page, one a line; ImageNet's and the embedded network's are known.",
)  # fmt: skip
@click.option(
    "--onnxruntime-web", type=options.PATH, metavar="FOLDER",
    help="The npm package onnxruntime-web, for what edgeq's engine does not run on the page, as float networks.",
)  # fmt: skip
@options.force
@options.json
def command(recipe: Recipe, record: Path | None, output: Path | None, force: bool, as_json: bool, **asked: Any) -> None:
    """Quantize a calibrated network and write an ONNX file, checked against PyTorch.

    Its manifest (.json) and the packed PyTorch network (.safetensors) are written beside it. If no widths meet the
    budget, the closest file is written under a name that ends in -missed. A folder of C has the name of the file,
    without its ending. A page is a single file, or a folder if --output does not end in .html.

    \b
    Example:
      edgeq export --scheme adaptive --budget size=1.3MB
      edgeq export --scheme 4bit --format c
      edgeq export --scheme 4bit --format web --output exports/page.html
    """
    page = Page((*asked.pop("beside"),), asked.pop("labels"), asked.pop("onnxruntime_web"))
    forms = _forms(page=page, **asked)
    with listening() as progress:
        path, manifest = export(recipe, record, output, force, progress, forms)
    folder, written_page = path.with_suffix(""), forms.page(output, path)
    if as_json:
        written = path.with_suffix(".json") if forms.onnx else folder / ABOUT if forms.c else None
        print_json(written.read_text(encoding="utf-8") if written else dumps(MANIFEST, MANIFEST_VERSION, manifest))
    else:
        if forms.onnx:
            click.echo(tables.export_text(path, manifest))
        if forms.c:
            click.echo(tables.c_text(folder, read_about(folder)))
        if forms.web:
            click.echo(tables.web_text(written_page))
    if manifest["missed"]:
        closest = path if forms.onnx else folder if forms.c else written_page
        raise BudgetError(f"{manifest['missed']}; {closest} comes closest")


def _forms(formats: Sequence[str], page: Page, weights_as: str, arith: str, ram: str | None, run_threads: int) -> Forms:
    asked = CForm(weights_as == "file", arith == "integer", None if ram is None else _bytes(ram), run_threads)
    if "c" not in formats and asked != CForm():
        raise UnsupportedError(
            "--weights-as, --arith, --ram and --run-threads: expected --format c, found none; add it, or leave them out"
        )
    if "web" not in formats and page != Page():
        raise UnsupportedError(
            "--beside, --labels and --onnxruntime-web: expected --format web, found none; add it, or leave them out"
        )
    return Forms("onnx" in formats, asked if "c" in formats else None, page if "web" in formats else None)


def _bytes(ram: str) -> int:
    try:
        return int(Budget.parse(f"size={ram}").limit)
    except UnsupportedError as error:
        raise UnsupportedError(f"--ram {ram}: expected bytes, as in 300kB or 1MB, above 0") from error
