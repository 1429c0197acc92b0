"""Load a network from wherever it is, by one rule on a text: a file, timm, a function of the user's, or torchvision.

What reads a network is imported when one needs it: `torch.export`, torchvision and readers of ONNX take seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.artifacts.model_names import DEFAULT, ending
from edgeq.data.preprocess import Preprocess
from edgeq.errors import ArtifactError, UnsupportedError
from edgeq.frontends import python, timm
from edgeq.frontends.loaded import Loaded
from edgeq.frontends.preparing import prepared
from edgeq.ir.graph import Graph
from edgeq.ir.network import Network

if TYPE_CHECKING:
    from edgeq.frontends.onnx.ends import Ends
    from edgeq.frontends.torch_export.program import Shapes

InputShapes = tuple[int, ...] | Mapping[str, tuple[int, ...]]
"""The shape of an only input without the batch, or shapes by the names of inputs."""


@dataclass(frozen=True)
class Source:
    """A float network and where it came from.

    Attributes:
        network: the traced network, with batch norms folded.
        preprocess: preprocessing of its images; None for a network that does not take one image.
        model: what was loaded, see `load`.
        weights: `embedded`, `imagenet`, `own` (of the user's function), or the path of a file, which is the model's own
            for one that has its weights inside.
        sha256: digest of the weights, see `edgeq.frontends.loaded.digest`, or of an ONNX file.
        classes: number of classes; None unless the only output is a vector of class scores.
        weights_key: key of the weights in a file, see `edgeq.frontends.state_dicts.Weights`; None if they do not come
            from a state dict in a file.
        transform_input: whether the network normalizes its input once more; None for architectures without this switch.
        input_shapes: as given to `load`.
        tasks: as given to `load`.
        notes: lines that the user should read, such as which weights of a file were taken.
        assumed: the same about the preprocessing of images.
        ends: what stands around the network in an ONNX file; None for other sources.
        reference: the ONNX file, the float model that all is compared with; None for other sources.
    """

    network: Network
    preprocess: Preprocess | None
    model: str
    weights: str
    sha256: str
    classes: int | None
    weights_key: str | None = None
    transform_input: bool | None = None
    input_shapes: InputShapes | None = None
    tasks: str | Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    ends: Ends | None = None
    reference: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Describe the network as JSON values, so that `from_dict` loads it again."""
        names = ("model", "weights", "sha256", "classes", "weights_key", "transform_input")
        shapes: Any = self.input_shapes
        if shapes is not None:
            shapes = {name: [*s] for name, s in shapes.items()} if isinstance(shapes, Mapping) else [*shapes]
        return {name: getattr(self, name) for name in names} | {
            "input_shapes": shapes,
            "tasks": dict(self.tasks) if isinstance(self.tasks, Mapping) else self.tasks,
            "preprocess": self.preprocess.to_dict() if self.preprocess else {},
        }

    @staticmethod
    def from_dict(body: Mapping[str, Any]) -> Source:
        """Load the network that a record describes.

        Raises:
            ArtifactError: the network was passed to the API, or its weights have changed since calibration.
            UnsupportedError, WeightsError: the network cannot be loaded any more.
        """
        if not body:
            raise ArtifactError("the record is of a network that was passed to the API; pass it again there")
        key, transform_input = body.get("weights_key"), body.get("transform_input")
        try:
            source = load(
                str(body["model"]), str(body["weights"]),
                Preprocess.from_dict(body["preprocess"]) if body["preprocess"] else None,
                weights_key=None if key is None else str(key),
                transform_input=None if transform_input is None else bool(transform_input),
                input_shapes=_shapes_of(body.get("input_shapes")),
                tasks=body.get("tasks"),
            )  # fmt: skip
            expected = str(body["sha256"])
        except KeyError as error:
            raise ArtifactError(f"the record does not name its network's {error.args[0]}; calibrate again") from error
        if source.sha256 != expected:
            raise ArtifactError(
                f"{source.weights}: the weights have changed since calibration "
                f"(sha256 {expected[:12]} then, {source.sha256[:12]} now); calibrate again"
            )
        return source


def load(
    model: str = DEFAULT,
    weights: str | None = None,
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    *,
    weights_key: str | None = None,
    transform_input: bool | None = None,
    input_shapes: InputShapes | None = None,
    tasks: str | Mapping[str, str] | None = None,
) -> Source:
    """Load and trace a network.

    Args:
        model: a path that ends in `.onnx` (an ONNX file) or in `.pt2` (a program of `torch.export.save`);
            `timm:NAME[.TAG]`; `package.module:function`, importable from the current folder, whose function returns an
            `nn.Module`; or the name of a network of torchvision for classification, segmentation or detection.
        weights: of torchvision's networks, `embedded` (edgeq's own MobileNetV2 for 96 x 96 characters; what None is),
            `imagenet` (torchvision's, downloaded unless cached; of COCO for segmentation and detection) or the path of
            a file of safetensors or `torch.save`: a state dict, or a checkpoint that contains one. Of timm's networks,
            `imagenet` (timm's) or a file. Of a function's network, a file, or None for the weights that it has. None
            for files with their weights inside.
        preprocess: preprocessing of the images, whose crop is the input size of the network, or some of its fields by
            name. What is not given is what belongs to the weights, or, where that is unknown, the usual: that of the
            published weights of the architecture, else pixels in 0..1, resized to what the network takes; a note then
            says what was assumed.
        weights_key: for a file with several sets of weights: the key or name prefix of those to take, joined by dots,
            such as `model_ema`. None takes those that fit the model, preferring those not named as an average.
        transform_input: for a file for GoogLeNet or Inception v3: whether the network was built with this switch, as
            torchvision's pretrained ones are. A state dict does not tell; None is only for files that torchvision
            publishes.
        input_shapes: shapes of inputs without the batch, `(3, 320, 320)` of an only one or by name: for a function, for
            files that leave dimensions open, and for another size of images of networks by name.
        tasks: what the outputs mean, see `edgeq.trace`.

    Returns:
        The traced network, the preprocessing of its images, and where it came from.

    Raises:
        UnsupportedError: no such model, one that edgeq cannot trace, or an option that it does not have.
        WeightsError: the weights cannot be found or read, are not finite, or are of another architecture; or it is
            unclear which of several sets to take, or how the network was built.

    Example:
        >>> source = edgeq.load()
        >>> source.model, source.classes, len(source.network.graph.layers)
        ('mobilenet_v2', 43, 53)
    """
    _check_options(model, weights, weights_key, transform_input)
    if ending(model) == ".onnx":
        return _from_onnx(model, preprocess, input_shapes, tasks)
    from edgeq.frontends.torch_export.trace import trace

    if ending(model) == ".pt2":
        from edgeq.frontends import pt2

        loaded = pt2.load(model, input_shapes)
    elif model.startswith(timm.PREFIX):
        loaded = timm.load(model, weights, weights_key)
    elif ":" in model:
        loaded = python.load(model, weights, weights_key)
    else:
        from edgeq.frontends import torchvision

        loaded = torchvision.load(model, weights, weights_key, transform_input)
    shapes = loaded.shapes or input_shapes
    if shapes is None and loaded.preprocess is None:
        raise UnsupportedError(
            f"{model}: expected the shape of its input, which no module says; add --input-shape 1x3xROWSxCOLUMNS "
            "(input_shapes in Python)"
        )
    made, assumed = prepared(loaded, preprocess, _only(shapes))
    network = trace(loaded.module, made.shape if made else _as_called(loaded, shapes), tasks=tasks)
    return Source(
        network, made, model, loaded.weights, loaded.sha256, _classes(network.graph),
        loaded.weights_key, loaded.transform_input, input_shapes, tasks, loaded.notes, assumed,
    )  # fmt: skip


def _from_onnx(
    model: str,
    preprocess: Preprocess | Mapping[str, Any] | None,
    input_shapes: InputShapes | None,
    tasks: str | Mapping[str, str] | None,
) -> Source:
    from edgeq.frontends.onnx.inputs import only_input, takes_bytes
    from edgeq.frontends.onnx.load import load as load_onnx

    by_name = {only_input(Path(model)): input_shapes} if isinstance(input_shapes, tuple) else input_shapes
    found = load_onnx(Path(model), by_name, tasks)
    graph = found.network.graph
    shapes = {one.name: one.shape for one in graph.inputs}
    loaded = Loaded(found.network, model, model, found.sha256, shapes=shapes)
    made, assumed = prepared(loaded, preprocess, _only(shapes), takes_bytes(found.ends))
    return Source(
        found.network, made, model, model, found.sha256, _classes(graph), None, None, input_shapes, tasks,
        found.notes, assumed, found.ends, Path(model),
    )  # fmt: skip


def _check_options(model: str, weights: str | None, weights_key: str | None, transform_input: bool | None) -> None:
    """Refuse options that this way in does not have."""
    inside = bool(ending(model))
    if inside and weights not in (None, model):
        raise UnsupportedError(f"{model} has its weights inside, found --weights {weights} beside it; leave that out")
    if inside and weights_key is not None:
        raise UnsupportedError(f"expected a file of weights for the weights key {weights_key!r}, found {model}")
    if transform_input is not None and (inside or ":" in model):
        raise UnsupportedError(f"expected a network of torchvision for transform_input, found {model}")


def _as_called(loaded: Loaded, shapes: InputShapes | None) -> Shapes:
    """The shapes of inputs that are no image: in order for a program, whose order is known, else by name."""
    return (*loaded.shapes.values(),) if loaded.shapes else shapes or ()


def _only(shapes: InputShapes | None) -> tuple[int, ...] | None:
    """The shape of an only input; None if there are several, or it is unknown."""
    if isinstance(shapes, Mapping):
        return next(iter(shapes.values())) if len(shapes) == 1 else None
    return shapes


def _classes(graph: Graph) -> int | None:
    if len(graph.outputs) != 1 or graph.outputs[0].task != "classification":
        return None
    shape = graph.shapes()[graph.outputs[0].value]
    return shape[0] if len(shape) == 1 else None


def _shapes_of(body: Any) -> InputShapes | None:
    """Inverse of what `Source.to_dict` makes of shapes."""
    try:
        if isinstance(body, Mapping):
            return {str(name): tuple(map(int, shape)) for name, shape in body.items()}
        return None if body is None else tuple(map(int, body))
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"the record has damaged input shapes, {body!r}; calibrate again") from error
