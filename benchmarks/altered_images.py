"""What files lose on images that are not as clean as those of calibration.

    python benchmarks/altered_images.py FILE.onnx ... --images FOLDER

The float network and every file see the same images: as they are, squeezed into the input without a crop, mildly
blurred, darkened, and stored as JPEG of low quality. Files run in the native engine, which computes what ONNX Runtime
does on any CPU. Nothing is tuned on them. Everything goes to
`benchmarks/results/MODEL/altered_images.json`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
from PIL import Image, ImageEnhance, ImageFilter

import edgeq
from edgeq.artifacts.files import write_json
from edgeq.artifacts.manifest import read_manifest
from edgeq.frontends.sources import Source
from edgeq.lowering.lower import lower
from edgeq.packed.file import load_packed
from edgeq.runtimes.native import NativeModel
from edgeq.runtimes.torch import float_runner
from edgeq.system.environment import environment

BLUR: Final = 1.0  # radius of the Gaussian in pixels, of an image whose shorter side has the network's size
BRIGHTNESS: Final = 0.5
QUALITY: Final = 30  # of JPEG


def recompressed(image: Image.Image) -> Image.Image:
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=QUALITY)
    return Image.open(stored)


ALTERED: Final[dict[str, Callable[[Image.Image], Image.Image]]] = {
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(BLUR)),
    "darkened": lambda image: ImageEnhance.Brightness(image).enhance(BRIGHTNESS),
    "recompressed": recompressed,
}


def alter(images: Path, side: int, change: Callable[[Image.Image], Image.Image], folder: Path) -> Path:
    """Write all images, in their class folders, with the shorter side of the network's size, and changed."""

    def one(path: Path) -> None:
        image = Image.open(path).convert("RGB")
        width, height = image.size
        shorter = min(width, height)
        small = image.resize((side * width // shorter, side * height // shorter), Image.Resampling.BILINEAR)
        made = folder / path.relative_to(images).with_suffix(".png")
        made.parent.mkdir(parents=True, exist_ok=True)
        change(small).save(made, compress_level=1)

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, (path for path in sorted(images.rglob("*")) if path.is_file())))
    return folder


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--images", type=click.Path(exists=True, path_type=Path), required=True, help="Class folders.")
def main(files: tuple[Path, ...], images: Path) -> None:
    source = Source.from_dict(read_manifest(files[0])["network"])
    preprocess = source.preprocess
    if preprocess is None or source.classes is None:
        raise click.UsageError("expected files of a classifier of images")
    side, crop = preprocess.resize, preprocess.crop
    if not (isinstance(side, int) and isinstance(crop, int)):
        raise click.UsageError("expected a network that takes squares")
    models = {path.stem: NativeModel(lower(load_packed(path.with_suffix(".safetensors"))), path.stem) for path in files}
    sizes = {path.stem: path.stat().st_size for path in files}
    found = dict[str, Any]()
    with TemporaryDirectory() as temporary:
        seen = {
            "as they are": (images, preprocess),
            "squeezed": (images, replace(preprocess, resize=(crop, crop))),
        }
        for name, change in ALTERED.items():
            seen[name] = alter(images, side, change, Path(temporary) / name), preprocess
        for name, (folder, way) in seen.items():
            labelled = edgeq.ImageSet.labelled(folder, source.classes)
            report = edgeq.evaluate(models, float_runner(source.network), labelled, way, 4)
            found[name] = {"float": report.reference.top1} | {
                one.name: {"bytes": sizes[one.name], **asdict(one)} for one in report.models
            }
            drops = {one.name: round((report.reference.top1 or 0) - (one.top1 or 0), 2) for one in report.models}
            click.echo(f"{name}: float {report.reference.top1:.2f} %, lost {drops}")
    body = {"environment": environment(), "blur": BLUR, "brightness": BRIGHTNESS, "quality": QUALITY, "images": found}
    output = Path(__file__).parent / "results" / str(source.model) / "altered_images.json"
    write_json(output, "altered-images", 1, body)


if __name__ == "__main__":
    main()
