"""What a command measures networks by: their task, the images, and what is known of these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import click

from edgeq.artifacts.manifest import Manifest, exact_everywhere
from edgeq.commands import defaults, options
from edgeq.commands.defaults import EMBEDDED
from edgeq.commands.image_sets import choose_data, labelled_images
from edgeq.data.annotations import read_annotations
from edgeq.data.class_folders import ClassOrder
from edgeq.data.images import ImageSet
from edgeq.data.masks import find_masks
from edgeq.data.preprocess import Preprocess
from edgeq.errors import UnsupportedError
from edgeq.evaluation.accuracy import Test
from edgeq.evaluation.metrics import Custom, Detection, Metric, Segmentation
from edgeq.frontends.sources import Source
from edgeq.ir.graph import Graph
from edgeq.lowering.files import program_of
from edgeq.runtimes.jobs import Model, model_file
from edgeq.runtimes.native import NativeModel
from edgeq.runtimes.onnxruntime import OnnxModel
from edgeq.runtimes.torch import float_runner
from edgeq.system.environment import OVERFLOW, int8_overflows
from edgeq.system.progress import Progress
from edgeq.system.threads import stage_threads

TASKS: Final = ("classification", "detection", "segmentation", "regression")
"""What outputs can be judged as."""
RUNTIMES: Final = ("onnxruntime", "native")
"""What can run the files that are judged."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """The options that say how networks are judged.

    Attributes:
        data: `embedded` (its test split), or a folder; None as in `choose_data`. What it holds depends on the task.
        class_order: how class folders are numbered, see `edgeq.ImageSet.labelled`.
        task: one of `TASKS`; None is classification for networks with class scores, and regression for others.
        annotations: file of annotations for detection; None is `annotations.json` in the folder.
        metric: `MODULE:FUNCTION`, a function that measures instead of the task's own metric, see `Custom`.
        runtime: `onnxruntime`, or `native` to run the packed networks beside exported files in the native engine.
    """

    data: str | None = None
    class_order: ClassOrder | None = None
    task: str | None = None
    annotations: Path | None = None
    metric: str | None = None
    runtime: str = "onnxruntime"


def task_of(asked: Judging, graph: Graph) -> str:
    """Return the task that the outputs of a network are judged as.

    Raises:
        UnsupportedError: an unknown task, classification without class scores, or options that do not go together.
    """
    vectors = [output for output in graph.outputs if len(graph.shapes()[output.value]) == 1]
    usual = "classification" if [one.task for one in vectors] == ["classification"] else "regression"
    task = asked.task or usual
    if task not in TASKS:
        raise UnsupportedError(f"task {task}: expected one of {', '.join(TASKS)}")
    if task == "classification" and len(vectors) != 1:
        found = ", ".join(f"{output.name} {list(graph.shapes()[output.value])}" for output in graph.outputs)
        raise UnsupportedError(f"classification: expected one output of class scores [classes], found {found}")
    if asked.annotations is not None and task != "detection":
        raise UnsupportedError(f"{asked.annotations}: expected annotations with --task detection, found {task}")
    if asked.class_order is not None and (task != "classification" or asked.metric):
        found = f"--metric {asked.metric}" if asked.metric else f"--task {task}"
        raise UnsupportedError(f"class order {asked.class_order}: expected labelled images, found {found}")
    if asked.metric is not None and task in ("detection", "segmentation"):
        raise UnsupportedError(f"--metric {asked.metric}: expected no other metric, found --task {task}; leave one out")
    return task


class Setting(NamedTuple):
    """How networks are judged: the task, the images, and the metric of the task beyond class scores and SQNR."""

    task: str
    images: ImageSet
    metric: Metric | None = None

    def test(self, source: Source, models: Iterable[Model]) -> Test:
        """Return the test of these models: image by image if a file takes no more, as its outputs may lack a batch."""
        singly = self.task == "detection" or any(isinstance(one, OnnxModel) and one.batch == 1 for one in models)
        batch = 1 if singly else defaults.BATCH
        shapes, classifies = source.network.graph.input_shapes, self.task == "classification"
        return Test(self.images, source.preprocess, batch, self.metric, classifies, shapes)


def setting_of(asked: Judging, source: Source) -> Setting:
    """Return how a network and what is made of it are judged.

    Raises:
        EdgeqError: as for `task_of`, an unknown runtime, or the images or what is known of them cannot be used.
    """
    if asked.runtime not in RUNTIMES:
        raise UnsupportedError(f"runtime {asked.runtime}: expected one of {', '.join(RUNTIMES)}")
    task, preprocess = task_of(asked, source.network.graph), source.preprocess
    data = choose_data(asked.data, source.weights)
    if task in ("detection", "segmentation") and data == EMBEDDED:
        raise UnsupportedError(f"{task}: expected a folder of images, found {EMBEDDED} ones; name it with --data DIR")
    if task in ("detection", "segmentation") and preprocess is None:
        raise UnsupportedError(f"{task}: expected a network that takes one image, found {source.model}")
    if task == "detection" and preprocess:
        annotations = read_annotations(Path(data), asked.annotations)
        return Setting(task, annotations.images, Detection(annotations, preprocess))
    if task == "segmentation" and preprocess:
        masks = find_masks(Path(data))
        return Setting(task, masks.images, Segmentation(masks, preprocess))
    if task == "classification" and asked.metric is None:
        classes = classes_of(source.network.graph)
        return Setting(task, labelled_images(data, source.weights, classes, asked.class_order))
    whole = data == EMBEDDED
    images = ImageSet.embedded("test", defaults.TEST_SAMPLES) if whole else ImageSet.folder(Path(data), None, 0)
    return Setting(task, images, Custom(asked.metric, images) if asked.metric else None)


def classes_of(graph: Graph) -> int:
    """Return the number of classes of a network with one vector of class scores."""
    (classes,) = (shape for output in graph.outputs if len(shape := graph.shapes()[output.value]) == 1)
    return classes[0]


def reference_of(source: Source) -> Model:
    """Return the model to compare with: the ONNX file that a network came from, or else its float network."""
    if source.reference is None:
        return float_runner(source.network)
    return OnnxModel(source.reference, preprocess=source.preprocess)


def opened(runtime: str, path: Path, manifest: Manifest | None, preprocess: Preprocess | None) -> Model:
    """Open a file, or the packed network beside it, in a runtime."""
    if runtime != "native":
        return OnnxModel(path, preprocess=preprocess)
    pixels = manifest is not None and manifest["input"] == "uint8"
    program = program_of(model_file("native", path), pixels, stage_threads())
    return NativeModel(program, str(path), preprocess)


def warn_of_overflow(manifests: Mapping[Path, Manifest | None], progress: Progress) -> None:
    """Name the exported files that int8 kernels of this CPU overflow on; files without a manifest are not known to."""
    if int8_overflows():
        wrong = [path.name for path, manifest in manifests.items() if manifest and not exact_everywhere(manifest)]
        if wrong:
            progress.notice(
                f"warning: {OVERFLOW}, as this one; better on others, with --runtime native or --reduce-range: "
                f"{', '.join(wrong)}"
            )


def judged(command: options.Command) -> options.Command:
    """Add the options of a `Judging`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS: Final = (
    click.option(
        "--data", metavar="embedded|DIR", shell_complete=options.completing("dir", "embedded"),
        help="Images: DIR/<class>/<image> for classification, DIR with annotations.json for detection, DIR/images and "
        "DIR/masks for segmentation, else of any layout.  [default: embedded, with embedded weights]",
    ),
    options.class_order,
    click.option(
        "--task", type=click.Choice(TASKS),
        help="What the outputs are judged as.  [default: classification if they are class scores, else regression]",
    ),
    click.option(
        "--annotations", type=options.PATH, metavar="FILE",
        help="Objects in the images, as COCO has them, for detection.  [default: annotations.json in DIR]",
    ),
    click.option(
        "--metric", metavar="MODULE:FUNCTION",
        help="A function f(outputs, images) -> float that measures instead, from the outputs of a run by name and its "
        "images; the score is the mean over images.",
    ),
    click.option(
        "--runtime", default="onnxruntime", show_default=True, metavar="onnxruntime|native",
        shell_complete=options.completing(None, *RUNTIMES),
        help="What runs the files: native runs the packed network beside each.",
    ),
)  # fmt: skip
