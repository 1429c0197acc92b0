"""Load networks by name: architectures of torchvision, with weights of edgeq, of torchvision or from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

from edgeq.data.preprocess import Preprocess
from edgeq.errors import ArtifactError, UnsupportedError, WeightsError, printable
from edgeq.frontends import presets
from edgeq.frontends.state_dicts import Architecture, filled, weights_of
from edgeq.frontends.torch_export.trace import trace
from edgeq.frontends.weights_file import read_state_dicts
from edgeq.ir.network import Network

DEFAULT: Final = "mobilenet_v2"

_TRAINED_ONLY: Final = {"googlenet": frozenset({"aux1", "aux2"}), "inception_v3": frozenset({"AuxLogits"})}
"""Networks with submodules that only training uses. These networks also have the switch `transform_input`."""


@dataclass(frozen=True)
class Source:
    """A float network and where it came from.

    Attributes:
        network: the traced network, with batch norms folded.
        preprocess: preprocessing of its images.
        model: name of the architecture.
        weights: `embedded`, `imagenet`, or the path of a file.
        sha256: digest of the weights, see `digest`.
        classes: number of outputs.
        weights_key: key of the weights in a file, see `edgeq.frontends.state_dicts.Weights`; None if they do not come
            from a file.
        transform_input: whether the network normalizes its input once more; None for architectures without this switch.
        notes: lines that the user should read, such as which weights of a file were taken.
        reference: the ONNX file that the network came from, which is what others are compared with; None if the network
            itself is.
    """

    network: Network
    preprocess: Preprocess
    model: str
    weights: str
    sha256: str
    classes: int
    weights_key: str | None = None
    transform_input: bool | None = None
    notes: tuple[str, ...] = ()
    reference: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Describe the network as JSON values, so that `from_dict` loads it again."""
        names = ("model", "weights", "sha256", "classes", "weights_key", "transform_input")
        return {name: getattr(self, name) for name in names} | {"preprocess": self.preprocess.to_dict()}

    @staticmethod
    def from_dict(body: Mapping[str, Any]) -> Source:
        """Load the network that a record describes.

        Raises:
            ArtifactError: the network was passed to the API, or its weights have changed since calibration.
            WeightsError: the weights cannot be loaded any more.
        """
        if not body:
            raise ArtifactError("the record is of a network that was passed to the API; pass it again there")
        key, transform_input = body.get("weights_key"), body.get("transform_input")
        try:
            source = load(
                str(body["model"]), str(body["weights"]),
                preprocess=Preprocess.from_dict(body["preprocess"]),
                weights_key=None if key is None else str(key),
                transform_input=None if transform_input is None else bool(transform_input),
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
    weights: str = "embedded",
    preprocess: Preprocess | None = None,
    *,
    weights_key: str | None = None,
    transform_input: bool | None = None,
) -> Source:
    """Load and trace a network.

    Args:
        model: name of a classification network of torchvision.
        weights: `embedded` (edgeq's own MobileNetV2 for 96 x 96 characters), `imagenet` (torchvision's, downloaded
            unless cached) or the path of a file of safetensors or `torch.save`: a state dict, or a checkpoint that
            contains one.
        preprocess: preprocessing of the images, whose crop is the input size of the network. None is the preprocessing
            that belongs to the weights. For a file that torchvision does not publish, this is unknown, and None is that
            of the `imagenet` weights; the caller should check whether it is right.
        weights_key: for a file with several sets of weights: the key or name prefix of those to take, joined by dots,
            such as `model_ema`. None takes those that fit the model, preferring those not named as an average.
        transform_input: for a file for GoogLeNet or Inception v3: whether the network was built with this switch, as
            torchvision's pretrained ones are. A state dict does not tell; None is only for files that torchvision
            publishes.

    Returns:
        The traced network, the preprocessing of its images, and where it came from.

    Raises:
        UnsupportedError: no such model, one that edgeq cannot trace, or an option that these weights do not have.
        WeightsError: the weights cannot be found or read, are not finite, or are of another architecture; or it is
            unclear which of several sets to take, or how the network was built.

    Example:
        >>> source = edgeq.load()
        >>> source.model, source.classes, len(source.network.graph.layers)
        ('mobilenet_v2', 43, 53)
    """
    usual = presets.usual(model)
    preprocess = preprocess or presets.known(model, weights) or usual
    is_file = weights not in ("embedded", "imagenet")
    if weights_key is not None and not is_file:
        raise UnsupportedError(f"expected a file for the weights key {weights_key!r}, found {weights} weights")
    states = read_state_dicts(Path(weights)) if is_file else {"": _own(model, weights)}
    switches = _switches(model, weights, transform_input)
    wanted = Architecture(model, _empty(model, **switches), _TRAINED_ONLY.get(model, frozenset()))
    found = weights_of(wanted, states, weights, weights_key)
    module = _empty(model, num_classes=len(found.state[f"{wanted.last}.weight"]), **switches)
    network = trace(filled(module, found.state, weights), preprocess.shape)
    return Source(
        network,
        preprocess,
        model,
        weights,
        digest(found.state),
        network.graph.nodes[-1].shape[0],
        found.key if is_file else None,
        switches.get("transform_input"),
        (printable(f"{weights}: {'; '.join(found.facts)}"),) if is_file and found.facts else (),
    )


def digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of a state dict, as 64 hexadecimal digits."""
    found = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _own(model: str, weights: str) -> dict[str, Tensor]:
    return _embedded(model) if weights == "embedded" else _from_torchvision(model)


def _embedded(model: str) -> dict[str, Tensor]:
    if model != DEFAULT:
        raise WeightsError(
            f"the embedded weights are of {DEFAULT}, found --model {model}; add --weights imagenet or a file"
        )
    packaged = resources.files("edgeq") / "assets" / "mobilenet_v2_glyphs.safetensors"
    with resources.as_file(packaged) as path:
        return load_file(path)


def _from_torchvision(model: str) -> dict[str, Tensor]:
    try:
        return dict(presets.imagenet_weights(model).get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"cannot download the ImageNet weights of {model} ({error}); connect to the network, "
            "pass a file with --weights FILE, or use --weights embedded"
        ) from error


def _switches(model: str, weights: str, transform_input: bool | None) -> dict[str, bool]:
    """Return the constructor arguments of a network that depend on its weights.

    torchvision passes other arguments for its pretrained weights than without weights, and a state dict does not show
    which.

    Raises:
        UnsupportedError: the network has no switch `transform_input`, or it is off for weights that need it.
        WeightsError: it is unknown whether the switch was on.
    """
    if model not in _TRAINED_ONLY:
        if transform_input is not None:
            raise UnsupportedError(f"expected {' or '.join(_TRAINED_ONLY)} for transform_input, found {model}")
        return {}
    if weights == "imagenet" or presets.published_as(model, Path(weights)):
        if transform_input is False:
            raise UnsupportedError(f"{weights}: torchvision's weights of {model} are for transform_input, found it off")
        transform_input = True
    if transform_input is None:
        raise WeightsError(
            f"{weights}: weights of {model} do not say whether the network normalizes images once more; add "
            "--transform-input yes if they began as torchvision's pretrained ones, no if it was built without weights"
        )
    return {"transform_input": transform_input, "init_weights": False, "aux_logits": False}


def _empty(model: str, **options: int) -> nn.Module:
    """Build the architecture with arbitrary weights, without a change of the caller's random state."""
    with torch.random.fork_rng(devices=()):
        module: nn.Module = models.get_model(model, weights=None, **options)
    return module
